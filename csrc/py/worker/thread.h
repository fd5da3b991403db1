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

/* enter(index): a worker thread is about to start. ValueError where the pool has
 * ended. */
PyObject *py_thread_enter(PyObject *engine, PyObject *index);

/* work(index): run tasks until the pool ends, or until resize() has made the thread
 * one too many. Returns how many it ran, and whether the latter is so. [detached while it
 * waits] */
PyObject *py_thread_work(PyObject *engine, PyObject *index);

/* run_queued(): run tasks on this thread until none is queued. Returns how many, as an
 * int; raises the KeyboardInterrupt that one of them has raised. */
PyObject *py_thread_run_queued(PyObject *engine, PyObject *ignored);

/* tasks_done(): how many tasks the current thread has run, if it is a worker. */
PyObject *py_thread_tasks_done(PyObject *engine, PyObject *ignored);

/* leave(index): the worker thread could not be started, or has ended. In a forked
 * copy of the process it does nothing. */
PyObject *py_thread_leave(PyObject *engine, PyObject *index);

/* busy_threads(): of each worker thread: (index, ident, ns that its task has run; -1: it has
 * none). */
PyObject *py_thread_busy(PyObject *engine, PyObject *ignored);

/* How long the task has run that the worker with this index runs now; 0: it runs none. */
int64_t py_thread_busy_ns(EngineObject *engine, uint32_t worker, int64_t now);

#endif
