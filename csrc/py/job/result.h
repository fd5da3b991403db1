/*
 * _core.Result: what one apply or map returns. ApplyResult and MapResult are
 * Python classes over it (cpool/_engine/results.py), which add methods that are
 * seldom used. [attached]
 */
#ifndef PY_RESULT_H
#define PY_RESULT_H

#include "job/life.h"

/* The result of one call, as kind(pool, callback, error_callback) makes it;
 * kind is a class over _core.Result. A new reference, or NULL with an
 * exception. */
ResultObject *py_result_make(EngineObject *engine, PyObject *kind,
                             PyObject *pool, PyObject *callback,
                             PyObject *error_callback);

/* The result of one call with worker threads, submitted at once, which takes the
 * core's lock once. args: kind, pool, func, args, kwds. call: the name of the
 * method. A new reference, or NULL with an exception. */
ResultObject *py_result_make_call(EngineObject *engine, PyObject *const *args,
                                  PyObject *callback, PyObject *error_callback,
                                  const char *call);

/* Add the type to the module: 0, or -1 with an exception. */
int py_result_add_type(PyObject *module, struct py_state *state);

#endif
