/* Submitting jobs; see engine/submit.h. */
#include "engine/submit.h"

#include "engine/kept.h"
#include "job/options.h"
#include "job/result.h"
#include "job/wait.h"
#include "task/call.h"
#include "task/feed.h"
#include "task/mode.h"
#include "task/source.h"

static bool
is_result(EngineObject *self, PyObject *op)
{
    return PyObject_TypeCheck(op, self->state->result_type)
           || PyObject_TypeCheck(op, self->state->stream_type);
}

/* The result that a method was given, to be submitted now and never again; or
 * NULL with an exception. From now on its job holds it; weakly, if it has a
 * limit. */
static ResultObject *
result_arg(EngineObject *self, PyObject *op, Py_ssize_t limit)
{
    ResultObject *result = (ResultObject *)op;
    if (!is_result(self, op)) {
        PyErr_SetString(PyExc_TypeError, "a cpool result is needed");
        return NULL;
    }
    if (result->engine != self || atomic_exchange(&result->submitted, 1) != 0) {
        PyErr_SetString(
            PyExc_ValueError,
            "the result belongs to another pool, or already has its tasks");
        return NULL;
    }
    if (limit <= 0) {
        py_result_hold(result);
        return result;
    }
    PyObject *weak = py_result_hold_weakly(result);
    if (weak == NULL) {
        return NULL;
    }
    Py_DECREF(weak);
    cp_job_set_limit(result->job, (uint64_t)limit);
    return result;
}

/* May the call be kept, if there is no room? Kept calls stay in their order,
 * and wait for room: so not a call that goes before others, or whose worker may
 * be idle. */
static bool
may_be_kept(const ResultObject *result)
{
    return result->job->priority == 0 && result->job->pin == 0
           && py_kept_wanted(result->engine);
}

/* Make a result and submit its only task. args: kind, pool, func, args, kwds.
 * call: the name of the method. options: NULL, or as for py_options_set(). */
static ResultObject *
submit_call(PyObject *engine, PyObject *const *args, PyObject *callback,
            PyObject *error_callback, const char *call, PyObject *options)
{
    if (((EngineObject *)engine)->threads && options == NULL) {
        return py_result_make_call((EngineObject *)engine, args, callback,
                                   error_callback, call);
    }
    ResultObject *result = py_result_make((EngineObject *)engine, args[0],
                                          args[1], callback, error_callback);
    if (result == NULL) {
        return NULL;
    }
    atomic_store_explicit(&result->submitted, 1, memory_order_relaxed);
    py_result_hold(result);
    result->call = call;
    EngineObject *self = (EngineObject *)engine;
    int r = options != NULL ? py_options_set(result, options) : 0;
    if (r == 0) {
        r = may_be_kept(result)
                ? py_kept_add(self, result, args[2], args[3], args[4])
                : py_feed_call(&result->input, args[2], args[3], args[4]);
    }
    if (r < 0) {
        py_result_cancel(result);
        Py_CLEAR(result);
    } else {
        py_result_end_call(result);
    }
    return result;
}

PyObject *
py_submit_call(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 7 && nargs != 8) {
        PyErr_Format(PyExc_TypeError,
                     "submit() takes 7 or 8 arguments, not %zd", nargs);
        return NULL;
    }
    return (PyObject *)submit_call(op, args, args[5], args[6], "apply_async",
                                   nargs == 8 ? args[7] : NULL);
}

PyObject *
py_submit_future(EngineObject *engine, PyObject *func,
                 const struct py_lane_args *args)
{
    if (!py_kept_wanted(engine)) {
        return py_lane_submit(engine, func, args);
    }
    PyObject *future = NULL;
    PyObject *tuple = py_lane_tuple(args);
    LaneObject *lane = tuple != NULL ? py_lane_keep(engine, &future) : NULL;
    if (lane != NULL
        && py_kept_add(engine, &lane->base, func, tuple, args->kwds) < 0) {
        Py_CLEAR(future);
    }
    Py_XDECREF(lane);
    Py_XDECREF(tuple);
    return future;
}

/* Submits and waits in one call. Between two calls, a signal handler could
 * raise, and leave a job behind for which nobody waits. */
PyObject *
py_submit_apply(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5 && nargs != 6) {
        PyErr_Format(PyExc_TypeError, "apply() takes 5 or 6 arguments, not %zd",
                     nargs);
        return NULL;
    }
    ResultObject *result = submit_call(op, args, Py_None, Py_None, "apply",
                                       nargs == 6 ? args[5] : NULL);
    PyObject *value = result != NULL ? py_result_await(result) : NULL;
    Py_XDECREF(result);
    return value;
}

/* The name of the method that feeds this result. */
static const char *
name_of_call(const ResultObject *result, unsigned mode)
{
    static const char *const names[2][2][2] = {
        {{"map_async", "map"}, {"starmap_async", "starmap"}},
        {{"imap_unordered", "imap"}, {"istarmap_unordered", "istarmap"}}};
    bool stream = !py_result_is_map(result);
    bool star = (mode & PY_MODE) == PY_STAR || (mode & PY_MODE) == PY_STAR_ONE;
    if (result->job->pin == CP_PIN_EACH) {
        return "broadcast";
    }
    if (cp_job_credit(result->job) > 0) {
        return (mode & PY_MODE) == PY_STAR_ONE ? "stream"
               : (result->job->flags & CP_JOB_ORDERED) != 0
                   ? "flatmap"
                   : "flatmap_unordered";
    }
    bool second = stream ? (result->job->flags & CP_JOB_ORDERED) != 0
                         : result->input.blocking;
    return names[stream][star][second];
}

/* This thread may have ended a job of worker threads while all of them sleep.
 * No other thread would release the result of the job. */
static void
collect(EngineObject *engine)
{
    if (engine->threads) {
        py_job_collect(engine);
    }
}

/* Open the source, and make the tasks that can be made now. 1: there are more;
 * 0: there are no more; -1 with an exception, and then the job is cancelled. */
static int
feed_first(ResultObject *result, PyObject *func, PyObject *iterable,
           Py_ssize_t chunksize, unsigned mode, Py_ssize_t length)
{
    struct py_input *in = &result->input;
    int r = 0;
    result->call = name_of_call(result, mode);
    result->job->stride = (mode & PY_TASKS) != 0     ? 0
                          : py_result_is_map(result) ? 1
                                                     : (uint32_t)chunksize;
    if (in->blocking && !py_source_is_plain(in->engine->state, iterable)) {
        r = py_engine_attend(
            in->engine); /* the program's code runs on this thread now */
    }
    if (r == 0) {
        r = py_feed_open(in, (mode & PY_TASKS) != 0 ? NULL : func, iterable,
                         chunksize, mode, length);
    }
    if (r == 0) {
        r = in->source.iterator != NULL;
    }
    if (r > 0 && !in->blocking && in->source.plain
        && cp_job_limit(result->job) == 0 && may_be_kept(result)) {
        r = py_kept_add(in->engine, result, NULL, NULL, NULL);
    } else if (r > 0
               && (in->blocking
                   || (in->source.plain && cp_job_limit(result->job) == 0
                       && !in->engine->serial))) {
        r = py_feed(in, 0, NULL);
    }
    if (r < 0) {
        py_result_cancel(result);
        Py_CLEAR(in->source.iterator);
    } else if (r == 0) {
        py_result_end_call(result);
    }
    return r;
}

PyObject *
py_submit_feed(PyObject *op, PyObject *args)
{
    PyObject *result_op, *func, *iterable;
    Py_ssize_t chunksize, length, limit;
    unsigned int mode;
    if (!PyArg_ParseTuple(args, "OOOnInn:feed", &result_op, &func, &iterable,
                          &chunksize, &mode, &length, &limit)) {
        return NULL;
    }
    ResultObject *result = result_arg((EngineObject *)op, result_op, limit);
    if (result == NULL) {
        return NULL;
    }
    int more = feed_first(result, func, iterable, chunksize, mode, length);
    if (more < 0) {
        return NULL;
    }
    collect(result->engine);
    return PyBool_FromLong(more);
}

/* Feeds and waits in one call, for the same reason as py_submit_apply(). */
PyObject *
py_submit_run(PyObject *op, PyObject *args)
{
    PyObject *result_op, *func, *iterable;
    Py_ssize_t chunksize, length;
    unsigned int mode;
    if (!PyArg_ParseTuple(args, "OOOnIn:run", &result_op, &func, &iterable,
                          &chunksize, &mode, &length)) {
        return NULL;
    }
    ResultObject *result = result_arg((EngineObject *)op, result_op, 0);
    if (result == NULL) {
        return NULL;
    }
    result->input.blocking = 1;
    if (feed_first(result, func, iterable, chunksize, mode, length) < 0) {
        return NULL;
    }
    return py_result_await(result);
}

PyObject *
py_submit_cancel(PyObject *op, PyObject *arg)
{
    EngineObject *self = (EngineObject *)op;
    ResultObject *result = (ResultObject *)arg;
    if (is_result(self, arg) && result->engine == self) {
        py_result_cancel(result);
    }
    Py_RETURN_NONE;
}

PyObject *
py_submit_end_call(PyObject *op, PyObject *arg)
{
    if (is_result((EngineObject *)op, arg)) {
        py_result_end_call((ResultObject *)arg);
    }
    Py_RETURN_NONE;
}

/* A thread that feeds a job. If the job holds the result weakly, the thread
 * holds the result only while it feeds: while the thread waits, it must not
 * keep alive an iterator that nobody else has. */
struct feeder {
    struct cp_job *job; /* a reference of its own */
    PyObject *result;   /* or NULL */
    PyObject *weak;     /* or NULL: `result` is held all the time */
};

PyObject *
py_submit_feed_one(PyObject *op, PyObject *arg)
{
    EngineObject *self = (EngineObject *)op;
    ResultObject *result = (ResultObject *)arg;
    if (!is_result(self, arg) || result->engine != self || !self->serial) {
        PyErr_SetString(PyExc_TypeError,
                        "a result of this serial pool is needed");
        return NULL;
    }
    int r = py_feed(&result->input, 1, NULL);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

/* Wait until the job wants tasks. Returns as cp_job_wait_wants(); 0 also if the
 * result is gone. */
static int
await_wants(struct feeder *feeder, uint64_t *n)
{
    int r;
    if (feeder->weak != NULL) {
        Py_CLEAR(feeder->result);
    }
    Py_BEGIN_ALLOW_THREADS
    r = cp_job_wait_wants(feeder->job, n);
    Py_END_ALLOW_THREADS
    if (feeder->weak != NULL) {
        feeder->result = py_result_of_weak(feeder->weak);
        r = feeder->result != NULL ? r : 0;
    }
    return r;
}

/* Feed the job to its end: 0, or -1 with an exception. */
static int
feed_to_end(EngineObject *self, struct feeder *feeder)
{
    for (;;) {
        uint64_t n;
        int r = await_wants(feeder, &n);
        py_run_bytecode(self->state);
        ResultObject *result = (ResultObject *)feeder->result;
        if (r < 0) {
            py_feed_cut(&result->input, &feeder->result);
            return 0;
        }
        if (r == 0) {
            if (result != NULL) {
                Py_CLEAR(result->input.source.iterator); /* the job has ended */
            }
            return 0;
        }
        r = py_feed(&result->input, n, &feeder->result);
        if (r < 0) {
            py_result_cancel(result);
        }
        if (r <= 0) {
            return r;
        }
    }
}

/* Take the result out of the list; or NULL with an exception. */
static PyObject *
result_of_holder(EngineObject *self, PyObject *holder)
{
    PyObject *result = NULL;
    if (PyList_CheckExact(holder) && PyList_GET_SIZE(holder) == 1) {
        result = PySequence_GetItem(holder, 0);
    }
    if (result == NULL || !is_result(self, result)
        || PyList_SetSlice(holder, 0, 1, NULL) < 0) {
        Py_XDECREF(result);
        PyErr_SetString(PyExc_TypeError,
                        "a list with a cpool result is needed");
        return NULL;
    }
    return result;
}

PyObject *
py_submit_feed_rest(PyObject *op, PyObject *holder)
{
    EngineObject *self = (EngineObject *)op;
    struct feeder feeder = {.result = result_of_holder(self, holder)};
    ResultObject *result = (ResultObject *)feeder.result;
    if (result == NULL) {
        return NULL;
    }
    py_result_end_call(result); /* from now on this thread makes the tasks */
    feeder.job = result->job;
    cp_job_ref(feeder.job);
    int r = 0;
    if (cp_job_limit(feeder.job) > 0
        && (feeder.weak = PyWeakref_NewRef(feeder.result, NULL)) == NULL) {
        py_result_cancel(result);
        r = -1;
    }
    if (r == 0) {
        r = feed_to_end(self, &feeder);
    }
    Py_XDECREF(feeder.result);
    Py_XDECREF(feeder.weak);
    if (cp_pool_is_ours(self->pool)) {
        cp_job_close(feeder.job);
        collect(self);
    }
    if (r < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* A call of this thread was interrupted, and goes on only after the join, so
 * the join cannot wait for that call. If the call is waiting for its job, make
 * all of its tasks now; if it is making tasks, or has none yet, cancel its
 * job. */
static int
finish_call(ResultObject *result)
{
    int r = 1;
    if (!result->input.idle) {
        py_result_cancel(result);
        r = 0;
    }
    while (r > 0) {
        r = py_result_feed(result);
    }
    return r;
}

PyObject *
py_submit_finish_calls(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = (EngineObject *)op;
    ResultObject *result;
    int r = 0;
    while (r == 0 && (result = py_result_own_call(self)) != NULL) {
        r = finish_call(result);
        Py_DECREF(result);
    }
    if (r < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
