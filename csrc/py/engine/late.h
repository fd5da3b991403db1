/* Threads that start after the main one has ended. [attached] */
#ifndef PY_LATE_H
#define PY_LATE_H

#include "base/state.h"

/* _core._start_late(func): call func on a new thread, which has begun when this
 * returns. RuntimeError where there is none to be had. Not on a daemon thread:
 * the interpreter would not wait for the new one to begin; nor while the interpreter
 * goes: it would never begin. */
PyObject *py_late_start(PyObject *module, PyObject *func);

#endif
