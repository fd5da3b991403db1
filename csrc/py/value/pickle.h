/*
 * Pickling: protocol 5, with the dispatch table that multiprocessing's
 * ForkingPickler would use. [attached]
 */
#ifndef PY_PICKLE_H
#define PY_PICKLE_H

#include "base/state.h"

#include "core/base/buf.h"

/* Append the pickle of obj to out: 0, or -1 with an exception, and then out is
 * unchanged. Runs Python code. */
int py_dumps(struct py_state *state, PyObject *obj, struct cp_buf *out);

/* The object that these bytes hold, or NULL with an exception. Runs Python
 * code. */
PyObject *py_loads(struct py_state *state, const uint8_t *bytes, size_t len);

/* A read-only memoryview of bytes that we own. Releasing it makes it useless
 * for code that has kept it. */
PyObject *py_pickle_view(const uint8_t *bytes, size_t len);
void py_pickle_release_view(PyObject *view);

/* Release the objects of a pickler that was kept. */
void py_pickler_clear(struct py_pickler *p);

/* Add the types that pickling needs: 0, or -1 with an exception. */
int py_pickle_add_types(PyObject *module, struct py_state *state);

#endif
