/* Exceptions; see base/error.h. The texts and classes are in Python
 * (cpool/_base/failures.py, cpool/errors.py): this code runs once per
 * failure. */
#include "base/error.h"

#include "core/base/base.h"
#include "core/base/clock.h"

#include <errno.h>
#include <poll.h>

/* How long threads sleep while the interpreter ends, from the first one on. */
#define EXIT_SLEEP (2 * CP_SECOND)

void
py_error_sleep_if_exiting(struct py_state *state)
{
    unsigned long last = state->exit_thread;
    if (last == 0 || last == PyThread_get_thread_ident()) {
        return;
    }
    int64_t none = 0, until = cp_now() + EXIT_SLEEP;
    if (!atomic_compare_exchange_strong(&state->exit_until, &none, until)) {
        until = none;
    }
    Py_BEGIN_ALLOW_THREADS
    for (int64_t left; (left = until - cp_now()) > 0;) {
        (void)poll(NULL, 0, (int)(left / CP_MS) + 1);
    }
    Py_END_ALLOW_THREADS
}

PyObject *
py_raise(struct py_state *state, int code)
{
    CP_ASSERT((code == -1) == (PyErr_Occurred() != NULL));
    switch (code) {
        case -1: return NULL;
        case CP_ENOMEM: return PyErr_NoMemory();
        case CP_ECLOSED:
            py_error_sleep_if_exiting(state);
            PyErr_SetString(PyExc_ValueError, "Pool not running");
            return NULL;
        default: break;
    }
    if (CP_ERRNO_OF(code) != 0) {
        errno = CP_ERRNO_OF(code);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *cls = PyObject_GetAttrString(state->failures, "PoolError");
    if (cls != NULL && code == CP_EPROTO) {
        PyErr_SetString(
            cls, "a pipe of the pool carried data that the pool did not write");
        Py_DECREF(cls);
    } else if (cls != NULL) {
        PyErr_Format(cls, "internal error %d", code);
        Py_DECREF(cls);
    }
    return NULL;
}

static PyObject *
fetch(void)
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
    return exc;
}

PyObject *
py_error_fetch(void)
{
    PyObject *exc = fetch();
    if (exc == NULL) {
        /* If memory is out, CPython may fail and set no exception. This one was
         * made in advance. */
        (void)PyErr_NoMemory();
        exc = fetch();
    }
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

bool
py_error_is_from_handler(struct py_state *state)
{
    PyObject *exc = py_error_fetch();
    PyObject *found =
        PyObject_CallMethod(state->failures, "leaves_call", "O", exc);
    bool is_from_handler = found != Py_False;
    if (found != NULL) {
        py_error_restore(exc);
        Py_DECREF(found);
    }
    Py_DECREF(exc);
    return is_from_handler;
}

bool
py_error_leaves_call(struct py_state *state)
{
    return py_error_is_interrupt() || py_error_is_from_handler(state);
}
