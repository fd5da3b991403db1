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
