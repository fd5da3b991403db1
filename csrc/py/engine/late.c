/*
 * Starting threads after the main thread has ended; see engine/late.h. CPython
 * 3.12.0 to 3.12.2 start no thread at that time, since the thread might begin
 * to run while the interpreter is finalizing. Here the calling thread waits
 * until the new thread runs, and the interpreter waits for the calling thread.
 */
#include "engine/late.h"

struct late {
    PyInterpreterState *interp;
    PyObject *func;
    PyThread_type_lock started;
    int has_state;
};

static void
run(void *arg)
{
    struct late *late = arg; /* the caller's, once started is unlocked */
    PyObject *func = late->func;
    PyThreadState *tstate = PyThreadState_New(late->interp);
    late->has_state = tstate != NULL;
    if (tstate == NULL) {
        PyThread_release_lock(late->started);
        return;
    }
    PyEval_RestoreThread(tstate);
    PyThread_release_lock(late->started);
    PyObject *none = PyObject_CallNoArgs(func);
    if (none == NULL) {
        PyErr_WriteUnraisable(func);
    }
    Py_XDECREF(none);
    Py_DECREF(func);
    PyThreadState_Clear(tstate);
    PyThreadState_DeleteCurrent();
}

PyObject *
py_late_start(PyObject *Py_UNUSED(module), PyObject *func)
{
    struct late late = {.interp = PyInterpreterState_Get(),
                        .func = Py_NewRef(func),
                        .started = PyThread_allocate_lock()};
    if (late.started != NULL) {
        (void)PyThread_acquire_lock(late.started, WAIT_LOCK);
        if (PyThread_start_new_thread(run, &late)
            != PYTHREAD_INVALID_THREAD_ID) {
            Py_BEGIN_ALLOW_THREADS(void)
            PyThread_acquire_lock(late.started, WAIT_LOCK);
            Py_END_ALLOW_THREADS
        }
        PyThread_release_lock(late.started);
        PyThread_free_lock(late.started);
    }
    if (!late.has_state) {
        Py_DECREF(func);
        PyErr_SetString(PyExc_RuntimeError, "can't start new thread");
        return NULL;
    }
    Py_RETURN_NONE;
}
