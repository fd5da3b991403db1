/* Calls that are not encoded yet; see engine/kept.h. */
#include "engine/kept.h"

#include "base/error.h"
#include "job/lane.h"
#include "task/call.h"
#include "task/feed.h"

bool
py_kept_is_caller(EngineObject *engine)
{
    return atomic_load(&engine->caller_thread) == PyThread_get_thread_ident();
}

bool
py_kept_defer(EngineObject *engine, struct py_kept_end *end)
{
    bool deferred;
    Py_BEGIN_CRITICAL_SECTION(engine);
    deferred = engine->has_caller;
    if (deferred) {
        if (engine->kept_ends == NULL) {
            engine->kept_ends_tail = &engine->kept_ends;
        }
        end->next = NULL;
        end->at = engine->n_fed + atomic_load(&engine->n_kept);
        *engine->kept_ends_tail = end;
        engine->kept_ends_tail = &end->next;
    }
    Py_END_CRITICAL_SECTION();
    return deferred;
}

bool
py_kept_wanted(EngineObject *engine)
{
    if (engine->threads
        || (atomic_load(&engine->n_kept) == 0
            && cp_pool_has_room(engine->pool))) {
        return false;
    }
    return !py_kept_is_caller(engine);
}

/* Take the first kept call off the list; its reference becomes the caller's.
 * NULL: there is none. */
static ResultObject *
take_first(EngineObject *engine)
{
    ResultObject *first;
    Py_BEGIN_CRITICAL_SECTION(engine);
    first = engine->kept_first;
    if (first != NULL) {
        engine->kept_first = first->kept_next;
        first->kept_next = NULL;
        if (engine->kept_first == NULL) {
            engine->kept_last = NULL;
        }
    }
    Py_END_CRITICAL_SECTION();
    return first;
}

/* Call this method of the Python pool: 0, or -1 with an exception. */
static int
ask_owner(EngineObject *engine, const char *method, PyObject *arg)
{
    PyObject *owner = PyObject_CallNoArgs(engine->owner);
    PyObject *none = NULL;
    if (owner != NULL) {
        none = arg != NULL ? PyObject_CallMethod(owner, method, "O", arg)
                           : PyObject_CallMethod(owner, method, NULL);
    }
    Py_XDECREF(owner);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

/* Encode and queue the call. Of a map, only the first tasks; a feeder thread
 * makes the rest. 0, or -1 with an exception. */
static int
feed(EngineObject *engine, PyObject **holder)
{
    struct py_input *in = &((ResultObject *)*holder)->input;
    if ((in->job->flags & CP_JOB_EACH) != 0) {
        return py_lane_feed_kept((LaneObject *)*holder, holder);
    }
    if (in->args != NULL) {
        return py_feed_kept_call(in, 0, NULL, holder);
    }
    int r = py_feed(in, 1, holder);
    return r > 0 ? ask_owner(engine, "_start_feeder", *holder) : r;
}

/* Encode and queue the call; consumes the reference. */
static void
feed_take(EngineObject *engine, ResultObject *result)
{
    struct cp_job *job = result->job;
    PyObject *holder = (PyObject *)result;
    cp_job_ref(job);
    if (!atomic_load(&job->done) && feed(engine, &holder) < 0) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear();
            cp_job_fail(job);
        } else {
            PyErr_WriteUnraisable(holder);
            py_result_cancel(result);
        }
    }
    Py_XDECREF(holder);
    Py_BEGIN_CRITICAL_SECTION(engine);
    engine->n_fed++;
    (void)atomic_fetch_sub(&engine->n_kept, 1);
    Py_END_CRITICAL_SECTION();
    if (cp_pool_is_ours(engine->pool)) { /* encoding may have forked */
        cp_job_close(job);
    }
}

/* Are there no more kept calls? If so, the present thread is no longer the one
 * that encodes them. Does what is due after those that are encoded. */
static bool
is_through(EngineObject *engine)
{
    bool through;
    struct py_kept_end *due = NULL, **tail = &due;
    Py_BEGIN_CRITICAL_SECTION(engine);
    through = engine->kept_first == NULL;
    if (through) {
        engine->has_caller = 0;
        atomic_store(&engine->caller_thread, 0);
    }
    struct py_kept_end *end;
    while ((end = engine->kept_ends) != NULL
           && (through || end->at <= engine->n_fed)) {
        engine->kept_ends = end->next;
        *tail = end;
        tail = &end->next;
    }
    *tail = NULL;
    Py_END_CRITICAL_SECTION();
    while (due != NULL) {
        struct py_kept_end *next = due->next;
        due->run(due);
        due = next;
    }
    return through;
}

PyObject *
py_kept_feed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *engine = (EngineObject *)op;
    if (py_engine_check(engine) < 0) {
        return NULL;
    }
    atomic_store(&engine->caller_thread, PyThread_get_thread_ident());
    while (cp_pool_is_ours(engine->pool) && !is_through(engine)) {
        Py_BEGIN_ALLOW_THREADS
        cp_pool_wait_room(engine->pool);
        Py_END_ALLOW_THREADS
        py_run_bytecode(engine->state);
        ResultObject *result = take_first(engine);
        if (result != NULL) {
            feed_take(engine, result);
        }
    }
    if (cp_pool_is_ours(engine->pool)) {
        py_job_collect(engine); /* collect calls that could not be pickled */
    }
    Py_RETURN_NONE;
}

/* No thread can be started, which has raised the pending exception: encode all
 * calls here. If a signal handler has raised it instead, it stays pending. 0,
 * or -1 with the exception. */
static int
feed_here(EngineObject *engine, ResultObject *result)
{
    int r = py_error_leaves_call(engine->state) ? -1 : 0;
    PyObject *exc = py_error_fetch();
    if (r < 0) {
        py_result_cancel(result);
    }
    atomic_store(&engine->caller_thread, PyThread_get_thread_ident());
    do {
        ResultObject *first;
        while ((first = take_first(engine)) != NULL) {
            feed_take(engine, first);
        }
    } while (!is_through(engine));
    if (r < 0) {
        py_error_restore(exc);
    }
    Py_DECREF(exc);
    return r;
}

int
py_kept_add(EngineObject *engine, ResultObject *result, PyObject *func,
            PyObject *args, PyObject *kwds)
{
    bool starts;
    if (args != NULL) {
        result->input.func = Py_NewRef(func);
        result->input.args = Py_NewRef(args);
        result->input.kwds = Py_XNewRef(kwds);
    }
    (void)atomic_fetch_add(&engine->n_kept, 1);
    Py_BEGIN_CRITICAL_SECTION(engine);
    ResultObject *last = engine->kept_last;
    Py_INCREF(result);
    engine->kept_last = result;
    if (last != NULL) {
        last->kept_next = result;
    } else {
        engine->kept_first = result;
    }
    starts = !engine->has_caller;
    engine->has_caller = 1;
    Py_END_CRITICAL_SECTION();
    return !starts || ask_owner(engine, "_start_caller", NULL) == 0
               ? 0
               : feed_here(engine, result);
}
