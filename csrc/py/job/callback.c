/* Running callbacks; see job/callback.h. */
#include "job/callback.h"

#include "base/error.h"
#include "base/work.h"
#include "job/settle.h"
#include "job/wait.h"

/* Call the callback if there is one: 0, or -1 with an exception. */
static int
call_back(EngineObject *engine, PyObject *callback, PyObject *value)
{
    int truth = callback == NULL ? 0 : PyObject_IsTrue(callback);
    if (truth <= 0) {
        return truth;
    }
    int64_t began = py_work_begin(engine);
    PyObject *none = PyObject_CallOneArg(callback, value);
    py_work_end(engine, CP_WORK_CALLBACK, began);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

/* The job was terminated meanwhile, so waiting threads do not wait for its
 * callbacks. The callbacks get the same outcome as these threads, and their
 * exceptions are only reported. */
static void
call_late(ResultObject *self)
{
    if (py_result_wait(self, CP_NEVER) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
        return;
    }
    PyObject *callback = self->success ? self->callback : self->error_callback;
    if (call_back(self->engine, callback, self->value) < 0) {
        PyErr_WriteUnraisable(callback);
    }
}

void
py_result_call_back(ResultObject *self)
{
    while (py_result_decode(self) < 0) {
        PyErr_Clear(); /* signal handlers do not run on this thread */
        if (!cp_pool_is_ours(self->engine->pool)) {
            return;
        }
    }
    /* Check only now: another thread that saw that the job was done may have
     * decoded first. */
    if (atomic_load(&self->job->done)) {
        call_late(self);
        return;
    }
    py_result_finish(self);
    char success;
    PyObject *value = py_result_peek(self, &success);
    PyObject *callback = success ? self->callback : self->error_callback;
    /* As in Python 3.16: the exception of a callback is the job's result. */
    PyObject *exc =
        call_back(self->engine, callback, value) < 0 ? py_error_fetch() : NULL;
    Py_DECREF(value);
    Py_XINCREF(exc);
    if (!py_result_settle_take(self, exc) && exc != NULL) {
        py_error_restore(exc); /* too late: the job was terminated */
        PyErr_WriteUnraisable(callback);
    }
    Py_XDECREF(exc);
}

void
py_result_told(struct cp_job *job)
{
    PyObject *result = cp_job_take_teller(job);
    if (result == NULL) {
        return;
    }
    PyObject *none = PyObject_CallMethod(result, "_told", NULL);
    if (none == NULL) {
        PyErr_WriteUnraisable(result);
    }
    Py_XDECREF(none);
    Py_DECREF(result);
}
