/* Arithmetic on the state; see pool/plan.h. */
#include "pool/plan.h"

/* Work that a worker may have ahead of it, in ns. The thread that feeds it decodes
 * results as well and may have no core of its own, so it comes back to the worker
 * some milliseconds late. */
#define AHEAD (8 * CP_MS)
/* Chunks of the pool's own choice: what they take at most, and at least, in ns;
 * a worker's share of what is left is cut into so many of them. The objects of
 * larger ones would not stay in a core's cache. */
#define MOST_SHARE CP_MS
#define LEAST_SHARE (50 * CP_US)
#define PARTS 4u
/* Tasks from here on go one at a time: waiting for the parent costs them nothing. */
#define LONG_TASK (10 * CP_MS)
/* A task that runs for longer is no reason to wait for its worker. */
#define STUCK CP_MS
/* Tasks below this take no longer than waking a thread does. */
#define SHORT_TASK (20 * CP_US)
/* How long a worker looks for its next task: longer than it takes the parent to
 * wake up and answer. */
#define LOOK_US 50u

static uint64_t
min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- tasks ---- */

/* Jobs of one task share the average of their callable. */
static bool
shares_average(const struct cp_job *job)
{
    return (job->flags & CP_JOB_SINGLE) != 0 && job->func != NULL;
}

int64_t
cp_plan_task_ns(const struct cp_job *job)
{
    return shares_average(job) ? job->func->avg_ns : job->avg_ns;
}

uint32_t
cp_plan_window(const struct cp_job *job)
{
    int64_t avg = cp_plan_task_ns(job);
    if (avg < 0 || avg > LONG_TASK) {
        return 1;
    }
    int64_t n = AHEAD / (avg + 1) + 1;
    return n < 2 ? 2 : n > CP_WINDOW ? CP_WINDOW : (uint32_t)n;
}

void
cp_plan_measure(struct cp_job *job, int64_t ns, uint32_t items)
{
    cp_avg_follow(shares_average(job) ? &job->func->avg_ns : &job->avg_ns, ns);
    cp_avg_follow(&job->pool->task_ns, ns);
    int64_t each = ns / (items > 0 ? items : 1);
    job->item_ns = job->item_ns < 0 ? each : (job->item_ns + each) / 2;
}

uint64_t
cp_plan_share(const struct cp_pool *pool, const struct cp_job *job,
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

uint64_t
cp_plan_room(const struct cp_pool *pool, const struct cp_job *job)
{
    uint64_t n = pool->n_workers > 0 ? pool->n_workers : pool->target;
    uint64_t room = n * (cp_plan_window(job) + (uint64_t)1);
    uint64_t have = job->queued + job->running;
    room = have < room ? room - have : 0;
    if (job->limit > 0) {
        have += job->arrived - job->taken;
        room = min_u64(room, have < job->limit ? job->limit - have : 0);
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
    return pool->joiners > 0 && pool->state == CP_CLOSING && job->limit > 0
           && !job->fed && job->queued + job->running == 0
           && job->arrived - job->taken >= job->limit;
}

bool
cp_plan_is_short(const struct cp_pool *pool)
{
    return pool->task_ns >= 0 && pool->task_ns <= SHORT_TASK;
}

/* ---- workers ---- */

bool
cp_plan_is_stuck(const struct cp_worker *w, int64_t now)
{
    return atomic_load_explicit(&w->row->running, memory_order_relaxed) != 0
           && now - atomic_load_explicit(&w->row->since, memory_order_relaxed)
                  > STUCK;
}

bool
cp_plan_is_open(const struct cp_worker *w, int64_t now)
{
    return cp_worker_accepts(w)
           && (w->in_flight == 0 || !cp_plan_is_stuck(w, now));
}

bool
cp_plan_wants_tick(const struct cp_pool *pool)
{
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->in_flight > 1 || (!w->wants_out && cp_worker_has_out(w))) {
            return true;
        }
    }
    return false;
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
    return pool->n_workers - pool->n_overdue;
}

bool
cp_plan_needs_workers(const struct cp_pool *pool, int64_t *at)
{
    /* Is there anything that a new worker could do? */
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

/* ---- spinning ---- */

bool
cp_plan_spin_pays(const struct cp_pool *pool)
{
    if (!cp_plan_is_short(pool)) {
        return false;
    }
    uint32_t busy = 0;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        busy += w->in_flight > 0 ? 1 : 0;
    }
    return busy > 0 && busy < pool->n_cpus && busy <= CP_WATCHED;
}

uint32_t
cp_plan_worker_spin_us(const struct cp_pool *pool)
{
    return cp_plan_spin_pays(pool) ? LOOK_US : 0;
}
