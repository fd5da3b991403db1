/* The calls that an executor submits; see job/lane.h. */
#include "job/lane.h"

#include "base/error.h"
#include "base/work.h"
#include "job/callback.h"
#include "job/failure.h"
#include "job/settle.h"
#include "job/wait.h"
#include "task/batch.h"
#include "task/feed.h"
#include "task/func.h"
#include "task/mode.h"
#include "task/refs.h"
#include "value/body.h"
#include "value/decoder.h"

#include "core/base/clock.h"

/* ---- the list of calls ---- */

/* The list takes over the reference. */
static void
add_call_take(LaneObject *lane, ConditionObject *call)
{
    Py_BEGIN_CRITICAL_SECTION(lane);
    call->prev = lane->last;
    if (lane->last != NULL) {
        lane->last->next = call;
    } else {
        lane->first = call;
    }
    lane->last = call;
    Py_END_CRITICAL_SECTION();
}

/* Take the call off the list; the list's reference becomes the caller's. False:
 * another thread has taken it already. */
static bool
take_call(LaneObject *lane, ConditionObject *call)
{
    bool is_mine;
    Py_BEGIN_CRITICAL_SECTION(lane);
    is_mine = call->prev != NULL || lane->first == call;
    if (is_mine) {
        if (call->prev != NULL) {
            call->prev->next = call->next;
        } else {
            lane->first = call->next;
        }
        if (call->next != NULL) {
            call->next->prev = call->prev;
        } else {
            lane->last = call->prev;
        }
        call->next = call->prev = NULL;
    }
    Py_END_CRITICAL_SECTION();
    return is_mine;
}

/* ---- a call ends ---- */

/* Limits for the thread of an event loop: how many results and jobs it handles
 * at a time, and how large a result may be. All of it takes less than a
 * millisecond. */
#define BRIEF_COUNT 128u
#define BRIEF_BYTES 4096u

/* The call no longer needs its lane and its future. Consumes the list's
 * reference. */
static void
drop_call_take(ConditionObject *call)
{
    LaneObject *lane = call->lane;
    PyObject *future = call->future;
    py_condition_acquire(call);
    call->lane = NULL;
    call->future = NULL;
    py_condition_release(call);
    Py_XDECREF(lane);
    Py_XDECREF(future);
    Py_DECREF(call);
}

/* End the call with this value or failure; steals value. Its callbacks are left
 * to run_callbacks(). 0, or -1 with an exception of the program's code; the
 * call has ended then, too. */
static int
end_call_take(LaneObject *lane, ConditionObject *call, PyObject *value,
              bool is_value)
{
    if (!take_call(lane, call)) {
        Py_XDECREF(value);
        return 0;
    }
    int r = py_future_end(call, value, is_value);
    Py_XDECREF(value);
    if (r <= 0) {
        drop_call_take(call);
        return r;
    }
    Py_BEGIN_CRITICAL_SECTION(lane);
    if (lane->calls_last != NULL) {
        lane->calls_last->next = call;
    } else {
        lane->calls = call;
    }
    lane->calls_last = call;
    Py_END_CRITICAL_SECTION();
    return 0;
}

/* Take the first of the ended calls with callbacks, or NULL. */
static ConditionObject *
next_call(LaneObject *lane)
{
    ConditionObject *call;
    Py_BEGIN_CRITICAL_SECTION(lane);
    call = lane->calls;
    if (call != NULL) {
        lane->calls = call->next;
        if (lane->calls == NULL) {
            lane->calls_last = NULL;
        }
        call->next = NULL;
    }
    Py_END_CRITICAL_SECTION();
    return call;
}

static int
run_callbacks(LaneObject *lane)
{
    for (;;) {
        ConditionObject *call = next_call(lane);
        if (call == NULL) {
            return 0;
        }
        int64_t began = py_work_begin(lane->base.engine);
        int r = py_future_call_back(call, call->future);
        py_work_end(lane->base.engine, CP_WORK_CALLBACK, began);
        if (r < 0 && !py_error_leaves_call(lane->base.state)) {
            PyErr_WriteUnraisable(call->future); /* SystemExit, for example */
            r = 0;
        }
        drop_call_take(call);
        if (r < 0 || py_engine_check(lane->base.engine) < 0) {
            return -1;
        }
    }
}

static void
add_call_back_take(LaneObject *lane, ConditionObject *call)
{
    Py_BEGIN_CRITICAL_SECTION(lane);
    call->next = lane->calls;
    lane->calls = call;
    if (lane->calls_last == NULL) {
        lane->calls_last = call;
    }
    Py_END_CRITICAL_SECTION();
}

/* Have hand_over(future) run the callbacks of the calls, until it leaves one
 * call to the helper. 0, or -1 with an exception. */
static int
hand_calls_over(LaneObject *lane, PyObject *hand_over)
{
    ConditionObject *call;
    int r = 1;
    for (uint32_t n = 0;
         r > 0 && n < BRIEF_COUNT && (call = next_call(lane)) != NULL; n++) {
        PyObject *done = PyObject_CallOneArg(hand_over, call->future);
        r = done == NULL ? -1 : PyObject_IsTrue(done);
        Py_XDECREF(done);
        if (r > 0) {
            drop_call_take(call);
        } else {
            add_call_back_take(lane, call);
        }
    }
    return r < 0 ? -1 : 0;
}

/* Convert the exception to the one that users of executors expect; steals
 * exc. */
static PyObject *
translate_take(LaneObject *lane, PyObject *exc)
{
    PyObject *known = PyObject_CallMethod(lane->base.state->failures,
                                          "of_executor", "O", exc);
    if (known == NULL) {
        PyErr_Clear();
        return exc;
    }
    Py_DECREF(exc);
    return known;
}

/* ---- results ---- */

/*
 * Who keeps a call alive. The list of the lane does, until the call ends. The
 * index of a task and of its result is the address of the call, without a
 * reference, since the core drops both without telling. (If workers are threads,
 * the core does tell, and the task has a reference: the worker that runs the task
 * may end the call. py_refs_call_of_task()) That is safe up to
 * grab(): a call leaves the list for its own result, which was grabbed; or
 * because the job has ended, and then no result is in the inbox any more (see
 * absorb()). From grab() on, the result has a reference of its own, since
 * another thread may end all calls of the job before this result is handled.
 */
static ConditionObject *
call_of(const struct cp_result *r)
{
    return (ConditionObject *)(uintptr_t)r->index;
}

/* Take the results that have arrived, each with a reference to its call. */
static struct cp_result *
grab(LaneObject *lane)
{
    struct cp_result *list;
    /* A thread that ends calls takes the same section first. */
    Py_BEGIN_CRITICAL_SECTION(lane);
    list = cp_job_grab(lane->base.job);
    for (const struct cp_result *r = list; r != NULL; r = r->next) {
        Py_INCREF(call_of(r));
    }
    Py_END_CRITICAL_SECTION();
    return list;
}

/* Can the result be decoded without running code of the program? */
static bool
is_plain(LaneObject *lane, const struct cp_result *r)
{
    return r->outcome == CP_WITHDRAWN
           || (r->outcome == CP_OK
               && (lane->base.engine->threads
                   || !py_decode_runs_code(r->body, r->len)))
           || (r->outcome == CP_RAISED && lane->base.engine->threads);
}

static void
add_ready(LaneObject *lane, struct cp_result *r)
{
    r->next = NULL;
    Py_BEGIN_CRITICAL_SECTION(lane);
    if (lane->ready_last != NULL) {
        lane->ready_last->next = r;
    } else {
        lane->ready = r;
    }
    lane->ready_last = r;
    Py_END_CRITICAL_SECTION();
}

/* Decode the result, and end its call. 0, or -1 with an exception of a signal
 * handler; if that has interrupted the decoding, the result is to be rebuilt
 * once more. Consumes r. */
static int
end_with_result_take(LaneObject *lane, struct cp_result *r)
{
    ConditionObject *call = call_of(r);
    PyObject *value = NULL;
    bool is_value = false;
    if (r->outcome != CP_WITHDRAWN) {
        int64_t began = py_work_begin(lane->base.engine);
        atomic_store(&call->decoder, PyThread_get_thread_ident());
        value = py_result_decode_one(&lane->base, r, &is_value);
        atomic_store(&call->decoder, 0);
        py_work_end(lane->base.engine, CP_WORK_DECODE, began);
        if (value == NULL) {
            add_ready(lane, r);
            return -1;
        }
        if (!is_value) {
            value = translate_take(lane, value);
        }
    }
    py_result_free(&lane->base, r);
    int ended = end_call_take(lane, call, value, is_value);
    if (ended < 0 && !py_error_leaves_call(lane->base.state)) {
        PyErr_WriteUnraisable((PyObject *)lane);
        ended = 0;
    }
    Py_DECREF(call);
    return ended;
}

static struct cp_result *
next_ready(LaneObject *lane)
{
    struct cp_result *r;
    Py_BEGIN_CRITICAL_SECTION(lane);
    r = lane->ready;
    if (r != NULL) {
        lane->ready = r->next;
        if (lane->ready == NULL) {
            lane->ready_last = NULL;
        }
    }
    Py_END_CRITICAL_SECTION();
    return r;
}

/* The job has ended early: end all of its calls, too. */
static int
fail_calls(LaneObject *lane)
{
    for (;;) {
        ConditionObject *call;
        Py_BEGIN_CRITICAL_SECTION(lane);
        call = (ConditionObject *)Py_XNewRef((PyObject *)lane->first);
        Py_END_CRITICAL_SECTION();
        if (call == NULL) {
            return 0;
        }
        PyObject *exc = py_failure_of_end(&lane->base);
        exc = translate_take(lane, exc != NULL ? exc : py_error_fetch());
        int r = end_call_take(lane, call, exc, false);
        Py_DECREF(call);
        if (r < 0) {
            return -1;
        }
    }
}

/* Handle the results that are small and plain, and leave the others to the
 * helper. 0, or -1 with an exception. */
static int
absorb_briefly(LaneObject *lane)
{
    struct cp_result *list = grab(lane);
    int r = 0;
    for (uint32_t n = 0; list != NULL; n++) {
        struct cp_result *next = list->next;
        list->next = NULL;
        if (r < 0 || n >= BRIEF_COUNT || list->len > BRIEF_BYTES
            || !is_plain(lane, list)) {
            add_ready(lane, list);
        } else {
            r = end_with_result_take(lane, list);
        }
        list = next;
    }
    return r;
}

/* Wake the threads that wait for the calls that have ended, and return r; or -1
 * with an exception in a forked copy of the process: code of the program that
 * rebuilt a value has forked, and another thread may have locked the pool then.
 */
static int
note_ended(LaneObject *lane, int r)
{
    if (cp_pool_is_ours(lane->base.engine->pool)) {
        cp_job_note_ended(lane->base.job, false);
        return r;
    }
    return r < 0 ? r : py_engine_check(lane->base.engine);
}

/* The decoding part of py_lane_absorb(). */
static int
absorb(LaneObject *lane)
{
    /* Before the grab: a job that has ended gets no more results, so after this
     * grab none is left of those that came just before the end. If the job ends
     * later, a thread is told of that. */
    bool ended = atomic_load(&lane->base.job->end) != CP_END_NONE;
    struct cp_result *list = grab(lane);
    bool any = list != NULL;
    int r = 0;
    while (list != NULL) {
        struct cp_result *next = list->next;
        list->next = NULL;
        if (r < 0 || !is_plain(lane, list)) {
            add_ready(lane, list);
        } else {
            r = end_with_result_take(lane, list);
        }
        list = next;
    }
    if (r == 0 && any) {
        r = note_ended(lane, r);
    }
    while (r == 0 && (list = next_ready(lane)) != NULL) {
        r = note_ended(lane, end_with_result_take(lane, list));
    }
    if (r == 0 && ended) {
        r = note_ended(lane, fail_calls(lane));
    }
    return r;
}

/* Leave the rest to the helper, and return whether there is any. notes: there
 * are threads that wait for a call of the lane and were not told yet. */
static bool
leave_rest(LaneObject *lane, bool notes)
{
    bool more;
    Py_BEGIN_CRITICAL_SECTION(lane);
    more = lane->ready != NULL || lane->calls != NULL;
    Py_END_CRITICAL_SECTION();
    if (!more && notes) { /* the job has failed: the helper ends the calls */
        more = atomic_load(&lane->base.job->end) != CP_END_NONE;
    }
    if ((more || notes) && cp_pool_is_ours(lane->base.engine->pool)) {
        cp_job_note_ended(lane->base.job, more);
    }
    return more;
}

int
py_lane_absorb(LaneObject *lane, bool calls)
{
    if (py_engine_check(lane->base.engine) < 0) {
        return -1;
    }
    int r = absorb(lane);
    if (r == 0 && calls) {
        r = run_callbacks(lane);
    }
    (void)leave_rest(lane, false);
    return r;
}

/* As py_lane_absorb(), in the thread of an event loop. 1: the helper has to do
 * the rest. */
static int
absorb_in_loop(LaneObject *lane, PyObject *hand_over)
{
    int r = absorb_briefly(lane);
    if (r == 0) {
        r = hand_calls_over(lane, hand_over);
    }
    bool more = leave_rest(lane, true);
    return r < 0 ? r : more;
}

PyObject *
py_lane_futures(LaneObject *lane)
{
    PyObject *list = NULL;
    Py_ssize_t cap = 0, n = 0;
    bool fits = false;
    while (!fits) { /* allocate outside of the critical section */
        Py_XDECREF(list);
        list = PyList_New(cap);
        if (list == NULL) {
            return NULL;
        }
        n = 0;
        Py_BEGIN_CRITICAL_SECTION(lane);
        for (ConditionObject *call = lane->first; call != NULL;
             call = call->next) {
            if (n < cap) {
                PyList_SET_ITEM(list, n, Py_NewRef(call->future));
            }
            n++;
        }
        Py_END_CRITICAL_SECTION();
        fits = n <= cap;
        cap = fits ? cap : n;
    }
    if (n < cap && PyList_SetSlice(list, n, cap, NULL) < 0) {
        Py_CLEAR(list);
    }
    return list;
}

LaneObject *
py_lane_of_job(EngineObject *engine, struct cp_job *job)
{
    LaneObject *lane;
    (void)engine; /* unused if the critical section is empty */
    Py_BEGIN_CRITICAL_SECTION(engine);
    lane = (LaneObject *)Py_XNewRef((PyObject *)job->user);
    Py_END_CRITICAL_SECTION();
    return lane;
}

bool
py_lane_see_to(EngineObject *engine, struct cp_job *job)
{
    if ((job->flags & CP_JOB_EACH) == 0) {
        py_result_told(job);
    } else {
        LaneObject *lane = py_lane_of_job(engine, job);
        if (lane != NULL && py_lane_absorb(lane, true) < 0) {
            if (cp_pool_is_ours(engine->pool)) {
                PyErr_WriteUnraisable((PyObject *)lane);
            } else {
                PyErr_Clear(); /* the helper ends silently in a forked copy */
            }
        }
        Py_XDECREF(lane);
    }
    bool is_ours = cp_pool_is_ours(engine->pool); /* or a callback has forked */
    if (is_ours) {
        cp_job_close(job);
        py_job_collect(engine);
    }
    return is_ours;
}

int
py_lane_glance(EngineObject *engine, PyObject *hand_over)
{
    if (py_engine_check(engine) < 0) {
        return -1;
    }
    if (engine->threads) {
        return 0; /* worker threads tell the loop, or have the helper do it */
    }
    bool any;
    Py_BEGIN_ALLOW_THREADS
    any = cp_pool_glance(engine->pool);
    Py_END_ALLOW_THREADS
    struct cp_job *job;
    bool lanes = false;
    int r = 0;
    /* Until the helper is needed: the rest of a lane would come out again. */
    for (uint32_t n = 0; any && r == 0 && n < BRIEF_COUNT
                         && (job = cp_pool_next_each(engine->pool)) != NULL;
         n++) {
        if ((job->flags & CP_JOB_EACH) == 0) {
            py_result_told(job);
        } else {
            lanes = true;
            LaneObject *lane = py_lane_of_job(engine, job);
            r = lane == NULL ? 0 : absorb_in_loop(lane, hand_over);
            Py_XDECREF(lane);
        }
        if (!cp_pool_is_ours(engine->pool)) {
            return r; /* a signal handler has forked */
        }
        cp_job_close(job);
    }
    if (any && !lanes && r == 0) {
        py_job_collect(engine); /* for lanes it may run callbacks */
    }
    if (any && cp_pool_is_ours(engine->pool)) {
        cp_pool_glanced(engine->pool);
    }
    return r < 0 ? -1 : any;
}

void
py_lane_absorb_all(EngineObject *engine)
{
    struct cp_job *job;
    while (cp_pool_has_each(engine->pool)
           && (job = cp_pool_next_each(engine->pool)) != NULL
           && py_lane_see_to(engine, job)) {
    }
}

void
py_lane_collect(EngineObject *engine, struct cp_job *job)
{
    LaneObject *lane = py_lane_of_job(engine, job);
    if (lane == NULL) {
        return;
    }
    if (py_lane_absorb(lane, true) < 0) {
        PyErr_WriteUnraisable((PyObject *)lane);
    }
    if (cp_pool_is_ours(engine->pool)) {
        Py_BEGIN_CRITICAL_SECTION(engine);
        job->user = NULL;
        Py_END_CRITICAL_SECTION();
        py_result_release(&lane->base);
        Py_DECREF(lane);
    }
    Py_DECREF(lane);
}

/* ---- submitting ---- */

static LaneObject *
swap_lane(EngineObject *engine, LaneObject *lane)
{
    LaneObject *old;
    Py_BEGIN_CRITICAL_SECTION(engine);
    old = engine->lane;
    engine->lane = (LaneObject *)Py_XNewRef((PyObject *)lane);
    Py_END_CRITICAL_SECTION();
    return old;
}

static void
close_lane_take(LaneObject *lane)
{
    if (lane != NULL) {
        if (cp_pool_is_ours(lane->base.engine->pool)) {
            cp_job_put_take(lane->base.job, NULL, true);
        }
        Py_DECREF(lane);
    }
}

void
py_lane_close(EngineObject *engine)
{
    close_lane_take(swap_lane(engine, NULL));
}

/* The open lane, if calls of func can go there: a new reference; or NULL. */
static LaneObject *
open_lane(EngineObject *engine, PyObject *func)
{
    LaneObject *lane;
    Py_BEGIN_CRITICAL_SECTION(engine);
    lane = (LaneObject *)Py_XNewRef((PyObject *)engine->lane);
    Py_END_CRITICAL_SECTION();
    if (lane != NULL && !py_func_is_same(&lane->base.input, func)) {
        Py_CLEAR(lane);
    }
    return lane;
}

/* A new lane without a callable, whose job has these flags, too. NULL: with an
 * exception, or without one if the pool takes no more calls. */
static LaneObject *
begin_lane(EngineObject *engine, uint32_t flags)
{
    PyObject *owner = PyObject_CallNoArgs(engine->owner);
    LaneObject *lane = NULL;
    if (owner != NULL) {
        lane = (LaneObject *)py_result_alloc(engine->state->lane_type,
                                             engine->state);
    }
    if (lane != NULL
        && py_result_open_job(&lane->base, engine, owner,
                              CP_JOB_EACH | CP_JOB_SINGLE | flags)
               < 0) {
        Py_CLEAR(lane);
    }
    Py_XDECREF(owner);
    if (lane == NULL) {
        return NULL;
    }
    py_result_end_call(&lane->base);
    if (atomic_load(&lane->base.job->done)) {
        lane->base.submitted = 1;
        Py_DECREF(lane);
        return NULL; /* the pool is broken */
    }
    return lane;
}

/* A new lane for func. *stays: other calls may go there too. NULL: as for
 * begin_lane(). */
static LaneObject *
new_lane(EngineObject *engine, PyObject *func, bool *stays)
{
    LaneObject *lane = begin_lane(engine, 0);
    if (lane == NULL) {
        return NULL;
    }
    /* With worker threads, each call has its own callable. */
    if (py_func_set(&lane->base.input, engine->threads ? Py_None : func) < 0) {
        Py_DECREF(lane);
        return NULL;
    }
    atomic_store(&lane->base.submitted, 1);
    py_result_hold(&lane->base);
    *stays = engine->threads
             || (lane->base.input.func_error == NULL
                 && (lane->base.job->func->flags & CP_KEEP) != 0);
    return lane;
}

PyObject *
py_lane_tuple(const struct py_lane_args *args)
{
    PyObject *tuple = PyTuple_New(args->n);
    for (Py_ssize_t i = 0; i < args->n && tuple != NULL; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args->items[i]));
    }
    return tuple;
}

/* The task of a call that a worker thread runs: or NULL with an exception. */
static struct cp_task *
refs_task(uint64_t index, PyObject *func, const struct py_lane_args *args)
{
    if (args->kwds == NULL) {
        return py_refs_call_flat(index, func, args->items, args->n);
    }
    PyObject *tuple = py_lane_tuple(args);
    struct cp_task *task =
        tuple != NULL ? py_refs_call(index, func, tuple, args->kwds) : NULL;
    Py_XDECREF(tuple);
    return task;
}

/* What a worker process gets: the tuple of the arguments, or that and the
 * dict. A new reference, or NULL with an exception. */
static PyObject *
payload_of(const struct py_lane_args *args)
{
    PyObject *payload = py_lane_tuple(args);
    if (payload != NULL && args->kwds != NULL) {
        Py_SETREF(payload, PyTuple_Pack(2, payload, args->kwds));
    }
    return payload;
}

/* The task of a call: or NULL with an exception. */
static struct cp_task *
make_task(LaneObject *lane, ConditionObject *call, PyObject *func,
          const struct py_lane_args *args)
{
    struct py_state *state = lane->base.state;
    uint64_t index = (uint64_t)(uintptr_t)call;
    if (lane->base.engine->threads) {
        return refs_task(index, func, args);
    }
    bool plain = args->kwds == NULL;
    unsigned mode = plain ? PY_CALL : PY_CALL_KW;
    struct cp_task *task = NULL;
    if (lane->base.input.func_error != NULL) {
        py_error_restore(lane->base.input.func_error);
        return NULL;
    }
    struct cp_buf buf = {0};
    struct cp_parts parts = {0};
    py_batch_share(&lane->base.input, &buf, &parts);
    int64_t began = py_work_begin(lane->base.engine);
    PyObject *payload = payload_of(args);
    if (payload != NULL && py_body_put(state, payload, &buf, NULL) == 0) {
        task = cp_task_new_take(index, (uint16_t)mode, &buf);
        if (task == NULL) {
            (void)PyErr_NoMemory();
        } else {
            task->held = py_batch_held(&lane->base.input, task);
        }
    }
    Py_XDECREF(payload);
    cp_buf_fini(&buf);
    cp_use_end_all(&parts);
    cp_parts_fini(&parts);
    py_work_end(lane->base.engine, CP_WORK_FEED, began);
    return task;
}

/* A new call in the list of the lane, and its future: a new reference, or NULL
 * with an exception. */
static ConditionObject *
new_call(LaneObject *lane, PyObject **future)
{
    ConditionObject *call = py_future_new(lane->base.state);
    if (call != NULL) {
        /* A worker thread drops the other reference to each of them. */
        *future = py_refs_lend(call->future);
        call->lane = (LaneObject *)py_refs_lend((PyObject *)lane);
        add_call_take(lane, (ConditionObject *)py_refs_lend((PyObject *)call));
    }
    return call;
}

/* Add a call to the lane. 1: *future is its future; 0: the lane takes no more
 * calls; -1 with an exception. */
static int
add_call(LaneObject *lane, PyObject *func, const struct py_lane_args *args,
         PyObject **future)
{
    ConditionObject *call = new_call(lane, future);
    if (call == NULL) {
        return -1;
    }
    struct cp_task *task = make_task(lane, call, func, args);
    int r = 1;
    if (task != NULL) {
        task->call = &call->call;
        if (lane->base.engine->threads) {
            (void)py_refs_lend((PyObject *)call); /* the task's */
        }
        r = cp_job_put_call_take(lane->base.job, task) == 0 ? 1 : 0;
    } else if (py_error_leaves_call(lane->base.state)) {
        r = -1;
    } else { /* the call fails, and the executor goes on */
        r = end_call_take(lane, call, py_error_fetch(), false) < 0 ? -1 : 1;
    }
    if (r <= 0) {
        Py_CLEAR(*future);
        if (take_call(lane, call)) {
            drop_call_take(call);
        }
    }
    Py_DECREF(call);
    return r;
}

PyObject *
py_lane_submit(EngineObject *engine, PyObject *func,
               const struct py_lane_args *args)
{
    PyObject *future = NULL;
    if (py_engine_check(engine) < 0 || py_futures_begin(engine->state) < 0) {
        return NULL;
    }
    LaneObject *lane = open_lane(engine, func);
    int r = lane == NULL ? 0 : add_call(lane, func, args, &future);
    Py_XDECREF(lane);
    if (r != 0) {
        return future;
    }
    bool stays;
    lane = new_lane(engine, func, &stays);
    if (lane == NULL) {
        return NULL;
    }
    r = add_call(lane, func, args, &future);
    if (stays && r > 0) {
        close_lane_take(swap_lane(engine, lane));
        Py_DECREF(lane);
    } else {
        close_lane_take(swap_lane(engine, NULL)); /* calls keep their order */
        close_lane_take(lane);
    }
    py_job_collect(engine);
    return future;
}

/* ---- calls that are not encoded yet ---- */

LaneObject *
py_lane_keep(EngineObject *engine, PyObject **future)
{
    *future = NULL;
    if (py_engine_check(engine) < 0 || py_futures_begin(engine->state) < 0) {
        return NULL;
    }
    LaneObject *lane = begin_lane(engine, CP_JOB_KEPT);
    ConditionObject *call = lane != NULL ? new_call(lane, future) : NULL;
    if (call == NULL) {
        Py_XDECREF(lane);
        return NULL;
    }
    Py_DECREF(call); /* the list has it */
    atomic_store(&lane->base.submitted, 1);
    py_result_hold(&lane->base);
    close_lane_take(swap_lane(engine, NULL)); /* calls keep their order */
    return lane;
}

int
py_lane_feed_kept(LaneObject *lane, PyObject **holder)
{
    struct cp_job *job = lane->base.job;
    ConditionObject *call;
    Py_BEGIN_CRITICAL_SECTION(lane);
    call = (ConditionObject *)Py_XNewRef((PyObject *)lane->first);
    Py_END_CRITICAL_SECTION();
    if (call == NULL) {
        return 0; /* the job has ended */
    }
    uint64_t index = (uint64_t)(uintptr_t)call;
    int r = 0;
    if (!cp_job_end_withdrawn(job, &call->call, index)) {
        r = py_feed_kept_call(&lane->base.input, index, &call->call, holder);
    }
    Py_DECREF(call); /* the list drops it when the job ends, maybe meanwhile */
    return r;
}

/* ---- at once, by the worker thread that has run the call ---- */

void
py_lane_end_at_once(struct cp_task *task, struct cp_result *result,
                    ConditionObject *call)
{
    if (result == NULL || result->outcome != CP_OK || !py_condition_try(call)) {
        return;
    }
    LaneObject *lane = call->lane;
    if (call->was_locked || lane == NULL || !take_call(lane, call)) {
        py_condition_untry(call);
        return;
    }
    PyObject *value = py_refs_take_first(result);
    PyObject *future = call->future;
    int r = py_future_finish(call, value);
    call->lane = NULL;
    call->future = NULL;
    py_condition_untry(call);
    task->call = NULL;
    result->flags |= CP_TAKEN;
    if (r < 0) {
        PyErr_WriteUnraisable(future);
    }
    Py_DECREF(value);
    Py_DECREF(future);
    Py_DECREF(lane);
    Py_DECREF(call); /* the list's reference */
}

/* ---- waiting ---- */

int
py_lane_wait(ConditionObject *condition, LaneObject *lane, int64_t deadline)
{
    int r = 0;
    if (py_engine_check(lane->base.engine) < 0) {
        return -1;
    }
    (void)cp_job_look(lane->base.job, &condition->call, false);
    while (!atomic_load(&condition->call.ended)) {
        if ((r = py_lane_absorb(lane, false)) < 0
            || atomic_load(&condition->call.ended)) {
            break;
        }
        r = py_result_wait_call(&lane->base, &condition->call, deadline);
        if (r <= 0) {
            break; /* too late, or a signal handler has raised */
        }
    }
    if (r > 0) {
        r = py_lane_absorb(lane,
                           false); /* nobody else was told of these results */
    }
    if (!atomic_load(&condition->call.ended)
        && cp_pool_is_ours(lane->base.engine->pool)) {
        (void)cp_job_look(lane->base.job, &condition->call, true);
    }
    return r < 0 ? -1 : 0;
}

int
py_lane_look(ConditionObject *condition)
{
    if (condition->lane == NULL || py_condition_has(condition)
        || atomic_load(&condition->call.ended)) {
        return 0;
    }
    LaneObject *lane;
    py_condition_acquire(condition); /* another thread may be ending the call */
    lane = (LaneObject *)Py_XNewRef((PyObject *)condition->lane);
    py_condition_release(condition);
    if (lane == NULL) {
        return 0;
    }
    int r = 0;
    if (cp_pool_is_ours(lane->base.engine->pool)) {
        switch (cp_job_look(lane->base.job, &condition->call, true)) {
            case CP_CALL_WAITS: break;
            case CP_CALL_BEGUN: r = 1; break;
            case CP_CALL_ANSWERED:
                r = 1;
                if (py_condition_any_held(lane->base.state)) {
                    /* Not on this thread: ending calls takes the locks of their
                     * futures. */
                    cp_job_note_ended(lane->base.job, true);
                } else if (py_lane_absorb(lane, false) < 0) {
                    r = -1;
                }
                break;
        }
    }
    Py_DECREF(lane);
    return r;
}

void
py_lane_notified(ConditionObject *condition)
{
    LaneObject *lane = condition->lane;
    atomic_store(&condition->call.ended, true);
    if (lane == NULL || !cp_pool_is_ours(lane->base.engine->pool)) {
        return;
    }
    if (py_future_is_cancelled(condition)) {
        (void)cp_job_withdraw(lane->base.job, &condition->call);
    }
    cp_job_note_ended(lane->base.job, false);
}

/* ---- the type ---- */

static void
lane_dealloc(PyObject *op)
{
    LaneObject *self = (LaneObject *)op;
    struct cp_result *ready = self->ready;
    self->ready = NULL;
    while (ready != NULL) {
        struct cp_result *next = ready->next;
        ConditionObject *call = call_of(ready);
        py_result_free(&self->base, ready);
        Py_DECREF(call);
        ready = next;
    }
    py_result_dealloc(op);
}

static PyType_Slot lane_slots[] = {
    {Py_tp_traverse, py_result_traverse},
    {Py_tp_clear, py_result_clear},
    {Py_tp_dealloc, lane_dealloc},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "cpool._core.Lane",
    .basicsize = sizeof(LaneObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lane_slots,
};

int
py_lane_add_type(PyObject *module, struct py_state *state)
{
    state->lane_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    return state->lane_type == NULL ? -1 : 0;
}
