/* Noting and waking; see pool/wake.h. */
#include "pool/wake.h"

void
cp_note_waiter(struct cp_pool *pool, struct cp_waiter *waiter)
{
    waiter->is_noted = true;
    pool->noted |= CP_NOTED_WAITERS;
}

void
cp_note_job(struct cp_pool *pool, const struct cp_job *job)
{
    for (struct cp_waiter *it = pool->waiters; it != NULL; it = it->next) {
        if (it->job == job && !it->any) {
            cp_note_waiter(pool, it);
        }
    }
    if (pool->seat_job == job && !pool->seat_any) {
        cp_note_driver(pool);
    }
}

void
cp_note_any(struct cp_pool *pool)
{
    for (struct cp_waiter *it = pool->waiters; it != NULL; it = it->next) {
        if (it->any) {
            cp_note_waiter(pool, it);
        }
    }
    if (pool->seat_any) {
        cp_note_driver(pool);
    }
}

void
cp_note_one_waiter(struct cp_pool *pool, const struct cp_job *job)
{
    struct cp_waiter *it = pool->waiters;
    if (pool->seat_job == job) {
        cp_note_driver(pool);
        return;
    }
    while (it != NULL && it->job != job) {
        it = it->next;
    }
    if (it != NULL) {
        cp_note_waiter(pool, it);
    }
}

void
cp_note_ended_calls(struct cp_pool *pool, const struct cp_job *job)
{
    for (struct cp_waiter *it = pool->waiters; it != NULL; it = it->next) {
        if (it->job == job && it->call != NULL
            && atomic_load(&it->call->ended)) {
            cp_note_waiter(pool, it);
        }
    }
    if (pool->seat_job == job && pool->seat_call != NULL
        && atomic_load(&pool->seat_call->ended)) {
        cp_note_driver(pool);
    }
}

void
cp_note_feeding_waiters(struct cp_pool *pool, const struct cp_job *job)
{
    for (struct cp_waiter *it = pool->waiters; it != NULL; it = it->next) {
        if (it->job == job && it->feeds) {
            cp_note_waiter(pool, it);
        }
    }
}

void
cp_note_all(struct cp_pool *pool)
{
    for (struct cp_waiter *it = pool->waiters; it != NULL; it = it->next) {
        cp_note_waiter(pool, it);
    }
    cp_note_feeders(pool);
    cp_note_driver(pool);
}

void
cp_note_yielder(struct cp_pool *pool, struct cp_yielder *yielder)
{
    yielder->is_noted = true;
    pool->noted |= CP_NOTED_YIELDERS;
}

void
cp_wake_noted(struct cp_pool *pool)
{
    unsigned noted = pool->noted;
    pool->noted = 0;
    if ((noted & CP_NOTED_WAITERS) != 0) {
        for (struct cp_waiter *it = pool->waiters; it != NULL; it = it->next) {
            if (it->is_noted) {
                it->is_noted = false;
                it->is_woken = true;
                cp_cond_signal(&it->cond);
            }
        }
    }
    if ((noted & CP_NOTED_YIELDERS) != 0) {
        for (struct cp_yielder *it = pool->threads.yielders; it != NULL;
             it = it->next) {
            if (it->is_noted) {
                it->is_noted = false;
                cp_cond_signal(&it->cond);
            }
        }
    }
    if ((noted & CP_NOTED_FEEDERS) != 0 && pool->feeders > 0) {
        cp_cond_broadcast(&pool->feed);
    }
    if ((noted & CP_NOTED_HELPER) != 0 && pool->duties != 0) {
        cp_cond_broadcast(&pool->events);
    }
    if ((noted & CP_NOTED_STARTER) != 0 && pool->duties != 0) {
        cp_cond_broadcast(&pool->starts);
        cp_cond_broadcast(&pool->events); /* one thread may have both duties */
    }
    if ((noted & CP_NOTED_STANDBY) != 0) {
        cp_cond_broadcast(&pool->standby);
    }
    if ((noted & CP_NOTED_DRIVER) != 0 && pool->asleep) {
        cp_wake_notify(&pool->wake);
    }
}

/* ---- worker threads ---- */

void
cp_publish_queued(struct cp_pool *pool)
{
    atomic_store_explicit(&pool->threads.has_queued, pool->queued > 0,
                          memory_order_relaxed);
}

void
cp_wake_workers(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    cp_publish_queued(pool);
    (void)atomic_fetch_add(&t->n_put, 1);
    while (t->asleep > t->woken && pool->queued > t->looking + t->woken) {
        t->woken++;
        cp_cond_signal(&t->work);
    }
}

void
cp_wake_all_workers(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    (void)atomic_fetch_add(&t->n_put, 1);
    t->woken = t->asleep;
    cp_cond_broadcast(&t->work);
}

/* ---- what is dropped ---- */

void
cp_drop_task(struct cp_pool *pool, struct cp_task *task)
{
    if (!cp_pool_has_threads(pool)) {
        cp_task_free(task);
    } else if (task != NULL) {
        task->next = pool->threads.tasks;
        pool->threads.tasks = task;
    }
}

void
cp_drop_results(struct cp_pool *pool, struct cp_result *list)
{
    if (!cp_pool_has_threads(pool)) {
        cp_result_free_list(list);
        return;
    }
    while (list != NULL) {
        struct cp_result *next = list->next;
        list->next = pool->threads.results;
        pool->threads.results = list;
        list = next;
    }
}

bool
cp_has_dropped(const struct cp_pool *pool)
{
    return pool->threads.tasks != NULL || pool->threads.results != NULL;
}

void
cp_unlock(struct cp_pool *pool)
{
    CP_ASSERT(pool->due == 0 && pool->noted == 0);
    struct cp_threads *t = &pool->threads;
    if (!cp_has_dropped(pool)) {
        cp_lock_release(&pool->lock);
        return;
    }
    struct cp_task *tasks = t->tasks;
    struct cp_result *results = t->results;
    t->tasks = NULL;
    t->results = NULL;
    cp_lock_release(&pool->lock);
    t->release(tasks, results);
}
