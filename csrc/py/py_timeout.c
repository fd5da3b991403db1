/* Timeouts: from an argument to a deadline, and the error when it has passed. */
#include "py_timeout.h"

int
py_timeout_deadline(struct py_state *state, PyObject *timeout,
                    int64_t *deadline)
{
    *deadline = CP_NEVER;
    if (timeout == NULL || timeout == Py_None) {
        return 0;
    }
    if (!PyFloat_Check(timeout)) {
        /* What is not a number is told so in the words of the stdlib. */
        PyObject *zero = PyLong_FromLong(0);
        int r =
            zero == NULL ? -1 : PyObject_RichCompareBool(timeout, zero, Py_GT);
        Py_XDECREF(zero);
        if (r < 0) {
            return -1;
        }
    }
    double seconds = PyFloat_AsDouble(timeout);
    bool failed = seconds == -1.0 && PyErr_Occurred();
    if (failed && !PyErr_ExceptionMatches(PyExc_OverflowError)) {
        return -1;
    }
    if (failed || seconds >= 9223372037.0) {
        PyErr_Clear();
        PyObject *none =
            PyObject_CallMethod(state->remote, "refuse_timeout", "O", timeout);
        Py_XDECREF(none);
        return none != NULL ? 0 : -1;
    }
    int64_t now = cp_now();
    if (!(seconds > 0)) {
        *deadline = 0; /* NaN too */
    } else if (seconds * 1e9 < (double)(INT64_MAX - now) - 2e9) {
        *deadline = now + (int64_t)(seconds * 1e9);
    }
    return 0;
}

int
py_timeout_parse(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                 PyObject **timeout)
{
    *timeout = NULL;
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs + nkw > 1) {
        PyErr_Format(PyExc_TypeError, "expected at most 1 argument, got %zd",
                     nargs + nkw);
        return -1;
    }
    if (nkw == 1
        && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0),
                                            "timeout")
               != 0) {
        PyErr_Format(PyExc_TypeError, "got an unexpected keyword argument '%U'",
                     PyTuple_GET_ITEM(kwnames, 0));
        return -1;
    }
    if (nargs + nkw == 1) {
        *timeout = args[0];
    }
    return 0;
}

PyObject *
py_timeout_raise(struct py_state *state)
{
    PyObject *cls = PyObject_GetAttrString(state->remote, "TimeoutError");
    if (cls != NULL) {
        PyErr_SetNone(cls);
        Py_DECREF(cls);
    }
    return NULL;
}
