/* Which worker gets which task; see pool/sched.h. */
#include "pool/sched.h"

#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/turns.h"

/* So many bytes are written at once, even if the worker is busy. */
#define WRITE_NOW 4096u
/* So many idle workers, woken for one task each within a tick, are a burst. */
#define BURST 8u
/* Work that is worth moving to another worker, in ns: less is done by its own
 * worker before it would have arrived. */
#define MOVE_WORTH (50 * CP_US)
/* If the work of other lines takes no longer than this, a new line waits for
 * it. */
#define ROOM_WORTH (2 * CP_MS)
/* Taking back a task and sending it again costs the parent and the worker about
 * 150 ns. That may take up to a twentieth of the time, however many new lines
 * come. */
#define ROOM_COST (20 * INT64_C(150))

/* If the job's first task was withdrawn, drop it from the queue. */
static bool
drop_withdrawn(struct cp_job *job)
{
    bool withdrawn = job->first->call != NULL && job->first->call->withdrawn;
    if (withdrawn) {
        cp_jobs_drop_withdrawn(job);
    }
    return withdrawn;
}

/* Choose between a pinned job and another one for a worker that may run both.
 * With equal priorities they take turns. */
static struct cp_job *
choose(struct cp_job *pinned, struct cp_job *other, bool *had_pinned)
{
    bool takes_pinned = pinned != NULL;
    if (pinned != NULL && other != NULL) {
        takes_pinned = pinned->priority != other->priority
                           ? pinned->priority > other->priority
                           : !*had_pinned;
    }
    *had_pinned = takes_pinned;
    return takes_pinned ? pinned : other;
}

struct cp_task *
cp_sched_take(struct cp_pool *pool, uint32_t index, bool *had_pinned)
{
    struct cp_job *job;
    do {
        job = choose(cp_turns_next_pinned(pool, index), cp_turns_next(pool),
                     had_pinned);
        if (job == NULL) {
            return NULL;
        }
    } while (drop_withdrawn(job));
    cp_turns_charge(job, cp_plan_cost(job));
    struct cp_task *task = cp_jobs_start_task(job);
    if (task->call != NULL) {
        task->call->begun = true;
    }
    return task;
}

bool
cp_sched_begin(struct cp_pool *pool, struct cp_round *round)
{
    *round = (struct cp_round){.now = cp_now()};
    bool started = false;
    struct cp_worker *w;
    for (w = pool->workers; w != NULL; w = w->next) {
        w->takes_part = cp_plan_is_open(w, round->now);
        started = started || (w->takes_part && w->hello);
    }
    uint64_t n = 0, under_way = 0;
    for (w = pool->workers; w != NULL; w = w->next) {
        /* Workers that are still in their initializer, maybe for ever, get
         * nothing while a worker that has started is open. */
        w->takes_part = w->takes_part && (w->hello || !started);
        if (w->takes_part) {
            n++;
            under_way += w->in_flight;
        }
    }
    round->level = n > 0 ? (under_way + pool->queued + n - 1) / n : 0;
    return n > 0;
}

/* May writing an idle worker's tasks be left to the driver? For a program that
 * submits tiny tasks one by one, waking a worker for each would be most of the
 * cost. The first ones do wake a worker, since nobody knows yet that it is a
 * burst. After that, some worker will answer at once, which wakes the driver,
 * which writes what is left; if not, the tick does. */
static bool
may_leave(struct cp_pool *pool, int64_t now)
{
    if (!pool->asleep || pool->tick_ns == CP_NEVER || !cp_plan_is_short(pool)) {
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

/* Find the worker that will be idle first: it is left to run dry for the big
 * task that is next. It is the same worker each time, since only the others get
 * tasks meanwhile. */
static const struct cp_worker *
find_drained(const struct cp_pool *pool, const struct cp_round *round)
{
    const struct cp_worker *first = NULL;
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->hello && w->takes_part && cp_plan_is_open(w, round->now)
            && (first == NULL || w->ahead_ns < first->ahead_ns)) {
            first = w;
        }
    }
    return first;
}

/* Of the jobs that any worker may run, the one whose task w gets next; or
 * NULL. */
static struct cp_job *
next_of_all(struct cp_pool *pool, const struct cp_worker *w,
            struct cp_round *round)
{
    struct cp_job *job =
        w->in_flight < round->level ? cp_turns_next(pool) : NULL;
    if (job == NULL || cp_worker_takes(w, job->first)) {
        return job;
    }
    if (round->drained == NULL) {
        round->drained = find_drained(pool, round);
    }
    return w != round->drained ? cp_turns_next_small(pool) : NULL;
}

/* The job whose task w gets next, or NULL. */
static struct cp_job *
next_for(struct cp_pool *pool, struct cp_worker *w, struct cp_round *round)
{
    struct cp_job *pinned = cp_turns_next_pinned(pool, w->index);
    if (pinned == NULL) {
        return next_of_all(pool, w, round);
    }
    if (!cp_worker_takes(w, pinned->first)) {
        return NULL; /* w is left to run dry for a big task */
    }
    return choose(pinned, next_of_all(pool, w, round), &w->had_pinned);
}

bool
cp_sched_fill(struct cp_pool *pool, struct cp_worker *w, bool urgent,
              struct cp_round *round)
{
    struct cp_job *job;
    while (cp_worker_accepts(w)
           && (w->in_flight == 0 || w->ahead_ns <= CP_AHEAD)
           && (job = next_for(pool, w, round)) != NULL) {
        if (drop_withdrawn(job)) {
            continue;
        }
        struct cp_task *task = job->first;
        struct cp_func *func = job->func;
        if (func->deaths >= CP_MAX_DEATHS) {
            (void)cp_jobs_start_task(job);
            struct cp_loss loss = {.pid = func->lost_pid,
                                   .exitcode = func->lost_exitcode,
                                   .worker = func->lost_worker};
            cp_jobs_lose_take(task, &loss);
            continue;
        }
        task->cost_ns = cp_plan_cost(job);
        if ((task->flags & CP_YIELDS) != 0) {
            cp_worker_begin_credit(w, job->many->credit);
        }
        int r = cp_worker_send_task(w, func, task);
        if (r == CP_ENOMEM) {
            cp_jobs_end(job, CP_END_NOMEM);
            continue;
        }
        if (r != 1) {
            break;
        }
        if (task->call != NULL) {
            task->call->worker = w;
            task->call->seq = w->tail - 1;
        }
        cp_turns_charge(job, task->cost_ns);
        (void)cp_jobs_start_task(job);
    }
    return cp_worker_has_out(w)
           && (urgent || w->big != NULL || cp_buf_len(&w->out) >= WRITE_NOW);
}

/* How many tasks w has not begun; *worth: their expected time in ns. */
static uint32_t
count_unclaimed(const struct cp_worker *w, int64_t *worth)
{
    uint32_t n = 0;
    *worth = 0;
    for (uint64_t seq = w->tail; seq > w->head; seq--) {
        struct cp_task *task = w->window[(seq - 1) & (CP_WINDOW - 1)];
        if (task == NULL || task->pinned) {
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

/* How many tasks may be taken from w. waits: w has not started, and another
 * worker that has is idle. */
static uint32_t
count_movable(const struct cp_worker *w, bool waits, int64_t now)
{
    int64_t worth;
    bool stuck = cp_plan_is_stuck(w, now);
    if (w->in_flight < 2 && !waits && !stuck) {
        return 0;
    }
    uint32_t n = count_unclaimed(w, &worth);
    if (waits || stuck) {
        return n;
    }
    return worth >= MOVE_WORTH ? (n + 1) / 2 : 0;
}

/* Tasks are queued, and other workers take some: put the tasks of given-up
 * workers in front of these. A given-up worker gets no tasks until it
 * reacts. */
static void
recall_from_given_up(struct cp_pool *pool, int64_t now)
{
    bool others = false;
    struct cp_worker *w;
    for (w = pool->workers; w != NULL && !others; w = w->next) {
        others =
            w->hello && cp_worker_accepts(w) && !cp_plan_is_given_up(w, now);
    }
    for (w = others ? pool->workers : NULL; w != NULL; w = w->next) {
        if (w->in_flight > 0 && cp_plan_is_given_up(w, now)) {
            (void)cp_jobs_recall(w, UINT32_MAX, CP_RECALL_BIG);
        }
    }
}

void
cp_sched_even_out(struct cp_pool *pool)
{
    const struct cp_worker *busy = pool->workers;
    while (busy != NULL && busy->in_flight == 0) {
        busy = busy->next;
    }
    if (busy == NULL) {
        return; /* nothing to take back, as after each single call */
    }
    int64_t now = cp_now();
    if (pool->queued > 0) {
        recall_from_given_up(pool, now);
        return;
    }
    bool idle = false, started = false;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->in_flight == 0 && cp_plan_is_open(w, now)) {
            idle = true;
            started = started || w->hello;
        }
    }
    if (!idle) {
        return;
    }
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
        (void)cp_jobs_recall(
            from, n, cp_plan_is_given_up(from, now) ? CP_RECALL_BIG : 0);
    }
}

/* The expected time, in ns, of the tasks of other lines that w has not begun;
 * *n: how many tasks w has not begun. The first task of an idle worker does not
 * count: w is about to begin it. */
static int64_t
worth_of_others(const struct cp_worker *w, struct cp_job *job, uint32_t *n)
{
    int64_t worth = 0;
    *n = 0;
    for (uint64_t seq = w->tail; seq > w->head + 1; seq--) {
        struct cp_task *task = w->window[(seq - 1) & (CP_WINDOW - 1)];
        if (task == NULL || task->pinned
            || task->job->priority > job->priority) {
            continue;
        }
        if (cp_worker_is_claimed(w, seq - 1)) {
            break;
        }
        worth += cp_turns_share_line(task->job, job) ? 0 : task->cost_ns;
        (*n)++;
    }
    return worth;
}

bool
cp_sched_make_room(struct cp_pool *pool, const struct cp_round *round)
{
    struct cp_job *job = cp_turns_next(pool);
    struct cp_worker *from = NULL;
    int64_t most = ROOM_WORTH;
    uint32_t n = 0;
    if (job == NULL || round->now < pool->room_at
        || !cp_turns_may_make_room(job)) {
        return false;
    }
    /* The tasks taken back go to the other workers, whose tasks would be taken
     * back next. */
    const struct cp_worker *only =
        job->first->len >= CP_BIG ? find_drained(pool, round) : NULL;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint32_t here = 0;
        int64_t worth = w->takes_part && cp_plan_is_open(w, round->now)
                                && (only == NULL || w == only)
                            ? worth_of_others(w, job, &here)
                            : 0;
        if (worth > most) {
            most = worth;
            n = here;
            from = w;
        }
    }
    if (from == NULL || (n = cp_jobs_recall(from, n, 0)) == 0) {
        return false;
    }
    pool->room_at = round->now + (int64_t)n * ROOM_COST;
    cp_turns_put_first(
        job); /* single calls that were taken back stand before it */
    return true;
}
