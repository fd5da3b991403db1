/*
 * _core.Result: the handle of one apply or map, as Python sees it; and what it
 * has in common with _core.Stream. How it gets its value is in py_settle.c.
 */
#include "py_result.h"

#include "cp_mem.h"

#include "py_error.h"
#include "py_refs.h"
#include "py_settle.h"
#include "py_timeout.h"

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

/* ---- life ---- */

void
py_result_hold(ResultObject *self)
{
    Py_INCREF(self);
    if (!cp_job_hold(self->job, self)) {
        Py_DECREF(self);
    }
}

PyObject *
py_result_number(ResultObject *self)
{
    if (self->job == NULL) {
        Py_RETURN_NONE;
    }
    /* By its number somebody may look it up, and has nothing else of it. */
    if (cp_pool_is_ours(self->job->pool)) {
        py_result_hold(self);
    }
    return PyLong_FromUnsignedLongLong(self->job->id);
}

static PyObject *
result_alloc(PyTypeObject *type, struct py_state *state)
{
    ResultObject *self = (ResultObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->state = state;
        self->length = -1;
        self->source.length = -1;
    }
    return (PyObject *)self;
}

PyObject *
py_result_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
              PyObject *Py_UNUSED(kwds))
{
    return result_alloc(type, py_state_of_type(type));
}

static int
open_job(ResultObject *self, EngineObject *engine, PyObject *pool,
         uint32_t flags)
{
    if (py_engine_check(engine) < 0) {
        return -1;
    }
    py_engine_collect(engine);
    if (engine->threads
        && !PyObject_TypeCheck(self, self->state->stream_type)) {
        flags |= CP_JOB_WHOLE; /* to decode what has come costs no time */
    }
    int r = cp_job_open(engine->pool, NULL, flags, NULL, &self->job);
    if (r != 0) {
        (void)py_raise(self->state, r);
        return -1;
    }
    self->pool = Py_NewRef(pool);
    /* Who sees this sees what was written before. */
    atomic_store_explicit(&self->engine, (EngineObject *)Py_NewRef(engine),
                          memory_order_release);
    return 0;
}

int
py_result_begin(ResultObject *self)
{
    if (atomic_exchange(&self->begun, 1) == 0) {
        return 0;
    }
    PyErr_SetString(PyExc_TypeError, "a result is made once, for a cpool.Pool");
    return -1;
}

int
py_result_open(ResultObject *self, PyObject *pool, uint32_t flags)
{
    PyObject *engine = PyObject_GetAttrString(pool, "_engine");
    int r = -1;
    if (engine == NULL) {
        return -1;
    }
    if (!PyObject_TypeCheck(engine, self->state->engine_type)) {
        PyErr_SetString(PyExc_TypeError,
                        "a result is made once, for a cpool.Pool");
    } else {
        r = open_job(self, (EngineObject *)engine, pool, flags);
    }
    Py_DECREF(engine);
    return r;
}

static int
is_true(PyObject *callback)
{
    return callback == NULL || callback == Py_None ? 0
                                                   : PyObject_IsTrue(callback);
}

/* Keep the callbacks, and add to *flags whether there are any to run. */
static int
set_callbacks(ResultObject *self, PyObject *callback, PyObject *error_callback,
              uint32_t *flags)
{
    int on_value = is_true(callback), on_error = is_true(error_callback);
    if (on_value < 0 || on_error < 0) {
        return -1;
    }
    *flags |= on_value || on_error ? CP_JOB_CALLS : 0u;
    self->callback = Py_NewRef(callback);
    self->error_callback = Py_NewRef(error_callback);
    return 0;
}

ResultObject *
py_result_make(EngineObject *engine, PyObject *kind, PyObject *pool,
               PyObject *callback, PyObject *error_callback)
{
    struct py_state *state = engine->state;
    PyTypeObject *type = (PyTypeObject *)kind;
    if (!PyType_Check(kind) || !PyType_IsSubtype(type, state->result_type)) {
        PyErr_SetString(PyExc_TypeError, "a class of cpool results is needed");
        return NULL;
    }
    ResultObject *self = (ResultObject *)result_alloc(type, state);
    uint32_t flags = CP_JOB_SINGLE;
    if (self != NULL
        && (set_callbacks(self, callback, error_callback, &flags) < 0
            || open_job(self, engine, pool, flags) < 0)) {
        Py_CLEAR(self);
    }
    return self;
}

static PyObject *
none_list(Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    if (list != NULL) {
        cp_mem_expect(((PyListObject *)list)->ob_item,
                      (size_t)n * sizeof(PyObject *));
    }
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(Py_None));
    }
    return list;
}

int
py_result_init(PyObject *op, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"pool",      "callback", "error_callback",
                            "chunksize", "length",   NULL};
    ResultObject *self = (ResultObject *)op;
    PyObject *pool, *callback = Py_None, *error_callback = Py_None;
    Py_ssize_t chunksize = 0, length = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|OOnn:Result", names, &pool,
                                     &callback, &error_callback, &chunksize,
                                     &length)) {
        return -1;
    }
    if (py_result_begin(self) < 0) {
        return -1;
    }
    uint32_t flags = length < 0 ? CP_JOB_SINGLE : 0u;
    if (set_callbacks(self, callback, error_callback, &flags) < 0) {
        return -1;
    }
    if (length >= 0 && chunksize <= 0) {
        flags &= ~CP_JOB_CALLS; /* nothing runs, so nobody is called */
    }
    self->length = length;
    self->chunksize = chunksize;
    if (length >= 0) {
        self->value = none_list(length);
        self->success = 1;
        if (self->value == NULL) {
            return -1;
        }
    }
    if (py_result_open(self, pool, flags) < 0) {
        return -1;
    }
    if (length >= 0 && chunksize <= 0) {
        cp_job_put_take(self->job, NULL, true);
        (void)py_result_settle_take(self, NULL);
        py_result_release(self);
    }
    return 0;
}

/* Objects may wait in the job's inbox. In a forked copy they stay there. */
static bool
holds_refs(const ResultObject *self)
{
    return self->job != NULL && self->engine != NULL && self->engine->threads
           && cp_pool_is_ours(self->job->pool);
}

int
py_result_traverse(PyObject *op, visitproc visit, void *arg)
{
    ResultObject *self = (ResultObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->engine);
    Py_VISIT(self->pool);
    Py_VISIT(self->callback);
    Py_VISIT(self->error_callback);
    Py_VISIT(self->value);
    Py_VISIT(self->failures);
    Py_VISIT(self->source.iterator);
    Py_VISIT(self->source.func);
    Py_VISIT(self->source.poison);
    return holds_refs(self) ? py_refs_traverse(self->job, visit, arg) : 0;
}

int
py_result_clear(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    Py_CLEAR(self->pool);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->error_callback);
    Py_CLEAR(self->value);
    Py_CLEAR(self->failures);
    Py_CLEAR(self->source.iterator);
    Py_CLEAR(self->source.func);
    Py_CLEAR(self->source.poison);
    if (holds_refs(self)) {
        cp_job_drop_results(self->job);
    }
    return 0;
}

static bool
has_error_callback(ResultObject *self)
{
    return self->error_callback != NULL && self->error_callback != Py_None;
}

/* There may be no modules any more to rebuild an exception with. */
static bool
is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

/* A failure that nobody has asked for, and nobody will: say so, as asyncio does
 * for its futures. Pools that are ended early are no failure of the task. */
static void
result_finalize(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    if (self->job == NULL || self->retrieved || has_error_callback(self)
        || !cp_pool_is_ours(self->job->pool) || !atomic_load(&self->job->done)
        || atomic_load(&self->job->end) != CP_END_NONE
        || self->state->exit_thread != 0 || is_finalizing()) {
        return;
    }
    uint64_t failed;
    (void)cp_job_arrived(self->job, &failed);
    if (failed == 0 && (!self->settled || self->success)) {
        return;
    }
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    int r = py_result_absorb(self);
    if (r < 0) {
        PyErr_WriteUnraisable(op);
    }
    /* An interrupt is the program's, which knows of it without us. */
    if (r == 1 && !self->success
        && !PyErr_GivenExceptionMatches(self->value, PyExc_KeyboardInterrupt)) {
        PyObject *func = self->source.func;
        PyObject *what =
            PyObject_CallMethod(self->state->remote, "Unretrieved", "OOO", op,
                                func != NULL ? func : Py_None, self->value);
        if (what == NULL) {
            PyErr_Clear();
        }
        py_error_restore(self->value);
        PyErr_WriteUnraisable(what);
        Py_XDECREF(what);
    }
    PyErr_Restore(type, value, tb);
}

void
py_result_dealloc(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* the hook has kept it */
    }
    PyObject_GC_UnTrack(op);
    (void)py_result_clear(op);
    if (self->job != NULL && cp_pool_is_ours(self->job->pool)) {
        if (!self->submitted) {
            py_result_cancel(self); /* there will be no tasks */
        }
        cp_job_close(self->job);
    }
    Py_CLEAR(self->engine);
    type->tp_free(op);
    Py_DECREF(type);
}

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
    {Py_tp_dealloc, py_result_dealloc},   {Py_tp_finalize, result_finalize},
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
