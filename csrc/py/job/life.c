/* The life of results, iterators and their jobs; see job/life.h. */
#include "job/life.h"

#include "base/error.h"
#include "task/refs.h"

/* ---- the job ---- */

void
py_result_hold(ResultObject *self)
{
    Py_INCREF(self);
    if (!cp_job_hold(self->job, self)) {
        Py_DECREF(self);
    }
}

PyObject *
py_result_hold_weakly(ResultObject *self)
{
    PyObject *weak = PyWeakref_NewRef((PyObject *)self, NULL);
    if (weak != NULL && !cp_job_hold(self->job, Py_NewRef(weak))) {
        Py_DECREF(weak);
    }
    return weak;
}

PyObject *
py_result_of_weak(PyObject *weak)
{
    PyObject *result = PyObject_CallNoArgs(weak);
    if (result == Py_None) {
        Py_CLEAR(result);
    }
    return result;
}

void
py_result_release(ResultObject *self)
{
    PyObject *pool;
    Py_BEGIN_CRITICAL_SECTION(self);
    pool = self->pool;
    self->pool = NULL;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(pool);
}

void
py_job_collect(EngineObject *engine)
{
    struct cp_job *list = cp_pool_ended(engine->pool);
    for (struct cp_job *job = list; job != NULL; job = job->call_next) {
        PyObject *user = job->user;
        if ((job->flags & CP_JOB_EACH) != 0) {
            engine->collect_calls(engine, job);
            user = NULL;
        } else if (user != NULL && PyWeakref_CheckRef(user)) {
            PyObject *result = py_result_of_weak(user);
            Py_DECREF(user);
            user = result;
        }
        if (user != NULL) {
            py_result_release((ResultObject *)user);
            Py_DECREF(user);
        }
    }
    if (list != NULL && cp_pool_is_ours(engine->pool)) {
        cp_pool_close_jobs(engine->pool, list);
    }
}

void
py_result_cancel(ResultObject *self)
{
    py_result_end_call(self);
    if (!cp_pool_is_ours(self->job->pool)) {
        return; /* a signal handler has forked, and this is the copy */
    }
    /* Releasing objects may run Python code. */
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    cp_job_cancel(self->job);
    py_job_collect(self->engine);
    PyErr_Restore(type, value, tb);
}

/* ---- calls ---- */

static void
begin_call(ResultObject *self, EngineObject *engine)
{
    Py_BEGIN_CRITICAL_SECTION(engine);
    self->caller = PyThread_get_thread_ident();
    self->call_next = engine->calls;
    if (self->call_next != NULL) {
        self->call_next->call_prev = self;
    }
    engine->calls = self;
    Py_END_CRITICAL_SECTION();
}

void
py_result_end_call(ResultObject *self)
{
    EngineObject *engine = self->engine;
    if (atomic_load_explicit(&self->caller, memory_order_relaxed) == 0) {
        return; /* only its own call begins a call */
    }
    Py_BEGIN_CRITICAL_SECTION(engine);
    if (self->caller != 0) {
        self->caller = 0;
        if (self->call_next != NULL) {
            self->call_next->call_prev = self->call_prev;
        }
        if (self->call_prev != NULL) {
            self->call_prev->call_next = self->call_next;
        } else {
            engine->calls = self->call_next;
        }
        self->call_next = self->call_prev = NULL;
    }
    Py_END_CRITICAL_SECTION();
}

ResultObject *
py_result_own_call(EngineObject *engine)
{
    unsigned long me = PyThread_get_thread_ident();
    ResultObject *found;
    Py_BEGIN_CRITICAL_SECTION(engine);
    found = engine->calls;
    while (found != NULL && found->caller != me) {
        found = found->call_next;
    }
    Py_XINCREF(found); /* only this thread drops results of its calls */
    Py_END_CRITICAL_SECTION();
    return found;
}

/* ---- construction ---- */

ResultObject *
py_result_alloc(PyTypeObject *type, struct py_state *state)
{
    ResultObject *self = (ResultObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->state = state;
        self->input.map_length = -1;
        self->input.source.length = -1;
    }
    return self;
}

PyObject *
py_result_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
              PyObject *Py_UNUSED(kwds))
{
    return (PyObject *)py_result_alloc(type, py_state_of_type(type));
}

int
py_result_open_call_take(ResultObject *self, EngineObject *engine,
                         PyObject *pool, uint32_t flags, struct cp_task *task)
{
    self->pool = Py_NewRef(pool);
    self->input.engine = engine;
    self->submitted = 1;
    atomic_store_explicit(&self->engine, (EngineObject *)Py_NewRef(engine),
                          memory_order_release);
    bool held;
    int r = cp_job_open_call_take(engine->pool, flags | CP_JOB_WHOLE,
                                  Py_NewRef(self), task, &self->job, &held);
    self->input.job = self->job;
    if (!held) {
        Py_DECREF(self);
    }
    if (r != 0) {
        (void)py_raise(self->state, r);
        return -1;
    }
    return 0;
}

int
py_result_open_job(ResultObject *self, EngineObject *engine, PyObject *pool,
                   uint32_t flags)
{
    if (py_engine_check(engine) < 0) {
        return -1;
    }
    py_job_collect(engine);
    if (engine->threads
        && !PyObject_TypeCheck(self, self->state->stream_type)) {
        flags |= CP_JOB_WHOLE; /* decoding is quick: wake at the end only */
    }
    int r = cp_job_open(engine->pool, NULL, flags, NULL, &self->job);
    if (r != 0) {
        (void)py_raise(self->state, r);
        return -1;
    }
    self->pool = Py_NewRef(pool);
    self->input.engine = engine;
    self->input.job = self->job;
    /* A thread that sees the engine also sees everything that was written
     * before it. */
    atomic_store_explicit(&self->engine, (EngineObject *)Py_NewRef(engine),
                          memory_order_release);
    begin_call(self, engine);
    return 0;
}

int
py_result_begin(ResultObject *self)
{
    if (atomic_exchange(&self->init_called, 1) == 0) {
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
        /* In a serial pool, cpool/_engine/serial.py wraps the engine. */
        Py_SETREF(engine, PyObject_GetAttrString(engine, "_core"));
        PyErr_Clear();
    }
    if (engine == NULL
        || !PyObject_TypeCheck(engine, self->state->engine_type)) {
        PyErr_SetString(PyExc_TypeError,
                        "a result is made once, for a cpool.Pool");
    } else {
        r = py_result_open_job(self, (EngineObject *)engine, pool, flags);
    }
    Py_XDECREF(engine);
    return r;
}

PyObject *
py_result_tell(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (self->engine == NULL || self->settled) {
        Py_RETURN_FALSE;
    }
    if (py_engine_check(self->engine) < 0) {
        return NULL;
    }
    int r = cp_job_tell(self->job, Py_NewRef(op));
    if (r != 1) {
        Py_DECREF(op);
    }
    return PyBool_FromLong(r != 0);
}

PyObject *
py_result_is_begun(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (self->engine == NULL || self->settled) {
        Py_RETURN_TRUE;
    }
    if (py_engine_check(self->engine) < 0) {
        return NULL;
    }
    return PyBool_FromLong(cp_job_is_begun(self->job));
}

PyObject *
py_result_progress(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (self->engine == NULL || py_engine_check(self->engine) < 0) {
        return self->engine == NULL ? Py_BuildValue("iO", 0, Py_True) : NULL;
    }
    bool done = atomic_load(&self->job->done);
    return Py_BuildValue("KO", (unsigned long long)cp_job_items(self->job),
                         done ? Py_True : Py_False);
}

/* ---- attributes ---- */

PyObject *
py_result_number(ResultObject *self)
{
    if (self->job == NULL) {
        Py_RETURN_NONE;
    }
    if (cp_pool_is_ours(self->job->pool)) {
        py_result_hold(self);
    }
    return PyLong_FromUnsignedLongLong(self->job->id);
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

/* ---- destruction ---- */

/* Has the only result of the job been taken? */
static bool
is_taken(const ResultObject *self)
{
    return self->settled && (self->job->flags & CP_JOB_SINGLE) != 0;
}

/* Does the inbox of the job hold references that may be visited? In a forked
 * copy they are left alone. */
static bool
holds_refs(const ResultObject *self)
{
    return self->job != NULL && self->engine != NULL && self->engine->threads
           && !is_taken(self) && cp_pool_is_ours(self->job->pool);
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
    Py_VISIT(self->input.args);
    Py_VISIT(self->input.kwds);
    Py_VISIT(self->input.failures);
    Py_VISIT(self->input.source.iterator);
    Py_VISIT(self->input.func);
    Py_VISIT(self->input.func_error);
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
    Py_CLEAR(self->input.args);
    Py_CLEAR(self->input.kwds);
    Py_CLEAR(self->input.failures);
    Py_CLEAR(self->input.source.iterator);
    Py_CLEAR(self->input.func);
    Py_CLEAR(self->input.func_error);
    if (holds_refs(self)) {
        cp_job_drop_results(self->job);
    }
    struct cp_result *untaken = self->untaken;
    self->untaken = NULL;
    if (self->engine != NULL && self->engine->threads) {
        py_refs_release(NULL, untaken);
    } else {
        cp_result_free_list(untaken);
    }
    return 0;
}

void
py_result_dealloc(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* sys.unraisablehook has resurrected the object */
    }
    PyObject_GC_UnTrack(op);
    py_result_end_call(self);
    (void)py_result_clear(op);
    if (self->job != NULL && cp_pool_is_ours(self->job->pool)) {
        if (!self->submitted) {
            py_result_cancel(self); /* it will get no tasks */
        } else if (cp_job_credit(self->job) > 0) {
            (void)cp_job_stop(self->job, false); /* end its tasks */
        } else if (!atomic_load(&self->job->done)) {
            cp_job_put_take(self->job, NULL, true); /* nobody can read now */
        }
        if (self->engine != NULL && self->engine->threads && is_taken(self)) {
            cp_job_close_later(self->job);
        } else {
            cp_job_close(self->job);
        }
    }
    Py_CLEAR(self->engine);
    type->tp_free(op);
    Py_DECREF(type);
}
