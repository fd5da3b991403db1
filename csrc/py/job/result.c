/* The type _core.Result; see job/result.h. */
#include "job/result.h"

#include "base/argument.h"
#include "base/error.h"
#include "base/timeout.h"
#include "base/work.h"
#include "job/options.h"
#include "job/settle.h"
#include "job/wait.h"
#include "task/refs.h"

#include "core/base/clock.h"
#include "core/base/mem.h"

#include <structmember.h> // PyMemberDef, before 3.12

/* ---- construction ---- */

static int
is_true(PyObject *callback)
{
    return callback == NULL || callback == Py_None ? 0
                                                   : PyObject_IsTrue(callback);
}

/* Keep the callbacks, and set CP_JOB_CALLS in *flags if there is one that can
 * be called. 0, or -1 with an exception. */
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

/* A result of a single call, without a job. *flags: those of its job. NULL with
 * an exception. */
static ResultObject *
make(EngineObject *engine, PyObject *kind, PyObject *callback,
     PyObject *error_callback, uint32_t *flags)
{
    struct py_state *state = engine->state;
    PyTypeObject *type = (PyTypeObject *)kind;
    if (!PyType_Check(kind) || !PyType_IsSubtype(type, state->result_type)) {
        PyErr_SetString(PyExc_TypeError, "a class of cpool results is needed");
        return NULL;
    }
    ResultObject *self = py_result_alloc(type, state);
    *flags = CP_JOB_SINGLE;
    if (self != NULL
        && set_callbacks(self, callback, error_callback, flags) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

ResultObject *
py_result_make(EngineObject *engine, PyObject *kind, PyObject *pool,
               PyObject *callback, PyObject *error_callback)
{
    uint32_t flags;
    ResultObject *self = make(engine, kind, callback, error_callback, &flags);
    if (self != NULL && py_result_open_job(self, engine, pool, flags) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

ResultObject *
py_result_make_call(EngineObject *engine, PyObject *const *args,
                    PyObject *callback, PyObject *error_callback,
                    const char *call)
{
    PyObject *func = args[2];
    if (py_engine_check(engine) < 0) {
        return NULL;
    }
    py_job_collect(engine);
    uint32_t flags;
    ResultObject *self =
        make(engine, args[0], callback, error_callback, &flags);
    if (self == NULL) {
        return NULL;
    }
    int64_t began = py_work_begin(engine);
    struct cp_task *task = py_refs_call(0, func, args[3], args[4]);
    if (task == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    self->input.func = Py_NewRef(func);
    self->call = call;
    py_work_end(engine, CP_WORK_FEED, began);
    if (py_result_open_call_take(self, engine, args[1], flags, task) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static PyObject *
none_list(Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    if (list != NULL) {
        cp_mem_advise_huge(((PyListObject *)list)->ob_item,
                           (size_t)n * sizeof(PyObject *));
    }
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(Py_None));
    }
    return list;
}

static int
result_init(PyObject *op, PyObject *args, PyObject *kwds)
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
        flags &= ~CP_JOB_CALLS; /* nothing runs, so callbacks are not called */
    }
    self->input.map_length = length;
    self->input.map_chunksize = chunksize;
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
        py_result_end_call(self);
        (void)py_result_settle_take(self, NULL);
        py_result_release(self);
    }
    return 0;
}

/* ---- methods ---- */

/* A value is usually rebuilt in less than this. A thread with a shorter timeout
 * waits this long for another thread that is rebuilding the value. */
#define REBUILT (100 * CP_MS)

/* Have all results arrived? */
static bool
is_done(ResultObject *self)
{
    return self->settled || atomic_load(&self->job->done);
}

/* Would get() return at once? Not while another thread rebuilds the value. */
static bool
is_ready(ResultObject *self)
{
    return self->settled
           || (atomic_load(&self->job->done)
               && atomic_load(&self->decoder) == 0);
}

/* 0; or -1 with an exception if a subclass has not called __init__, or in a
 * forked copy of the process, where the job never ends. */
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

static PyObject *
result_ready(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (check_usable(self) < 0) {
        return NULL;
    }
    return PyBool_FromLong(is_ready(self));
}

/* Would this thread, which runs callbacks, wait for a job whose callbacks run
 * after the present ones? That would be a deadlock. */
static bool
is_deadlock(ResultObject *self)
{
    return (self->job->flags & CP_JOB_CALLS) != 0
           && self->engine->helper_thread == PyThread_get_thread_ident();
}

/* Is this thread itself rebuilding the value, so that a wait for the value
 * never ends? */
static bool
is_rebuilt_here(ResultObject *self)
{
    return atomic_load(&self->decoder) == PyThread_get_thread_ident();
}

/* 0; or -1 with an exception if a wait without a timeout would never end. */
static int
check_will_end(ResultObject *self)
{
    const char *why = NULL;
    if (is_rebuilt_here(self)) {
        why = "code that rebuilds a result cannot wait for that result";
    } else if (!is_done(self) && is_deadlock(self)) {
        why =
            "a callback cannot wait for a result that has "
            "callbacks: they run one after the other";
    }
    if (why != NULL) {
        PyErr_SetString(PyExc_RuntimeError, why);
    }
    return why != NULL ? -1 : 0;
}

/* 1: settled; 0: the timeout has passed; -1: an exception. */
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
    bool done = is_done(self);
    if (done) {
        int r = py_result_absorb(self);
        if (r != 0) {
            return r; /* without looking at the timeout */
        }
    }
    if (py_timeout_deadline(self->state, timeout, &deadline) < 0
        || (deadline == CP_NEVER && check_will_end(self) < 0)) {
        return -1;
    }
    if (done && !is_rebuilt_here(self) && deadline < cp_now() + REBUILT) {
        deadline = cp_now() + REBUILT;
    }
    return py_result_wait(self, deadline);
}

static PyObject *
result_wait(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *timeout;
    if (py_argument_parse(args, nargs, kwnames, "timeout", &timeout) < 0
        || wait_for((ResultObject *)op, timeout) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
result_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    ResultObject *self = (ResultObject *)op;
    PyObject *timeout;
    if (py_argument_parse(args, nargs, kwnames, "timeout", &timeout) < 0) {
        return NULL;
    }
    int r = wait_for(self, timeout);
    if (r < 0) {
        return NULL;
    }
    if (r == 0) {
        return py_timeout_raise(self->state);
    }
    if (cp_pool_is_ours(self->engine->pool)) {
        /* Otherwise the job would keep the value alive while other jobs run,
         * and some thread of the pool might release the value. */
        py_job_collect(self->engine);
    }
    return py_result_outcome(self);
}

/* The first call in this process makes the class of the error, which imports
 * modules. Code that needs the class later may run where nothing may be
 * imported. 0, or -1 with an exception. */
static int
prepare_cancel(ResultObject *self)
{
    if (atomic_load_explicit(&self->state->may_cancel, memory_order_acquire)) {
        return 0;
    }
    PyObject *none =
        PyObject_CallMethod((PyObject *)self, "_prepare_cancel", NULL);
    if (none == NULL) {
        return -1;
    }
    Py_DECREF(none);
    atomic_store_explicit(&self->state->may_cancel, true, memory_order_release);
    return 0;
}

/* cancel(kill=True). It runs no Python code, since a program may cancel 100,000
 * queued calls, one by one. */
static PyObject *
result_cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    ResultObject *self = (ResultObject *)op;
    PyObject *kill;
    if (py_argument_parse(args, nargs, kwnames, "kill", &kill) < 0) {
        return NULL;
    }
    int kills = kill == NULL ? 1 : PyObject_IsTrue(kill);
    if (kills < 0 || check_usable(self) < 0 || prepare_cancel(self) < 0) {
        return NULL;
    }
    if (self->settled) {
        Py_RETURN_FALSE;
    }
    bool stopped = cp_job_stop(self->job, kills != 0);
    if (stopped) {
        py_job_collect(self->engine);
    }
    return PyBool_FromLong(stopped);
}

static PyObject *
result_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    return PyBool_FromLong(self->job != NULL
                           && atomic_load(&self->job->end) == CP_END_CANCELLED);
}

static PyObject *
result_successful(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (check_usable(self) < 0) {
        return NULL;
    }
    int r = 0;
    if (is_done(self)) {
        r = wait_for(self, Py_False); /* rebuild the value if no thread does */
    }
    if (r < 0) {
        return NULL;
    }
    if (r == 0) {
        PyErr_Format(PyExc_ValueError, "%R not ready", op);
        return NULL;
    }
    py_result_set_retrieved(self);
    return PyBool_FromLong(self->success);
}

/* ---- attributes ---- */

/* Decode what has arrived: (success, value so far), or None before the first
 * result. */
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
    py_result_set_retrieved(self);
    return Py_BuildValue("NN", PyBool_FromLong(success), value);
}

static PyObject *
result_get_job(PyObject *op, void *Py_UNUSED(closure))
{
    ResultObject *self = (ResultObject *)op;
    return py_result_number(self);
}

/* How many chunks have no result yet. */
static PyObject *
result_left(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (self->job == NULL || self->input.map_chunksize <= 0 || is_done(self)) {
        return PyLong_FromLong(0);
    }
    if (py_engine_check(self->engine) < 0) {
        return NULL;
    }
    uint64_t all = (uint64_t)self->input.map_length,
             size = (uint64_t)self->input.map_chunksize;
    uint64_t items = cp_job_items(self->job);
    uint64_t left = items < all ? all - items : 0;
    return PyLong_FromUnsignedLongLong(left / size + (left % size != 0));
}

/* ---- destruction ---- */

static bool
has_error_callback(ResultObject *self)
{
    return self->error_callback != NULL && self->error_callback != Py_None;
}

/* Report a failure that the program has never retrieved, as asyncio does for
 * futures. That the pool was ended early is not the failure of a task. */
static void
result_finalize(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    if (self->job == NULL || self->retrieved || has_error_callback(self)
        || !cp_pool_is_ours(self->job->pool) || !atomic_load(&self->job->done)
        || (atomic_load(&self->job->end) != CP_END_NONE
            && atomic_load(&self->job->end) != CP_END_FAILED)
        || self->state->exit_thread != 0 || py_is_finalizing()) {
        /* Or the modules that rebuild an exception may be gone. */
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
    /* The program has noticed a KeyboardInterrupt anyway. */
    if (r == 1 && !self->success
        && !PyErr_GivenExceptionMatches(self->value, PyExc_KeyboardInterrupt)) {
        PyObject *func = self->input.func;
        PyObject *what =
            PyObject_CallMethod(self->state->failures, "Unretrieved", "OOO", op,
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
    {"_set_options", py_options_method, METH_O, NULL},
    {"_set_workers", py_options_set_workers, METH_O, NULL},
    {"_left", result_left, METH_NOARGS, NULL},
    {"_tell", py_result_tell, METH_NOARGS, NULL},
    {"_is_begun", py_result_is_begun, METH_NOARGS, NULL},
    {"_progress", py_result_progress, METH_NOARGS, NULL},
    {"ready", result_ready, METH_NOARGS, NULL},
    {"successful", result_successful, METH_NOARGS, NULL},
    {"cancel", (PyCFunction)(void (*)(void))result_cancel,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"cancelled", result_cancelled, METH_NOARGS, NULL},
    {"wait", (PyCFunction)(void (*)(void))result_wait,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"get", (PyCFunction)(void (*)(void))result_get,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot result_slots[] = {
    {Py_tp_new, py_result_new},           {Py_tp_init, result_init},
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
py_result_add_type(PyObject *module, struct py_state *state)
{
    state->result_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &result_spec, NULL);
    return state->result_type == NULL
               ? -1
               : PyModule_AddType(module, state->result_type);
}
