/*
 * A worker that is a thread: the loop that takes tasks and runs them.
 */
#ifndef PY_THREAD_H
#define PY_THREAD_H

#include "py_state.h"

/* Is there a GIL? [attached] */
bool py_thread_takes_turns(void);

/* work(), of _core.Engine: be one of its workers until the pool ends. How many tasks
 * that were, as an int. [attached; waiting detaches] */
PyObject *py_thread_work(PyObject *engine, PyObject *ignored);

#endif
