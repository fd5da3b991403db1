/* Arithmetic on the state; see pool/plan.h. */
#include "pool/plan.h"

/* How often the driver looks around. SLOW_TICK: if the only thing that could
 * change unnoticed is a worker that does not react. */
#define TICK (2 * CP_MS)
#define SLOW_TICK (50 * CP_MS)
/* Bounds of the expected time of a chunk whose size the pool chooses, in ns. A
 * chunk is one part in PARTS of a worker's share of the remaining items. The
 * objects of larger chunks would not stay in a core's cache. */
#define MOST_SHARE CP_MS
#define LEAST_SHARE (50 * CP_US)
#define PARTS 4u
/* How many tasks of a paced job each worker gets before the first result. */
#define FIRST_TASKS 2u
/* Longer tasks are sent one at a time: waiting for the parent costs them
 * nothing. */
#define LONG_TASK (10 * CP_MS)
/* A worker is not worth waiting for if its task has run for longer than STUCK,
 * or if it has not read or begun for DEAF what it was sent. */
#define STUCK CP_MS
#define DEAF (5 * CP_MS)
#define GIVEN_UP (100 * CP_MS)
/* A driver that wakes up by itself within this time need not be woken for a
 * tick. */
#define SOON (200 * CP_MS)
/* Tasks below this take less time than waking a thread. */
#define SHORT_TASK (20 * CP_US)
/* A longer time between two values counts as this much, so that short times
 * outweigh it soon. */
#define LONG_GAP (10 * SHORT_TASK)
/* After tasks up to this, a worker spins for the next one although the parent
 * does not spin for the result: it saves one of two wake-ups. */
#define AWAITED_TASK CP_MS
/* How long a worker spins for its next task: longer than the parent takes to
 * wake up and answer. */
#define LOOK_US 50u
/* The same for credit to yield more values. */
#define LOOK_VALUES_US 200u
/* The same if the parent is an event loop of Python's, which has other things
 * to do first. */
#define LOOK_LOOP_US 150u
/* How often the driver looks whether a worker has given its stack. */
#define LOOK_AGAIN (500 * CP_US)

static uint64_t
min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- tasks ---- */

/* The average time of the job's tasks. Jobs of one task share the average of
 * their callable; NULL: they have no callable (worker threads). */
static int64_t *
average_of(const struct cp_job *job)
{
    struct cp_many *many = cp_job_many(job);
    if (many != NULL) {
        return &many->avg_ns;
    }
    return job->func != NULL ? &job->func->avg_ns : NULL;
}

int64_t
cp_plan_task_ns(const struct cp_job *job)
{
    const int64_t *avg_ns = average_of(job);
    return avg_ns != NULL ? *avg_ns : -1;
}

int64_t
cp_plan_cost(const struct cp_job *job)
{
    int64_t avg = cp_plan_task_ns(job);
    return avg < 0 || avg > LONG_TASK ? CP_AHEAD + 1
                                      : cp_clock_min(avg + 1, CP_AHEAD);
}

/* How many tasks of the job a worker may have in flight. */
static uint32_t
window_of(const struct cp_job *job)
{
    int64_t n = CP_AHEAD / cp_plan_cost(job) + 1;
    return n > CP_WINDOW ? CP_WINDOW : (uint32_t)n;
}

void
cp_plan_measure(struct cp_job *job, int64_t ns, uint32_t items)
{
    struct cp_many *many = cp_job_many(job);
    int64_t *avg_ns = average_of(job);
    if (avg_ns != NULL) {
        cp_avg_follow(avg_ns, ns);
    }
    cp_avg_follow(&job->pool->task_ns, ns);
    if (many != NULL) {
        int64_t each = ns / (items > 0 ? items : 1);
        many->item_ns = many->item_ns < 0 ? each : (many->item_ns + each) / 2;
    }
}

void
cp_plan_measure_values(struct cp_pool *pool, uint64_t n, int64_t now)
{
    if (pool->values_at > 0) {
        int64_t each = (now - pool->values_at) / (int64_t)n;
        cp_avg_follow(&pool->value_ns, cp_clock_min(each, LONG_GAP));
    }
    pool->values_at = now;
}

bool
cp_plan_values_come(const struct cp_pool *pool)
{
    return pool->n_yielding > 0 && pool->value_ns >= 0
           && pool->value_ns <= SHORT_TASK;
}

/* How many workers there are, or will be if there is work for more. */
static uint32_t
will_have(const struct cp_pool *pool)
{
    return pool->most > pool->target ? pool->most : pool->target;
}

uint64_t
cp_plan_share(const struct cp_pool *pool, const struct cp_job *job,
              uint64_t left)
{
    const struct cp_many *many = cp_job_many(job);
    if (many == NULL || many->item_ns < 0) {
        return 1;
    }
    uint64_t each = (uint64_t)many->item_ns + 1;
    uint64_t fair = left / (PARTS * ((uint64_t)will_have(pool) + 1)) + 1;
    uint64_t least = LEAST_SHARE / each + 1;
    return min_u64(MOST_SHARE / each + 1, fair > least ? fair : least);
}

uint64_t
cp_plan_room(const struct cp_pool *pool, const struct cp_job *job)
{
    uint64_t n = pool->n_workers > 0 && pool->most == 0 ? pool->n_workers
                                                        : will_have(pool);
    uint64_t room = n * (window_of(job) + (uint64_t)1);
    uint64_t have = job->queued + job->running;
    const struct cp_many *many = cp_job_many(job);
    if (many != NULL && many->probes && job->arrived == 0) {
        room = n;
    } else if (many != NULL && many->paced) {
        room = min_u64(room, FIRST_TASKS * n + job->arrived);
    }
    room = have < room ? room - have : 0;
    uint64_t limit = cp_job_limit(job);
    if (limit > 0) {
        have += job->arrived - job->taken;
        room = min_u64(room, have < limit ? limit - have : 0);
    }
    return room;
}

bool
cp_plan_wants_feed(const struct cp_job *job)
{
    return !job->fed && cp_plan_room(job->pool, job) > job->queued;
}

bool
cp_plan_is_deadlocked(const struct cp_job *job)
{
    const struct cp_pool *pool = job->pool;
    uint64_t limit = cp_job_limit(job);
    return pool->joiners > 0 && pool->state == CP_CLOSING && limit > 0
           && !job->fed && job->queued + job->running == 0
           && job->arrived - job->taken >= limit;
}

bool
cp_plan_is_short(const struct cp_pool *pool)
{
    return pool->task_ns >= 0 && pool->task_ns <= SHORT_TASK;
}

/* ---- workers ---- */

/* Has w been sent something that it has not read? */
static bool
has_unread(const struct cp_worker *w)
{
    return atomic_load_explicit(&w->row->got, memory_order_relaxed)
           < atomic_load_explicit(&w->row->sent, memory_order_relaxed);
}

bool
cp_plan_is_awaited(const struct cp_worker *w)
{
    return w->in_flight > 0 || (!w->exiting && has_unread(w));
}

static bool
is_stuck_for(const struct cp_worker *w, int64_t now, int64_t running,
             int64_t silent)
{
    const struct cp_row *row = w->row;
    if (atomic_load_explicit(&row->running, memory_order_relaxed) != 0) {
        const struct cp_task *task = cp_worker_yielding(w);
        if (task != NULL && task->job->time_limit > 0) {
            return true; /* since: when it yielded last */
        }
        return now - atomic_load_explicit(&row->since, memory_order_relaxed)
               > running;
    }
    /* Tasks that are still to be written are no fault of the worker. */
    return now - w->active_at > silent && cp_plan_is_awaited(w)
           && (has_unread(w) || !cp_worker_has_out(w));
}

bool
cp_plan_is_stuck(const struct cp_worker *w, int64_t now)
{
    return is_stuck_for(w, now, STUCK, DEAF);
}

bool
cp_plan_is_given_up(const struct cp_worker *w, int64_t now)
{
    return is_stuck_for(w, now, GIVEN_UP, GIVEN_UP);
}

bool
cp_plan_is_open(const struct cp_worker *w, int64_t now)
{
    return cp_worker_accepts(w)
           && !(cp_plan_is_awaited(w) && cp_plan_is_stuck(w, now));
}

/* May there be tasks that only w may run? (A job with a worker for each task
 * may have none for w.) */
static bool
has_pinned(const struct cp_pool *pool, const struct cp_worker *w)
{
    const struct cp_pins *pins = pool->pins;
    return pool->n_pinned > 0
           && ((w->index < pins->n && pins->lines[w->index].first != NULL)
               || pins->each.first != NULL);
}

int64_t
cp_plan_tick(const struct cp_pool *pool)
{
    bool idle = false, waits = false;
    if (cp_plan_wants_more(pool)) {
        return TICK;
    }
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->in_flight > 1 || (!w->wants_out && cp_worker_has_out(w))) {
            return TICK;
        }
        bool awaited = cp_plan_is_awaited(w);
        if ((pool->queued > 0 || has_pinned(pool, w)) && !awaited && w->hello
            && cp_worker_accepts(w)) {
            return TICK; /* it has just gone on, without telling anybody */
        }
        idle = idle || !awaited;
        waits =
            waits
            || (awaited
                && atomic_load_explicit(&w->row->running, memory_order_relaxed)
                       == 0);
    }
    if (waits && idle) {
        return TICK; /* a task may have to move from one worker to another */
    }
    return waits && (pool->queued > 0 || pool->n_pinned > 0) ? SLOW_TICK
                                                             : CP_NEVER;
}

bool
cp_plan_is_tick_late(const struct cp_pool *pool)
{
    if (pool->tick_ns <= TICK || cp_plan_tick(pool) >= pool->tick_ns) {
        return false;
    }
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->in_flight > 1 || (!w->wants_out && cp_worker_has_out(w))) {
            return true;
        }
    }
    return pool->queued > 0 || (pool->most > 0 && pool->n_pinned > 0)
           || !pool->armed || pool->probe_at - cp_now() > SOON;
}

int64_t
cp_plan_limit_at(const struct cp_pool *pool, int64_t now)
{
    int64_t at = CP_NEVER;
    if (!cp_pool_has_limits(pool)) {
        return at;
    }
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint64_t seq;
        int64_t since;
        if (w->doomed || w->eof || w->in_flight == 0) {
            continue;
        }
        const struct cp_task *task = cp_worker_running(w, &seq, &since);
        if (pool->memory_limit > 0) {
            at = cp_clock_min(at, pool->memory_at);
        }
        if (w->stop_seq != 0) {
            at = cp_clock_min(at, w->kill_at);
            if (w->stop_is_look) {
                at = cp_clock_min(at, now + LOOK_AGAIN);
            } else if (!cp_worker_has_heard(w)) {
                at = cp_clock_min(at, w->ask_at);
            }
            if (task != NULL && task->job->time_limit > 0) {
                /* The next item of its chunk may have begun. */
                at = cp_clock_min(at, now + task->job->time_limit);
            }
        } else if (task != NULL && task->job->time_limit > 0) {
            at = cp_clock_min(at, since + task->job->time_limit);
        } else if (pool->n_limited > 0) {
            at = cp_clock_min(at, now + pool->least_limit);
        }
    }
    return at;
}

bool
cp_plan_is_probed(struct cp_worker *w)
{
    return !w->watches_end
           && (w->in_flight > 0 || !w->hello || w->eof || w->exiting
               || w->tx_closed || cp_proc_needs_polling(&w->proc));
}

bool
cp_plan_wants_probe(const struct cp_pool *pool)
{
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (cp_plan_is_probed(w)) {
            return true;
        }
    }
    return false;
}

uint32_t
cp_plan_at_work(const struct cp_pool *pool)
{
    return pool->n_workers - pool->n_overdue - pool->n_retiring;
}

/* Is there a worker with this index that is not about to end? */
static bool
has_place(const struct cp_pool *pool, uint32_t index)
{
    const struct cp_worker *w = pool->workers;
    while (w != NULL && (w->index != index || w->retiring || w->overdue)) {
        w = w->next;
    }
    return w != NULL;
}

uint32_t
cp_plan_next_unplaced(const struct cp_pool *pool, uint32_t from)
{
    const struct cp_pins *pins = pool->pins;
    uint32_t next = UINT32_MAX;
    if (pool->n_pinned == 0) {
        return next;
    }
    for (uint32_t i = from; i < pins->n && next == UINT32_MAX; i++) {
        if (pins->lines[i].first != NULL && !has_place(pool, i)) {
            next = i;
        }
    }
    for (const struct cp_job *job = pins->each.first; job != NULL;
         job = job->line_next) {
        for (const struct cp_task *task = job->first; task != NULL;
             task = task->next) {
            uint32_t at = cp_job_place(job, task);
            if (at >= from && at < next && !has_place(pool, at)) {
                next = at;
            }
        }
    }
    return next;
}

bool
cp_plan_wants_more(const struct cp_pool *pool)
{
    if (pool->target >= pool->most || pool->is_broken || pool->state == CP_ENDED
        || cp_plan_at_work(pool) < pool->target) {
        return false;
    }
    if (cp_plan_next_unplaced(pool, 0) != UINT32_MAX) {
        return true;
    }
    if (pool->queued == 0) {
        return false;
    }
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        bool is_busy = w->hello && cp_plan_is_awaited(w);
        if (!is_busy && !w->retiring && !w->overdue) {
            return false; /* it is starting, or takes what waits */
        }
    }
    return true;
}

const struct cp_worker *
cp_plan_idlest(const struct cp_pool *pool)
{
    const struct cp_worker *found = NULL;
    if (pool->idle_ns == 0 || pool->state != CP_RUN
        || cp_plan_at_work(pool) <= pool->least) {
        return NULL;
    }
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->hello && w->in_flight == 0 && cp_plan_may_retire(w)
            && (found == NULL || w->active_at < found->active_at)) {
            found = w;
        }
    }
    return found;
}

int64_t
cp_plan_idle_at(const struct cp_pool *pool)
{
    const struct cp_worker *w = cp_plan_idlest(pool);
    return w != NULL ? w->active_at + pool->idle_ns : CP_NEVER;
}

bool
cp_plan_may_retire(const struct cp_worker *w)
{
    return !w->retiring && !w->overdue && !w->doomed && !w->eof
           && w->exiting_since == 0;
}

bool
cp_plan_needs_workers(const struct cp_pool *pool, int64_t *at)
{
    /* Is there anything for a new worker to do? */
    if (!pool->lacks_workers || pool->is_broken
        || cp_plan_at_work(pool) >= pool->target
        || !(pool->state == CP_RUN
             || (pool->state == CP_CLOSING && pool->pending > 0))) {
        return false;
    }
    if (pool->failed_starts > 0 && cp_now() < pool->restart_at) {
        *at = cp_clock_min(*at, pool->restart_at);
        return false;
    }
    return true;
}

bool
cp_plan_is_over(const struct cp_pool *pool)
{
    return pool->state == CP_ENDED
           || (pool->state == CP_CLOSING && pool->pending == 0);
}

/* ---- tasks that yield ---- */

bool
cp_plan_has_waiter(const struct cp_pool *pool)
{
    if (pool->n_waits > 0) {
        return true;
    }
    const struct cp_job *job = pool->all_first;
    while (job != NULL && job->teller == NULL) {
        job = job->all_next;
    }
    return job != NULL;
}

bool
cp_plan_may_starve(const struct cp_pool *pool)
{
    if (cp_pool_has_threads(pool)) {
        return pool->threads.n_yielders >= pool->n_workers
               && cp_plan_has_waiter(pool);
    }
    const struct cp_worker *w = pool->workers;
    while (w != NULL && (w->exiting || cp_worker_yielding(w) != NULL)) {
        w = w->next;
    }
    return w == NULL && cp_plan_has_waiter(pool);
}

bool
cp_plan_is_starved(const struct cp_pool *pool)
{
    const struct cp_worker *w = pool->workers;
    while (w != NULL && (w->exiting || cp_worker_waits(w))) {
        w = w->next;
    }
    return w == NULL;
}

/* ---- spinning ---- */

static uint32_t
count_busy(const struct cp_pool *pool)
{
    uint32_t busy = 0;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        busy += w->in_flight > 0 ? 1 : 0;
    }
    return busy;
}

bool
cp_plan_has_tasks(const struct cp_pool *pool)
{
    return pool->queued > 0 || pool->n_pinned > 0 || count_busy(pool) > 0;
}

/* Is there a core for one thread more, beside the busy workers? */
static bool
has_free_core(const struct cp_pool *pool)
{
    uint32_t busy = count_busy(pool);
    return busy > 0 && busy < pool->n_cpus && busy <= CP_WATCHED;
}

bool
cp_plan_spin_pays(const struct cp_pool *pool)
{
    return (cp_plan_is_short(pool) || cp_plan_values_come(pool))
           && has_free_core(pool);
}

uint32_t
cp_plan_worker_spin_us(const struct cp_pool *pool)
{
    bool values_come = cp_plan_values_come(pool);
    bool awaited = pool->task_ns >= 0 && pool->task_ns <= AWAITED_TASK;
    if ((!awaited && !values_come) || !has_free_core(pool)) {
        return 0;
    }
    if (values_come) {
        return LOOK_VALUES_US;
    }
    return pool->is_glanced_at && cp_plan_is_short(pool) ? LOOK_LOOP_US
                                                         : LOOK_US;
}
