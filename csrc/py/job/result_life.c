/* How results and iterators come to be, what they hold, and how they go; see
 * job/result.h. */
#include "job/result.h"

#include "core/base/mem.h"

#include "base/error.h"
#include "task/refs.h"
#include "job/settle.h"

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
        cp_mem_advise_huge(((PyListObject *)list)->ob_item,
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
void
py_result_finalize(PyObject *op)
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
