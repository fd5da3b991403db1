/*
 * _core.Condition: the `_condition` of a future that an executor has returned,
 * with the methods of threading.Condition. The thread that waits for the future
 * drives the pool. [attached]
 */
#ifndef PY_CONDITION_H
#define PY_CONDITION_H

#include "job/future.h"

/* Add the type to the module: 0, or -1 with an exception. */
int py_condition_add_type(PyObject *module, struct py_state *state);

#endif
