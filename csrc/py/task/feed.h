/*
 * From items to tasks: pickling the callable once, pulling items from the
 * user's iterable, and queueing them as tasks. Only one thread feeds a job. Runs
 * Python code. [attached]
 */
#ifndef PY_FEED_H
#define PY_FEED_H

#include "base/state.h"

/* One call: func(*args, **kwds). 0, or -1 with an exception; what cannot be
 * pickled is the job's failure, not an exception here. */
int py_feed_call(ResultObject *self, PyObject *func, PyObject *args,
                 PyObject *kwds);

/* Set the source of tasks. length: how many items there must be, -1: any.
 * func NULL: the items are the stdlib's own task tuples. 0 or -1. */
int py_feed_open(ResultObject *self, PyObject *func, PyObject *iterable,
                 Py_ssize_t chunksize, unsigned mode, Py_ssize_t length);

/* Queue up to n tasks, or a block of a good size: for n = 0, and where pulling
 * further ahead is seen by nobody. 1 there is more, 0 that was all, -1 with an
 * interrupt: for n = 0, where it is the thread of the call that feeds. */
int py_feed(ResultObject *self, uint64_t n);

/* The pool's end waits for a job that is at its limit, and nobody takes results:
 * its input ends here. What was pulled is run; then comes an error, unless it is
 * known that there was nothing left. */
void py_feed_cut(ResultObject *self);

#endif
