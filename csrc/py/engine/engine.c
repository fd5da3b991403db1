/*
 * The type _core.Engine; see engine/engine.h. This file has the workers, the
 * body of the helper thread, and the end of the pool. Submitting is in
 * engine/submit.c. Code that runs only once per pool is in cpool/pool.py.
 */
#include "engine/engine.h"

#include "base/engine.h"
#include "base/error.h"
#include "base/list.h"
#include "base/timeout.h"
#include "engine/kept.h"
#include "engine/share.h"
#include "engine/submit.h"
#include "job/callback.h"
#include "job/failure.h"
#include "job/lane.h"
#include "job/life.h"
#include "task/pull.h"
#include "task/refs.h"
#include "task/source.h"
#include "worker/thread.h"
#include "worker/worker.h"
#include "value/replaced.h"

#include "core/base/clock.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void
collect_calls(void *engine, struct cp_job *job)
{
    py_lane_collect(engine, job);
}

static PyObject *
engine_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"target",  "owner",  "cache",
                            "threads", "serial", NULL};
    unsigned int target;
    PyObject *owner, *cache;
    int threads = 0, serial = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "IOO|pp:Engine", names,
                                     &target, &owner, &cache, &threads,
                                     &serial)) {
        return NULL;
    }
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_RuntimeError,
                        threads ? "a cpool.ThreadPool cannot be made in a "
                                  "subinterpreter: make it in the main "
                                  "interpreter"
                                : "a cpool.Pool cannot be made in a "
                                  "subinterpreter, which cannot have child "
                                  "processes: make it in the main "
                                  "interpreter");
        return NULL;
    }
    EngineObject *self = (EngineObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = py_state_of_type(type);
    if (cp_lock_init(&self->turns.lock) != 0
        || cp_cond_init(&self->turns.cond) != 0) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->owner = Py_NewRef(owner);
    self->cache = Py_NewRef(cache);
    self->threads = threads != 0;
    self->serial = threads && serial;
    self->depth = py_depth_get();
    self->collect_calls = collect_calls;
    if (!threads && py_replaced_check(self->state) < 0) {
        Py_DECREF(self); /* now, or each worker would import modules for this */
        return NULL;
    }
    int r = threads ? cp_pool_new_threads(target, py_refs_release,
                                          py_thread_takes_turns(), &self->pool)
                    : cp_pool_new(target, &self->pool);
    if (r != 0) {
        struct py_state *state = self->state;
        Py_DECREF(self);
        return py_raise(state, r);
    }
    return (PyObject *)self;
}

static int
engine_traverse(PyObject *op, visitproc visit, void *arg)
{
    EngineObject *self = (EngineObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->cache);
    Py_VISIT(self->last_func);
    Py_VISIT(self->last_name.module);
    Py_VISIT(self->lane);
    Py_VISIT(self->init_error);
    Py_VISIT(self->sender);
    return 0;
}

static int
engine_clear(PyObject *op)
{
    EngineObject *self = (EngineObject *)op;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->cache);
    Py_CLEAR(self->last_func);
    py_name_clear(&self->last_name);
    Py_CLEAR(self->init_error);
    Py_CLEAR(self->sender);
    Py_CLEAR(self->lane);
    return 0;
}

/* Usually the finalizer of the Python pool has ended the pool before
 * (cpool/pool.py). If the Python pool could not be made, the core's pool is
 * ended here. */
static void
engine_dealloc(PyObject *op)
{
    EngineObject *self = (EngineObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)engine_clear(op);
    if (self->pool != NULL && cp_pool_is_ours(self->pool)) {
        struct cp_job *job;
        while ((job = cp_pool_next_each(self->pool)) != NULL) {
            cp_job_close(job);
        }
        if (self->last_func_core != NULL) {
            cp_func_close(self->pool, self->last_func_core);
        }
        cp_pool_end(self->pool);
        cp_pool_signal(self->pool, SIGKILL);
        int64_t until = cp_now() + CP_SECOND;
        Py_BEGIN_ALLOW_THREADS
        while (cp_pool_wait(self->pool, NULL, until, 0) == CP_EINTR) {
        }
        cp_pool_stop_standby(self->pool);
        Py_END_ALLOW_THREADS
        py_job_collect(self);
        cp_pool_close_late(self->pool);
        cp_pool_unref(self->pool);
    }
    cp_cond_fini(&self->turns.cond);
    cp_lock_fini(&self->turns.lock);
    type->tp_free(op);
    Py_DECREF(type);
}

#define ENGINE(op) ((EngineObject *)(op))

static PyObject *
none_or_raise(EngineObject *self, int r)
{
    if (r != 0) {
        return py_raise(self->state, r);
    }
    Py_RETURN_NONE;
}

/* call(func, args, kwds): submit a call. Returns its future, or None if the
 * pool takes no more calls. */
static PyObject *
engine_call(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyTuple_Check(args[1]) || !PyDict_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "call() takes a callable, a tuple and a dict");
        return NULL;
    }
    const struct py_lane_args given = {
        .items = ((PyTupleObject *)args[1])->ob_item,
        .n = PyTuple_GET_SIZE(args[1]),
        .kwds = PyDict_GET_SIZE(args[2]) > 0 ? args[2] : NULL};
    PyObject *future = py_submit_future(ENGINE(op), args[0], &given);
    if (future == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return future;
}

/* ---- workers ---- */

/* worker(maxtasks, index) */
static PyObject *
engine_worker(PyObject *op, PyObject *args)
{
    EngineObject *self = ENGINE(op);
    uint64_t budget = UINT64_MAX;
    PyObject *maxtasks;
    unsigned int index;
    if (!PyArg_ParseTuple(args, "OI:worker", &maxtasks, &index)
        || py_engine_check(self) < 0) {
        return NULL;
    }
    if (maxtasks != Py_None) {
        budget = PyLong_AsUnsignedLongLong(maxtasks);
        if (budget == UINT64_MAX && PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
                return NULL;
            }
            PyErr_Clear(); /* more tasks than will ever be run */
        }
    }
    return py_worker_new(self->state, self->pool, budget, index, self->depth);
}

/* set_sender(sender): set the object that sends callables by value; see
 * cpool._base.by_value. Before the first job. */
static PyObject *
engine_set_sender(PyObject *op, PyObject *sender)
{
    Py_XSETREF(ENGINE(op)->sender, Py_NewRef(sender));
    Py_RETURN_NONE;
}

static PyObject *
engine_share(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = ENGINE(op);
    int r = cp_pool_share(self->pool);
    if (r != 0) {
        return py_raise(self->state, r);
    }
    Py_RETURN_NONE;
}

/* set_memory_limit(bytes): limit the memory of each worker. Before the first
 * worker. OSError if the system does not say how much memory a process has. */
static PyObject *
engine_set_memory_limit(PyObject *op, PyObject *arg)
{
    unsigned long long bytes = PyLong_AsUnsignedLongLong(arg);
    if (bytes == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    return none_or_raise(ENGINE(op),
                         cp_pool_set_memory_limit(ENGINE(op)->pool, bytes));
}

/* open_memory(limit): send large data through shared memory, of this many bytes
 * at most. False: the system has none. Before the first worker. */
static PyObject *
engine_open_memory(PyObject *op, PyObject *arg)
{
    unsigned long long limit = PyLong_AsUnsignedLongLong(arg);
    if (limit == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    return PyBool_FromLong(cp_pool_open_memory(ENGINE(op)->pool, limit) == 0);
}

static PyObject *
engine_set_target(PyObject *op, PyObject *arg)
{
    unsigned long n = PyLong_AsUnsignedLong(arg);
    if ((n == (unsigned long)-1 && PyErr_Occurred())
        || py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(
        cp_pool_set_target(ENGINE(op)->pool, (uint32_t)n));
}

/* set_elastic(least, most, idle_ns) */
static PyObject *
engine_set_elastic(PyObject *op, PyObject *args)
{
    unsigned int least, most;
    long long idle_ns;
    if (!PyArg_ParseTuple(args, "IIL:set_elastic", &least, &most, &idle_ns)
        || py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    cp_pool_set_elastic(ENGINE(op)->pool, least, most, idle_ns);
    Py_RETURN_NONE;
}

/* retire(n, first): n worker processes end after their current tasks, of those
 * with this index or a higher one. */
static PyObject *
engine_retire(PyObject *op, PyObject *args)
{
    unsigned int n, from;
    if (!PyArg_ParseTuple(args, "II:retire", &n, &from)
        || py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    cp_pool_retire(ENGINE(op)->pool, n, from);
    Py_RETURN_NONE;
}

/* set_indexes(n): from now on there are only workers with indexes below n. */
static PyObject *
engine_set_indexes(PyObject *op, PyObject *arg)
{
    unsigned long n = PyLong_AsUnsignedLong(arg);
    if ((n == (unsigned long)-1 && PyErr_Occurred())
        || py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    cp_pool_set_indexes(ENGINE(op)->pool, (uint32_t)n);
    py_job_collect(ENGINE(op));
    Py_RETURN_NONE;
}

/* unplaced(): a list of the indexes of missing workers for which tasks wait. */
static PyObject *
engine_unplaced(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *indexes = PyList_New(0);
    uint32_t next = 0;
    while (indexes != NULL
           && (next = cp_pool_next_unplaced(ENGINE(op)->pool, next))
                  != UINT32_MAX) {
        PyObject *index = PyLong_FromUnsignedLong(next++);
        if (index == NULL || PyList_Append(indexes, index) < 0) {
            Py_CLEAR(indexes);
        }
        Py_XDECREF(index);
    }
    return indexes;
}

static PyObject *
engine_not_started(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    cp_pool_report_start_failure(ENGINE(op)->pool);
    Py_RETURN_NONE;
}

static PyObject *
engine_signal(PyObject *op, PyObject *arg)
{
    long signal = PyLong_AsLong(arg);
    if (signal == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (cp_pool_is_ours(ENGINE(op)->pool)) {
        cp_pool_signal(ENGINE(op)->pool, (int)signal);
    }
    Py_RETURN_NONE;
}

/* set_trees(): workers may start processes, which have to end with them. */
static PyObject *
engine_set_trees(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    cp_pool_set_trees(ENGINE(op)->pool);
    Py_RETURN_NONE;
}

/* kill_trees(): after set_trees(), SIGKILL to all workers and all of their
 * descendants. */
static PyObject *
engine_kill_trees(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (cp_pool_is_ours(ENGINE(op)->pool)) {
        Py_BEGIN_ALLOW_THREADS
        cp_pool_kill_trees(ENGINE(op)->pool);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *
engine_hang_up(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (cp_pool_is_ours(ENGINE(op)->pool)) {
        cp_pool_hang_up(ENGINE(op)->pool);
    }
    Py_RETURN_NONE;
}

/* ---- the helper and the starter ---- */

/* Run the callbacks of the job. False: a callback has forked, and this is the
 * forked copy. */
static bool
run_callbacks(EngineObject *self, struct cp_job *job)
{
    ResultObject *result = job->user;
    if (result != NULL) {
        Py_INCREF(result);
        py_result_call_back(result);
        Py_DECREF(result); /* first: then a waiter has the only reference */
    }
    bool is_ours = cp_pool_is_ours(self->pool);
    if (is_ours) {
        cp_job_called(job);
        cp_job_close(job);
        py_job_collect(self);
    }
    return is_ours;
}

/* Do the work that cp_pool_next() has returned. False: there will be no
 * more. */
static bool
attend_to(EngineObject *self, int found, struct cp_job *job)
{
    switch (found) {
        case CP_WAIT_CALL: return run_callbacks(self, job);
        case CP_WAIT_EACH: return py_lane_see_to(self, job);
        case CP_WAIT_WORKERS:
            if (py_engine_replace_workers(self) < 0) {
                PyErr_WriteUnraisable((PyObject *)self);
            }
            return true;
        case CP_WAIT_IDLE: py_job_collect(self); return true;
        default: py_job_collect(self); return false;
    }
}

/* Do the work that cp_pool_next() returns, until the pool is gone. */
static PyObject *
attend(EngineObject *self, unsigned duties)
{
    struct cp_job *job;
    int r;
    do {
        Py_BEGIN_ALLOW_THREADS
        r = cp_pool_next(self->pool, duties, &job);
        Py_END_ALLOW_THREADS
    } while (attend_to(self, r, job));
    Py_RETURN_NONE;
}

/* call_back(): run the callbacks that are due, on this thread. */
static PyObject *
engine_call_back(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = ENGINE(op);
    struct cp_job *job;
    int r = CP_WAIT_CALL;
    while (r == CP_WAIT_CALL || r == CP_WAIT_EACH) {
        r = cp_pool_is_ours(self->pool)
                ? cp_pool_try_next(self->pool, CP_DO_CALLS, &job)
                : CP_WAIT_ENDED;
        if (r != CP_WAIT_ENDED && r != CP_WAIT_TIMEOUT
            && !attend_to(self, r, job)) {
            break;
        }
    }
    Py_RETURN_NONE;
}

/* help(): run callbacks, until the pool is gone. The body of the helper
 * thread. */
static PyObject *
engine_help(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (atomic_exchange(&ENGINE(op)->has_helper, 1) != 0) {
        Py_RETURN_NONE; /* a signal handler or another thread was first */
    }
    ENGINE(op)->helper_thread = PyThread_get_thread_ident();
    return attend(ENGINE(op), CP_DO_CALLS);
}

/* keep_workers(): replace missing workers, until the pool is gone. The body of
 * the starter thread: starting workers must not wait behind callbacks. */
static PyObject *
engine_keep_workers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (atomic_exchange(&ENGINE(op)->has_starter, 1) != 0) {
        Py_RETURN_NONE;
    }
    return attend(ENGINE(op), CP_DO_STARTS);
}

static PyObject *
engine_start_standby(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return none_or_raise(ENGINE(op), cp_pool_start_standby(ENGINE(op)->pool));
}

static PyObject *
engine_stop_standby(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_BEGIN_ALLOW_THREADS
    cp_pool_stop_standby(ENGINE(op)->pool);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* ---- the end ---- */

static PyObject *
engine_close_fds(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    cp_pool_close_fds(ENGINE(op)->pool);
    Py_RETURN_NONE;
}

static PyObject *
engine_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    py_lane_close(ENGINE(op));
    cp_pool_close(ENGINE(op)->pool);
    Py_RETURN_NONE;
}

static PyObject *
engine_end(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    py_lane_close(ENGINE(op));
    cp_pool_end(ENGINE(op)->pool);
    py_job_collect(ENGINE(op));
    Py_RETURN_NONE;
}

/* Break a pool of threads. The first exception is kept as the reason. */
static PyObject *
break_threads(EngineObject *self, PyObject *exc)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->init_error == NULL) {
        self->init_error = Py_NewRef(exc);
    }
    Py_END_CRITICAL_SECTION();
    if (cp_pool_is_ours(self->pool)) { /* an initializer may fork */
        cp_pool_break_take(self->pool, NULL);
        py_job_collect(self);
    }
    Py_RETURN_NONE;
}

static PyObject *
engine_break_pool(PyObject *op, PyObject *arg)
{
    EngineObject *self = ENGINE(op);
    if (self->threads) {
        return break_threads(self, arg);
    }
    Py_buffer view;
    if (PyObject_GetBuffer(arg, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    struct cp_result *why = cp_result_new(0, CP_RAISED, (size_t)view.len);
    if (why != NULL) {
        memcpy(why->body, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    cp_pool_break_take(self->pool, why);
    Py_RETURN_NONE;
}

/* Wait until the job of any of the results has ended; without results, until
 * all workers have ended. 1; 0 if the timeout passes first; or -1 with an
 * exception. */
static int
wait_for(EngineObject *self, struct cp_job **jobs, size_t n, PyObject *timeout)
{
    int64_t deadline, tick = 100 * CP_MS;
    if (py_timeout_deadline(self->state, timeout, &deadline) < 0) {
        return -1;
    }
    for (;;) {
        /* A signal handler may have forked meanwhile. */
        if (py_engine_check(self) < 0) {
            return -1;
        }
        if (n == 0 && py_engine_stands_still(self)) {
            return 1;
        }
        int64_t until = cp_clock_min(deadline, cp_now() + tick);
        tick = cp_clock_min(2 * tick, 60 * CP_SECOND); /* as in job/wait.c */
        py_pull_yield(self);
        int r;
        Py_BEGIN_ALLOW_THREADS
        r = n > 0 ? cp_pool_wait_any(self->pool, jobs, n, until, CP_CAN_FORK)
                  : cp_pool_wait(self->pool, NULL, until, CP_CAN_FORK);
        Py_END_ALLOW_THREADS
        if (r == CP_WAIT_READY) {
            return 1;
        }
        if (r == CP_WAIT_WORKERS) {
            if (py_engine_replace_workers(self) < 0) {
                return -1;
            }
        } else if (r != CP_WAIT_TIMEOUT && r != CP_EINTR) {
            (void)py_raise(self->state, r);
            return -1;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (r == CP_WAIT_TIMEOUT && until == deadline) {
            return 0;
        }
    }
}

/* wait_pending(most, seconds): wait until fewer than `most` calls are waiting.
 * True; or False if the time passes first. */
static PyObject *
engine_wait_pending(PyObject *op, PyObject *args)
{
    EngineObject *self = ENGINE(op);
    unsigned long long most;
    double seconds;
    if (!PyArg_ParseTuple(args, "Kd:wait_pending", &most, &seconds)
        || py_engine_check(self) < 0) {
        return NULL;
    }
    bool found = cp_pool_wait_pending(self->pool, most, 0);
    if (!found && seconds > 0) {
        int64_t until = cp_now() + (int64_t)(seconds * (double)CP_SECOND);
        py_pull_yield(self);
        Py_BEGIN_ALLOW_THREADS
        found = cp_pool_wait_pending(self->pool, most, until);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    return PyBool_FromLong(found);
}

/* wait_ended(timeout): run the event loop until all workers have ended: True;
 * or False if the timeout passes first. */
static PyObject *
engine_wait_ended(PyObject *op, PyObject *timeout)
{
    int r = wait_for(ENGINE(op), NULL, 0, timeout);
    if (r == 1) {
        py_job_collect(ENGINE(op));
    }
    return r < 0 ? NULL : PyBool_FromLong(r);
}

/* The jobs of the results in the tuple, for PyMem_Free(); or NULL with an exception. */
static struct cp_job **
jobs_of(EngineObject *self, PyObject *results)
{
    Py_ssize_t n = PyTuple_GET_SIZE(results);
    struct cp_job **jobs = PyMem_Calloc((size_t)n + 1, sizeof(*jobs));
    if (jobs == NULL) {
        (void)PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *result = PyTuple_GET_ITEM(results, i);
        if (!PyObject_TypeCheck(result, self->state->result_type)
            || ((ResultObject *)result)->engine != self) {
            PyErr_SetString(PyExc_TypeError, "results of this pool are needed");
            PyMem_Free(jobs);
            return NULL;
        }
        jobs[i] = ((ResultObject *)result)->job;
    }
    return jobs;
}

/* The jobs that are done: [(order, place), ...]. */
static PyObject *
done_jobs(struct cp_job *const *jobs, Py_ssize_t n)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        if (!atomic_load(&jobs[i]->done)) {
            continue;
        }
        PyObject *pair =
            Py_BuildValue("(Kn)", (unsigned long long)jobs[i]->done_order, i);
        if (py_list_append_take(list, pair) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* wait_any(results, timeout): wait until any of the results is ready. Returns,
 * for each ready one, the number of its job in the order in which jobs ended,
 * and its place in the list. */
static PyObject *
engine_wait_any(PyObject *op, PyObject *args)
{
    EngineObject *self = ENGINE(op);
    PyObject *list, *timeout, *ready = NULL;
    if (!PyArg_ParseTuple(args, "OO:wait_any", &list, &timeout)) {
        return NULL;
    }
    PyObject *results =
        PySequence_Tuple(list); /* holds the results, and so their jobs */
    struct cp_job **jobs = results != NULL ? jobs_of(self, results) : NULL;
    Py_ssize_t n = results != NULL ? PyTuple_GET_SIZE(results) : 0;
    if (jobs != NULL
        && (n == 0 || wait_for(self, jobs, (size_t)n, timeout) >= 0)) {
        ready = done_jobs(jobs, n);
    }
    PyMem_Free(jobs);
    Py_XDECREF(results);
    return ready;
}

/* is_deadlock(results): would this thread, which runs callbacks, wait only for
 * results whose callbacks run after the present ones? */
static PyObject *
engine_is_deadlock(PyObject *op, PyObject *list)
{
    EngineObject *self = ENGINE(op);
    if (self->helper_thread != PyThread_get_thread_ident()) {
        Py_RETURN_FALSE;
    }
    PyObject *results = PySequence_Tuple(list);
    struct cp_job **jobs = results != NULL ? jobs_of(self, results) : NULL;
    bool found = jobs != NULL;
    for (Py_ssize_t i = 0; found && i < PyTuple_GET_SIZE(results); i++) {
        found = (jobs[i]->flags & CP_JOB_CALLS) != 0;
    }
    bool failed = jobs == NULL;
    PyMem_Free(jobs);
    Py_XDECREF(results);
    return failed ? NULL : PyBool_FromLong(found);
}

/* ---- inspection ---- */

static PyObject *
engine_counts(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct cp_counts c;
    if (py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    cp_pool_count(ENGINE(op)->pool, &c);
    return Py_BuildValue("KKII", (unsigned long long)c.pending,
                         (unsigned long long)c.queued, c.ready,
                         c.failed_starts);
}

static PyObject *
tally_of(const struct cp_tally *t, int64_t busy_ns)
{
    return Py_BuildValue(
        "(iKKKKKKKKLLL)", t->pid, (unsigned long long)t->starts,
        (unsigned long long)t->tasks, (unsigned long long)t->done,
        (unsigned long long)t->failed, (unsigned long long)t->lost,
        (unsigned long long)t->retried, (unsigned long long)t->bytes_out,
        (unsigned long long)t->bytes_in, (long long)(t->work_ns + busy_ns),
        (long long)t->start_ns, (long long)t->ready_ns);
}

static PyObject *
long_task_of(const struct cp_long *it)
{
    return Py_BuildValue("(LKIIIiiy#)", (long long)it->ns,
                         (unsigned long long)it->index, it->stride, it->items,
                         it->worker, it->pid, (int)it->outcome,
                         it->func != NULL ? (const char *)it->func : "",
                         (Py_ssize_t)it->func_len);
}

static PyObject *
sight_of(const struct cp_sight *it)
{
    PyObject *stack =
        it->stack_len < 0
            ? Py_NewRef(Py_None)
            : PyBytes_FromStringAndSize((const char *)it->stack, it->stack_len);
    return stack == NULL
               ? NULL
               : Py_BuildValue(
                   "(IiOOOKIIILy#N)", it->index, it->pid,
                   it->hello ? Py_True : Py_False,
                   it->exiting ? Py_True : Py_False,
                   it->runs ? Py_True : Py_False, (unsigned long long)it->task,
                   it->stride, it->items, it->item, (long long)it->ns,
                   (const char *)it->func, (Py_ssize_t)it->func_len, stack);
}

/* ask_stacks(): ask the worker processes for their stacks, which sights()
 * returns soon after. */
static PyObject *
engine_ask_stacks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    cp_pool_ask_stacks(ENGINE(op)->pool);
    Py_RETURN_NONE;
}

/* sights(): what each worker process is doing. */
static PyObject *
engine_sights(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    size_t n;
    struct cp_sight *sights = cp_pool_sights(ENGINE(op)->pool, &n);
    if (sights == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < n; i++) {
        if (py_list_append_take(list, sight_of(&sights[i])) < 0) {
            Py_CLEAR(list);
        }
    }
    free(sights);
    return list;
}

/* trace(since): begin to trace what the pool does, as a part of a trace that
 * began at this time. */
static PyObject *
engine_trace(PyObject *op, PyObject *arg)
{
    int64_t since = PyLong_AsLongLong(arg);
    if ((since == -1 && PyErr_Occurred()) || py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    int r = cp_pool_trace(ENGINE(op)->pool, since);
    if (r != 0) {
        return py_raise(ENGINE(op)->state, r);
    }
    Py_RETURN_NONE;
}

static PyObject *
span_of(const struct cp_span *it)
{
    return Py_BuildValue("(LLLLKKIIIIiHBB)", (long long)it->began,
                         (long long)it->ended, (long long)it->busy,
                         (long long)it->waited, (unsigned long long)it->call,
                         (unsigned long long)it->index, it->tasks, it->items,
                         it->stride, it->worker, it->pid, it->name, it->outcome,
                         it->reason);
}

static PyObject *
work_of(const struct cp_trace *trace, const struct cp_work_span *it)
{
    return Py_BuildValue("(LL(LLL)(KKK)K)", (long long)it->began,
                         (long long)it->ended, (long long)it->ns[CP_WORK_FEED],
                         (long long)it->ns[CP_WORK_DECODE],
                         (long long)it->ns[CP_WORK_CALLBACK],
                         (unsigned long long)it->n[CP_WORK_FEED],
                         (unsigned long long)it->n[CP_WORK_DECODE],
                         (unsigned long long)it->n[CP_WORK_CALLBACK],
                         (unsigned long long)trace->lanes[it->lane].thread);
}

/* end_trace(): (since, how many spans were dropped, [the bytes of each
 * function], [spans], [work of threads of this process]), or None if no trace
 * was on. Times are in ns of the monotonic clock. A span has the members of
 * struct cp_span; work has those of struct cp_work_span, and the id of its
 * thread. */
static PyObject *
engine_end_trace(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    struct cp_trace *trace = cp_pool_trace_take(ENGINE(op)->pool);
    if (trace == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *names = PyList_New(0), *spans = PyList_New(0);
    PyObject *work = PyList_New(0), *found = NULL;
    int r = names != NULL && spans != NULL && work != NULL ? 0 : -1;
    for (uint16_t i = 0; r == 0 && i < trace->n_names; i++) {
        const struct cp_trace_name *name = &trace->names[i];
        r = py_list_append_take(
            names, PyBytes_FromStringAndSize((const char *)name->bytes,
                                             (Py_ssize_t)name->len));
    }
    for (size_t i = 0; r == 0 && i < trace->n; i++) {
        r = py_list_append_take(spans, span_of(&trace->spans[i]));
    }
    for (size_t i = 0; r == 0 && i < trace->n_work; i++) {
        r = py_list_append_take(work, work_of(trace, &trace->work[i]));
    }
    if (r == 0) {
        found = Py_BuildValue("(LKOOO)", (long long)trace->since,
                              (unsigned long long)trace->dropped, names, spans,
                              work);
    }
    Py_XDECREF(names);
    Py_XDECREF(spans);
    Py_XDECREF(work);
    cp_trace_free(trace);
    return found;
}

/* tallies(): the counts: (submitted, cancelled, failed without a worker, [for
 * each worker index], [the longest tasks], those of workers for which there was
 * no memory, bytes of shared memory, and those of them in use). Works after the pool
 * has ended too. */
static PyObject *
engine_tallies(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = ENGINE(op);
    struct cp_tallies all;
    if (py_engine_check(self) < 0) {
        return NULL;
    }
    int r = cp_pool_tallies(self->pool, &all);
    if (r != 0) {
        return py_raise(self->state, r);
    }
    PyObject *workers = PyList_New(0), *longest = PyList_New(0), *found = NULL;
    r = workers != NULL && longest != NULL ? 0 : -1;
    int64_t now = cp_now();
    for (uint32_t i = 0; r == 0 && i < all.n; i++) {
        int64_t ns = self->threads ? py_thread_busy_ns(self, i, now) : 0;
        r = py_list_append_take(workers, tally_of(&all.workers[i], ns));
    }
    for (size_t i = 0; r == 0 && i < CP_LONGEST && all.longest[i].ns > 0; i++) {
        r = py_list_append_take(longest, long_task_of(&all.longest[i]));
    }
    PyObject *none = r == 0 ? tally_of(&all.none, 0) : NULL;
    if (none != NULL) {
        found =
            Py_BuildValue("(KKKOONKK)", (unsigned long long)all.submitted,
                          (unsigned long long)all.cancelled,
                          (unsigned long long)all.failed_here, workers, longest,
                          none, (unsigned long long)all.memory.total,
                          (unsigned long long)all.memory.used);
    }
    Py_XDECREF(workers);
    Py_XDECREF(longest);
    cp_tallies_free(&all);
    return found;
}

struct job_list {
    PyObject **results;
    uint64_t n, cap;
    uint32_t each; /* CP_JOB_EACH: only jobs of lanes; 0: the others */
};

static void
visit_job(struct cp_job *job, void *arg)
{
    struct job_list *list = arg;
    if (list->n < list->cap && job->user != NULL
        && (job->flags & CP_JOB_EACH) == list->each) {
        /* Safe: a job that is not done keeps its `user` alive, if it has
         * one. */
        list->results[list->n++] = Py_NewRef((PyObject *)job->user);
    }
}

/* Put new references to the `user` of each job that is not done into
 * list->results, for PyMem_Free(). 0, or -1 with MemoryError. */
static int
list_jobs(EngineObject *self, struct job_list *list)
{
    struct cp_counts c;
    cp_pool_count(self->pool, &c);
    list->cap = c.pending;
    list->results = PyMem_Calloc(c.pending + 1, sizeof(PyObject *));
    if (list->results == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    cp_pool_each_job(self->pool, visit_job, list);
    return 0;
}

/* The result that a job holds, strongly or weakly; NULL if it is gone. */
static ResultObject *
strong_take(PyObject *user)
{
    if (PyWeakref_CheckRef(user)) {
        PyObject *result = py_result_of_weak(user);
        Py_DECREF(user);
        user = result;
    }
    return (ResultObject *)user;
}

/* jobs(): the jobs that are not done, {number: result}. */
static PyObject *
engine_jobs(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = ENGINE(op);
    struct job_list list = {0};
    if (py_engine_check(self) < 0) {
        return NULL;
    }
    PyObject *dict = PyDict_New();
    if (dict == NULL || list_jobs(self, &list) < 0) {
        Py_XDECREF(dict);
        return NULL;
    }
    for (uint64_t i = 0; i < list.n; i++) {
        ResultObject *result = strong_take(list.results[i]);
        if (result != NULL) {
            PyObject *key = PyLong_FromUnsignedLongLong(result->job->id);
            if (key == NULL
                || PyDict_SetItem(dict, key, (PyObject *)result) < 0) {
                PyErr_Clear();
            }
            Py_XDECREF(key);
            Py_DECREF(result);
        }
    }
    PyMem_Free(list.results);
    return dict;
}

/* pending_futures(): the futures of the calls that have not ended. */
static PyObject *
engine_pending_futures(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = ENGINE(op);
    struct job_list list = {.each = CP_JOB_EACH};
    if (py_engine_check(self) < 0) {
        return NULL;
    }
    PyObject *all = PyList_New(0);
    if (all == NULL || list_jobs(self, &list) < 0) {
        Py_XDECREF(all);
        return NULL;
    }
    for (uint64_t i = 0; i < list.n; i++) {
        LaneObject *lane = (LaneObject *)list.results[i];
        PyObject *futures = all == NULL ? NULL : py_lane_futures(lane);
        if (futures == NULL
            || PyList_SetSlice(all, PY_SSIZE_T_MAX, PY_SSIZE_T_MAX, futures)
                   < 0) {
            Py_CLEAR(all);
        }
        Py_XDECREF(futures);
        Py_DECREF(lane);
    }
    PyMem_Free(list.results);
    return all;
}

/* unanswered(): how many tasks have no answer yet, kept calls included. */
static PyObject *
engine_unanswered(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(cp_pool_unanswered(ENGINE(op)->pool)
                                       + atomic_load(&ENGINE(op)->n_kept));
}

/* glance(hand_over): see py_lane_glance(). True: there were results. */
static PyObject *
engine_glance(PyObject *op, PyObject *hand_over)
{
    int any = py_lane_glance(ENGINE(op), hand_over);
    return any < 0 ? NULL : PyBool_FromLong(any);
}

/* failure(): why the pool is broken, or None. */
static PyObject *
engine_failure(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (py_engine_check(ENGINE(op)) < 0) {
        return NULL;
    }
    return py_failure_of_pool(ENGINE(op));
}

static PyObject *
engine_get_is_ours(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(cp_pool_is_ours(ENGINE(op)->pool));
}

static PyObject *
engine_get_cache(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(ENGINE(op)->cache);
}

static PyObject *
engine_get_target(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(cp_pool_target(ENGINE(op)->pool));
}

static PyGetSetDef engine_getset[] = {
    {"target", engine_get_target, NULL, NULL, NULL},
    {"is_ours", engine_get_is_ours, NULL, NULL, NULL},
    {"cache", engine_get_cache, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* pull_all(iterable): list(iterable), taking turns with the other pulls of the
 * pool. */
static PyObject *
engine_pull_all(PyObject *op, PyObject *iterable)
{
    return py_source_list(ENGINE(op), iterable);
}

static PyMethodDef engine_methods[] = {
    {"worker", engine_worker, METH_VARARGS, NULL},
    {"set_sender", engine_set_sender, METH_O, NULL},
    {"share", engine_share, METH_NOARGS, NULL},
    {"set_elastic", engine_set_elastic, METH_VARARGS, NULL},
    {"set_trees", engine_set_trees, METH_NOARGS, NULL},
    {"kill_trees", engine_kill_trees, METH_NOARGS, NULL},
    {"set_memory_limit", engine_set_memory_limit, METH_O, NULL},
    {"open_memory", engine_open_memory, METH_O, NULL},
    {"share_object", py_share_object, METH_O, NULL},
    {"set_target", engine_set_target, METH_O, NULL},
    {"retire", engine_retire, METH_VARARGS, NULL},
    {"set_indexes", engine_set_indexes, METH_O, NULL},
    {"unplaced", engine_unplaced, METH_NOARGS, NULL},
    {"not_started", engine_not_started, METH_NOARGS, NULL},
    {"signal", engine_signal, METH_O, NULL},
    {"hang_up", engine_hang_up, METH_NOARGS, NULL},
    {"submit", (PyCFunction)(void (*)(void))py_submit_call, METH_FASTCALL,
     NULL},
    {"call", (PyCFunction)(void (*)(void))engine_call, METH_FASTCALL, NULL},
    {"apply", (PyCFunction)(void (*)(void))py_submit_apply, METH_FASTCALL,
     NULL},
    {"feed", py_submit_feed, METH_VARARGS, NULL},
    {"run", py_submit_run, METH_VARARGS, NULL},
    {"cancel", py_submit_cancel, METH_O, NULL},
    {"pull_all", engine_pull_all, METH_O, NULL},
    {"end_call", py_submit_end_call, METH_O, NULL},
    {"feed_one", py_submit_feed_one, METH_O, NULL},
    {"feed_rest", py_submit_feed_rest, METH_O, NULL},
    {"feed_calls", py_kept_feed, METH_NOARGS, NULL},
    {"finish_calls", py_submit_finish_calls, METH_NOARGS, NULL},
    {"help", engine_help, METH_NOARGS, NULL},
    {"call_back", engine_call_back, METH_NOARGS, NULL},
    {"keep_workers", engine_keep_workers, METH_NOARGS, NULL},
    {"enter", py_thread_enter, METH_O, NULL},
    {"work", py_thread_work, METH_O, NULL},
    {"run_queued", py_thread_run_queued, METH_NOARGS, NULL},
    {"tasks_done", py_thread_tasks_done, METH_NOARGS, NULL},
    {"leave", py_thread_leave, METH_O, NULL},
    {"start_standby", engine_start_standby, METH_NOARGS, NULL},
    {"stop_standby", engine_stop_standby, METH_NOARGS, NULL},
    {"close", engine_close, METH_NOARGS, NULL},
    {"close_fds", engine_close_fds, METH_NOARGS, NULL},
    {"end", engine_end, METH_NOARGS, NULL},
    {"break_pool", engine_break_pool, METH_O, NULL},
    {"wait_pending", engine_wait_pending, METH_VARARGS, NULL},
    {"wait_ended", engine_wait_ended, METH_O, NULL},
    {"wait_any", engine_wait_any, METH_VARARGS, NULL},
    {"is_deadlock", engine_is_deadlock, METH_O, NULL},
    {"counts", engine_counts, METH_NOARGS, NULL},
    {"tallies", engine_tallies, METH_NOARGS, NULL},
    {"trace", engine_trace, METH_O, NULL},
    {"end_trace", engine_end_trace, METH_NOARGS, NULL},
    {"ask_stacks", engine_ask_stacks, METH_NOARGS, NULL},
    {"sights", engine_sights, METH_NOARGS, NULL},
    {"busy_threads", py_thread_busy, METH_NOARGS, NULL},
    {"pending_futures", engine_pending_futures, METH_NOARGS, NULL},
    {"unanswered", engine_unanswered, METH_NOARGS, NULL},
    {"glance", engine_glance, METH_O, NULL},
    {"failure", engine_failure, METH_NOARGS, NULL},
    {"jobs", engine_jobs, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_new, engine_new},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_getset},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "cpool._core.Engine",
    .basicsize = sizeof(EngineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};

int
py_engine_add_type(PyObject *module, struct py_state *state)
{
    state->engine_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &engine_spec, NULL);
    return state->engine_type == NULL
               ? -1
               : PyModule_AddType(module, state->engine_type);
}
