/*
 * A program may replace multiprocessing's pickler, or methods of it (recipes for dill do). The
 * stdlib's pool then pickles by the replacement, and so does this one. [attached]
 */
#ifndef PY_REPLACED_H
#define PY_REPLACED_H

#include "base/state.h"

#include "core/base/buf.h"

/* Look again whether the pickler is replaced, and set state->replaced: 0, or -1 with an
 * exception. Cheap as long as nothing changes. */
int py_replaced_check(struct py_state *state);

/* Append a pickle that Python code has made, and release it: 0, or -1 with MemoryError. */
int py_replaced_put_take(struct cp_buf *out, PyObject *bytes);

/* Append what the replacement makes of obj, as a pickle that the other side loads by its own
 * pickler: 0, or -1 with an exception, and then out is as it was. */
int py_replaced_dumps(struct py_state *state, PyObject *obj,
                      struct cp_buf *out);

#endif
