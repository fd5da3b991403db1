/*
 * The methods of _core.Engine that give a job its tasks. Whatever one of them
 * raises, its job has ended then. [attached]
 */
#ifndef PY_SUBMIT_H
#define PY_SUBMIT_H

#include "base/state.h"

/* submit(kind, pool, func, args, kwds, callback, error_callback): one call; the
 * result, of this kind. */
PyObject *py_submit_call(PyObject *engine, PyObject *const *args,
                         Py_ssize_t nargs);

/* apply(kind, pool, func, args, kwds): likewise, and wait: what the call returns. */
PyObject *py_submit_apply(PyObject *engine, PyObject *const *args,
                          Py_ssize_t nargs);

/* feed(result, func, iterable, chunksize, mode, length, limit): start to turn
 * items into tasks. True: the rest is for a feeder thread. */
PyObject *py_submit_feed(PyObject *engine, PyObject *args);

/* run(result, func, iterable, chunksize, mode, length): turn all items into
 * tasks while waiting: what the job's get() returns. */
PyObject *py_submit_run(PyObject *engine, PyObject *args);

/* cancel(result): the job ends, for lack of a thread to feed it. */
PyObject *py_submit_cancel(PyObject *engine, PyObject *result);

/* feed_rest(result): the body of a feeder thread. */
PyObject *py_submit_feed_rest(PyObject *engine, PyObject *result);

#endif
