/* Starting threads after the main thread has ended. [attached] */
#ifndef PY_LATE_H
#define PY_LATE_H

#include "base/state.h"

/* _core._start_late(func): call func on a new thread, which is running when
 * this returns. RuntimeError if no thread can be started. Must not be called on
 * a daemon thread, since the interpreter would not wait for the new thread to
 * start; nor while the interpreter is finalizing, since the thread would never
 * start. */
PyObject *py_late_start(PyObject *module, PyObject *func);

#endif
