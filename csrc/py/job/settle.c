/*
 * From bytes to a settled result. Results arrive as bytes and are decoded here,
 * by the thread that asks for them, or by the helper where callbacks are to be
 * run; then the object is settled: value and success do not change any more.
 */
#include "job/settle.h"

#include "value/arena.h"
#include "base/error.h"
#include "task/feed.h"
#include "task/refs.h"

#include <poll.h>

/* A thread that waits comes up for air this often: a signal ends the system
 * calls of the main thread, but not if it comes just before one. */
#define SIGNAL_TICK (100 * CP_MS)

PyObject *
py_result_error(ResultObject *self, struct cp_result *r)
{
    if (r->outcome == CP_RAISED && self->engine->threads) {
        return py_refs_first(r);
    }
    if (r->outcome != CP_LOCAL) {
        return py_error_of_result(self->state, r, self->source.func);
    }
    PyObject *key = PyLong_FromUnsignedLongLong(r->index);
    PyObject *exc = NULL;
    if (key != NULL) {
        exc = PyObject_GetItem(self->failures, key);
        Py_DECREF(key);
    }
    return exc;
}

/* Do the tasks have chunks? Of the stdlib's own tasks nobody knows. */
static bool
has_chunks(const ResultObject *self)
{
    unsigned mode = self->source.mode & PY_MODE;
    return mode == PY_MAP || mode == PY_STAR;
}

PyObject *
py_result_value(ResultObject *self, struct cp_result *r)
{
    if (self->engine->threads) {
        return has_chunks(self) ? py_refs_take_list(r) : py_refs_first(r);
    }
    return py_body_get(self->state, r->body, r->len);
}

void
py_result_free(ResultObject *self, struct cp_result *r)
{
    if (self->engine->threads) {
        r->next = NULL;
        py_refs_release(NULL, r);
    } else {
        cp_result_free(r);
    }
}

PyObject *
py_result_peek(ResultObject *self, char *success)
{
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = Py_XNewRef(self->value);
    *success = self->success;
    Py_END_CRITICAL_SECTION();
    return value;
}

/* The value of the one task; steals it. */
static void
set_value_take(ResultObject *self, PyObject *value)
{
    PyObject *old;
    Py_BEGIN_CRITICAL_SECTION(self);
    old = self->value;
    self->value = value;
    self->success = 1;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
}

/* In the critical section: what is to be released of the two. */
static PyObject *
swap_failure(ResultObject *self, PyObject *exc)
{
    PyObject *old = self->value;
    self->value = exc;
    self->success = 0;
    return old;
}

/* Keep the first failure; steals exc. */
static void
fail_take(ResultObject *self, PyObject *exc)
{
    PyObject *old = exc;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (!self->settled && (self->success == 1 || self->value == NULL)) {
        old = swap_failure(self, exc);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
}

bool
py_result_settle_take(ResultObject *self, PyObject *exc)
{
    PyObject *old = exc;
    bool first;
    Py_BEGIN_CRITICAL_SECTION(self);
    first = !self->settled;
    if (first && exc != NULL) {
        old = swap_failure(self, exc);
    }
    atomic_store_explicit(&self->settled, 1, memory_order_release);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    return first;
}

/* Put the results of a chunk in their places: the run gets what stood there. No
 * code of anybody's runs meanwhile. -1: an exception. */
static int
place_run(ResultObject *self, const struct cp_result *r, struct py_run *run)
{
    Py_ssize_t at = (Py_ssize_t)r->index;
    PyObject *list = self->value;
    int is_done = -1;
    Py_BEGIN_CRITICAL_SECTION(list);
    if (PyList_CheckExact(list) && PyList_GET_SIZE(list) - at >= run->n) {
        for (Py_ssize_t i = 0; i < run->n; i++) {
            PyObject *old = PyList_GET_ITEM(list, at + i); /* lint-ok: moved */
            PyList_SET_ITEM(list, at + i, run->slots[i]);
            run->slots[i] = old;
        }
        is_done = 0;
    }
    Py_END_CRITICAL_SECTION();
    if (is_done < 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the list of results was changed while it was filled");
    }
    return is_done;
}

/* Decode what a task of a map gave into its places. */
static int
place(ResultObject *self, struct cp_result *r)
{
    if (self->source.one) {
        PyObject *value = py_result_value(self, r);
        return value == NULL
                   ? -1
                   : PyList_SetItem(self->value, (Py_ssize_t)r->index, value);
    }
    struct py_run run = {0};
    int n;
    if (!self->engine->threads) {
        n = py_run_get(self->state, r->body, r->len, (Py_ssize_t)r->items,
                       false, &run);
    } else if (has_chunks(self)) {
        run = py_refs_view(r);
        return place_run(self, r, &run);
    } else {
        PyObject *list = py_refs_first(r);
        n = py_run_copy(self->state, list, (Py_ssize_t)r->items, &run);
        Py_DECREF(list);
    }
    if (n == 0) {
        n = place_run(self, r, &run);
    }
    py_run_fini(&run);
    return n;
}

/* The value, or None where it is in its place; or the failure. NULL with an
 * exception. */
static PyObject *
decode_once(ResultObject *self, struct cp_result *r)
{
    if (r->outcome != CP_OK) {
        return py_result_error(self, r);
    }
    if (self->length < 0) {
        return py_result_value(self, r);
    }
    return place(self, r) < 0 ? NULL : Py_NewRef(Py_None);
}

/* The value of one result, or its failure. An exception that is raised meanwhile
 * is the failure as well; but one that is no Exception, and does not come again,
 * was raised by a signal's handler (Ctrl-C, sys.exit()): then it is *interrupt,
 * for whoever waits. */
static PyObject *
decode(ResultObject *self, struct cp_result *r, bool *is_value,
       PyObject **interrupt)
{
    *interrupt = NULL;
    *is_value = r->outcome == CP_OK;
    PyObject *obj = decode_once(self, r);
    if (obj == NULL && !PyErr_ExceptionMatches(PyExc_Exception)) {
        PyObject *first = py_error_fetch();
        obj = decode_once(self, r);
        if (obj != NULL) {
            *interrupt = first;
        } else {
            Py_DECREF(first);
        }
    }
    if (obj == NULL) {
        *is_value = false;
        obj = py_error_fetch();
    }
    return obj;
}

/* 0, or -1 with an interrupt. */
static int
absorb_one(ResultObject *self, struct cp_result *r)
{
    bool is_map = self->length >= 0;
    if (is_map && self->success == 0) {
        return 0; /* only the first failure is shown */
    }
    bool is_value;
    PyObject *interrupt;
    PyObject *obj = decode(self, r, &is_value, &interrupt);
    if (!is_value) {
        fail_take(self, obj);
    } else if (is_map) {
        Py_DECREF(obj);
    } else {
        set_value_take(self, obj);
    }
    if (interrupt != NULL) {
        py_error_restore(interrupt);
        Py_DECREF(interrupt);
    }
    return interrupt != NULL ? -1 : 0;
}

/* What the values of the job will take at least: an object is not smaller than
 * this, and its bytes come to memory. Worker threads have made them already. */
#define LEAST_OBJECT 32

static size_t
memory_of(ResultObject *self, const struct cp_result *list)
{
    size_t n = self->length > 0 ? (size_t)self->length * LEAST_OBJECT : 0;
    for (; list != NULL; list = list->next) {
        self->received += list->len;
    }
    return self->engine->threads ? 0 : n + self->received;
}

/* 0, or -1 with an interrupt: call again then; or with an error, in a copy that a
 * value's own code has forked. It goes no further there: the other values are the
 * parent's to rebuild, and the pool's lock may be held for ever. */
static int
decode_all(ResultObject *self)
{
    if (py_engine_check(self->engine) < 0) {
        return -1;
    }
    struct cp_result *list = cp_job_take_all(self->job);
    if (list == NULL) {
        return 0;
    }
    int r = 0;
    bool begun = py_arena_begin(memory_of(self, list));
    while (list != NULL && r == 0) {
        struct cp_result *next = list->next;
        r = absorb_one(self, list);
        py_result_free(self, list);
        list = next;
        if (r == 0) {
            r = py_engine_check(self->engine);
        }
    }
    py_arena_end(begun);
    if (cp_pool_is_ours(self->engine->pool)) {
        cp_job_decoded(self->job, list);
        return r;
    }
    while (list != NULL) {
        struct cp_result *next = list->next;
        py_result_free(self, list);
        list = next;
    }
    return r;
}

/* Somebody gave the job no task at all: then there is nothing to return. */
static PyObject *
error_of_no_result(ResultObject *self)
{
    PyObject *cls = PyObject_GetAttrString(self->state->remote, "PoolError");
    PyObject *exc = cls == NULL ? NULL
                                : PyObject_CallFunction(
                                    cls, "s",
                                    "the job ended without a result: no task "
                                    "was submitted for it");
    Py_XDECREF(cls);
    return exc;
}

/* All results have come and are decoded: the failure that makes of the job, or
 * NULL where there is none but what value tells. */
static PyObject *
failure_at_end(ResultObject *self)
{
    char success;
    PyObject *value = py_result_peek(self, &success);
    PyObject *exc = NULL;
    /* A single value that had come in is not taken back, nor the first failure. */
    bool is_told = value != NULL && (self->length < 0 || success == 0);
    if (!is_told) {
        bool ended = atomic_load(&self->job->end) != CP_END_NONE;
        if (ended || value == NULL) {
            exc = ended ? py_error_of_end(self->engine, self->job)
                        : error_of_no_result(self);
            exc = exc != NULL ? exc : py_error_fetch();
        }
    }
    Py_XDECREF(value);
    return exc;
}

int
py_result_absorb(ResultObject *self)
{
    if (self->settled) {
        return 1;
    }
    if ((self->job->flags & CP_JOB_CALLS) != 0
        && !atomic_load(&self->job->done)) {
        return 0; /* the helper decodes, and calls back */
    }
    if (decode_all(self) < 0) {
        return -1;
    }
    if (!cp_job_is_drained(self->job)) {
        return 0;
    }
    /* Several threads may come to this at once. */
    (void)py_result_settle_take(self, failure_at_end(self));
    py_result_release(self);
    return 1;
}

/* The interpreter ends, and this is a daemon thread that waits: it is to wait
 * until the process is gone. With an error it would print, and a daemon thread
 * that prints now brings the interpreter down. */
static void
sleep_if_exiting(struct py_state *state)
{
    unsigned long last = state->exit_thread;
    if (last == 0 || last == PyThread_get_thread_ident()) {
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    for (;;) {
        (void)poll(NULL, 0, -1);
    }
    Py_END_ALLOW_THREADS
}

/* What a wait of the core came back with, dealt with: 0 to go on, or -1. */
static int
handle_news(ResultObject *self, int r)
{
    switch (r) {
        case CP_WAIT_TIMEOUT:
        case CP_EINTR: return PyErr_CheckSignals();
        case CP_WAIT_WORKERS: return py_engine_replace_workers(self->engine);
        case CP_WAIT_FEED: return py_feed(self, 0) < 0 ? -1 : 0;
        case CP_WAIT_READY: return 0;
        default: (void)py_raise(self->state, r); return -1;
    }
}

static int
wait_until(ResultObject *self, int64_t deadline, unsigned can)
{
    bool stream = PyObject_TypeCheck(self, self->state->stream_type);
    for (;;) {
        /* What ran meanwhile, a signal's handler say, may have forked. */
        if (!self->settled && py_engine_check(self->engine) < 0) {
            return -1;
        }
        int r = stream ? 0 : py_result_absorb(self);
        if (r != 0) {
            return r;
        }
        int64_t until = cp_clock_min(deadline, cp_now() + SIGNAL_TICK);
        Py_BEGIN_ALLOW_THREADS
        r = cp_pool_wait(self->engine->pool, self->job, until, can);
        Py_END_ALLOW_THREADS
        sleep_if_exiting(self->state);
        if (handle_news(self, r) < 0) {
            return -1;
        }
        if (r == CP_WAIT_READY && stream) {
            return 1;
        }
        if (r == CP_WAIT_TIMEOUT && until == deadline) {
            return stream ? 0 : py_result_absorb(self);
        }
    }
}

int
py_result_wait(ResultObject *self, int64_t deadline)
{
    return wait_until(self, deadline, CP_CAN_FORK);
}

int
py_result_wait_and_feed(ResultObject *self)
{
    unsigned can = CP_CAN_FORK | (self->blocking ? CP_CAN_FEED : 0u);
    return wait_until(self, CP_NEVER, can);
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

/* 0, or -1 with an exception. */
static int
call_back(PyObject *callback, PyObject *value)
{
    int truth = callback == NULL ? 0 : PyObject_IsTrue(callback);
    if (truth <= 0) {
        return truth;
    }
    PyObject *none = PyObject_CallOneArg(callback, value);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

/* terminate() came between, and whoever waited does not wait for the callbacks: they
 * are told the same, and their errors change nothing any more. */
static void
call_late(ResultObject *self)
{
    if (py_result_wait(self, CP_NEVER) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
        return;
    }
    PyObject *callback = self->success ? self->callback : self->error_callback;
    if (call_back(callback, self->value) < 0) {
        PyErr_WriteUnraisable(callback);
    }
}

void
py_result_call(ResultObject *self)
{
    while (decode_all(self) < 0) {
        PyErr_Clear(); /* signals have their handlers on another thread */
        if (!cp_pool_is_ours(self->engine->pool)) {
            return;
        }
    }
    /* Asked after: who finds it done may have been the first to decode. */
    if (atomic_load(&self->job->done)) {
        call_late(self);
        return;
    }
    PyObject *exc = failure_at_end(self);
    if (exc != NULL) {
        fail_take(self, exc);
    }
    char success;
    PyObject *value = py_result_peek(self, &success);
    PyObject *callback = success ? self->callback : self->error_callback;
    /* As 3.16 does: the error of a callback is the job's result. */
    exc = call_back(callback, value) < 0 ? py_error_fetch() : NULL;
    Py_DECREF(value);
    Py_XINCREF(exc);
    if (!py_result_settle_take(self, exc) && exc != NULL) {
        py_error_restore(exc); /* too late for that: terminate() came */
        PyErr_WriteUnraisable(callback);
    }
    Py_XDECREF(exc);
}
