/* Workers that are threads; see pool/threads.h. */
#include "pool/threads.h"

#include "pool/act.h"
#include "pool/flow.h"
#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/sched.h"
#include "pool/tally.h"
#include "pool/turns.h"
#include "pool/wake.h"
#include "pool/watch.h"

/* As in pool/spin.c: waking a thread takes longer than the short work that it
 * is woken for, so a waiting thread spins first, while that pays. */
#define LOOK (50 * CP_US)
#define MISSES 3u
#define REST 64u
/* If threads take turns, the thread that has put a task most likely waits for
 * it next. A worker that has spun until there was a task gives that thread this
 * long to begin its wait, so that the two are not in each other's way. */
#define AFTER_YOU (10 * CP_US)

void
cp_pool_release_dropped(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    cp_unlock(pool);
}

bool
cp_threads_has_queued(const struct cp_pool *pool)
{
    return atomic_load_explicit(&pool->threads.has_queued,
                                memory_order_relaxed);
}

/*
 * No wake-up is lost here. A queued task has a worker that will look for it: one
 * that runs a task, and looks after it; or one that is counted in `looking` or
 * `woken`, since cp_wake_workers() wakes sleepers until these are as many as the
 * tasks. A worker that is counted looks at the queue under the lock before it
 * sleeps (again); if it has to end instead, it makes the tasks due once more.
 *
 * `woken` is never more than the sleepers that are about to get up. Each signal
 * adds one to both, unless all sleepers are about to get up already, and each
 * worker that gets up, for whatever reason, takes one from both.
 *
 * A thread that waits for a result is in the list of waiters from its look at the
 * job until it sleeps, all under the lock (wait_behind() in drive.c); each result
 * that can be read notes it, and so does each one that a reader leaves behind.
 */
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

/* ---- spinning ---- */

/* How many workers are on a core, or will be at once. */
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

/* Spin without the lock until the counter has moved. */
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

/* Called by a worker without a task. True: look for a task again. */
static bool
look_for_task(struct cp_pool *pool)
{
    struct cp_threads *t = &pool->threads;
    if (!cp_plan_is_short(pool) || t->looking > 0 || n_up(pool) > pool->n_cpus
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
    if (!cp_pool_has_threads(pool) || job == NULL || !cp_plan_is_short(pool)
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
cp_threads_enter(struct cp_pool *pool, uint32_t worker)
{
    cp_lock_acquire(&pool->lock);
    int r = pool->state == CP_ENDED ? CP_ECLOSED : 0;
    if (r == 0) {
        pool->n_workers++;
        cp_tally_enter(pool, worker, cp_now());
    }
    cp_lock_release(&pool->lock);
    return r;
}

void
cp_threads_leave(struct cp_pool *pool, uint32_t worker)
{
    cp_lock_acquire(&pool->lock);
    pool->n_workers--;
    cp_tally_leave(pool, worker, cp_now());
    if (pool->n_workers == 0) {
        cp_note_helper(pool);
        cp_note_starter(pool);
        cp_note_job(pool, NULL);
    }
    cp_flow_note_watch(pool); /* all that remain may wait for readers */
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

bool
cp_threads_is_long(struct cp_pool *pool, int64_t ns)
{
    return ns > atomic_load_explicit(&pool->tally.least, memory_order_relaxed)
           || atomic_load_explicit(&pool->is_traced, memory_order_relaxed);
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
    if (result != NULL) {
        result->worker = turn->index;
    }
    cp_tally_answer(pool, task, result, ns, turn->index, turn->func);
    if (pool->trace != NULL) {
        cp_tally_trace(pool, task, result, turn->index, now - ns, now,
                       turn->func);
    }
    turn->func = NULL;
    cp_jobs_note_answer(task);
    uint32_t sent = cp_jobs_end_yield(task);
    if (result != NULL && (task->flags & CP_YIELDS) != 0) {
        result->item = sent;
    }
    cp_task_free(task);
    cp_jobs_answer_take(job, result, ns, items);
    (void)atomic_fetch_add(&pool->threads.n_done, 1);
}

/* Take the next task. Returns what cp_threads_swap() returns. */
static int
take_next(struct cp_pool *pool, struct cp_turn *turn, bool wait)
{
    for (;;) {
        if (pool->threads.n_retire > 0 && turn->index >= pool->target) {
            pool->threads.n_retire--;
            turn->retired = true;
            /* This worker may have been woken, or have spun, for a task that is
             * queued: another one takes it. */
            pool->due |= CP_DUE_TASKS;
            return CP_ECLOSED;
        }
        turn->task = cp_sched_take(pool, turn->index, &turn->had_pinned);
        cp_publish_queued(pool);
        if (turn->task != NULL) {
            return 1;
        }
        if (cp_plan_is_over(pool)) {
            return CP_ECLOSED;
        }
        if (!wait || cp_has_dropped(pool) || pool->each_first != NULL) {
            return 0;
        }
        if (look_for_task(pool)) {
            continue;
        }
        if (pool->queued > 0 || cp_turns_next_pinned(pool, turn->index) != NULL
            || (pool->threads.n_retire > 0 && turn->index >= pool->target)
            || cp_plan_is_over(pool) || cp_has_dropped(pool)
            || pool->each_first != NULL) {
            continue; /* a task arrived just as the spin ended */
        }
        if (pool->pending == 0 && pool->ended_first != NULL) {
            return 0;
        }
        sleep_until_woken(pool);
    }
}

/* ---- tasks that yield ---- */

static int
look_at_room(struct cp_task *task, uint64_t *room)
{
    const struct cp_flow *flow = cp_flow_find(task->job, task->index);
    if (atomic_load(&task->job->end) != CP_END_NONE) {
        return CP_ECLOSED;
    }
    *room = flow == NULL ? task->job->many->credit : flow->credit - flow->sent;
    return 0;
}

int
cp_threads_yield(struct cp_pool *pool, struct cp_task *task,
                 struct cp_result *value, uint64_t *room)
{
    cp_lock_acquire(&pool->lock);
    int r = cp_jobs_add_value_take(task, NULL, 0, value);
    CP_ASSERT(r == 0);
    (void)atomic_fetch_add(&pool->threads.n_done, 1);
    r = look_at_room(task, room);
    cp_act(pool);
    cp_unlock(pool);
    return r;
}

/* The thread of this task waits for credit, or (NULL) no longer. */
static void
set_yielder(const struct cp_task *task, struct cp_yielder *yielder)
{
    struct cp_flow *flow = cp_flow_find(task->job, task->index);
    if (flow != NULL) { /* the job has not ended */
        flow->yielder = yielder;
    }
}

/* The wait has a deadline only while it may hold up others; see
 * cp_watch_credit() for who looks then. */
int
cp_threads_wait_room(struct cp_pool *pool, struct cp_task *task, uint64_t *room)
{
    struct cp_threads *t = &pool->threads;
    struct cp_yielder me = {0};
    int r = cp_cond_init(&me.cond);
    if (r != 0) {
        return r;
    }
    cp_lock_acquire(&pool->lock);
    me.next = t->yielders;
    t->yielders = &me;
    t->n_yielders++;
    set_yielder(task, &me);
    for (;;) {
        int64_t again = CP_NEVER;
        cp_watch_credit(pool, &again); /* this may give credit to this task */
        r = look_at_room(task, room);
        if (r != 0 || *room > 0) {
            break;
        }
        cp_act(pool);
        cp_cond_wait(&me.cond, &pool->lock, again);
    }
    set_yielder(task, NULL);
    struct cp_yielder **at = &t->yielders;
    while (*at != &me) {
        at = &(*at)->next;
    }
    *at = me.next;
    t->n_yielders--;
    cp_act(pool);
    cp_lock_release(&pool->lock);
    cp_cond_fini(&me.cond);
    return r;
}

int
cp_threads_swap(struct cp_pool *pool, struct cp_turn *turn,
                struct cp_result *result, bool wait)
{
    cp_lock_acquire(&pool->lock);
    if (turn->task != NULL) {
        hand_in(pool, turn, result);
        cp_act(pool);
    }
    bool sees = turn->sees_first && pool->each_first != NULL;
    int r = sees ? 0 : take_next(pool, turn, wait);
    cp_act(pool);
    turn->dropped = wait && cp_has_dropped(pool);
    if (wait) {
        cp_lock_release(&pool->lock);
    } else {
        cp_unlock(pool);
    }
    return r;
}
