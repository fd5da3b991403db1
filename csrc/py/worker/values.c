/* Sending the values that a task yields; see worker/values.h. */
#include "worker/values.h"

#include "base/error.h"
#include "value/body.h"

#include "core/base/clock.h"

/* The scratch buffer keeps up to this much memory between values. */
#define KEEP_SCRATCH (1u << 20)
/* An iterator written in C never checks for signals: check after this many
 * values. */
#define SIGNAL_STEPS 256u

PyObject *
py_values_iterator(struct py_state *state, PyObject *source)
{
    PyTypeObject *type = Py_TYPE(source);
    bool is_async = type->tp_iter == NULL && type->tp_as_async != NULL
                    && type->tp_as_async->am_aiter != NULL;
    return is_async ? PyObject_CallMethod(state->failures, "drive", "O", source)
                    : PyObject_GetIter(source);
}

int
py_values_close(PyObject *iterator)
{
    PyObject *close = PyObject_GetAttrString(iterator, "close");
    PyObject *none = close != NULL ? PyObject_CallNoArgs(close) : NULL;
    int r = 0;
    if (close == NULL) {
        PyErr_Clear(); /* not every iterator can be closed */
    } else if (none == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_WriteUnraisable(iterator);
    } else if (none == NULL) {
        r = -1;
    }
    Py_XDECREF(close);
    Py_XDECREF(none);
    return r;
}

/* Close the iterator while an exception may be pending, which stays pending. */
static void
close_failed(PyObject *iterator)
{
    PyObject *exc = PyErr_Occurred() ? py_error_fetch() : NULL;
    if (py_values_close(iterator) < 0) {
        PyErr_WriteUnraisable(iterator);
    }
    if (exc != NULL) {
        py_error_restore(exc);
        Py_DECREF(exc);
    }
}

/* Wait until another value may be sent: 1; 0: the task has to end; -1 with the
 * exception of a signal handler; or a code of the core. */
static int
wait_credit(const struct py_values *values, uint64_t sent)
{
    uint64_t credit = cp_credit_get(values->serve->row, values->seq);
    int r = CP_EINTR;
    if (credit == CP_CREDIT_CLOSED) {
        return 0;
    }
    if (credit > sent) {
        return sent % SIGNAL_STEPS == 0 && PyErr_CheckSignals() < 0 ? -1 : 1;
    }
    while (r == CP_EINTR) {
        Py_BEGIN_ALLOW_THREADS
        r = cp_serve_wait_credit(values->serve, values->seq, sent,
                                 values->timed);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return r;
}

/* Send what is in the scratch buffer. 0, or a negative code. */
static int
send(const struct py_values *values)
{
    struct cp_serve *serve = values->serve;
    struct cp_frame frame = {.kind = CP_VALUE, .seq = values->seq};
    const struct cp_parts *parts = values->scratch->parts;
    int r = parts != NULL && parts->n > 0
                ? cp_serve_lend(serve, &frame, values->scratch)
                : 0;
    if (r != 0) {
        return r;
    }
    const uint8_t *body = cp_buf_head(values->scratch);
    frame.len = cp_buf_len(values->scratch);
    r = cp_serve_yield(serve, &frame, body);
    if (r != 0) {
        Py_BEGIN_ALLOW_THREADS
        r = r == 1 ? cp_serve_flush(serve) : cp_serve_send(serve, &frame, body);
        Py_END_ALLOW_THREADS
    }
    return r;
}

/* Encode and send a value, which is released. 1: go on; otherwise as
 * py_values_send(). */
static int
send_value_take(struct py_values *values, PyObject *value)
{
    struct py_state *state = values->state;
    cp_buf_reset(values->scratch, KEEP_SCRATCH);
    int r = py_body_put(state, value, values->scratch, NULL);
    if (r < 0) {
        PyObject *exc = py_error_fetch();
        values->report = PyObject_CallMethod(
            state->failures, "pack_unpicklable", "OOO", exc, value, Py_False);
        Py_DECREF(exc);
        r = values->report != NULL ? 0 : -1;
    } else {
        r = 1;
    }
    Py_DECREF(value);
    if (r == 1 && state->forked > 0) {
        return -1; /* encoding, or a __del__, has forked */
    }
    if (r == 1) {
        int sent = send(values);
        return sent == 0 ? 1 : sent;
    }
    return r;
}

/* Send one value: 1; 0 at the end, or if values->report is set; -1 with an
 * exception, or without one in a forked copy of the worker; or a code of the
 * core. */
static int
step(struct py_values *values, PyObject *iterator)
{
    struct cp_row *row = values->serve->row;
    if (values->timed || values->is_measured) {
        int64_t now = cp_now();
        cp_serve_since(row, now);
        (void)cp_serve_is_over_memory(values->serve, now);
    }
    PyObject *value = PyIter_Next(iterator);
    if (values->state->forked > 0) {
        Py_XDECREF(value);
        return -1;
    }
    if (value == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return send_value_take(values, value);
}

int
py_values_send(struct py_values *values, PyObject *source)
{
    PyObject *iterator = py_values_iterator(values->state, source);
    if (iterator == NULL) {
        return -1;
    }
    int r = 1;
    for (uint64_t sent = 0; r == 1; sent++) {
        r = wait_credit(values, sent);
        if (r == 0) {
            r = py_values_close(iterator);
            break;
        }
        if (r == 1) {
            r = step(values, iterator);
        }
        if (r == 1) {
            continue;
        }
        if (values->state->forked == 0 && (r < 0 || values->report != NULL)) {
            close_failed(iterator);
        }
        break;
    }
    Py_DECREF(iterator);
    return r;
}
