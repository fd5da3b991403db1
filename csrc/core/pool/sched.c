/*
 * Which worker gets which task: windows, levels, and taking back.
 *
 * A worker is given as many tasks as fill some milliseconds of its time, so
 * that it never waits for us; only one while tasks are long or nothing is
 * known. What was given too early is taken back through the claims as soon as
 * another worker would idle. The pool's lock is held in all of this.
 */
#include "pool/state.h"

/* Work that a worker may have ahead of it, in ns. Who feeds it decodes as well,
 * and has no core of its own: it comes to it some milliseconds late. */
#define AHEAD (8 * CP_MS)
/* Chunks of the pool's own choice: what they take at most, and at least, in ns;
 * a worker's share of what is left is cut into so many of them. The objects of
 * larger ones would not stay in a core's cache. */
#define MOST_SHARE CP_MS
#define LEAST_SHARE (50 * CP_US)
#define PARTS 4u
/* Tasks from here on go one at a time: waiting for us costs them nothing. */
#define LONG_TASK (10 * CP_MS)
/* A task that runs for longer is no reason to wait for its worker. */
#define STUCK CP_MS
/* Bytes that are written at once though the worker is busy. */
#define WRITE_NOW 4096u
/* Tasks below this take no longer than waking somebody does. */
#define SHORT_TASK (20 * CP_US)
/* So many workers that were woken for one task each, within a tick, are a row. */
#define ROW 8u

static uint64_t
min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int64_t *
measure_of(struct cp_job *job)
{
    bool single = (job->flags & CP_JOB_SINGLE) != 0;
    return single && job->func != NULL ? &job->func->avg_ns : &job->avg_ns;
}

static uint32_t
window_of(struct cp_job *job)
{
    int64_t avg = *measure_of(job);
    if (avg < 0 || avg > LONG_TASK) {
        return 1;
    }
    int64_t n = AHEAD / (avg + 1) + 1;
    return n < 2 ? 2 : n > CP_WINDOW ? CP_WINDOW : (uint32_t)n;
}

void
cp_sched_measure(struct cp_job *job, int64_t ns, uint32_t items)
{
    cp_avg_follow(measure_of(job), ns);
    int64_t each = ns / (items > 0 ? items : 1);
    job->item_ns = job->item_ns < 0 ? each : (job->item_ns + each) / 2;
}

uint64_t
cp_sched_share(const struct cp_pool *pool, const struct cp_job *job,
               uint64_t left)
{
    if (job->item_ns < 0) {
        return 1;
    }
    uint64_t each = (uint64_t)job->item_ns + 1;
    uint64_t fair = left / (PARTS * ((uint64_t)pool->target + 1)) + 1;
    uint64_t least = LEAST_SHARE / each + 1;
    return min_u64(MOST_SHARE / each + 1, fair > least ? fair : least);
}

void
cp_sched_ready(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    if (job->is_ready) {
        return;
    }
    /* In order of submission. A job mostly comes in at one of the ends. */
    struct cp_job *after = pool->ready_last;
    if (after != NULL && after->id > job->id) {
        after = NULL;
        for (struct cp_job *j = pool->ready_first; j->id < job->id;
             j = j->ready_next) {
            after = j;
        }
    }
    struct cp_job *before =
        after != NULL ? after->ready_next : pool->ready_first;
    job->ready_prev = after;
    job->ready_next = before;
    *(after != NULL ? &after->ready_next : &pool->ready_first) = job;
    *(before != NULL ? &before->ready_prev : &pool->ready_last) = job;
    job->is_ready = true;
}

void
cp_sched_unready(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    if (!job->is_ready) {
        return;
    }
    struct cp_job *prev = job->ready_prev, *next = job->ready_next;
    *(prev != NULL ? &prev->ready_next : &pool->ready_first) = next;
    *(next != NULL ? &next->ready_prev : &pool->ready_last) = prev;
    job->ready_next = job->ready_prev = NULL;
    job->is_ready = false;
}

bool
cp_sched_is_short(const struct cp_pool *pool)
{
    return pool->task_ns >= 0 && pool->task_ns <= SHORT_TASK;
}

static bool
is_stuck(const struct cp_worker *w, int64_t now)
{
    return atomic_load_explicit(&w->row->running, memory_order_relaxed) != 0
           && now - atomic_load_explicit(&w->row->since, memory_order_relaxed)
                  > STUCK;
}

/* May w be given a task now, idle or not? */
static bool
is_open(const struct cp_worker *w, int64_t now)
{
    return cp_worker_accepts(w) && (w->in_flight == 0 || !is_stuck(w, now));
}

/* Is there a worker that has started and is open? Then those that still run
 * their initializer, maybe for ever, are given nothing. */
static bool
any_started(const struct cp_pool *pool, int64_t now)
{
    const struct cp_worker *w = pool->workers;
    while (w != NULL && !(w->hello && is_open(w, now))) {
        w = w->next;
    }
    return w != NULL;
}

/* The job's first task leaves the queue. */
static void
take_first(struct cp_job *job)
{
    (void)cp_job_dequeue(job);
    job->pool->queued--;
    job->running++;
    if (job->queued == 0) {
        cp_sched_unready(job);
        cp_cond_broadcast(&job->pool->feed);
    }
}

struct cp_task *
cp_sched_take(struct cp_pool *pool)
{
    struct cp_job *job = pool->ready_first;
    struct cp_task *task = job != NULL ? job->first : NULL;
    if (task != NULL) {
        take_first(job);
    }
    return task;
}

/* Give w tasks until it has `level` under way. */
static void
fill(struct cp_pool *pool, struct cp_worker *w, uint64_t level)
{
    struct cp_job *job;
    while ((job = pool->ready_first) != NULL && cp_worker_accepts(w)
           && w->in_flight < level && w->in_flight < window_of(job)) {
        struct cp_task *task = job->first;
        struct cp_func *func = job->func;
        if (func->deaths >= CP_MAX_DEATHS) {
            take_first(job);
            cp_job_lose_take(task, func->lost_pid, func->lost_exitcode);
            continue;
        }
        int r = cp_worker_send_task(w, func, task);
        if (r == CP_ENOMEM) {
            cp_job_finish(job, CP_END_NOMEM);
            continue;
        }
        if (r != 1) {
            break;
        }
        take_first(job);
    }
}

/* May an idle worker's tasks be left to the driver? For whoever submits tiny tasks
 * in a row, to wake a worker for each of them would be most of the cost; but the
 * first ones do, since nobody knows that it is a row. Another worker will answer at
 * once, which wakes the driver, who writes out what is left; or else the tick. */
static bool
may_leave(struct cp_pool *pool, int64_t now)
{
    if (!pool->asleep || !pool->ticking || !cp_sched_is_short(pool)) {
        return false;
    }
    const struct cp_worker *w = pool->workers;
    while (w != NULL
           && (w->in_flight == 0 || !w->hello || w->flush_deferred
               || is_stuck(w, now))) {
        w = w->next;
    }
    if (w != NULL && pool->woken < ROW) {
        pool->woken++;
        return false;
    }
    return w != NULL;
}

/* Fill w up, and write it out where that should not wait. */
static void
hand_to(struct cp_pool *pool, struct cp_worker *w, uint64_t level, int64_t now)
{
    bool at_once = w->in_flight == 0;
    bool again;
    if (at_once && may_leave(pool, now)) {
        at_once = false;
        w->flush_deferred = true;
    }
    do {
        fill(pool, w, level);
        bool func_first = w->big_func != NULL;
        /* A busy worker's tasks go out with the next ones: it will not look
         * at them before it has answered, and then the driver is awake. */
        if (cp_worker_has_out(w)
            && (at_once || w->big != NULL
                || cp_buf_len(&w->out) >= WRITE_NOW)) {
            cp_watch_flush(pool, w);
        }
        /* A big callable goes alone. Now that it is out, its tasks can go. */
        again = func_first && cp_worker_accepts(w);
    } while (again);
}

void
cp_sched_hand_out(struct cp_pool *pool)
{
    if (pool->ready_first == NULL) {
        return;
    }
    if (cp_pool_has_threads(pool)) {
        cp_threads_on_queued(pool);
        return;
    }
    int64_t now = cp_now();
    bool started = any_started(pool, now);
    uint64_t n = 0, in_flight = 0;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (is_open(w, now) && (w->hello || !started)) {
            n++;
            in_flight += w->in_flight;
        }
    }
    if (n == 0) {
        return;
    }
    uint64_t level = (in_flight + pool->queued + n - 1) / n;
    for (struct cp_worker *w = pool->workers;
         w != NULL && pool->ready_first != NULL; w = w->next) {
        if (is_open(w, now) && (w->hello || !started)) {
            hand_to(pool, w, level, now);
        }
    }
    if (pool->asleep && !pool->ticking && cp_sched_wants_tick(pool)) {
        cp_drive_wake(pool); /* it sleeps for longer than it may now */
    }
}

/* Tasks that w has not begun, and what they are worth in ns. */
static uint32_t
not_begun(const struct cp_worker *w, int64_t *worth)
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
        int64_t avg = *measure_of(task->job);
        *worth += avg > 0 ? avg : 0;
        n++;
    }
    return n;
}

/* Worth a trip: below this the worker is through before we have moved them. */
#define MOVE_WORTH (50 * CP_US)

/* How many tasks may be taken from w. waits: it has not started, and another
 * one that has is idle. */
static uint32_t
movable(const struct cp_worker *w, bool waits, int64_t now)
{
    int64_t worth;
    if (w->in_flight < 2 && !waits) {
        return 0;
    }
    uint32_t n = not_begun(w, &worth);
    if (waits || is_stuck(w, now)) {
        return n;
    }
    return worth >= MOVE_WORTH ? (n + 1) / 2 : 0;
}

uint32_t
cp_sched_take_back(struct cp_worker *w, uint32_t n)
{
    struct cp_task *task = cp_worker_recall(w, &n);
    while (task != NULL) {
        struct cp_task *next = task->next;
        cp_job_queue_back(task->job, task);
        task = next;
    }
    return n;
}

bool
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
        return false;
    }
    int64_t now = cp_now();
    struct cp_worker *from = NULL;
    uint32_t n = 0;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint32_t here = movable(w, started && !w->hello, now);
        if (here > n) {
            n = here;
            from = w;
        }
    }
    if (from == NULL) {
        return false;
    }
    n = cp_sched_take_back(from, n);
    cp_sched_hand_out(pool);
    return n > 0;
}

bool
cp_sched_wants_tick(const struct cp_pool *pool)
{
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->in_flight > 1) {
            return true;
        }
    }
    return false;
}

/* Is it time for more? Not for every task, but before the workers run dry. */
bool
cp_sched_wants_feed(struct cp_job *job)
{
    return !job->fed && cp_sched_room(job->pool, job) > job->queued;
}

bool
cp_sched_is_held_up(struct cp_job *job)
{
    const struct cp_pool *pool = job->pool;
    return pool->joiners > 0 && pool->state == CP_CLOSING && job->limit > 0
           && !job->fed && job->queued + job->running == 0
           && job->arrived - job->taken >= job->limit;
}

uint64_t
cp_sched_room(const struct cp_pool *pool, struct cp_job *job)
{
    uint64_t n = pool->n_workers > 0 ? pool->n_workers : pool->target;
    uint64_t room = n * (window_of(job) + (uint64_t)1);
    uint64_t have = job->queued + job->running;
    room = have < room ? room - have : 0;
    if (job->limit > 0) {
        have += job->arrived - job->taken;
        room = min_u64(room, have < job->limit ? job->limit - have : 0);
    }
    return room;
}
