/*
 * The pool: making and ending it. Its callables are in pool/func.c, its jobs in
 * pool/jobs.c; handing out tasks is in pool/sched.c, watching workers in
 * pool/watch.c, waiting in pool/drive.c.
 *
 * Functions declared in pool/pool.h take the lock, those of pool/state.h and the
 * static ones run with it held.
 */
#include "pool/state.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What all pools have. */
static int
pool_alloc(uint32_t target, struct cp_pool **out)
{
    *out = NULL;
    struct cp_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL) {
        return CP_ENOMEM;
    }
    pool->owner = getpid();
    pool->target = target;
    pool->n_cpus = cp_spin_count_cpus();
    pool->task_ns = -1;
    pool->next_worker_id = 1;
    pool->wake.fds[0] = pool->wake.fds[1] = -1;
    pool->common_fd = -1;
    atomic_init(&pool->refs, 1);
    int r;
    if ((r = cp_lock_init(&pool->lock)) != 0
        || (r = cp_cond_init(&pool->feed)) != 0
        || (r = cp_cond_init(&pool->events)) != 0
        || (r = cp_cond_init(&pool->standby)) != 0
        || (r = cp_cond_init(&pool->threads.work)) != 0) {
        free(pool); /* these fail before they allocate, or never */
        return r;
    }
    *out = pool;
    return 0;
}

int
cp_pool_new(uint32_t target, struct cp_pool **out)
{
    struct cp_pool *pool;
    int r = pool_alloc(target, &pool);
    *out = NULL;
    if (r != 0) {
        return r;
    }
    if ((r = cp_common_open(&pool->common)) != 0
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
    int r = pool_alloc(target, out);
    if (r == 0) {
        (*out)->threads.release = release;
        (*out)->threads.take_turns = take_turns;
        /* The workers take in their results themselves: nobody else gets the
         * seat. */
        (*out)->driving = true;
    }
    return r;
}

bool
cp_pool_is_ours(const struct cp_pool *pool)
{
    return pool->owner == cp_proc_self();
}

void
cp_pool_ref(struct cp_pool *pool)
{
    (void)atomic_fetch_add(&pool->refs, 1);
}

void
cp_pool_unref(struct cp_pool *pool)
{
    if (atomic_fetch_sub(&pool->refs, 1) != 1 || !cp_pool_is_ours(pool)) {
        return;
    }
    CP_ASSERT(pool->workers == NULL && pool->all_first == NULL);
    CP_ASSERT(pool->threads.tasks == NULL && pool->threads.results == NULL);
    for (uint32_t i = 0; i < CP_INTERNED; i++) {
        if (pool->interned[i] != NULL) {
            cp_func_unref(pool, pool->interned[i]);
        }
    }
    free(pool->slots);
    cp_common_close(pool->common);
    cp_fd_close(&pool->common_fd);
    cp_poller_free(pool->poller);
    cp_wake_fini(&pool->wake);
    cp_result_free(pool->broken);
    cp_cond_fini(&pool->feed);
    cp_cond_fini(&pool->events);
    cp_cond_fini(&pool->standby);
    cp_cond_fini(&pool->threads.work);
    cp_lock_fini(&pool->lock);
    free(pool);
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
cp_pool_common_fd(const struct cp_pool *pool)
{
    return pool->common_fd;
}

struct cp_common *
cp_pool_common(struct cp_pool *pool)
{
    return pool->common;
}

void
cp_pool_notify(struct cp_pool *pool)
{
    if (pool->has_helper) {
        cp_cond_broadcast(&pool->events);
    }
}

void
cp_pool_close(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    if (pool->state == CP_RUN) {
        pool->state = CP_CLOSING;
        if (pool->pending == 0) {
            cp_watch_tell_end_all(pool);
        }
        cp_pool_notify(pool); /* there may be no worker to wait for */
    }
    cp_lock_release(&pool->lock);
}

static bool
is_idle(const struct cp_worker *w)
{
    return w->hello && w->in_flight == 0;
}

void
cp_pool_end(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    pool->state = CP_ENDED;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        (void)cp_sched_take_back(w, UINT32_MAX);
    }
    cp_pool_finish_all(pool, CP_END_TERMINATED);
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (!is_idle(w)) {
            (void)cp_proc_kill(&w->proc, SIGTERM);
        }
    }
    cp_watch_tell_end_all(pool);
    cp_drive_signal_all(pool);
    cp_pool_notify(pool);
    cp_pool_unlock(pool);
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
    }
    cp_lock_release(&pool->lock);
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
cp_pool_break_take(struct cp_pool *pool, struct cp_result *why)
{
    cp_lock_acquire(&pool->lock);
    if (pool->broken == NULL) {
        pool->broken = why;
        why = NULL;
    }
    pool->is_broken = true;
    cp_pool_finish_all(pool, CP_END_BROKEN);
    cp_pool_unlock(pool);
    cp_result_free(why);
}

const struct cp_result *
cp_pool_broken(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    const struct cp_result *why = pool->broken;
    cp_lock_release(&pool->lock);
    return why;
}

void
cp_pool_count(struct cp_pool *pool, struct cp_counts *counts)
{
    cp_lock_acquire(&pool->lock);
    counts->pending = pool->pending;
    counts->queued = pool->queued;
    counts->workers = pool->n_workers;
    counts->leaving = pool->n_leaving;
    counts->ready = 0;
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        counts->ready += w->hello && !w->overdue ? 1 : 0;
    }
    counts->failed_starts = pool->failed_starts;
    cp_lock_release(&pool->lock);
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
