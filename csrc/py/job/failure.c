/* From failures to exceptions; see job/failure.h. */
#include "job/failure.h"

#include "base/error.h"
#include "task/refs.h"
#include "value/pickle.h"

/* The exception that a worker reported, or that its death causes. func names
 * the callable in texts; it may be NULL. */
static PyObject *
reported_error(struct py_state *state, const struct cp_result *result,
               PyObject *func)
{
    if (result->outcome == CP_LOST) {
        return PyObject_CallMethod(state->failures, "lost", "iiO", result->pid,
                                   result->exitcode,
                                   func != NULL ? func : Py_None);
    }
    if (result->outcome == CP_NOMEM) {
        PyErr_NoMemory();
        return py_error_fetch();
    }
    PyObject *view = py_pickle_view(result->body, result->len);
    if (view == NULL) {
        return NULL;
    }
    PyObject *exc =
        PyObject_CallMethod(state->failures, "unpack_error", "O", view);
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

PyObject *
py_failure_of_end(ResultObject *self)
{
    EngineObject *engine = self->engine;
    struct py_state *state = engine->state;
    switch (atomic_load(&self->job->end)) {
        case CP_END_BROKEN: {
            PyObject *cause = cause_of_end(engine);
            if (cause == NULL) {
                return NULL;
            }
            PyObject *exc =
                PyObject_CallMethod(state->failures, "broken", "O", cause);
            Py_DECREF(cause);
            return exc;
        }
        case CP_END_NOMEM: {
            PyErr_NoMemory();
            return py_error_fetch();
        }
        default:
            return PyObject_CallMethod(state->failures, "terminated", NULL);
    }
}

PyObject *
py_failure_of_result(ResultObject *self, struct cp_result *r)
{
    if (r->outcome == CP_RAISED && self->engine->threads) {
        return py_refs_first(r);
    }
    if (r->outcome != CP_LOCAL) {
        return reported_error(self->state, r, self->input.func);
    }
    PyObject *key = PyLong_FromUnsignedLongLong(r->index);
    PyObject *exc = NULL;
    if (key != NULL) {
        exc = PyObject_GetItem(self->input.failures, key);
        Py_DECREF(key);
    }
    return exc;
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
