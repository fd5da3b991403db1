/*
 * The reducers that multiprocessing's ForkingPickler would find for a type:
 * those registered with it, and those of copyreg. [attached]
 */
#ifndef PY_REDUCERS_H
#define PY_REDUCERS_H

#include "base/state.h"

/* Set *reducer to a new reference, or to NULL if the type has none: 0, or -1
 * with an exception. */
int py_reducers_find(struct py_state *state, PyTypeObject *type,
                     PyObject **reducer);

/* Make state->reducers, a pickler's dispatch_table: 0, or -1 with an
 * exception. */
int py_reducers_add(PyObject *module, struct py_state *state);

#endif
