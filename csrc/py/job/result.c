/*
 * _core.Result: the handle of one apply or map, as Python sees it; and what it
 * has in common with _core.Stream. How it gets its value is in job/settle.c.
 */
#include "job/result.h"

#include "base/error.h"
#include "task/refs.h"
#include "job/settle.h"
#include "base/timeout.h"

static bool
is_done(ResultObject *self)
{
    return self->settled || atomic_load(&self->job->done);
}

/* A subclass may not have called __init__; and in a forked copy of the process
 * there is nobody to wait for. */
static int
check_usable(ResultObject *self)
{
    if (self->engine == NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "'%.200s' object has no attribute '_event'",
                     Py_TYPE(self)->tp_name);
        return -1;
    }
    return self->settled ? 0 : py_engine_check(self->engine);
}

/* ---- methods ---- */

static PyObject *
result_ready(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (check_usable(self) < 0) {
        return NULL;
    }
    return PyBool_FromLong(is_done(self));
}

/* It would be a wait for ever: this thread is the one to run the callbacks. */
static bool
waits_for_itself(ResultObject *self)
{
    return (self->job->flags & CP_JOB_CALLS) != 0
           && self->engine->helper == PyThread_get_thread_ident();
}

/* 1 ready, 0 not in time, -1 an exception. */
static int
wait_for(ResultObject *self, PyObject *timeout)
{
    int64_t deadline;
    if (check_usable(self) < 0) {
        return -1;
    }
    if (self->settled) {
        return 1;
    }
    if (is_done(self)) {
        deadline = CP_NEVER; /* another thread decodes, at most */
    } else if (py_timeout_deadline(self->state, timeout, &deadline) < 0) {
        return -1;
    } else if (deadline == CP_NEVER && waits_for_itself(self)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a callback cannot wait for a result that has "
                        "callbacks: they run one after the other");
        return -1;
    }
    return py_result_wait(self, deadline);
}

static PyObject *
result_wait(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *timeout;
    if (py_timeout_parse(args, nargs, kwnames, &timeout) < 0
        || wait_for((ResultObject *)op, timeout) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static void
set_retrieved(ResultObject *self)
{
    atomic_store_explicit(&self->retrieved, 1, memory_order_relaxed);
}

/* The value, or NULL with the failure raised. It is settled. */
static PyObject *
outcome(ResultObject *self)
{
    set_retrieved(self);
    if (self->success) {
        return Py_NewRef(self->value);
    }
    py_error_restore(self->value);
    return NULL;
}

static PyObject *
result_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    ResultObject *self = (ResultObject *)op;
    PyObject *timeout;
    if (py_timeout_parse(args, nargs, kwnames, &timeout) < 0) {
        return NULL;
    }
    int r = wait_for(self, timeout);
    if (r < 0) {
        return NULL;
    }
    if (r == 0) {
        return py_timeout_raise(self->state);
    }
    if (self->engine->threads && cp_pool_is_ours(self->engine->pool)) {
        /* Or else a value that nobody else has would live on while others run. */
        py_engine_collect(self->engine);
    }
    return outcome(self);
}

void
py_result_cancel(ResultObject *self)
{
    if (!cp_pool_is_ours(self->job->pool)) {
        return; /* a signal's handler has forked, and this is the copy */
    }
    /* What is let go of may run anybody's code. */
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    cp_job_cancel(self->job);
    py_engine_collect(self->engine);
    PyErr_Restore(type, value, tb);
}

PyObject *
py_result_await(ResultObject *self)
{
    int r = py_result_wait_and_feed(self);
    Py_CLEAR(self->source.iterator);
    if (r < 0) {
        /* The call that would have waited is over: so is its job. */
        py_result_cancel(self);
        return NULL;
    }
    py_engine_collect(self->engine); /* nobody but the caller has it now */
    return outcome(self);
}

static PyObject *
result_successful(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (check_usable(self) < 0) {
        return NULL;
    }
    if (!is_done(self)) {
        PyErr_Format(PyExc_ValueError, "%R not ready", op);
        return NULL;
    }
    if (wait_for(self, NULL) < 0) {
        return NULL;
    }
    set_retrieved(self);
    return PyBool_FromLong(self->success);
}

/* ---- attributes ---- */

/* Decode what is there: (success, value), or None before the first result. */
static PyObject *
result_look(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (self->engine != NULL && !self->settled) {
        if (py_engine_check(self->engine) < 0 || py_result_absorb(self) < 0) {
            return NULL;
        }
    }
    char success;
    PyObject *value = py_result_peek(self, &success);
    if (self->engine == NULL || value == NULL) {
        Py_XDECREF(value);
        Py_RETURN_NONE;
    }
    set_retrieved(self);
    return Py_BuildValue("NN", PyBool_FromLong(success), value);
}

PyObject *
py_result_get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    ResultObject *self = (ResultObject *)op;
    PyObject *pool;
    Py_BEGIN_CRITICAL_SECTION(op);
    pool = Py_NewRef(self->pool != NULL ? self->pool : Py_None);
    Py_END_CRITICAL_SECTION();
    return pool;
}

static PyObject *
result_get_job(PyObject *op, void *Py_UNUSED(closure))
{
    ResultObject *self = (ResultObject *)op;
    return py_result_number(self);
}

/* How many chunks have not come back. */
static PyObject *
result_left(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (self->job == NULL || self->chunksize <= 0 || is_done(self)) {
        return PyLong_FromLong(0);
    }
    if (py_engine_check(self->engine) < 0) {
        return NULL;
    }
    uint64_t all = (uint64_t)self->length, size = (uint64_t)self->chunksize;
    uint64_t items = cp_job_items(self->job);
    uint64_t left = items < all ? all - items : 0;
    return PyLong_FromUnsignedLongLong(left / size + (left % size != 0));
}

/* ---- the type ---- */

static PyMemberDef result_members[] = {
    {"_callback", T_OBJECT, offsetof(ResultObject, callback), READONLY, NULL},
    {"_engine", T_OBJECT, offsetof(ResultObject, engine), READONLY, NULL},
    {"_error_callback", T_OBJECT, offsetof(ResultObject, error_callback),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef result_getset[] = {
    {"_job", result_get_job, NULL, NULL, NULL},
    {"_pool", py_result_get_pool, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef result_methods[] = {
    {"_look", result_look, METH_NOARGS, NULL},
    {"_left", result_left, METH_NOARGS, NULL},
    {"ready", result_ready, METH_NOARGS, NULL},
    {"successful", result_successful, METH_NOARGS, NULL},
    {"wait", (PyCFunction)(void (*)(void))result_wait,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"get", (PyCFunction)(void (*)(void))result_get,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot result_slots[] = {
    {Py_tp_new, py_result_new},           {Py_tp_init, py_result_init},
    {Py_tp_traverse, py_result_traverse}, {Py_tp_clear, py_result_clear},
    {Py_tp_dealloc, py_result_dealloc},   {Py_tp_finalize, py_result_finalize},
    {Py_tp_methods, result_methods},      {Py_tp_members, result_members},
    {Py_tp_getset, result_getset},        {0, NULL},
};

static PyType_Spec result_spec = {
    .name = "cpool._core.Result",
    .basicsize = sizeof(ResultObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = result_slots,
};

int
py_result_add_types(PyObject *module, struct py_state *state)
{
    state->result_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &result_spec, NULL);
    if (state->result_type == NULL
        || PyModule_AddType(module, state->result_type) < 0) {
        return -1;
    }
    return py_stream_add_type(module, state);
}
