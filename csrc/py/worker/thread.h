/*
 * A worker that is a thread: the loop that takes tasks and runs them.
 */
#ifndef PY_THREAD_H
#define PY_THREAD_H

#include "base/engine.h"

/* Can only one thread at a time run Python code, that is, is there a GIL?
 * [attached] */
bool py_thread_takes_turns(void);

/* Methods of _core.Engine. [attached] */

/* enter(index): a worker thread is about to start. ValueError if the pool has
 * ended. */
PyObject *py_thread_enter(PyObject *engine, PyObject *index);

/* work(index): run tasks until the pool ends, or until the thread is surplus
 * after a resize(). Returns how many tasks it ran, and whether it is surplus.
 * [detached while it waits] */
PyObject *py_thread_work(PyObject *engine, PyObject *index);

/* run_queued(): run tasks on this thread until none is queued. Returns how
 * many, as an int; raises a KeyboardInterrupt that one of them has raised. */
PyObject *py_thread_run_queued(PyObject *engine, PyObject *ignored);

/* tasks_done(): how many tasks the current thread has run, if it is a worker. */
PyObject *py_thread_tasks_done(PyObject *engine, PyObject *ignored);

/* leave(index): the worker thread could not be started, or has ended. Does
 * nothing in a forked copy of the process. */
PyObject *py_thread_leave(PyObject *engine, PyObject *index);

/* busy_threads(): a tuple for each worker thread: (index, ident, ns that its
 * task has run; -1: it has no task). */
PyObject *py_thread_busy(PyObject *engine, PyObject *ignored);

/* How long the current task of the worker with this index has run; 0: it has
 * none. */
int64_t py_thread_busy_ns(EngineObject *engine, uint32_t worker, int64_t now);

#endif
