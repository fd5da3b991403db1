/*
 * A program may replace multiprocessing's pickler, or methods of it (recipes
 * for dill do). The stdlib's pool then pickles with the replacement, and so
 * does this one. [attached]
 */
#ifndef PY_REPLACED_H
#define PY_REPLACED_H

#include "base/state.h"

#include "core/base/buf.h"

/* Check again whether the pickler is replaced, and set state->replaced: 0, or
 * -1 with an exception. Cheap as long as nothing changes. */
int py_replaced_check(struct py_state *state);

/* Append a pickle that Python code has made, and release the bytes object: 0,
 * or -1 with MemoryError. */
int py_replaced_put_take(struct cp_buf *out, PyObject *bytes);

/* Append the replacement's pickle of obj, which the other side loads with its
 * own pickler: 0, or -1 with an exception, and out is unchanged. */
int py_replaced_dumps(struct py_state *state, PyObject *obj,
                      struct cp_buf *out);

#endif
