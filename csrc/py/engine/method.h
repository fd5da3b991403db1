/*
 * The type _core.Method: a method of a Python class whose usual case runs here,
 * since in Python the method would take longer than the rest of the call.
 *
 *   Method(name, slow, kind)   name: "apply_async" or "submit"; slow: the Python
 *                              method, which also has the signature and the
 *                              docstring; kind: the class of results
 *
 * "apply_async" submits one call without options to a pool whose threads have
 * been started: _engine.submit(kind, pool, ...). "submit" has an executor's
 * engine make a call, as executor._call(fn, args, kwargs). In all other cases,
 * and with arguments that do not fit, slow is called with the same arguments.
 * [attached]
 */
#ifndef PY_METHOD_H
#define PY_METHOD_H

#include "base/state.h"

int py_method_add_type(PyObject *module);

#endif
