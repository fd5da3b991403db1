/*
 * The life of a pool, and its public entries, each of one shape: take the lock,
 * change the state by functions that record, cp_act(), release the lock.
 */
#include "pool/pool.h"

#include "pool/act.h"
#include "pool/flow.h"
#include "pool/func.h"
#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/spin.h"
#include "pool/tally.h"
#include "pool/turns.h"
#include "pool/wake.h"
#include "pool/watch.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How many jobs cp_job_close_later() leaves open at most. */
#define CLOSE_AT 64u

int
cp_pool_new(uint32_t target, struct cp_pool **out)
{
    struct cp_pool *pool;
    int r = cp_pool_alloc(target, &pool);
    *out = NULL;
    if (r != 0) {
        return r;
    }
    pool->n_cpus = cp_spin_count_cpus();
    if ((r = cp_common_open(&pool->common)) != 0
        || (r = cp_fd_pipe(pool->life)) != 0
        || (r = cp_wake_init(&pool->wake)) != 0
        || (r = cp_poller_new(&pool->poller)) != 0
        || (r = cp_poller_add(pool->poller, pool->wake.fds[0], CP_IN,
                              CP_TAG_WAKE))
               != 0) {
        cp_pool_unref(pool);
        return r;
    }
    *out = pool;
    return 0;
}

int
cp_pool_new_threads(uint32_t target, cp_release *release, bool take_turns,
                    struct cp_pool **out)
{
    int r = cp_pool_alloc(target, out);
    if (r == 0) {
        (*out)->n_cpus = cp_spin_count_cpus();
        (*out)->threads.release = release;
        (*out)->threads.take_turns = take_turns;
        /* Worker threads hand in their results themselves, so nobody else may
         * take the seat. */
        (*out)->driving = true;
    }
    return r;
}

int
cp_pool_share(struct cp_pool *pool)
{
    struct cp_common *common;
    int r = cp_common_share(&common, &pool->common_fd);
    if (r == 0) {
        cp_common_close(pool->common);
        pool->common = common;
    }
    return r;
}

int
cp_pool_set_memory_limit(struct cp_pool *pool, uint64_t bytes)
{
    uint64_t own;
    int r = cp_proc_memory(getpid(), &own);
    if (r == 0) {
        pool->memory_limit = bytes;
    }
    return r;
}

uint64_t
cp_pool_memory_limit(const struct cp_pool *pool)
{
    return pool->memory_limit;
}

int
cp_pool_common_fd(const struct cp_pool *pool)
{
    return pool->common_fd;
}

struct cp_common *
cp_pool_common(struct cp_pool *pool)
{
    return pool->common;
}

int
cp_pool_open_memory(struct cp_pool *pool, uint64_t limit)
{
    int r = cp_region_open(limit, &pool->region);
    r = r == 0 ? cp_area_open(pool->region, 0, &pool->area) : r;
    r = r == 0 ? cp_heap_new(pool->area, &pool->heap) : r;
    if (r != 0) {
        cp_pool_free_memory(pool);
    }
    return r;
}

struct cp_heap *
cp_pool_heap(const struct cp_pool *pool)
{
    return pool->heap;
}

struct cp_region *
cp_pool_region(const struct cp_pool *pool)
{
    return pool->region;
}

int
cp_pool_memory_fd(const struct cp_pool *pool)
{
    return pool->region != NULL ? cp_region_fd(pool->region) : -1;
}

/* Give the worker an area of the shared memory; without one it uses the
 * pipes. */
static void
share_with(struct cp_pool *pool, struct cp_worker *w)
{
    cp_lock_acquire(&pool->lock);
    uint32_t id = pool->next_area + 1;
    if (pool->heap != NULL && id < CP_AREAS
        && cp_worker_share(w, pool->area, pool->heap, id) == 0) {
        pool->next_area = id;
    }
    cp_lock_release(&pool->lock);
}

/* ---- workers ---- */

int
cp_pool_new_worker(struct cp_pool *pool, uint64_t budget, struct cp_worker **w)
{
    int life;
    *w = NULL;
    cp_lock_acquire(&pool->lock);
    bool execs = pool->common_fd >= 0;
    int r = pool->life[0] < 0 ? CP_ECLOSED
            : execs           ? cp_fd_dup(pool->life[0], &life)
                              : cp_proc_open_life(pool->life[0], &life);
    cp_lock_release(&pool->lock);
    bool is_own = r == 1;
    if (r >= 0) {
        r = cp_worker_new(budget, execs ? NULL : &pool->rows, life, w);
    }
    if (r == 0) {
        (*w)->life_is_own = is_own;
        (*w)->common = pool->common;
        atomic_store(&(*w)->row->parent, (int32_t)pool->owner);
        atomic_store(&(*w)->row->memory_limit, pool->memory_limit);
        share_with(pool, *w);
    }
    return r;
}

int
cp_pool_add_worker(struct cp_pool *pool, struct cp_worker *w)
{
    cp_lock_acquire(&pool->lock);
    int r = pool->state == CP_ENDED ? CP_ECLOSED : cp_watch_add(pool, w);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return r;
}

void
cp_pool_report_start_failure(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    cp_watch_on_start_failure(pool);
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

int
cp_pool_lend_sentinel(struct cp_pool *pool, struct cp_worker *w)
{
    int fd = cp_proc_open_sentinel(&w->proc, true);
    if (fd >= 0 && cp_proc_needs_polling(&w->proc)) {
        (void)cp_pool_start_standby(pool); /* perhaps no thread waits */
        cp_lock_acquire(&pool->lock);
        cp_note_standby(pool);
        cp_note_driver(pool);
        cp_act(pool);
        cp_lock_release(&pool->lock);
    }
    return fd;
}

void
cp_pool_release_sentinel(struct cp_pool *pool, struct cp_worker *w)
{
    cp_lock_acquire(&pool->lock);
    cp_watch_release_sentinel(pool, w);
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

uint32_t
cp_pool_set_target(struct cp_pool *pool, uint32_t target)
{
    cp_lock_acquire(&pool->lock);
    pool->target = target;
    uint32_t n = cp_plan_at_work(pool);
    if (cp_pool_has_threads(pool)) {
        pool->threads.n_retire = n > target ? n - target : 0;
        pool->due |= CP_DUE_RETIRE;
        cp_act(pool);
    }
    cp_lock_release(&pool->lock);
    return n < target ? target - n : 0;
}

void
cp_pool_set_elastic(struct cp_pool *pool, uint32_t least, uint32_t most,
                    int64_t idle_ns)
{
    cp_lock_acquire(&pool->lock);
    pool->least = least;
    pool->most = most;
    pool->idle_ns = idle_ns;
    cp_note_driver(pool); /* it may sleep for longer than it should now */
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

uint32_t
cp_pool_target(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    uint32_t target = pool->target;
    cp_lock_release(&pool->lock);
    return target;
}

void
cp_pool_retire(struct cp_pool *pool, uint32_t n, uint32_t from)
{
    cp_lock_acquire(&pool->lock);
    cp_watch_retire(pool, n, from);
    cp_act(pool);
    cp_unlock(pool);
}

void
cp_pool_signal(struct cp_pool *pool, int signal)
{
    cp_lock_acquire(&pool->lock);
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        (void)cp_proc_kill(&w->proc, signal);
    }
    cp_lock_release(&pool->lock);
}

void
cp_pool_set_trees(struct cp_pool *pool)
{
    pool->kills_trees = true;
}

static bool
yes(void *arg)
{
    (void)arg;
    return true;
}

/* Kill workers with all of their descendants. The lock is released for each. */
static void
kill_trees(struct cp_pool *pool, bool busy_only)
{
    uint64_t id = 0;
    for (;;) {
        struct cp_worker *w = pool->workers; /* sorted by id */
        while (
            w != NULL
            && (w->id <= id || (busy_only && w->hello && w->in_flight == 0))) {
            w = w->next;
        }
        if (w == NULL) {
            return;
        }
        id = w->id;
        cp_worker_ref(w);
        cp_lock_release(&pool->lock);
        (void)cp_proc_kill_tree(&w->proc, yes, NULL);
        cp_lock_acquire(&pool->lock);
        cp_worker_unref(w);
    }
}

void
cp_pool_kill_trees(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    if (pool->kills_trees) {
        kill_trees(pool, false);
    }
    cp_lock_release(&pool->lock);
}

void
cp_pool_hang_up(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    cp_fd_close(&pool->life[0]);
    cp_fd_close(&pool->life[1]);
    cp_lock_release(&pool->lock);
}

void
cp_pool_count(struct cp_pool *pool, struct cp_counts *counts)
{
    cp_lock_acquire(&pool->lock);
    counts->pending = pool->pending;
    counts->queued = pool->queued + pool->n_pinned;
    counts->workers = pool->n_workers;
    counts->overdue = pool->n_overdue;
    counts->ready = 0;
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        counts->ready += w->hello && !w->overdue && !w->retiring ? 1 : 0;
    }
    counts->failed_starts = pool->failed_starts;
    cp_lock_release(&pool->lock);
}

void
cp_pool_ask_stacks(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        cp_worker_ask_stack(w);
    }
    cp_lock_release(&pool->lock);
}

static void
look_at(const struct cp_worker *w, int64_t now, struct cp_sight *sight)
{
    uint64_t seq;
    int64_t since;
    size_t len;
    const struct cp_task *task = cp_worker_running(w, &seq, &since);
    *sight = (struct cp_sight){.id = w->id,
                               .index = w->index,
                               .pid = (int)w->proc.pid,
                               .hello = cp_worker_is_ready(w),
                               .exiting = w->exiting || w->eof,
                               .runs = task != NULL};
    sight->stack_len = cp_stack_get(w->row, sight->stack);
    if (task == NULL) {
        return;
    }
    sight->task = task->index;
    sight->stride = task->job->stride;
    sight->items = task->items;
    uint32_t item = atomic_load_explicit(&w->row->item, memory_order_relaxed);
    sight->item = item < task->items ? item : 0;
    sight->ns = now > since ? now - since : 0;
    const uint8_t *func = cp_tally_func(task, &len);
    sight->func_len = len < sizeof(sight->func) ? len : sizeof(sight->func);
    if (sight->func_len > 0) {
        memcpy(sight->func, func, sight->func_len);
    }
}

struct cp_sight *
cp_pool_sights(struct cp_pool *pool, size_t *n)
{
    cp_lock_acquire(&pool->lock);
    int64_t now = cp_now();
    struct cp_sight *sights = calloc(pool->n_workers + 1, sizeof(*sights));
    *n = 0;
    for (const struct cp_worker *w = pool->workers; sights != NULL && w != NULL;
         w = w->next) {
        look_at(w, now, &sights[(*n)++]);
    }
    cp_lock_release(&pool->lock);
    return sights;
}

int
cp_pool_tallies(struct cp_pool *pool, struct cp_tallies *copy)
{
    cp_lock_acquire(&pool->lock);
    int r = cp_tally_copy(pool, copy);
    cp_lock_release(&pool->lock);
    if (r == 0 && pool->heap != NULL) {
        cp_heap_usage(pool->heap, &copy->memory);
    }
    return r;
}

int
cp_pool_trace(struct cp_pool *pool, int64_t since)
{
    struct cp_trace *trace = cp_trace_new(since);
    if (trace == NULL) {
        return CP_ENOMEM;
    }
    cp_lock_acquire(&pool->lock);
    struct cp_trace *before = pool->trace;
    pool->trace = trace;
    atomic_store(&pool->is_traced, true);
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        atomic_store_explicit(&w->row->is_traced, 1, memory_order_relaxed);
    }
    cp_lock_release(&pool->lock);
    cp_trace_free(before);
    return 0;
}

bool
cp_pool_is_traced(const struct cp_pool *pool)
{
    return atomic_load_explicit(&pool->is_traced, memory_order_relaxed);
}

void
cp_pool_trace_work(struct cp_pool *pool, enum cp_work kind, uint64_t thread,
                   int64_t began, int64_t ended)
{
    cp_lock_acquire(&pool->lock);
    if (pool->trace != NULL) {
        cp_trace_work(pool->trace, kind, thread, began, ended);
    }
    cp_lock_release(&pool->lock);
}

struct cp_trace *
cp_pool_trace_take(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    struct cp_trace *trace = pool->trace;
    if (trace != NULL) {
        cp_tally_trace_lives(pool);
    }
    pool->trace = NULL;
    atomic_store(&pool->is_traced, false);
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        atomic_store_explicit(&w->row->is_traced, 0, memory_order_relaxed);
    }
    cp_lock_release(&pool->lock);
    if (trace != NULL) {
        cp_trace_end(trace);
    }
    return trace;
}

uint64_t
cp_pool_unanswered(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    uint64_t n = pool->queued + pool->n_pinned;
    for (const struct cp_job *job = pool->all_first; job != NULL;
         job = job->all_next) {
        n += job->running;
    }
    cp_lock_release(&pool->lock);
    return n;
}

void
cp_pool_set_indexes(struct cp_pool *pool, uint32_t n)
{
    cp_lock_acquire(&pool->lock);
    pool->n_indexes = n;
    cp_jobs_lose_unplaced(pool);
    cp_act(pool);
    cp_unlock(pool);
}

uint32_t
cp_pool_next_unplaced(struct cp_pool *pool, uint32_t from)
{
    cp_lock_acquire(&pool->lock);
    uint32_t index = cp_plan_next_unplaced(pool, from);
    cp_lock_release(&pool->lock);
    return index;
}

/* ---- callables ---- */

struct cp_func *
cp_func_open(struct cp_pool *pool, const void *bytes, size_t len,
             uint16_t flags)
{
    cp_lock_acquire(&pool->lock);
    struct cp_func *func = cp_funcs_open(pool, bytes, len, flags);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return func;
}

struct cp_func *
cp_func_open_sealed(struct cp_pool *pool, struct cp_parts *parts,
                    const void *name, size_t len, uint16_t flags)
{
    cp_lock_acquire(&pool->lock);
    struct cp_func *func = cp_funcs_open_sealed(pool, parts, name, len, flags);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return func;
}

int
cp_func_use(struct cp_pool *pool, struct cp_func *func, struct cp_parts *parts)
{
    bool is_new = false;
    cp_lock_acquire(&pool->lock);
    int r = func->is_closed ? CP_ECLOSED : cp_use_add(parts, func, &is_new);
    if (is_new) {
        (void)atomic_fetch_add(&func->users, 1);
    }
    cp_lock_release(&pool->lock);
    return r;
}

void
cp_share_close_take(struct cp_pool *pool, struct cp_func *func)
{
    cp_lock_acquire(&pool->lock);
    func->is_closed = true;
    atomic_store(&pool->has_unused, true);
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

void
cp_func_close(struct cp_pool *pool, struct cp_func *func)
{
    cp_lock_acquire(&pool->lock);
    cp_funcs_unref(pool, func);
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

/* ---- jobs ---- */

/* Close what cp_job_close_later() has left. Returns how many references to the
 * pool the caller has to drop, without the lock. */
static uint32_t
close_all(struct cp_pool *pool)
{
    struct cp_job *job =
        atomic_exchange_explicit(&pool->closing, NULL, memory_order_acquire);
    uint32_t n = 0;
    while (job != NULL) {
        struct cp_job *next = job->closing_next;
        cp_jobs_unref(job);
        job = next;
        n++;
    }
    (void)atomic_fetch_sub_explicit(&pool->n_closing, n, memory_order_relaxed);
    return n;
}

static void
unref_pool(struct cp_pool *pool, uint32_t n)
{
    while (n-- > 0) {
        cp_pool_unref(pool);
    }
}

void
cp_pool_close_late(struct cp_pool *pool)
{
    if (atomic_load_explicit(&pool->closing, memory_order_relaxed) == NULL) {
        return;
    }
    cp_lock_acquire(&pool->lock);
    uint32_t n = close_all(pool);
    cp_act(pool);
    cp_unlock(pool);
    unref_pool(pool, n);
}

void
cp_job_close_later(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    struct cp_job *first =
        atomic_load_explicit(&pool->closing, memory_order_relaxed);
    do {
        job->closing_next = first;
    } while (!atomic_compare_exchange_weak_explicit(&pool->closing, &first, job,
                                                    memory_order_release,
                                                    memory_order_relaxed));
    if (atomic_fetch_add_explicit(&pool->n_closing, 1, memory_order_relaxed)
        >= CLOSE_AT) {
        cp_pool_close_late(pool);
    }
}

int
cp_job_open(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
            void *user, struct cp_job **out)
{
    cp_lock_acquire(&pool->lock);
    int r = cp_jobs_open(pool, func, flags, user, out);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return r;
}

int
cp_job_open_call_take(struct cp_pool *pool, uint32_t flags, void *user,
                      struct cp_task *task, struct cp_job **out, bool *held)
{
    *held = false;
    cp_lock_acquire(&pool->lock);
    uint32_t n_closed =
        atomic_load_explicit(&pool->closing, memory_order_relaxed) != NULL
            ? close_all(pool)
            : 0;
    int r = cp_jobs_open(pool, NULL, flags, NULL, out);
    if (r != 0) {
        cp_drop_task(pool, task);
    } else {
        if ((*out)->is_listed) { /* the pool is not broken */
            (*out)->user = user;
            *held = true;
        }
        cp_jobs_queue_take(*out, task, true);
    }
    cp_act(pool);
    cp_unlock(pool);
    unref_pool(pool, n_closed); /* never the last one: the caller has one */
    return r;
}

bool
cp_job_hold(struct cp_job *job, void *user)
{
    cp_lock_acquire(&job->pool->lock);
    bool held = job->is_listed && job->user == NULL;
    if (held) {
        job->user = user;
    }
    cp_lock_release(&job->pool->lock);
    return held;
}

void
cp_job_set_func(struct cp_job *job, struct cp_func *func)
{
    cp_lock_acquire(&job->pool->lock);
    CP_ASSERT(job->func == NULL);
    func->refs++;
    job->func = func;
    cp_lock_release(&job->pool->lock);
}

void
cp_job_ref(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    job->refs++;
    cp_pool_ref(job->pool);
    cp_lock_release(&job->pool->lock);
}

void
cp_pool_close_jobs(struct cp_pool *pool, struct cp_job *list)
{
    uint32_t n = 0;
    cp_lock_acquire(&pool->lock);
    while (list != NULL) {
        struct cp_job *next = list->call_next;
        cp_jobs_unref(list);
        list = next;
        n++;
    }
    cp_act(pool);
    cp_unlock(pool);
    unref_pool(pool, n);
}

void
cp_job_close(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_jobs_unref(job);
    cp_act(pool);
    cp_unlock(pool);
    cp_pool_unref(pool);
}

void
cp_job_put_take(struct cp_job *job, struct cp_task *list, bool fed)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_jobs_queue_take(job, list, fed);
    cp_act(pool);
    cp_unlock(pool);
}

void
cp_job_put_result_take(struct cp_job *job, struct cp_result *result)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    job->put++;
    if (atomic_load(&job->end) == CP_END_NONE) {
        cp_tally_failed_here(pool, result->items);
    }
    cp_jobs_add_result_take(job, result);
    cp_act(pool);
    cp_unlock(pool);
}

void
cp_job_put_farewell_take(struct cp_job *job, struct cp_result *result)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_jobs_add_farewell_take(job, result);
    cp_act(pool);
    cp_unlock(pool);
}

void
cp_job_set_limit(struct cp_job *job, uint64_t limit)
{
    cp_lock_acquire(&job->pool->lock);
    CP_ASSERT(cp_job_many(job) != NULL);
    job->many->limit = limit;
    cp_lock_release(&job->pool->lock);
}

void
cp_job_set_probes(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    CP_ASSERT(cp_job_many(job) != NULL);
    job->many->probes = true;
    cp_lock_release(&job->pool->lock);
}

void
cp_job_set_paced(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    CP_ASSERT(cp_job_many(job) != NULL);
    job->many->paced = true;
    cp_lock_release(&job->pool->lock);
}

int
cp_job_set_place(struct cp_job *job, uint16_t pin, int8_t priority)
{
    cp_lock_acquire(&job->pool->lock);
    CP_ASSERT(job->put == 0);
    int r = cp_turns_set_priority(job, priority);
    r = r == 0 ? cp_turns_set_pin(job, pin) : r;
    cp_lock_release(&job->pool->lock);
    return r;
}

int
cp_job_set_places(struct cp_job *job, const uint16_t *places, size_t n)
{
    CP_ASSERT(cp_job_many(job) != NULL && job->put == 0
              && job->many->places == NULL);
    uint16_t *copy = malloc(n * sizeof(*copy) + 1);
    if (copy == NULL) {
        return CP_ENOMEM;
    }
    memcpy(copy, places, n * sizeof(*copy));
    job->many->places = copy;
    return 0;
}

void
cp_job_set_limits(struct cp_job *job, int64_t time_limit, int64_t grace,
                  uint32_t retries)
{
    cp_lock_acquire(&job->pool->lock);
    cp_jobs_set_limits(job, time_limit, grace, retries);
    cp_lock_release(&job->pool->lock);
}

void
cp_job_set_credit(struct cp_job *job, uint64_t credit)
{
    cp_lock_acquire(&job->pool->lock);
    cp_jobs_set_credit(job, credit);
    cp_lock_release(&job->pool->lock);
}

void
cp_job_set_fail_fast(struct cp_job *job)
{
    (void)atomic_fetch_or(&job->flags, CP_JOB_FAIL_FAST);
}

bool
cp_job_is_marked(const struct cp_job *job)
{
    return atomic_load(&job->marked);
}

uint64_t
cp_job_wants(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    uint64_t n = job->fed ? 0 : cp_plan_room(job->pool, job);
    cp_lock_release(&job->pool->lock);
    return n;
}

uint64_t
cp_job_arrived(struct cp_job *job, uint64_t *failed)
{
    cp_lock_acquire(&job->pool->lock);
    uint64_t n = job->arrived;
    if (failed != NULL) {
        *failed = job->failed;
    }
    cp_lock_release(&job->pool->lock);
    return n;
}

static bool
is_begun_by(const struct cp_worker *w, const struct cp_job *job)
{
    for (uint64_t seq = w->head; seq < w->tail; seq++) {
        const struct cp_task *task = w->window[seq & (CP_WINDOW - 1)];
        if (task != NULL && task->job == job && cp_worker_is_claimed(w, seq)) {
            return true;
        }
    }
    return false;
}

bool
cp_job_is_begun(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    bool is_begun = job->arrived > 0;
    if (cp_pool_has_threads(pool)) {
        is_begun = is_begun || job->running > 0;
    } else {
        for (struct cp_worker *w = pool->workers; w != NULL && !is_begun;
             w = w->next) {
            is_begun = is_begun_by(w, job);
        }
    }
    cp_lock_release(&pool->lock);
    return is_begun;
}

uint64_t
cp_job_items(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    uint64_t n = job->items;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint64_t seq;
        int64_t since;
        const struct cp_task *task = cp_worker_running(w, &seq, &since);
        if (task != NULL && task->job == job && task->items > 1) {
            uint32_t item =
                atomic_load_explicit(&w->row->item, memory_order_relaxed);
            /* The row may describe the next task already. */
            n += item < task->items ? item : task->items - 1;
        }
    }
    cp_lock_release(&pool->lock);
    return n;
}

uint64_t
cp_job_share(struct cp_job *job, uint64_t left)
{
    cp_lock_acquire(&job->pool->lock);
    uint64_t n = cp_plan_share(job->pool, job, left);
    cp_lock_release(&job->pool->lock);
    return n;
}

bool
cp_pool_has_room(struct cp_pool *pool)
{
    return atomic_load_explicit(&pool->held, memory_order_relaxed)
           <= CP_HELD_HIGH;
}

/* Are at least `most` jobs waiting? Looks at waiting jobs, and at those that
 * workers have begun. A job that nobody holds is not submitted yet: the thread
 * that opened it may be the one that waits here. */
static bool
are_waiting(const struct cp_pool *pool, uint64_t most)
{
    uint64_t n = 0;
    const struct cp_job *job = pool->all_first;
    while (job != NULL && n < most) {
        n += job->user != NULL && job->arrived == 0 && job->running == 0
                     && !job->calling && (job->flags & CP_JOB_EACH) == 0
                 ? 1
                 : 0;
        job = job->all_next;
    }
    return n >= most;
}

bool
cp_pool_wait_pending(struct cp_pool *pool, uint64_t most, int64_t deadline)
{
    bool waiting;
    cp_lock_acquire(&pool->lock);
    pool->feeders++;
    cp_watch_begin_wait(pool, false);
    while ((waiting = are_waiting(pool, most)) && cp_now() < deadline) {
        int64_t again = deadline;
        cp_watch_credit(pool, &again); /* this thread may be the reader */
        bool acts = (pool->due | pool->noted) != 0;
        cp_act(pool);
        if (!acts) { /* else it may have done what this thread waits for */
            cp_cond_wait(&pool->feed, &pool->lock, again);
        }
    }
    pool->feeders--;
    cp_watch_end_wait(pool, false, !waiting);
    cp_lock_release(&pool->lock);
    return !waiting;
}

void
cp_pool_wait_room(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    uint64_t most = CP_HELD_HIGH;
    pool->feeders++;
    pool->callers++;
    while (atomic_load(&pool->held) > most) {
        most = CP_HELD_LOW; /* wait for room for several calls */
        cp_cond_wait(&pool->feed, &pool->lock, CP_NEVER);
    }
    pool->feeders--;
    pool->callers--;
    cp_lock_release(&pool->lock);
}

struct cp_result *
cp_job_take(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    struct cp_result *result = cp_jobs_get_result(job);
    cp_act(pool);
    cp_unlock(pool);
    return result;
}

static bool
is_drained(const struct cp_job *job)
{
    return atomic_load(&job->done) && !job->decoding && !cp_job_has_result(job);
}

struct cp_result *
cp_job_take_all(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    struct cp_result *list = cp_jobs_begin_decoding(job);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return list;
}

struct cp_result *
cp_job_take_single(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    const struct cp_result *first = job->in_first;
    struct cp_result *result = NULL;
    if (atomic_load(&job->done) && !job->decoding && first != NULL
        && first->outcome == CP_OK) {
        result = cp_job_inbox_get(job);
    }
    cp_lock_release(&job->pool->lock);
    return result;
}

bool
cp_job_decoded(struct cp_job *job, struct cp_result *rest)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_jobs_end_decoding(job, rest);
    bool drained = is_drained(job);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return drained;
}

int
cp_job_tell(struct cp_job *job, void *teller)
{
    int r = 1;
    cp_lock_acquire(&job->pool->lock);
    if (atomic_load(&job->done)
        || ((job->flags & CP_JOB_TAKEN_SINGLY) != 0
            && cp_job_has_result(job))) {
        r = 0;
    } else if (job->teller != NULL) {
        r = CP_EPROTO;
    } else {
        job->teller = teller;
        cp_flow_note_watch(job->pool);
    }
    cp_act(job->pool);
    cp_lock_release(&job->pool->lock);
    return r;
}

void *
cp_job_take_teller(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    void *teller = NULL;
    if (atomic_load(&job->done)
        || ((job->flags & CP_JOB_TAKEN_SINGLY) != 0
            && cp_job_has_result(job))) {
        teller = job->teller;
        job->teller = NULL;
    }
    cp_lock_release(&job->pool->lock);
    return teller;
}

int
cp_job_put_call_take(struct cp_job *job, struct cp_task *task)
{
    struct cp_pool *pool = job->pool;
    int r = 0;
    cp_lock_acquire(&pool->lock);
    if (job->fed || atomic_load(&job->end) != CP_END_NONE) {
        r = CP_ECLOSED;
        cp_drop_task(pool, task);
    } else {
        cp_jobs_queue_take(job, task, false);
    }
    cp_act(pool);
    cp_unlock(pool);
    return r;
}

bool
cp_job_end_withdrawn(struct cp_job *job, const struct cp_call *call,
                     uint64_t index)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    bool ended = cp_jobs_end_withdrawn(job, call, index);
    cp_act(pool);
    cp_unlock(pool);
    return ended;
}

struct cp_result *
cp_job_grab(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    struct cp_result *list = cp_jobs_grab(job);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return list;
}

void
cp_job_note_ended(struct cp_job *job, bool more)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_note_ended_calls(pool, job);
    if (more) {
        cp_jobs_note_each(job, true);
    }
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

enum cp_call_state
cp_job_look(struct cp_job *job, struct cp_call *call, bool watch)
{
    cp_lock_acquire(&job->pool->lock);
    /* After the end of the job, nobody clears `worker`, which may be freed. */
    bool ended = atomic_load(&job->end) != CP_END_NONE;
    bool answered = call->answered || ended;
    bool begun = call->begun
                 || (!ended && call->worker != NULL
                     && cp_worker_is_claimed(call->worker, call->seq));
    call->watched = watch;
    cp_lock_release(&job->pool->lock);
    return answered ? CP_CALL_ANSWERED : begun ? CP_CALL_BEGUN : CP_CALL_WAITS;
}

bool
cp_job_withdraw(struct cp_job *job, struct cp_call *call)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    bool withdrawn = cp_jobs_withdraw(job, call);
    cp_act(pool);
    cp_unlock(pool);
    return withdrawn;
}

struct cp_job *
cp_pool_next_each(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    struct cp_job *job = cp_jobs_next_each(pool);
    cp_lock_release(&pool->lock);
    return job;
}

bool
cp_pool_has_each(const struct cp_pool *pool)
{
    return atomic_load_explicit(&pool->each_first, memory_order_relaxed)
           != NULL;
}

bool
cp_job_is_drained(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    bool drained = is_drained(job);
    cp_lock_release(&job->pool->lock);
    return drained;
}

int
cp_job_each_result(struct cp_job *job,
                   int (*visit)(struct cp_result *result, void *arg), void *arg)
{
    cp_lock_acquire(&job->pool->lock);
    int stop = cp_job_inbox_each(job, visit, arg);
    cp_lock_release(&job->pool->lock);
    return stop;
}

void
cp_job_drop_results(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_drop_results(pool, cp_job_inbox_clear(job));
    cp_act(pool);
    cp_unlock(pool);
}

void
cp_job_cancel(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    if (!job->calling) {
        job->flags &= ~CP_JOB_CALLS;
    }
    cp_jobs_end(job, CP_END_TERMINATED);
    cp_act(pool);
    cp_unlock(pool);
}

bool
cp_job_stop(struct cp_job *job, bool kill)
{
    struct cp_pool *pool = job->pool;
    bool has_processes = !cp_pool_has_threads(pool);
    cp_lock_acquire(&pool->lock);
    if (has_processes && job->running > 0) {
        (void)cp_watch_harvest(pool); /* do not stop what has finished */
    }
    bool stopped = cp_jobs_stop(job, CP_END_CANCELLED);
    if (stopped && kill && has_processes) { /* after the job's grace */
        cp_watch_stop_running(pool, job);
    }
    cp_act(pool);
    cp_watch_kill_due(pool);
    cp_act(pool);
    cp_unlock(pool);
    return stopped;
}

void
cp_job_fail(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_jobs_end(job, CP_END_NOMEM);
    cp_act(pool);
    cp_unlock(pool);
}

void
cp_job_called(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_jobs_called(job);
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

struct cp_job *
cp_pool_ended(struct cp_pool *pool)
{
    /* A job that the caller knows to be done was listed before. */
    if (atomic_load_explicit(&pool->ended_first, memory_order_relaxed)
        == NULL) {
        return NULL;
    }
    cp_lock_acquire(&pool->lock);
    struct cp_job *list = cp_jobs_collect(pool);
    cp_lock_release(&pool->lock);
    return list;
}

void
cp_pool_each_job(struct cp_pool *pool,
                 void (*visit)(struct cp_job *job, void *arg), void *arg)
{
    cp_lock_acquire(&pool->lock);
    for (struct cp_job *job = pool->all_first; job != NULL;
         job = job->all_next) {
        visit(job, arg);
    }
    cp_lock_release(&pool->lock);
}

/* ---- the end ---- */

void
cp_pool_close(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    if (pool->state == CP_RUN) {
        pool->state = CP_CLOSING;
        cp_jobs_close_each(pool);
        pool->due |= CP_DUE_END;
        cp_note_helper(pool); /* there may be no worker to wait for */
        cp_note_starter(pool);
        cp_note_standby(pool);
        cp_note_job(pool, NULL); /* from now on, a join ends unread tasks */
    }
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

void
cp_pool_end(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    pool->state = CP_ENDED;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        (void)cp_jobs_recall(w, UINT32_MAX, CP_RECALL_PINNED);
    }
    cp_jobs_end_all(pool, CP_END_TERMINATED);
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (!pool->kills_trees && (!w->hello || w->in_flight > 0)) {
            (void)cp_proc_kill(&w->proc, SIGTERM);
        }
    }
    pool->due |= CP_DUE_END;
    cp_note_all(pool);
    cp_note_helper(pool);
    cp_note_starter(pool);
    cp_note_standby(pool); /* there may be no worker to wait for */
    cp_act(pool);
    if (pool->kills_trees) {
        kill_trees(pool, true);
    }
    cp_unlock(pool);
}

void
cp_pool_close_fds(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    if (pool->n_workers == 0 && !pool->driving && pool->state != CP_RUN) {
        pool->state = CP_ENDED;
        cp_poller_free(pool->poller);
        pool->poller = NULL;
        cp_wake_fini(&pool->wake);
        if (pool->region != NULL) {
            cp_region_close(pool->region);
        }
        cp_fd_close(&pool->common_fd);
        cp_fd_close(&pool->life[0]);
        cp_fd_close(&pool->life[1]);
    }
    cp_lock_release(&pool->lock);
}

void
cp_pool_break_take(struct cp_pool *pool, struct cp_result *why)
{
    cp_lock_acquire(&pool->lock);
    if (pool->broken == NULL) {
        pool->broken = why;
        why = NULL;
    }
    pool->is_broken = true;
    cp_jobs_end_all(pool, CP_END_BROKEN);
    cp_act(pool);
    cp_unlock(pool);
    cp_result_free(why);
}

bool
cp_pool_is_broken(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    bool is_broken = pool->is_broken;
    cp_lock_release(&pool->lock);
    return is_broken;
}

const struct cp_result *
cp_pool_broken(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    const struct cp_result *why = pool->broken;
    cp_lock_release(&pool->lock);
    return why;
}
