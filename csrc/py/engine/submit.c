/* Submitting jobs: methods of _core.Engine; and the body of a feeder thread. */
#include "engine/submit.h"

#include "task/call.h"
#include "task/feed.h"
#include "job/result.h"

static ResultObject *
result_arg(EngineObject *self, PyObject *op)
{
    ResultObject *result = (ResultObject *)op;
    if (!PyObject_TypeCheck(op, self->state->result_type)
        && !PyObject_TypeCheck(op, self->state->stream_type)) {
        PyErr_SetString(PyExc_TypeError, "a cpool result is needed");
        return NULL;
    }
    if (result->engine != self || atomic_exchange(&result->submitted, 1) != 0) {
        PyErr_SetString(PyExc_ValueError,
                        "the result is of another pool, or has its tasks");
        return NULL;
    }
    py_result_hold(result);
    return result;
}

/* kind, pool, func, args, kwds: make the result and submit its one task. */
static ResultObject *
submit_call(PyObject *engine, PyObject *const *args, PyObject *callback,
            PyObject *error_callback)
{
    ResultObject *result = py_result_make((EngineObject *)engine, args[0],
                                          args[1], callback, error_callback);
    if (result == NULL) {
        return NULL;
    }
    atomic_store_explicit(&result->submitted, 1, memory_order_relaxed);
    py_result_hold(result);
    if (py_feed_call(result, args[2], args[3], args[4]) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

PyObject *
py_submit_call(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 7) {
        PyErr_Format(PyExc_TypeError, "submit() takes 7 arguments, not %zd",
                     nargs);
        return NULL;
    }
    return (PyObject *)submit_call(op, args, args[5], args[6]);
}

/* Submitting and waiting in one go: in between no signal's handler can leave a
 * job behind that nobody waits for. */
PyObject *
py_submit_apply(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5) {
        PyErr_Format(PyExc_TypeError, "apply() takes 5 arguments, not %zd",
                     nargs);
        return NULL;
    }
    ResultObject *result = submit_call(op, args, Py_None, Py_None);
    PyObject *value = result != NULL ? py_result_await(result) : NULL;
    Py_XDECREF(result);
    return value;
}

/* A job of threads may have been ended by us, with all workers asleep: nobody else
 * would let go of it. */
static void
collect(EngineObject *engine)
{
    if (engine->threads) {
        py_engine_collect(engine);
    }
}

/* Open the source and feed what can be fed now: 1 there is more, 0, or -1 with
 * an exception, and then the job is cancelled. */
static int
feed_first(ResultObject *result, PyObject *func, PyObject *iterable,
           Py_ssize_t chunksize, unsigned mode, Py_ssize_t length)
{
    int r = py_feed_open(result, func == Py_None ? NULL : func, iterable,
                         chunksize, mode, length);
    if (r == 0) {
        r = result->source.iterator != NULL;
    }
    if (r > 0
        && (result->blocking
            || (result->source.plain && result->job->limit == 0))) {
        r = py_feed(result, 0);
    }
    if (r < 0) {
        py_result_cancel(result);
        Py_CLEAR(result->source.iterator);
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
    ResultObject *result = result_arg((EngineObject *)op, result_op);
    if (result == NULL) {
        return NULL;
    }
    if (limit > 0) {
        cp_job_set_limit(result->job, (uint64_t)limit);
    }
    int more = feed_first(result, func, iterable, chunksize, mode, length);
    if (more < 0) {
        return NULL;
    }
    collect(result->engine);
    return PyBool_FromLong(more);
}

/* Feeding and waiting in one go, as py_submit_apply() does. */
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
    ResultObject *result = result_arg((EngineObject *)op, result_op);
    if (result == NULL) {
        return NULL;
    }
    result->blocking = 1;
    if (feed_first(result, func, iterable, chunksize, mode, length) < 0) {
        return NULL;
    }
    return py_result_await(result);
}

/* The thread that was to feed it cannot be started. */
PyObject *
py_submit_cancel(PyObject *op, PyObject *arg)
{
    EngineObject *self = (EngineObject *)op;
    ResultObject *result = (ResultObject *)arg;
    if ((PyObject_TypeCheck(arg, self->state->result_type)
         || PyObject_TypeCheck(arg, self->state->stream_type))
        && result->engine == self) {
        py_result_cancel(result);
    }
    Py_RETURN_NONE;
}

/* The body of a feeder thread. */
PyObject *
py_submit_feed_rest(PyObject *op, PyObject *arg)
{
    EngineObject *self = (EngineObject *)op;
    ResultObject *result = (ResultObject *)arg;
    if (!PyObject_TypeCheck(arg, self->state->result_type)
        && !PyObject_TypeCheck(arg, self->state->stream_type)) {
        PyErr_SetString(PyExc_TypeError, "a cpool result is needed");
        return NULL;
    }
    for (;;) {
        uint64_t n;
        int r;
        Py_BEGIN_ALLOW_THREADS
        r = cp_job_wait_wants(result->job, &n);
        Py_END_ALLOW_THREADS
        py_breathe(self->state);
        if (r < 0) {
            py_feed_cut(result);
            break;
        }
        if (r == 0) {
            Py_CLEAR(result->source.iterator); /* the job was ended */
            break;
        }
        r = py_feed(result, n);
        if (r < 0) {
            py_result_cancel(result);
            return NULL;
        }
        if (r == 0) {
            break;
        }
    }
    collect(self);
    Py_RETURN_NONE;
}
