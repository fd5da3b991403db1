/*
 * Buffers of pickle's protocol 5 (PickleBuffer) that may be written to: they
 * arrive as bytearrays on shared memory, without another copy.
 *
 * Such an object is a bytearray in all respects but its exact class. Before its
 * size changes it gets memory of its own. Pickles of it are those of a
 * bytearray. [attached]
 */
#ifndef PY_VIEW_H
#define PY_VIEW_H

#include "base/state.h"

#include "core/share/region.h"

int py_view_add_type(PyObject *module, struct py_state *state);

/* Can there be a view of these bytes? Only if a zero byte is behind them, as with
 * cp_parts_add_ended(). */
bool py_view_is_possible(const struct py_state *state,
                         const struct cp_lease *lease);

/* A view of the bytes, which has a reference to the lease; NULL with an
 * exception. */
PyObject *py_view_new(struct py_state *state, struct cp_lease *lease);

#endif
