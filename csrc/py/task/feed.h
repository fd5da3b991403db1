/*
 * From items to tasks: pulling items from the user's iterable, and queueing
 * them as tasks. Only one thread feeds a job. Runs Python code. [attached]
 */
#ifndef PY_FEED_H
#define PY_FEED_H

#include "task/input.h"

/* Make the task of one call, func(*args, **kwds). 0, or -1 with an exception,
 * and then the caller cancels the job. A call that cannot be pickled is the
 * job's failure, not an exception here. */
int py_feed_call(struct py_input *in, PyObject *func, PyObject *args,
                 PyObject *kwds);

/* The same for a call whose func, args and kwds are in the input. They are
 * released before the task is queued, and so is *holder, which keeps the input
 * alive. index, call: the task's; 0 and NULL, unless the job's calls end each on
 * its own. */
int py_feed_kept_call(struct py_input *in, uint64_t index, struct cp_call *call,
                      PyObject **holder);

/* Set the source of tasks. length: how many items there must be, -1: any
 * number. func NULL: the items are the stdlib's own task tuples. 0, or -1 with
 * an exception. */
int py_feed_open(struct py_input *in, PyObject *func, PyObject *iterable,
                 Py_ssize_t chunksize, unsigned mode, Py_ssize_t length);

/* Queue up to n tasks. With n = 0, a block of a good size, also more than are
 * wanted if nobody can observe that items are pulled early. 1: there are more
 * items; 0: there are none; -1 with an interrupt, only with n = 0, which means
 * that the thread of the call feeds. holder: the object that keeps the input
 * alive for a feeder, or NULL. It is released (*holder NULL) before the last
 * task is queued, so that a thread that takes the job's last result finds
 * nothing else that holds the callable or the items. */
int py_feed(struct py_input *in, uint64_t n, PyObject **holder);

/* End the input of a job that is at its limit while the closed pool waits for
 * it and nobody takes results. The items that were already pulled are run; then
 * comes an error, unless it is known that there were no more items. */
void py_feed_cut(struct py_input *in, PyObject **holder);

#endif
