/* Options of one call; see job/options.h. */
#include "job/options.h"

#include "task/mode.h"

int
py_options_set(ResultObject *self, PyObject *options)
{
    if (options == Py_None) {
        return 0;
    }
    long flags = PyLong_AsLong(options);
    if (flags == -1 && PyErr_Occurred()) {
        return -1;
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
