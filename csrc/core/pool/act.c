/* Record, then act; see pool/act.h. */
#include "pool/act.h"

#include "pool/func.h"
#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/sched.h"
#include "pool/wake.h"
#include "pool/watch.h"

/* Send w as many tasks as its share and its window allow; write them now if it
 * is idle. */
static void
hand_to(struct cp_pool *pool, struct cp_worker *w, struct cp_round *round)
{
    bool urgent = cp_sched_is_urgent(pool, w, round);
    bool func_first;
    do {
        bool write = cp_sched_fill(pool, w, urgent, round);
        func_first = w->big_func != NULL;
        if (write) {
            cp_watch_flush(pool, w);
        }
        /* A big callable goes alone. Once it is out, its tasks can go. */
    } while (func_first && cp_worker_accepts(w));
}

static bool
has_tasks(const struct cp_pool *pool)
{
    return pool->queued > 0 || pool->n_pinned > 0;
}

static void
hand_out(struct cp_pool *pool)
{
    struct cp_round round;
    if (!has_tasks(pool) || !cp_sched_begin(pool, &round)) {
        return; /* a worker's answer, or a new worker, makes this due again */
    }
    for (struct cp_worker *w = pool->workers; w != NULL && has_tasks(pool);
         w = w->next) {
        if (w->takes_part) {
            hand_to(pool, w, &round);
        }
    }
    if (pool->queued > 0) {
        (void)cp_sched_make_room(pool, &round); /* makes this due again */
    }
}

/* Flush all workers that have output, or only those with flush_due. The poller
 * watches pipes that are full. */
static void
flush(struct cp_pool *pool, bool all)
{
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->flush_due || (all && !w->wants_out && cp_worker_has_out(w))) {
            cp_watch_flush(pool, w);
        }
    }
}

static void
tell_end_all(struct cp_pool *pool)
{
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (!w->tx_closed || w->end_due) {
            cp_watch_tell_end(pool, w);
        }
    }
    cp_note_starter(pool); /* a worker may never get ready to see that */
}

static void
act_on_processes(struct cp_pool *pool)
{
    /* Only what is done here can make a tick or a probe necessary. */
    bool acts = pool->due != 0;
    while (pool->due != 0) {
        unsigned due = pool->due;
        pool->due = 0;
        if ((due & CP_DUE_UNPLACED) != 0) {
            cp_jobs_lose_unplaced(pool);
        }
        if ((due & CP_DUE_TASKS) != 0) {
            hand_out(pool);
        }
        if ((due & CP_DUE_EVEN) != 0) {
            cp_sched_even_out(pool);
        }
        if ((due & (CP_DUE_OUTPUT | CP_DUE_FLUSH)) != 0) {
            flush(pool, (due & CP_DUE_FLUSH) != 0);
        }
        if ((due & CP_DUE_END) != 0 && cp_plan_is_over(pool)) {
            tell_end_all(pool);
        }
    }
    if (pool->asleep
        && ((acts
             && (cp_plan_is_tick_late(pool)
                 || (!pool->armed && cp_plan_wants_probe(pool))))
            || (cp_pool_has_limits(pool)
                && cp_plan_limit_at(pool, cp_now()) < pool->sleeps_until)
            || pool->kills_due)) {
        cp_note_driver(pool); /* it sleeps for longer than it should now */
    }
}

/* Worker threads take their tasks themselves. */
static void
act_on_threads(struct cp_pool *pool)
{
    unsigned due = pool->due;
    pool->due = 0;
    if ((due & CP_DUE_TASKS) != 0) {
        cp_wake_workers(pool);
        if (pool->n_pinned > 0) {
            cp_wake_all_workers(pool); /* it is for one of them only */
        }
    }
    if (((due & CP_DUE_END) != 0 && cp_plan_is_over(pool))
        || (due & CP_DUE_RETIRE) != 0) {
        cp_wake_all_workers(pool);
    }
}

void
cp_act_now(struct cp_pool *pool)
{
    cp_funcs_reap(pool);
    if (cp_pool_has_threads(pool)) {
        act_on_threads(pool);
    } else {
        act_on_processes(pool);
    }
    if (pool->noted != 0) {
        cp_wake_noted(pool);
    }
}
