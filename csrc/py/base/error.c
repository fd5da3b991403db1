/* Codes and reports to exceptions. The texts and classes are Python's
 * (cpool/_base/failures.py, cpool/errors.py): they run once a failure. [attached] */
#include "base/error.h"

#include "value/pickle.h"

PyObject *
py_raise(struct py_state *state, int code)
{
    CP_ASSERT((code == -1) == (PyErr_Occurred() != NULL));
    switch (code) {
        case -1: return NULL;
        case CP_ENOMEM: return PyErr_NoMemory();
        case CP_ECLOSED:
            PyErr_SetString(PyExc_ValueError, "Pool not running");
            return NULL;
        default: break;
    }
    if (CP_ERRNO_OF(code) != 0) {
        errno = CP_ERRNO_OF(code);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *cls = PyObject_GetAttrString(state->remote, "PoolError");
    if (cls != NULL && code == CP_EPROTO) {
        PyErr_SetString(cls,
                        "what came over a pipe is not of the pool's making");
        Py_DECREF(cls);
    } else if (cls != NULL) {
        PyErr_Format(cls, "internal error %d", code);
        Py_DECREF(cls);
    }
    return NULL;
}

PyObject *
py_error_fetch(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *exc = PyErr_GetRaisedException();
#else
    PyObject *type, *exc, *tb;
    PyErr_Fetch(&type, &exc, &tb);
    PyErr_NormalizeException(&type, &exc, &tb);
    if (tb != NULL && exc != NULL) {
        (void)PyException_SetTraceback(exc, tb);
    }
    Py_XDECREF(type);
    Py_XDECREF(tb);
#endif
    CP_ASSERT(exc != NULL);
    return exc;
}

void
py_error_restore(PyObject *exc)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(Py_NewRef(exc));
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exc)), Py_NewRef(exc),
                  PyException_GetTraceback(exc));
#endif
}

PyObject *
py_error_of_result(struct py_state *state, const struct cp_result *result,
                   PyObject *func)
{
    if (result->outcome == CP_LOST) {
        return PyObject_CallMethod(state->remote, "lost", "iiO", result->pid,
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
        PyObject_CallMethod(state->remote, "unpack_error", "O", view);
    py_pickle_release_view(view);
    return exc;
}

/* What broke the pool, or None. NULL with an exception. */
static PyObject *
cause_of_end(EngineObject *engine)
{
    PyObject *raised = py_engine_why(engine);
    const struct cp_result *why = cp_pool_broken(engine->pool);
    if (raised != NULL) {
        return raised;
    }
    return why == NULL ? Py_NewRef(Py_None)
                       : py_error_of_result(engine->state, why, NULL);
}

PyObject *
py_error_of_end(EngineObject *engine, struct cp_job *job)
{
    struct py_state *state = engine->state;
    switch (atomic_load(&job->end)) {
        case CP_END_BROKEN: {
            PyObject *cause = cause_of_end(engine);
            if (cause == NULL) {
                return NULL;
            }
            PyObject *exc =
                PyObject_CallMethod(state->remote, "broken", "O", cause);
            Py_DECREF(cause);
            return exc;
        }
        case CP_END_NOMEM: {
            PyErr_NoMemory();
            return py_error_fetch();
        }
        default: return PyObject_CallMethod(state->remote, "terminated", NULL);
    }
}
