/* Timeouts: from an argument to a deadline, and the error when it has passed. */
#include "base/timeout.h"

/* The interpreter's own waits ask whether there is anything to wait for, and what
 * is not a number is told so by that, with the operator in the text. They refuse
 * NaN since they ask the other way round. */
#if PY_VERSION_HEX >= 0x030E0000
#    define OPERATOR Py_LE
#    define TAKES_NAN false
#else
#    define OPERATOR Py_GT
#    define TAKES_NAN true
#endif

/* 1 where there is something to wait for, 0, or -1 with an exception. */
static int
is_positive(PyObject *timeout)
{
    PyObject *zero = PyLong_FromLong(0);
    int r =
        zero == NULL ? -1 : PyObject_RichCompareBool(timeout, zero, OPERATOR);
    Py_XDECREF(zero);
    return r < 0 || OPERATOR == Py_GT ? r : !r;
}

/* No clock counts that far: the error is that of the interpreter's waits, which
 * may know less kinds of numbers than we. */
static int
refuse(struct py_state *state, PyObject *timeout, double seconds)
{
    PyObject *known = PyLong_Check(timeout) ? Py_NewRef(timeout)
                                            : PyFloat_FromDouble(seconds);
    PyObject *none =
        known == NULL
            ? NULL
            : PyObject_CallMethod(state->remote, "refuse_timeout", "O", known);
    Py_XDECREF(known);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

int
py_timeout_deadline(struct py_state *state, PyObject *timeout,
                    int64_t *deadline)
{
    *deadline = CP_NEVER;
    if (timeout == NULL || timeout == Py_None) {
        return 0;
    }
    int positive = is_positive(timeout);
    if (positive <= 0) {
        *deadline = 0;
        return positive;
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)
            || !PyLong_Check(timeout)) {
            return -1;
        }
        PyErr_Clear();
        return refuse(state, timeout, seconds);
    }
    bool is_nan = seconds != seconds;
    if (seconds >= 9223372037.0 || (is_nan && !TAKES_NAN)) {
        return refuse(state, timeout, seconds);
    }
    int64_t now = cp_now();
    if (!(seconds > 0)) {
        *deadline = 0;
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
