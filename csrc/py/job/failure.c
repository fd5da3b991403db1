/* From failures to exceptions; see job/failure.h. */
#include "job/failure.h"

#include "base/error.h"
#include "task/mode.h"
#include "task/refs.h"
#include "value/pickle.h"

/* The number of the task's first item in its call, from 0; -1: the call has no
 * items. */
static Py_ssize_t
first_item(const ResultObject *self, const struct cp_result *r)
{
    if (py_result_is_map(self)) {
        return (Py_ssize_t)r->index;
    }
    if ((self->job->flags & CP_JOB_SINGLE) != 0) {
        return -1;
    }
    return (Py_ssize_t)r->index * self->input.chunksize;
}

/* Where the task ran, for error messages: (method, callable, first item,
 * worker, pid, how many values it has yielded, or -1). */
static PyObject *
where(const ResultObject *self, const struct cp_result *r)
{
    PyObject *func = self->input.func;
    bool yields = cp_job_credit(self->job) > 0 && (r->flags & CP_IS_VALUE) == 0;
    return Py_BuildValue("(sOnIiL)", self->call != NULL ? self->call : "apply",
                         func != NULL ? func : Py_None, first_item(self, r),
                         r->worker, r->pid, yields ? (long long)r->item : -1LL);
}

/* The exception in a report of a worker. where may be NULL. */
static PyObject *
reported_error(struct py_state *state, const struct cp_result *result,
               PyObject *place)
{
    PyObject *view = py_pickle_view(result->body, result->len);
    if (view == NULL) {
        return NULL;
    }
    PyObject *exc = PyObject_CallMethod(state->failures, "unpack_error", "OO",
                                        view, place != NULL ? place : Py_None);
    py_pickle_release_view(view);
    return exc;
}

/* The exception that broke the pool, or None; or NULL with an exception. */
static PyObject *
cause_of_end(EngineObject *engine)
{
    PyObject *raised = py_engine_init_error(engine);
    const struct cp_result *why = cp_pool_broken(engine->pool);
    if (raised != NULL) {
        return raised;
    }
    return why == NULL ? Py_NewRef(Py_None)
                       : reported_error(engine->state, why, NULL);
}

static PyObject *
broken(EngineObject *engine)
{
    PyObject *cause = cause_of_end(engine);
    PyObject *exc = cause == NULL ? NULL
                                  : PyObject_CallMethod(engine->state->failures,
                                                        "broken", "O", cause);
    Py_XDECREF(cause);
    return exc;
}

PyObject *
py_failure_of_pool(EngineObject *engine)
{
    return cp_pool_is_broken(engine->pool) ? broken(engine)
                                           : Py_NewRef(Py_None);
}

PyObject *
py_failure_of_end(ResultObject *self)
{
    EngineObject *engine = self->engine;
    struct py_state *state = engine->state;
    switch (atomic_load(&self->job->end)) {
        case CP_END_BROKEN: return broken(engine);
        case CP_END_CANCELLED:
            return PyObject_CallMethod(state->failures, "cancelled", NULL);
        case CP_END_UNREAD:
            return PyObject_CallMethod(state->failures, "values_not_read", "s",
                                       self->call);
        case CP_END_NOMEM: {
            PyErr_NoMemory();
            return py_error_fetch();
        }
        default:
            return PyObject_CallMethod(state->failures, "terminated", NULL);
    }
}

/* The exit code of the worker; None if it lives on. */
static PyObject *
exitcode_of(const struct cp_result *r)
{
    return r->exitcode != CP_NO_EXIT ? PyLong_FromLong(r->exitcode)
                                     : Py_NewRef(Py_None);
}

PyObject *
py_failure_of_result(ResultObject *self, struct cp_result *r)
{
    if (r->outcome == CP_RAISED && self->engine->threads) {
        return py_refs_first(r);
    }
    if (r->outcome == CP_NOMEM) {
        PyErr_NoMemory();
        return py_error_fetch();
    }
    if (r->outcome != CP_LOCAL) {
        PyObject *place = where(self, r), *exc = NULL;
        uint32_t item = cp_job_credit(self->job) > 0 ? 0 : r->item;
        if (place != NULL && r->outcome == CP_LOST
            && r->reason == CP_TIMED_OUT) {
            exc = PyObject_CallMethod(
                self->state->failures, "timed_out", "iNOIILLy#", r->pid,
                exitcode_of(r), place, item, r->items, (long long)r->amount,
                (long long)self->job->time_limit, (const char *)r->body,
                (Py_ssize_t)r->len);
        } else if (place != NULL && r->outcome == CP_LOST
                   && r->reason == CP_TOOK_MEMORY) {
            exc = PyObject_CallMethod(
                self->state->failures, "took_memory", "iiOIILK", r->pid,
                r->exitcode, place, item, r->items, (long long)r->amount,
                (unsigned long long)cp_pool_memory_limit(self->engine->pool));
        } else if (place != NULL && r->outcome == CP_LOST
                   && r->reason == CP_NO_WORKER) {
            exc = PyObject_CallMethod(self->state->failures, "no_worker", "IO",
                                      r->worker, place);
        } else if (place != NULL && r->outcome == CP_LOST) {
            exc =
                PyObject_CallMethod(self->state->failures, "lost", "iiOII",
                                    r->pid, r->exitcode, place, item, r->items);
        } else if (place != NULL) {
            exc = reported_error(self->state, r, place);
        }
        Py_XDECREF(place);
        return exc;
    }
    PyObject *key = PyLong_FromUnsignedLongLong(r->index);
    PyObject *exc = NULL;
    if (key != NULL) {
        exc = PyObject_GetItem(self->input.failures, key);
        Py_DECREF(key);
    }
    return exc;
}

/* If obj is the placeholder of an item that raised, the item's exception.
 * Steals obj. */
static PyObject *
released_take(ResultObject *self, struct cp_result *r, PyObject *obj,
              PyObject *caught_type)
{
    if ((PyObject *)Py_TYPE(obj) != caught_type) {
        return obj;
    }
    PyObject *place = where(self, r);
    PyObject *exc = place != NULL ? PyObject_CallMethod(
                        self->state->failures, "release", "OO", obj, place)
                                  : NULL;
    Py_XDECREF(place);
    Py_DECREF(obj);
    return exc;
}

int
py_failure_release(ResultObject *self, struct cp_result *r, PyObject **values,
                   Py_ssize_t n)
{
    if ((r->flags & PY_CAUGHT) == 0) {
        return 0;
    }
    PyObject *type = PyObject_GetAttrString(self->state->failures, "Caught");
    int result = type == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; i < n && result == 0; i++) {
        values[i] = released_take(self, r, values[i], type);
        if (values[i] == NULL) {
            values[i] = Py_NewRef(Py_None);
            result = -1;
        }
    }
    Py_XDECREF(type);
    return result;
}

PyObject *
py_failure_of_no_task(ResultObject *self)
{
    PyObject *cls = PyObject_GetAttrString(self->state->failures, "PoolError");
    PyObject *exc = cls == NULL ? NULL
                                : PyObject_CallFunction(
                                    cls, "s",
                                    "the job ended without a result: no task "
                                    "was submitted for it");
    Py_XDECREF(cls);
    return exc;
}

PyObject *
py_failure_raisable_take(ResultObject *self, PyObject *exc)
{
    if (!PyErr_GivenExceptionMatches(exc, PyExc_StopIteration)) {
        return exc;
    }
    PyObject *error =
        PyObject_CallMethod(self->state->failures, "stopped", "O", exc);
    Py_DECREF(exc);
    return error;
}
