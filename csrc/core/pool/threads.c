/*
 * Workers that are threads; see pool/threads.h. Functions declared there take the
 * lock, those of pool/state.h and the static ones run with it held.
 */
#include "pool/state.h"

/* As in pool/spin.c: waking a thread takes longer than what it is woken for, so
 * whoever waits for something short looks for it first, while that pays. */
#define LOOK (50 * CP_US)
#define MISSES 3u
#define REST 64u
/* Where threads take turns, who has put a task most likely waits for it next: the
 * worker that would be in its way until then gives it so long. */
#define AFTER_YOU (10 * CP_US)

/* ---- what is dropped ---- */

void
cp_pool_drop_task(struct cp_pool *pool, struct cp_task *task)
{
    if (!cp_pool_has_threads(pool)) {
        cp_task_free(task);
    } else if (task != NULL) {
        task->next = pool->threads.tasks;
        pool->threads.tasks = task;
    }
}

void
cp_pool_drop_results(struct cp_pool *pool, struct cp_result *list)
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

static bool
has_dropped(const struct cp_pool *pool)
{
    return pool->threads.tasks != NULL || pool->threads.results != NULL;
}

void
cp_pool_unlock(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    if (!has_dropped(pool)) {
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

void
cp_pool_release_dropped(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    cp_pool_unlock(pool);
}

/* ---- waking ---- */

bool
cp_threads_has_queued(const struct cp_pool *pool)
{
    return atomic_load_explicit(&pool->threads.has_queued,
                                memory_order_relaxed);
}

static void
note_queued(struct cp_pool *pool)
{
    atomic_store_explicit(&pool->threads.has_queued, pool->ready_first != NULL,
                          memory_order_relaxed);
}

void
cp_threads_on_queued(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    note_queued(pool);
    (void)atomic_fetch_add(&t->n_put, 1);
    while (t->asleep > t->woken && pool->queued > t->looking + t->woken) {
        t->woken++;
        cp_cond_signal(&t->work);
    }
}

void
cp_threads_on_end(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    (void)atomic_fetch_add(&t->n_put, 1);
    t->woken = t->asleep;
    cp_cond_broadcast(&t->work);
}

static void
sleep_until_woken(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    t->asleep++;
    cp_cond_wait(&t->work, &pool->lock, CP_NEVER);
    t->asleep--;
    if (t->woken > 0) {
        t->woken--;
    }
}

/* ---- looking ---- */

/* Workers that are, or will at once be, on a core. */
static uint32_t
n_up(const struct cp_pool *pool)
{
    return pool->n_workers - pool->threads.asleep + pool->threads.woken;
}

static bool
has_patience(struct cp_patience *patience)
{
    if (patience->rest > 0) {
        patience->rest--;
        return false;
    }
    return true;
}

static void
learn(struct cp_patience *patience, bool found)
{
    patience->misses = found ? 0 : patience->misses + 1;
    if (patience->misses >= MISSES) {
        patience->misses = 0;
        patience->rest = REST;
    }
}

/* Look until the counter has moved, without the lock. */
static bool
look(const _Atomic uint64_t *counter, uint64_t seen, int64_t until)
{
    do {
        for (uint32_t round = 0; round < 32; round++) {
            if (atomic_load_explicit(counter, memory_order_acquire) != seen) {
                return true;
            }
            cp_relax();
        }
    } while (cp_now() < until);
    return false;
}

static void
let_put_and_wait(struct cp_threads *t)
{
    int64_t until = cp_now() + AFTER_YOU;
    while (atomic_load(&t->n_waiting) == 0 && cp_now() < until) {
        cp_relax();
    }
}

/* A worker has nothing to do. True: look again for a task. */
static bool
look_for_task(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    if (!cp_sched_is_short(pool) || t->looking > 0 || n_up(pool) > pool->n_cpus
        || pool->n_cpus < 2 || !has_patience(&t->for_task)) {
        return false;
    }
    uint64_t seen = atomic_load(&t->n_put);
    t->looking++;
    cp_lock_release(&pool->lock);
    bool found = look(&t->n_put, seen, cp_now() + LOOK);
    if (found && t->take_turns) {
        let_put_and_wait(t);
    }
    cp_lock_acquire(&pool->lock);
    t->looking--;
    learn(&t->for_task, found);
    return found;
}

bool
cp_threads_look(struct cp_pool *pool, struct cp_job *job, int64_t deadline,
                bool *in_vain)
{
    struct cp_threads *t = &pool->threads;
    if (*in_vain) {
        *in_vain = false;
        return false;
    }
    if (!cp_pool_has_threads(pool) || job == NULL || !cp_sched_is_short(pool)
        || (job->flags & CP_JOB_CALLS) != 0
        || pool->queued > t->looking + t->woken || n_up(pool) == 0
        || n_up(pool) >= pool->n_cpus || !has_patience(&t->for_result)) {
        return false;
    }
    uint64_t seen = atomic_load(&t->n_done);
    cp_lock_release(&pool->lock);
    bool found =
        look(&t->n_done, seen, cp_clock_min(deadline, cp_now() + LOOK));
    cp_lock_acquire(&pool->lock);
    learn(&t->for_result, found);
    *in_vain = !found;
    return true;
}

/* ---- workers ---- */

int
cp_threads_enter(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    int r = pool->state == CP_ENDED ? CP_ECLOSED : 0;
    if (r == 0) {
        pool->n_workers++;
    }
    cp_lock_release(&pool->lock);
    return r;
}

void
cp_threads_leave(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    pool->n_workers--;
    if (pool->n_workers == 0) {
        cp_pool_notify(pool);
        cp_drive_signal_job(pool, NULL);
    }
    cp_lock_release(&pool->lock);
}

static void
hand_in(struct cp_pool *pool, struct cp_turn *turn, struct cp_result *result)
{
    struct cp_task *task = turn->task;
    struct cp_job *job = task->job;
    int64_t now = cp_now();
    int64_t ns = now - turn->begun;
    uint32_t items = task->items;
    turn->task = NULL;
    turn->begun = now;
    cp_task_free(task);
    cp_job_on_answer_take(job, result, ns, items);
    (void)atomic_fetch_add(&pool->threads.n_done, 1);
}

static bool
is_over(const struct cp_pool *pool)
{
    return pool->state == CP_ENDED
           || (pool->state == CP_CLOSING && pool->pending == 0);
}

/* What cp_threads_swap() returns, once the result is handed in. */
static int
take_next(struct cp_pool *pool, struct cp_turn *turn, bool wait)
{
    for (;;) {
        turn->task = cp_sched_take(pool);
        note_queued(pool);
        if (turn->task != NULL) {
            return 1;
        }
        if (is_over(pool)) {
            return CP_ECLOSED;
        }
        if (!wait || has_dropped(pool)) {
            return 0;
        }
        if (look_for_task(pool)) {
            continue;
        }
        if (pool->ready_first != NULL || is_over(pool) || has_dropped(pool)) {
            continue; /* it came when we stopped looking */
        }
        if (pool->pending == 0 && pool->ended_first != NULL) {
            return 0;
        }
        sleep_until_woken(pool);
    }
}

int
cp_threads_swap(struct cp_pool *pool, struct cp_turn *turn,
                struct cp_result *result, bool wait)
{
    cp_lock_acquire(&pool->lock);
    if (turn->task != NULL) {
        hand_in(pool, turn, result);
    }
    int r = take_next(pool, turn, wait);
    turn->dropped = wait && has_dropped(pool);
    if (wait) {
        cp_lock_release(&pool->lock);
    } else {
        cp_pool_unlock(pool);
    }
    return r;
}
