/* From a timeout to a deadline; see base/timeout.h. */
#include "base/timeout.h"

#include "core/base/clock.h"

/* The interpreter's own waits compare the timeout with 0. The operator appears
 * in the text of the TypeError for a timeout that is not a number; and from
 * 3.14 on the comparison is the other way round, which refuses NaN. */
#if PY_VERSION_HEX >= 0x030E0000
#    define COMPARISON Py_LE
#    define ACCEPTS_NAN false
#else
#    define COMPARISON Py_GT
#    define ACCEPTS_NAN true
#endif

/* Is the timeout above 0? 1, 0, or -1 with an exception. */
static int
is_positive(PyObject *timeout)
{
    PyObject *zero = PyLong_FromLong(0);
    int r =
        zero == NULL ? -1 : PyObject_RichCompareBool(timeout, zero, COMPARISON);
    Py_XDECREF(zero);
    return r < 0 || COMPARISON == Py_GT ? r : !r;
}

/* The timeout is too long for a clock. Raise the error of the interpreter's own
 * waits; these may accept fewer kinds of numbers than we do. */
static int
refuse(struct py_state *state, PyObject *timeout, double seconds)
{
    PyObject *known = PyLong_Check(timeout) ? Py_NewRef(timeout)
                                            : PyFloat_FromDouble(seconds);
    PyObject *none = known == NULL
                         ? NULL
                         : PyObject_CallMethod(state->failures,
                                               "refuse_timeout", "O", known);
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
    if (seconds >= 9223372037.0 || (is_nan && !ACCEPTS_NAN)) {
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

PyObject *
py_timeout_raise(struct py_state *state)
{
    PyObject *cls = PyObject_GetAttrString(state->failures, "TimeoutError");
    if (cls != NULL) {
        PyErr_SetNone(cls);
        Py_DECREF(cls);
    }
    return NULL;
}
