/* Options of one call; see job/options.h. */
#include "job/options.h"

#include "base/error.h"
#include "task/mode.h"

int
py_options_set(ResultObject *self, PyObject *options)
{
    if (options == Py_None) {
        return 0;
    }
    int flags;
    long long limit, grace;
    unsigned int retries, pin;
    int priority;
    if (!PyTuple_Check(options)) {
        PyErr_SetString(PyExc_TypeError, "options are a tuple or None");
        return -1;
    }
    if (!PyArg_ParseTuple(options, "iLLIIi:options", &flags, &limit, &grace,
                          &retries, &pin, &priority)) {
        return -1;
    }
    if (pin > CP_PIN_EACH || priority < CP_PRIORITY_LEAST
        || priority > CP_PRIORITY_MOST) {
        PyErr_SetString(PyExc_ValueError, "worker or priority out of range");
        return -1;
    }
    if (pin > 0 || priority != 0) {
        int r = cp_job_set_place(self->job, (uint16_t)pin, (int8_t)priority);
        if (r != 0) {
            (void)py_raise(self->state, r);
            return -1;
        }
    }
    if (limit > 0 || grace > 0 || retries > 0) {
        cp_job_set_limits(self->job, limit, grace, retries);
        self->input.task_flags |= limit > 0 ? PY_TIMED : 0u;
        self->input.task_flags |= grace > 0 ? PY_GRACE : 0u;
    }
    if ((flags & PY_RETRY_ON) != 0) {
        self->input.task_flags |= PY_RETRY;
    }
    if ((flags & PY_RETURN_EXCEPTIONS) != 0) {
        self->return_exceptions = 1;
        self->input.task_flags |= PY_CATCH;
    }
    if ((flags & PY_FAIL_FAST) != 0) {
        cp_job_set_fail_fast(self->job);
    }
    return 0;
}

PyObject *
py_options_set_workers(PyObject *result, PyObject *indexes)
{
    ResultObject *self = (ResultObject *)result;
    PyObject *items = PySequence_Tuple(indexes);
    if (items == NULL) {
        return NULL;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(items);
    uint16_t *places = PyMem_New(uint16_t, n + 1);
    if (places == NULL) {
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; places != NULL && i < n; i++) {
        unsigned long place = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(items, i));
        if (place == (unsigned long)-1 && PyErr_Occurred()) {
            break;
        }
        if (place > CP_PIN_MOST) {
            PyErr_SetString(PyExc_ValueError, "worker out of range");
            break;
        }
        places[i] = (uint16_t)place;
    }
    Py_DECREF(items);
    if (!PyErr_Occurred()) {
        int r = cp_job_set_places(self->job, places, (size_t)n);
        if (r != 0) {
            (void)py_raise(self->state, r);
        }
    }
    PyMem_Free(places);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
py_options_method(PyObject *result, PyObject *options)
{
    ResultObject *self = (ResultObject *)result;
    if (self->engine == NULL || self->submitted) {
        PyErr_SetString(PyExc_ValueError, "options are set before the tasks");
        return NULL;
    }
    if (py_options_set(self, options) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
