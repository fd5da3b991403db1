/*
 * A worker that is a thread: the loop that takes tasks and runs them.
 */
#ifndef PY_THREAD_H
#define PY_THREAD_H

#include "base/state.h"

/* Is there a GIL? [attached] */
bool py_thread_takes_turns(void);

/* Methods of _core.Engine. [attached] */

/* enter(): a worker thread is about to start. ValueError where the pool has ended. */
PyObject *py_thread_enter(PyObject *engine, PyObject *ignored);

/* work(): run tasks until the pool ends. How many, as an int. [waiting detaches] */
PyObject *py_thread_work(PyObject *engine, PyObject *ignored);

/* leave(): it was not started after all, or is through; in a forked copy of the
 * process nothing. */
PyObject *py_thread_leave(PyObject *engine, PyObject *ignored);

#endif
