/*
 * The calls that an executor submits. A lane is a job of calls (CP_JOB_EACH):
 * successive calls of one callable become tasks of one job, each with its own
 * future. So a call costs one task and one future, but no job. A callable that
 * is not found by its name has a new lane for each call, since it may have
 * changed in between. So has a call that is not encoded yet.
 *
 * A worker thread ends a call itself, if the program has not looked at its future
 * yet. All other results are handled by the first of these threads: a thread that
 * waits for one of the futures, the helper, or a worker thread between two tasks.
 * Plain values are decoded first. Then comes what runs the program's code:
 * values that have to be rebuilt, one by one, and then callbacks, which only
 * the helper or a worker thread runs. [attached]
 */
#ifndef PY_LANE_H
#define PY_LANE_H

#include "job/future.h"
#include "job/life.h"

typedef struct py_lane {
    ResultObject base;
    /* All of these are guarded by the lane's critical section. */
    ConditionObject *first, *last;        /* the calls that have not ended */
    struct cp_result *ready, *ready_last; /* results to be rebuilt */
    ConditionObject *calls, *calls_last;  /* ended, with callbacks to be run */
} LaneObject;

/* The arguments of a call, all borrowed. */
struct py_lane_args {
    PyObject *const *items;
    Py_ssize_t n;
    PyObject *kwds; /* a dict; or NULL: there are none */
};

/* A new tuple of the positional ones, or NULL with an exception. */
PyObject *py_lane_tuple(const struct py_lane_args *args);

/* Submit a call of func. Returns its future as a new reference. NULL: with an
 * exception, or without one if the pool takes no more calls. Runs Python
 * code. */
PyObject *py_lane_submit(EngineObject *engine, PyObject *func,
                         const struct py_lane_args *args);

/* Make a lane for one call, which is not encoded yet (engine/kept.h): its
 * callable and its arguments are to be put into the input of the lane. Returns
 * a new reference, and the future of the call in *future. NULL: with an
 * exception, or without one if the pool takes no more calls. */
LaneObject *py_lane_keep(EngineObject *engine, PyObject **future);

/* Encode and queue the call of such a lane, unless it was cancelled. Consumes
 * *holder as py_feed_kept_call() does: 0, or -1 with an exception. */
int py_lane_feed_kept(LaneObject *lane, PyObject **holder);

/* Handle the results that have arrived: 0, or -1 with an exception of a signal
 * handler, or because this is a forked copy of the process. calls: run the
 * callbacks too; otherwise tell the helper to. */
int py_lane_absorb(LaneObject *lane, bool calls);

/* A worker thread has run this task of the call, of which it has a reference, and
 * is about to hand in the result. If the program has never taken the lock of the
 * future, and so has no callbacks and does not wait, end the call now: then the
 * result is empty, and counts as taken. Runs no code of the program. */
void py_lane_end_at_once(struct cp_task *task, struct cp_result *result,
                         ConditionObject *call);

/* Wait until the call has ended, or until the deadline: 0, or -1 with an exception of a
 * signal handler. */
int py_lane_wait(ConditionObject *condition, LaneObject *lane,
                 int64_t deadline);

/* The program is about to look at the future, whose lock this thread does not
 * hold yet. Handle the results that have arrived, and return whether a worker
 * has begun the call. -1 with an exception of a signal handler. */
int py_lane_look(ConditionObject *condition);

/* The future was notified, and may be cancelled: if it is, withdraw the call in
 * the core. Its lock is held. */
void py_lane_notified(ConditionObject *condition);

/* The futures of the lane's calls that have not ended: a new list, or NULL with an
 * exception. */
PyObject *py_lane_futures(LaneObject *lane);

/* The lane of a job of calls: a new reference; or NULL, if it was collected. */
LaneObject *py_lane_of_job(EngineObject *engine, struct cp_job *job);

/* Handle and close a job that came out of cp_pool_next() as CP_WAIT_EACH, or
 * out of cp_pool_next_each(): a job of calls, or one with a teller. False: a
 * callback has forked, and this is the forked copy. */
bool py_lane_see_to(EngineObject *engine, struct cp_job *job);

/* For the thread of an event loop, which must not be held up: spin for results
 * for some microseconds, if that pays, and handle those that are small and
 * plain. Futures with callbacks are handed over: hand_over(future) returns
 * whether it has run all callbacks. The helper handles the rest. 1: there were
 * some; 0: none; -1 with an exception. */
int py_lane_glance(EngineObject *engine, PyObject *hand_over);

/* Handle all such jobs. For worker threads. */
void py_lane_absorb_all(EngineObject *engine);

/* The job of calls has ended: collect it. */
void py_lane_collect(EngineObject *engine, struct cp_job *job);

/* Close the open lane, if there is one: later calls go to another lane. */
void py_lane_close(EngineObject *engine);

int py_lane_add_type(PyObject *module, struct py_state *state);

#endif
