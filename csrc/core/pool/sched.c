/* Which worker gets which task; see pool/sched.h. */
#include "pool/sched.h"

#include "pool/jobs.h"
#include "pool/plan.h"

/* Bytes that are written at once though the worker is busy. */
#define WRITE_NOW 4096u
/* So many workers that were woken for one task each, within a tick, are a burst. */
#define BURST 8u
/* Tasks that are worth being moved to another worker, in ns: below this their own
 * worker has run them before they have arrived. */
#define MOVE_WORTH (50 * CP_US)

struct cp_task *
cp_sched_take(struct cp_pool *pool)
{
    struct cp_job *job = pool->ready_first;
    return job != NULL ? cp_jobs_start_task(job) : NULL;
}

bool
cp_sched_takes_part(const struct cp_worker *w, const struct cp_round *round)
{
    /* While one that has started is open, those that still run their
     * initializer, maybe for ever, are given nothing. */
    return cp_plan_is_open(w, round->now) && (w->hello || !round->started);
}

bool
cp_sched_begin(const struct cp_pool *pool, struct cp_round *round)
{
    *round = (struct cp_round){.now = cp_now()};
    const struct cp_worker *w;
    for (w = pool->workers; w != NULL && !round->started; w = w->next) {
        round->started = w->hello && cp_plan_is_open(w, round->now);
    }
    uint64_t n = 0, under_way = 0;
    for (w = pool->workers; w != NULL; w = w->next) {
        if (cp_sched_takes_part(w, round)) {
            n++;
            under_way += w->in_flight;
        }
    }
    round->level = n > 0 ? (under_way + pool->queued + n - 1) / n : 0;
    return n > 0;
}

/* May an idle worker's tasks be left to the driver? For a program that submits
 * tiny tasks one by one, waking a worker for each would be most of the cost; but
 * the first ones do wake one, since nobody knows that it is a burst. Another worker
 * will answer at once, which wakes the driver, which writes what is left; or else
 * the tick does. */
static bool
may_leave(struct cp_pool *pool, int64_t now)
{
    if (!pool->asleep || !pool->ticking || !cp_plan_is_short(pool)) {
        return false;
    }
    const struct cp_worker *w = pool->workers;
    while (w != NULL
           && (w->in_flight == 0 || !w->hello || w->flush_deferred
               || cp_plan_is_stuck(w, now))) {
        w = w->next;
    }
    if (w != NULL && pool->woken < BURST) {
        pool->woken++;
        return false;
    }
    return w != NULL;
}

bool
cp_sched_is_urgent(struct cp_pool *pool, struct cp_worker *w,
                   const struct cp_round *round)
{
    if (w->in_flight > 0) {
        return false;
    }
    if (may_leave(pool, round->now)) {
        w->flush_deferred = true;
        return false;
    }
    return true;
}

bool
cp_sched_fill(struct cp_pool *pool, struct cp_worker *w, bool urgent,
              const struct cp_round *round)
{
    struct cp_job *job;
    while ((job = pool->ready_first) != NULL && cp_worker_accepts(w)
           && w->in_flight < round->level
           && w->in_flight < cp_plan_window(job)) {
        struct cp_task *task = job->first;
        struct cp_func *func = job->func;
        if (func->deaths >= CP_MAX_DEATHS) {
            (void)cp_jobs_start_task(job);
            cp_jobs_lose_take(task, func->lost_pid, func->lost_exitcode);
            continue;
        }
        int r = cp_worker_send_task(w, func, task);
        if (r == CP_ENOMEM) {
            cp_jobs_end(job, CP_END_NOMEM);
            continue;
        }
        if (r != 1) {
            break;
        }
        (void)cp_jobs_start_task(job);
    }
    return cp_worker_has_out(w)
           && (urgent || w->big != NULL || cp_buf_len(&w->out) >= WRITE_NOW);
}

/* Tasks that w has not begun, and what they are worth in ns. */
static uint32_t
count_unclaimed(const struct cp_worker *w, int64_t *worth)
{
    uint32_t n = 0;
    *worth = 0;
    for (uint64_t seq = w->tail; seq > w->head; seq--) {
        struct cp_task *task = w->window[(seq - 1) & (CP_WINDOW - 1)];
        if (task == NULL) {
            continue;
        }
        if (cp_worker_is_claimed(w, seq - 1)) {
            break;
        }
        int64_t avg = cp_plan_task_ns(task->job);
        *worth += avg > 0 ? avg : 0;
        n++;
    }
    return n;
}

/* How many tasks may be taken from w. waits: it has not started, and another
 * one that has is idle. */
static uint32_t
count_movable(const struct cp_worker *w, bool waits, int64_t now)
{
    int64_t worth;
    if (w->in_flight < 2 && !waits) {
        return 0;
    }
    uint32_t n = count_unclaimed(w, &worth);
    if (waits || cp_plan_is_stuck(w, now)) {
        return n;
    }
    return worth >= MOVE_WORTH ? (n + 1) / 2 : 0;
}

void
cp_sched_even_out(struct cp_pool *pool)
{
    bool idle = false, started = false;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->in_flight == 0 && cp_worker_accepts(w)) {
            idle = true;
            started = started || w->hello;
        }
    }
    if (!idle || pool->ready_first != NULL) {
        return;
    }
    int64_t now = cp_now();
    struct cp_worker *from = NULL;
    uint32_t n = 0;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint32_t here = count_movable(w, started && !w->hello, now);
        if (here > n) {
            n = here;
            from = w;
        }
    }
    if (from != NULL) {
        (void)cp_jobs_recall(from, n);
    }
}
