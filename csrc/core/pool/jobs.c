/*
 * The jobs of a pool, from opening to the last result taken. Functions declared
 * in pool/pool.h take the lock, those of pool/state.h and the static ones run with
 * it held.
 *
 * A job is listed until it is done. Then its place in the list of ended jobs
 * holds it until the binding has collected what it kept for it.
 */
#include "pool/state.h"

#include <stdlib.h>

static void
list_job(struct cp_pool *pool, struct cp_job *job)
{
    job->all_prev = pool->all_last;
    if (pool->all_last != NULL) {
        pool->all_last->all_next = job;
    } else {
        pool->all_first = job;
    }
    pool->all_last = job;
    job->is_listed = true;
    job->refs++;
    pool->pending++;
}

static void
unlist_job(struct cp_pool *pool, struct cp_job *job)
{
    if (job->all_prev != NULL) {
        job->all_prev->all_next = job->all_next;
    } else {
        pool->all_first = job->all_next;
    }
    if (job->all_next != NULL) {
        job->all_next->all_prev = job->all_prev;
    } else {
        pool->all_last = job->all_prev;
    }
    job->all_next = job->all_prev = NULL;
    job->is_listed = false;
    pool->pending--;
}

int
cp_job_open(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
            void *user, struct cp_job **out)
{
    *out = NULL;
    cp_lock_acquire(&pool->lock);
    int r = pool->state == CP_RUN ? 0 : CP_ECLOSED;
    struct cp_job *job = NULL;
    if (r == 0) {
        job = cp_job_alloc(pool, func, flags, user);
        r = job != NULL ? 0 : CP_ENOMEM;
    }
    if (r == 0) {
        cp_pool_ref(pool);
        if (func != NULL) {
            func->refs++;
        }
        job->id = pool->next_job_id++;
        list_job(pool, job);
        *out = job;
        if (pool->is_broken) {
            cp_job_finish(job, CP_END_BROKEN);
        }
    }
    cp_lock_release(&pool->lock);
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
cp_job_unref(struct cp_job *job)
{
    if (--job->refs > 0) {
        return;
    }
    if (job->func != NULL) {
        cp_func_unref(job->pool, job->func);
    }
    cp_pool_drop_results(job->pool, cp_job_inbox_clear(job));
    cp_job_free(job);
}

void
cp_job_close(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    cp_job_unref(job);
    cp_pool_unlock(pool);
    cp_pool_unref(pool);
}

/* Done: nobody waits for it any more, and `user` can be handed over. */
static void
set_done(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    unlist_job(pool, job); /* its reference goes to the list of ended jobs */
    cp_pool_ref(pool);     /* for the cp_job_close() of whoever collects */
    job->call_next = NULL;
    if (pool->ended_last != NULL) {
        pool->ended_last->call_next = job;
    } else {
        pool->ended_first = job;
    }
    pool->ended_last = job;
    atomic_store(&job->done, true);
    cp_drive_signal_job(pool, job);
    if (pool->pending == 0) {
        cp_pool_notify(pool);
        cp_drive_signal_job(pool, NULL); /* no workers will come any more */
        if (pool->state == CP_CLOSING) {
            cp_watch_tell_end_all(pool);
        }
    }
}

/* Drop the tasks that no worker has. */
static void
drop_queued(struct cp_job *job)
{
    struct cp_task *task;
    cp_sched_unready(job);
    job->pool->queued -= job->queued;
    while ((task = cp_job_dequeue(job)) != NULL) {
        cp_pool_drop_task(job->pool, task);
        cp_job_unref(job); /* never the last: the job is listed */
    }
}

void
cp_job_finish(struct cp_job *job, enum cp_end end)
{
    struct cp_pool *pool = job->pool;
    if (!job->is_listed || atomic_load(&job->end) != CP_END_NONE) {
        return;
    }
    if (job->calling) {
        /* It has its results. The helper has it, or will, and finishes it
         * after the callbacks; those who wait do not wait for that. */
        atomic_store(&job->done, true);
        cp_drive_signal_job(pool, job);
        return;
    }
    drop_queued(job);
    job->fed = true;
    atomic_store(&job->end, end);
    cp_cond_broadcast(&pool->feed);
    if ((job->flags & CP_JOB_CALLS) == 0) {
        set_done(job);
        return;
    }
    if (end == CP_END_TERMINATED) {
        /* Those who wait do not wait for the callbacks. */
        atomic_store(&job->done, true);
        cp_drive_signal_job(pool, job);
    }
    job->running = 0; /* what still comes in is dropped */
    cp_job_finish_if_done(job);
}

void
cp_job_finish_if_done(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    if (!job->is_listed || job->calling || !job->fed || job->queued > 0
        || job->running > 0) {
        return;
    }
    if (job->farewell != NULL) {
        struct cp_result *farewell = job->farewell;
        job->farewell = NULL;
        cp_job_on_result_take(job, farewell);
        if (!job->is_listed || job->calling) {
            return; /* no memory for it: that was the end already */
        }
    }
    if ((job->flags & CP_JOB_CALLS) == 0) {
        set_done(job);
        return;
    }
    job->calling = true;
    job->call_next = NULL;
    job->refs++;
    cp_pool_ref(pool);
    if (pool->call_last != NULL) {
        pool->call_last->call_next = job;
    } else {
        pool->call_first = job;
    }
    pool->call_last = job;
    cp_pool_notify(pool);
}

bool
cp_job_is_drained(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    bool drained =
        atomic_load(&job->done) && !job->decoding && !cp_job_has_result(job);
    cp_lock_release(&job->pool->lock);
    return drained;
}

void
cp_job_cancel(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    if (!job->calling) {
        job->flags &= ~CP_JOB_CALLS;
    }
    cp_job_finish(job, CP_END_TERMINATED);
    cp_pool_unlock(job->pool);
}

void
cp_job_fail(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    cp_job_finish(job, CP_END_NOMEM);
    cp_pool_unlock(job->pool);
}

void
cp_job_called(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    if (job->is_listed) {
        set_done(job);
    }
    cp_lock_release(&job->pool->lock);
}

void
cp_pool_finish_all(struct cp_pool *pool, enum cp_end end)
{
    struct cp_job *job = pool->all_first;
    while (job != NULL) {
        struct cp_job *next = job->all_next;
        cp_job_finish(job, end);
        job = next;
    }
    cp_drive_signal_job(pool, NULL); /* those who wait for the workers */
}

void
cp_job_on_result_take(struct cp_job *job, struct cp_result *result)
{
    job->arrived++;
    job->items += result->items;
    if (atomic_load(&job->end) != CP_END_NONE) {
        cp_pool_drop_results(job->pool, result);
        return;
    }
    if (result->outcome != CP_OK) {
        job->failed++;
    }
    result->next = NULL;
    if (cp_job_inbox_put(job, result) != 0) {
        cp_pool_drop_results(job->pool, result);
        cp_job_finish(job, CP_END_NOMEM);
        return;
    }
    if ((job->flags & CP_JOB_WHOLE) == 0 && cp_job_has_result(job)) {
        cp_drive_signal_job(job->pool, job);
    }
    if (job->pool->feeders > 0
        && (cp_sched_wants_feed(job) || cp_sched_is_held_up(job))) {
        cp_cond_broadcast(&job->pool->feed);
    }
}

void
cp_job_on_answer_take(struct cp_job *job, struct cp_result *result, int64_t ns,
                      uint32_t items)
{
    struct cp_pool *pool = job->pool;
    cp_sched_measure(job, ns, items);
    cp_avg_follow(&pool->task_ns, ns);
    if (atomic_load(&job->end) == CP_END_NONE) {
        job->running--;
    }
    if (result != NULL) {
        cp_job_on_result_take(job, result);
        cp_job_finish_if_done(job);
    } else {
        cp_job_finish(job, CP_END_NOMEM);
    }
    if ((job->flags & CP_JOB_WHOLE) != 0 && pool->waiters != NULL) {
        cp_drive_signal_feeder(pool, job);
    }
    cp_job_unref(job);
}

void
cp_job_queue_back(struct cp_job *job, struct cp_task *task)
{
    if (atomic_load(&job->end) != CP_END_NONE) {
        cp_task_free(task);
        cp_job_unref(job);
        return;
    }
    job->running--;
    cp_job_queue_first(job, task);
    job->pool->queued++;
    cp_sched_ready(job);
}

void
cp_job_lose_take(struct cp_task *task, int pid, int exitcode)
{
    struct cp_job *job = task->job;
    struct cp_result *lost = cp_result_new(task->index, CP_LOST, 0);
    if (lost != NULL) {
        lost->items = task->items;
        lost->pid = pid;
        lost->exitcode = exitcode;
    }
    cp_task_free(task);
    if (atomic_load(&job->end) == CP_END_NONE) {
        job->running--;
    }
    if (lost == NULL) {
        cp_job_finish(job, CP_END_NOMEM);
    } else {
        cp_job_on_result_take(job, lost);
        cp_job_finish_if_done(job);
    }
    cp_job_unref(job);
}

void
cp_job_put_take(struct cp_job *job, struct cp_task *list, bool fed)
{
    struct cp_pool *pool = job->pool;
    cp_lock_acquire(&pool->lock);
    bool ended = atomic_load(&job->end) != CP_END_NONE;
    while (list != NULL) {
        struct cp_task *next = list->next;
        if (ended) {
            cp_pool_drop_task(pool, list);
        } else {
            list->job = job;
            job->refs++;
            job->put++;
            cp_job_queue_last(job, list);
            pool->queued++;
        }
        list = next;
    }
    if (!ended) {
        if (job->queued > 0) {
            cp_sched_ready(job);
        }
        if (fed) {
            job->fed = true;
            cp_job_finish_if_done(job);
        }
        cp_sched_hand_out(pool);
    }
    cp_pool_unlock(pool);
}

void
cp_job_put_result_take(struct cp_job *job, struct cp_result *result)
{
    cp_lock_acquire(&job->pool->lock);
    job->put++;
    cp_job_on_result_take(job, result);
    cp_pool_unlock(job->pool);
}

void
cp_job_put_farewell_take(struct cp_job *job, struct cp_result *result)
{
    cp_lock_acquire(&job->pool->lock);
    if (job->fed) {
        cp_pool_drop_results(job->pool, result);
    } else {
        job->put++;
        job->farewell = result;
        job->fed = true;
        cp_job_finish_if_done(job);
    }
    cp_pool_unlock(job->pool);
}

void
cp_job_set_limit(struct cp_job *job, uint64_t limit)
{
    cp_lock_acquire(&job->pool->lock);
    job->limit = limit;
    cp_lock_release(&job->pool->lock);
}

uint64_t
cp_job_wants(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    uint64_t n = job->fed ? 0 : cp_sched_room(job->pool, job);
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

uint64_t
cp_job_items(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    uint64_t n = job->items;
    cp_lock_release(&job->pool->lock);
    return n;
}

uint64_t
cp_job_share(struct cp_job *job, uint64_t left)
{
    cp_lock_acquire(&job->pool->lock);
    uint64_t n = cp_sched_share(job->pool, job, left);
    cp_lock_release(&job->pool->lock);
    return n;
}

struct cp_result *
cp_job_take(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    struct cp_result *result = cp_job_inbox_get(job);
    if (result != NULL && job->limit > 0) {
        cp_cond_broadcast(&job->pool->feed);
    }
    if (result != NULL && cp_job_has_result(job)) {
        cp_drive_signal_job(job->pool, job); /* one more thread can go on */
    }
    cp_lock_release(&job->pool->lock);
    return result;
}

struct cp_result *
cp_job_take_all(struct cp_job *job)
{
    cp_lock_acquire(&job->pool->lock);
    struct cp_result *list = NULL;
    if (!job->decoding && cp_job_has_result(job)) {
        list = cp_job_inbox_get_all(job);
        job->decoding = true;
    }
    cp_lock_release(&job->pool->lock);
    return list;
}

void
cp_job_decoded(struct cp_job *job, struct cp_result *rest)
{
    cp_lock_acquire(&job->pool->lock);
    if (rest != NULL) {
        struct cp_result *last = rest;
        job->taken--;
        while (last->next != NULL) {
            last = last->next;
            job->taken--;
        }
        last->next = job->in_first;
        job->in_first = rest;
        if (job->in_last == NULL) {
            job->in_last = last;
        }
    }
    job->decoding = false;
    cp_drive_signal_job(job->pool, job);
    cp_lock_release(&job->pool->lock);
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
    cp_lock_acquire(&job->pool->lock);
    cp_pool_drop_results(job->pool, cp_job_inbox_clear(job));
    cp_pool_unlock(job->pool);
}

struct cp_job *
cp_pool_ended(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    struct cp_job *list = pool->ended_first;
    pool->ended_first = pool->ended_last = NULL;
    cp_lock_release(&pool->lock);
    return list;
}
