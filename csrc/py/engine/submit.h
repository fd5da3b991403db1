/*
 * The methods of _core.Engine that give a job its tasks. If such a method
 * raises, its job has ended. [attached]
 */
#ifndef PY_SUBMIT_H
#define PY_SUBMIT_H

#include "job/lane.h"

/* submit(kind, pool, func, args, kwds, callback, error_callback, options):
 * submit one call. Returns its result, of this kind. options, which may be left out:
 * see job/options.h. */
PyObject *py_submit_call(PyObject *engine, PyObject *const *args,
                         Py_ssize_t nargs);

/* py_lane_submit(), or keep the call (engine/kept.h) if workers cannot take it
 * soon. */
PyObject *py_submit_future(EngineObject *engine, PyObject *func,
                           const struct py_lane_args *args);

/* apply(kind, pool, func, args, kwds, options): submit one call and wait for it. Returns
 * its value. */
PyObject *py_submit_apply(PyObject *engine, PyObject *const *args,
                          Py_ssize_t nargs);

/* feed(result, func, iterable, chunksize, mode, length, limit): begin to turn
 * items into tasks. True: a feeder thread has to make the rest. */
PyObject *py_submit_feed(PyObject *engine, PyObject *args);

/* run(result, func, iterable, chunksize, mode, length): turn all items into
 * tasks, and wait for the job. Returns its value. */
PyObject *py_submit_run(PyObject *engine, PyObject *args);

/* cancel(result): end the job, since no feeder thread could be started. */
PyObject *py_submit_cancel(PyObject *engine, PyObject *result);

/* end_call(result): a feeder thread now makes the rest of the tasks, so that a
 * join on this thread can wait for them. */
PyObject *py_submit_end_call(PyObject *engine, PyObject *result);

/* feed_one(result): queue the next task of this result of a serial engine. False: there
 * are no more items. */
PyObject *py_submit_feed_one(PyObject *engine, PyObject *result);

/* feed_rest([result]): feed the job until there are no more items. The body of
 * a feeder thread. Takes the result out of the list, so that the thread's
 * frames do not hold it. */
PyObject *py_submit_feed_rest(PyObject *engine, PyObject *holder);

/* finish_calls(): this thread joins the pool, perhaps in a signal handler. End
 * the jobs of the calls that the handler has interrupted, since they would
 * never get all of their tasks. */
PyObject *py_submit_finish_calls(PyObject *engine, PyObject *ignored);

#endif
