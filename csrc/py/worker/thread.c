/*
 * The loop of a worker thread; see worker/thread.h. If a task is queued, the
 * thread takes it without detaching, so that dozens of short tasks run before
 * the GIL changes hands. Otherwise it detaches first and then hands in its
 * result, so that the thread that waits for the result finds the GIL free.
 */
#include "worker/thread.h"

#include "base/engine.h"
#include "base/error.h"
#include "base/list.h"
#include "job/lane.h"
#include "task/call.h"
#include "task/mode.h"
#include "task/refs.h"
#include "worker/values.h"

#include "core/base/clock.h"
#include "core/pool/threads.h"

#include <string.h>

/* A thread that only calls functions written in C would never release the GIL:
 * it detaches after this time, as Python's own loop does. */
#define SLICE (5 * CP_MS)
/* How much of the name of a callable is kept. */
#define NAME_SIZE 100

bool
py_thread_takes_turns(void)
{
#ifdef Py_GIL_DISABLED
    PyObject *sys = PyImport_ImportModule("sys");
    PyObject *is_enabled =
        sys != NULL ? PyObject_CallMethod(sys, "_is_gil_enabled", NULL) : NULL;
    bool takes_turns = is_enabled != Py_False;
    Py_XDECREF(is_enabled);
    Py_XDECREF(sys);
    PyErr_Clear(); /* a wrong answer only costs speed */
    return takes_turns;
#else
    return true;
#endif
}

/* The placeholder of an item that raised: its exception, whatever that is, even
 * SystemExit. */
static PyObject *
catch_item(const struct py_calls *Py_UNUSED(calls), PyObject *Py_UNUSED(func),
           Py_ssize_t Py_UNUSED(item))
{
    return py_error_fetch();
}

/* Run a chunk, and move its values to the result: 0, or -1 with an
 * exception. */
static int
run_chunk(struct py_state *state, struct cp_task *task,
          struct cp_result *result)
{
    struct py_calls calls = {
        .star = (task->flags & PY_MODE) == PY_STAR,
        .pool = task->job->pool,
        .catch = (task->flags & PY_CATCH) != 0 ? catch_item : NULL,
        .state = state};
    struct py_refs *refs = py_refs_of_task(task);
    Py_ssize_t n = py_refs_count(task);
    struct py_run run = {.slots = refs->slots, .n = n, .used = n, .cap = n};
    if (py_call_each(refs->func, &run, &calls) < 0) {
        return -1;
    }
    result->item = calls.caught;
    memcpy(result->body, refs->slots, (size_t)n * sizeof(PyObject *));
    memset(refs->slots, 0, (size_t)n * sizeof(PyObject *));
    /* The values are not given (py_refs_give()): their maker is to free them. On
     * 3.13t, memory grew with each map that failed when the caller freed the
     * values of its other chunks. */
    return 0;
}

/* Hand in a yielded value, which is released. 0, or a code of the core. */
static int
yield_take(struct cp_pool *pool, struct cp_task *task, PyObject *value,
           uint64_t *room)
{
    struct cp_result *result = py_refs_result(task->index, 1);
    if (result == NULL) {
        Py_DECREF(value);
        return CP_ENOMEM;
    }
    py_refs_give(value);
    py_refs_of_result(result)[0] = value;
    result->flags = CP_IS_VALUE;
    result->items = 0;
    return cp_threads_yield(pool, task, result, room);
}

/* Hand in the values that the task yields; releases source. 0 at the end, or if
 * the job has ended; or -1 with an exception. */
static int
yield_all_take(struct py_state *state, struct cp_pool *pool,
               struct cp_task *task, PyObject *source)
{
    PyObject *iterator = py_values_iterator(state, source);
    uint64_t room = 0;
    int r = iterator != NULL ? 0 : -1;
    Py_DECREF(source);
    while (r == 0) {
        if (room == 0) {
            Py_BEGIN_ALLOW_THREADS
            r = cp_threads_wait_room(pool, task, &room);
            Py_END_ALLOW_THREADS
            cp_pool_release_dropped(pool);
        }
        PyObject *value = r == 0 ? PyIter_Next(iterator) : NULL;
        if (value == NULL) {
            break;
        }
        if (!cp_pool_is_ours(pool)) {
            Py_DECREF(value); /* the task has forked, and this is the copy */
            break;
        }
        r = yield_take(pool, task, value, &room);
    }
    if (r == 0) {
        r = PyErr_Occurred() ? -1 : 0;
    } else if (iterator != NULL) {
        if (py_values_close(iterator) < 0) {
            PyErr_WriteUnraisable(iterator); /* no exception ends the thread */
        }
        if (r == CP_ENOMEM) {
            PyErr_NoMemory();
        }
        r = r == CP_ENOMEM ? -1 : 0;
    }
    Py_XDECREF(iterator);
    return r;
}

/* Run one call or one item: 0, or -1 with an exception. */
static int
run_one(struct py_state *state, struct cp_task *task, struct cp_result *result)
{
    struct py_refs *refs = py_refs_of_task(task);
    unsigned mode = task->flags & PY_MODE;
    PyObject *kwds = NULL;
    if (mode == PY_CALL_KW) {
        /* The dict belongs to the caller, who may change it meanwhile. */
        PyObject *theirs = refs->slots[1];
        kwds =
            PyDict_CheckExact(theirs) ? PyDict_Copy(theirs) : Py_NewRef(theirs);
        if (kwds == NULL) {
            return -1;
        }
    }
    PyObject *value =
        mode == PY_CALL_FLAT
            ? PyObject_Vectorcall(refs->func, refs->slots,
                                  (size_t)py_refs_count(task), NULL)
            : py_call_one(state, mode, refs->func, refs->slots[0], kwds);
    Py_XDECREF(kwds);
    if (value != NULL && (task->flags & CP_YIELDS) != 0) {
        return yield_all_take(state, task->job->pool, task, value);
    }
    if (value == NULL) {
        return -1;
    }
    py_refs_give(value);
    py_refs_of_result(result)[0] = value;
    return 0;
}

/* Run the task. Returns its result, or NULL if there is no memory. */
static struct cp_result *
run_task(struct py_state *state, struct cp_task *task)
{
    unsigned mode = task->flags & PY_MODE;
    bool chunk = mode == PY_MAP || mode == PY_STAR;
    Py_ssize_t n = chunk ? py_refs_count(task) : 1;
    struct cp_result *result = py_refs_result(task->index, n > 0 ? n : 1);
    if (result != NULL) {
        result->items = task->items;
        int r = chunk ? run_chunk(state, task, result)
                      : run_one(state, task, result);
        if (r < 0) {
            /* Any exception is the failure of the task, even SystemExit. */
            result->outcome = CP_RAISED;
            py_refs_of_result(result)[0] = py_error_fetch();
        }
    }
    return result;
}

struct loop {
    EngineObject *engine;
    struct cp_pool *pool;
    struct cp_turn turn;
    int64_t since;        /* when the thread attached */
    unsigned long long n; /* tasks run so far; only this thread uses it */
    _Atomic int64_t
        busy_since;       /* when the current task began; 0: there is none */
    char name[NAME_SIZE]; /* of the last callable that ran long */
    unsigned long thread;
    struct loop *next; /* guarded by the engine's critical section */
};

/* The task took long: keep the name of its callable. */
static void
note_name(struct loop *loop, PyObject *func)
{
    PyObject *name = PyObject_CallMethod(loop->engine->state->failures,
                                         "_name_of", "O", func);
    const char *text = name != NULL ? PyUnicode_AsUTF8(name) : NULL;
    if (text != NULL) {
        (void)PyOS_snprintf(loop->name, sizeof(loop->name), "%s", text);
        loop->turn.func = loop->name;
    }
    Py_XDECREF(name);
    PyErr_Clear();
}

/* Run the task, unless its job was terminated while the thread waited for the
 * GIL; and release its references. */
static struct cp_result *
run_unless_ended(struct loop *loop)
{
    struct cp_task *task = loop->turn.task;
    PyObject *call = py_refs_call_of_task(task);
    if (atomic_load(&task->job->end) != CP_END_NONE) {
        py_refs_clear_task(task);
        Py_XDECREF(call);
        return NULL;
    }
    atomic_store_explicit(&loop->busy_since, loop->turn.begun,
                          memory_order_relaxed);
    struct cp_result *result = run_task(loop->engine->state, task);
    struct py_refs *refs = py_refs_of_task(task);
    PyObject *func = refs->func;
    refs->func = NULL;
    py_refs_clear_task(task);
    atomic_store_explicit(&loop->busy_since, 0, memory_order_relaxed);
    if (cp_threads_is_long(loop->pool, cp_now() - loop->turn.begun)) {
        note_name(loop, func);
    }
    Py_DECREF(func);
    if (call != NULL) {
        if (cp_pool_is_ours(loop->pool)) { /* or the task has forked */
            py_lane_end_at_once(task, result, (ConditionObject *)call);
        }
        Py_DECREF(call);
    }
    return result;
}

static void
enlist(struct loop *loop)
{
    Py_BEGIN_CRITICAL_SECTION(loop->engine);
    loop->next = loop->engine->loops;
    loop->engine->loops = loop;
    Py_END_CRITICAL_SECTION();
}

static void
delist(struct loop *loop)
{
    Py_BEGIN_CRITICAL_SECTION(loop->engine);
    struct loop *at = loop->engine->loops;
    if (at == loop) {
        loop->engine->loops = loop->next;
    } else {
        while (at->next != loop) {
            at = at->next;
        }
        at->next = loop->next;
    }
    Py_END_CRITICAL_SECTION();
}

int64_t
py_thread_busy_ns(EngineObject *engine, uint32_t worker, int64_t now)
{
    int64_t ns = 0;
    Py_BEGIN_CRITICAL_SECTION(engine);
    for (const struct loop *at = engine->loops; at != NULL; at = at->next) {
        int64_t since =
            atomic_load_explicit(&at->busy_since, memory_order_relaxed);
        if (at->turn.index == worker && since != 0 && now > since) {
            ns += now - since;
        }
    }
    Py_END_CRITICAL_SECTION();
    return ns;
}

struct sight {
    uint32_t worker;
    unsigned long thread;
    int64_t since;
};

/* Look at all loops, and describe up to cap of them. Returns how many there
 * are. */
static size_t
look_at_loops(EngineObject *engine, struct sight *sights, size_t cap)
{
    size_t n = 0;
    Py_BEGIN_CRITICAL_SECTION(engine);
    for (const struct loop *at = engine->loops; at != NULL; at = at->next) {
        if (n < cap) {
            sights[n] = (struct sight){
                .worker = at->turn.index,
                .thread = at->thread,
                .since =
                    atomic_load_explicit(&at->busy_since, memory_order_relaxed),
            };
        }
        n++;
    }
    Py_END_CRITICAL_SECTION();
    return n;
}

PyObject *
py_thread_busy(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *engine = (EngineObject *)op;
    if (py_engine_check(engine) < 0) {
        return NULL;
    }
    size_t cap = look_at_loops(engine, NULL, 0);
    struct sight *sights = PyMem_Calloc(cap + 1, sizeof(*sights));
    if (sights == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *list = PyList_New(0);
    size_t n = list != NULL ? look_at_loops(engine, sights, cap) : 0;
    int64_t now = cp_now();
    for (size_t i = 0; i < n && i < cap && list != NULL; i++) {
        int64_t ns = sights[i].since != 0 ? now - sights[i].since : -1;
        PyObject *item = Py_BuildValue("(IkL)", sights[i].worker,
                                       sights[i].thread, (long long)ns);
        if (py_list_append_take(list, item) < 0) {
            Py_CLEAR(list);
        }
    }
    PyMem_Free(sights);
    return list;
}

PyObject *
py_thread_tasks_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *engine = (EngineObject *)op;
    unsigned long me = PyThread_get_thread_ident();
    unsigned long long n = 0;
    Py_BEGIN_CRITICAL_SECTION(engine);
    for (const struct loop *at = engine->loops; at != NULL; at = at->next) {
        n = at->thread == me ? at->n : n;
    }
    Py_END_CRITICAL_SECTION();
    return PyLong_FromUnsignedLongLong(n);
}

/* Hand in the result of the last task and take the next one. Returns as
 * cp_threads_swap(). */
static int
swap(struct loop *loop, struct cp_result *result)
{
    if (cp_threads_has_queued(loop->pool)
        && loop->turn.begun - loop->since < SLICE && loop->since != 0) {
        return cp_threads_swap(loop->pool, &loop->turn, result, false);
    }
    int r;
    Py_BEGIN_ALLOW_THREADS
    r = cp_threads_swap(loop->pool, &loop->turn, result, true);
    Py_END_ALLOW_THREADS
    py_run_bytecode(loop->engine->state);
    loop->since = loop->turn.begun = cp_now();
    return r;
}

/* Release objects, which the thread cannot do while it is detached. r: the
 * return value of swap(). */
static void
clean_up(struct loop *loop, int r)
{
    if (loop->turn.dropped) {
        cp_pool_release_dropped(loop->pool);
        loop->turn.dropped = false;
    }
    /* Only without a task in hand: callbacks of futures may wait for any
     * task. */
    if (r != 1 && cp_pool_has_each(loop->pool)) {
        py_lane_absorb_all(loop->engine);
    }
    if (r != 1 && cp_pool_is_ours(loop->pool)) {
        py_job_collect(loop->engine);
    }
}

/* 0, or -1 with an exception if the engine has no worker threads, or in a
 * forked copy. */
static int
check(EngineObject *engine)
{
    if (!engine->threads) {
        PyErr_SetString(PyExc_TypeError, "this pool has no worker threads");
        return -1;
    }
    return py_engine_check(engine);
}

PyObject *
py_thread_enter(PyObject *op, PyObject *arg)
{
    EngineObject *engine = (EngineObject *)op;
    unsigned long index = PyLong_AsUnsignedLong(arg);
    if ((index == (unsigned long)-1 && PyErr_Occurred()) || check(engine) < 0) {
        return NULL;
    }
    int r = cp_threads_enter(engine->pool, (uint32_t)index);
    if (r != 0) {
        return py_raise(engine->state, r);
    }
    Py_RETURN_NONE;
}

PyObject *
py_thread_leave(PyObject *op, PyObject *arg)
{
    EngineObject *engine = (EngineObject *)op;
    unsigned long index = PyLong_AsUnsignedLong(arg);
    if (index == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (cp_pool_is_ours(engine->pool)) {
        cp_threads_leave(engine->pool, (uint32_t)index);
    }
    Py_RETURN_NONE;
}

PyObject *
py_thread_work(PyObject *op, PyObject *arg)
{
    EngineObject *engine = (EngineObject *)op;
    unsigned long index = PyLong_AsUnsignedLong(arg);
    if ((index == (unsigned long)-1 && PyErr_Occurred()) || check(engine) < 0) {
        return NULL;
    }
    struct loop loop = {.engine = engine,
                        .pool = engine->pool,
                        .turn = {.index = (uint32_t)index},
                        .thread = PyThread_get_thread_ident()};
    int r;
    struct cp_result *result = NULL;
    enlist(&loop);
    while ((r = swap(&loop, result)) >= 0) {
        clean_up(&loop, r);
        result = NULL;
        loop.turn.sees_first = r == 1;
        if (r == 1) {
            result = run_unless_ended(&loop);
            loop.n++;
        }
        if (!cp_pool_is_ours(loop.pool)) {
            /* The task has forked, and this is the copy, in which nobody waits
             * for results. */
            delist(&loop);
            return Py_BuildValue("KO", (unsigned long long)loop.n,
                                 loop.turn.retired ? Py_True : Py_False);
        }
    }
    delist(&loop);
    clean_up(&loop, r);
    return Py_BuildValue("KO", (unsigned long long)loop.n,
                         loop.turn.retired ? Py_True : Py_False);
}

/* The KeyboardInterrupt that the task has raised, which is also the task's
 * result: a new reference, or NULL. */
static PyObject *
interrupt_of(struct cp_result *result)
{
    PyObject *exc = result != NULL && result->outcome == CP_RAISED
                        ? py_refs_of_result(result)[0]
                        : NULL;
    return exc != NULL
                   && PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt)
               ? Py_NewRef(exc)
               : NULL;
}

PyObject *
py_thread_run_queued(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *engine = (EngineObject *)op;
    if (check(engine) < 0) {
        return NULL;
    }
    struct loop loop = {.engine = engine,
                        .pool = engine->pool,
                        .thread = PyThread_get_thread_ident()};
    struct cp_result *result = NULL;
    PyObject *interrupt = NULL;
    int r;
    enlist(&loop);
    while ((r = cp_threads_swap(loop.pool, &loop.turn, result, false)) == 1) {
        loop.turn.begun = cp_now();
        result = run_unless_ended(&loop);
        loop.n++;
        if (!cp_pool_is_ours(loop.pool)) {
            break; /* a task has forked, and this is the copy */
        }
        if (interrupt == NULL) {
            interrupt = interrupt_of(result);
        }
    }
    delist(&loop);
    if (cp_pool_is_ours(loop.pool)) {
        clean_up(&loop, r);
    }
    if (interrupt != NULL) {
        py_error_restore(interrupt);
        Py_DECREF(interrupt);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(loop.n);
}
