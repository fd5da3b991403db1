/* Calling the function of a task; see task/call.h. */
#include "task/call.h"

#include "task/mode.h"

#include "core/base/clock.h"
#include "core/link/serve.h"
#include "core/pool/pool.h"

/* args is not a tuple, or kwds is not a dict: call from Python code, which
 * raises Python's own errors. */
static PyObject *
call_from_python(struct py_state *state, PyObject *func, PyObject *args,
                 PyObject *kwds)
{
    return PyObject_CallMethod(state->failures, "call",
                               kwds != NULL ? "OOO" : "OO", func, args, kwds);
}

static PyObject *
call_star(PyObject *func, PyObject *item)
{
    if (PyTuple_CheckExact(item)) {
        return PyObject_Call(func, item, NULL);
    }
    PyObject *args = PySequence_Tuple(item);
    if (args == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_Call(func, args, NULL);
    Py_DECREF(args);
    return result;
}

PyObject *
py_call_one(struct py_state *state, unsigned mode, PyObject *func,
            PyObject *arg, PyObject *kwds)
{
    switch (mode) {
        case PY_CALL:
            return PyTuple_CheckExact(arg)
                       ? PyObject_Call(func, arg, NULL)
                       : call_from_python(state, func, arg, NULL);
        case PY_CALL_KW:
            return PyTuple_CheckExact(arg) && PyDict_CheckExact(kwds)
                       ? PyObject_Call(func, arg, kwds)
                       : call_from_python(state, func, arg, kwds);
        case PY_MAP_ONE: return PyObject_CallOneArg(func, arg);
        default: return call_star(func, arg);
    }
}

/* Has the callable forked, and is this the forked copy? */
static bool
is_copy(const struct py_calls *calls)
{
    return (calls->forked != NULL && *calls->forked > 0)
           || (calls->pool != NULL && !cp_pool_is_ours(calls->pool));
}

int
py_call_each(PyObject *func, struct py_run *run, struct py_calls *calls)
{
    bool star = calls->star;
    Py_ssize_t width = run->width > 0 ? run->width : 1;
    for (Py_ssize_t i = 0; i < run->n; i++) {
        PyObject **args = run->slots + i * width;
        size_t n = (size_t)width | PY_VECTORCALL_ARGUMENTS_OFFSET;
        if (calls->row != NULL) {
            cp_serve_item(calls->row, (uint32_t)i);
            if (calls->timed && i > 0) {
                int64_t now = cp_now();
                cp_serve_since(calls->row, now);
                if (calls->measured != NULL) {
                    (void)cp_serve_is_over_memory(calls->measured, now);
                }
            }
        }
        PyObject *result = star && run->width == 0
                               ? call_star(func, args[0])
                               : PyObject_Vectorcall(func, args, n, NULL);
        for (Py_ssize_t j = 0; j < width; j++) {
            Py_CLEAR(args[j]);
        }
        if (result == NULL && calls->catch != NULL) {
            result = calls->catch (calls, func, i);
            calls->caught++;
        }
        if (result == NULL) {
            return -1;
        }
        run->slots[i] = result;
        if (is_copy(calls)) {
            return -1; /* the other items are the worker's, not its copy's */
        }
    }
    run->used = run->n;
    run->width = 0;
    return 0;
}

void
py_run_bytecode(struct py_state *state)
{
    PyObject *none = PyObject_CallMethod(state->failures, "breathe", NULL);
    if (none == NULL) {
        /* An exception that other code has raised in this thread belongs to no
         * task. */
        PyErr_WriteUnraisable(NULL);
    }
    Py_XDECREF(none);
}
