/*
 * The driving seat. One thread at a time runs the event loop: the first one
 * that waits, or the standby thread while no other does. The others sleep, each
 * on its own condition; the thread that leaves the seat passes it on to one of
 * them.
 *
 * Every sleep here is ended by: a result or the end of a worker (the poller), a
 * note that cp_act() handles, a deadline, or a signal. Threads without the seat
 * are woken by the driver, which notes after each step which of them the news
 * concerns.
 */
#include "pool/drive.h"

#include "pool/act.h"
#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/spin.h"
#include "pool/threads.h"
#include "pool/wake.h"
#include "pool/watch.h"

#include <signal.h>

/* How often the driver looks around while things happen. */
#define TICK (2 * CP_MS)
/* How long a thread glances, and how long it waits before that until the
 * standby has left the seat. */
#define GLANCE (250 * CP_US)
#define GIVE_WAY (200 * CP_US)
/* While the pool is about to end, a reader has this long to come back for
 * more. */
#define READ_GRACE (500 * CP_MS)
/* How often the standby thread looks whether another thread drives. If one has
 * the seat after two looks, the standby sleeps until offer_seat() tells it that
 * the seat is free. */
#define STANDBY_MIN CP_MS
#define STANDBY_MAX (2 * STANDBY_MIN)
/* How long it waits after it failed to drive. */
#define STANDBY_REST (16 * CP_MS)

/* Do what is due, including what the answers of workers have made due. */
static void
act_on_answers(struct cp_pool *pool)
{
    pool->due |= CP_DUE_TASKS | CP_DUE_EVEN;
    cp_act(pool);
}

/* Write the output that was left to the driver. */
static void
flush_all(struct cp_pool *pool)
{
    pool->due |= CP_DUE_FLUSH;
    cp_act(pool);
}

static void
next_tick(struct cp_pool *pool, int64_t at)
{
    pool->tick_at = at;
    pool->woken = 0;
}

/* Free unused shared memory, if that is due, though answers are always found while
 * we spin. This takes too long for the pool's lock. */
static void
rest(struct cp_pool *pool)
{
    int64_t at = cp_pool_rest_at(pool);
    if (at != CP_NEVER && at <= cp_now()) {
        cp_lock_release(&pool->lock);
        cp_heap_rest(pool->heap, cp_now());
        cp_lock_acquire(&pool->lock);
    }
}

/* One round of the loop; the caller has the seat. 0, or a negative code. */
static int
step(struct cp_pool *pool, int64_t deadline)
{
    struct cp_ready ready[64];
    if (pool->poller == NULL) {
        return CP_ECLOSED; /* ended, and so has every job */
    }
    flush_all(pool);
    if (deadline != 0 && cp_spin(pool, deadline)) {
        act_on_answers(pool);
        rest(pool);
        return 0;
    }
    cp_watch_kill_due(pool);
    flush_all(pool); /* what others left to us while we spun */
    bool yields = pool->n_yielding > 0;
    if (yields && cp_watch_values(pool)) {
        act_on_answers(pool);
        if (cp_now() < pool->poll_at) {
            cp_watch_awake(pool);
            return 0;
        }
        deadline = 0; /* other workers may have sent something too */
    }
    int64_t tick_ns = pool->stirred ? TICK : cp_plan_tick(pool);
    bool ticks = tick_ns != CP_NEVER;
    if (ticks) {
        if (tick_ns != pool->tick_ns) {
            next_tick(pool, cp_now() + tick_ns);
        }
        deadline = cp_clock_min(deadline, pool->tick_at);
    }
    int64_t probe_at = cp_watch_next_probe(pool);
    deadline = cp_clock_min(deadline, probe_at);
    int64_t limit_at = cp_plan_limit_at(pool, cp_now());
    deadline = cp_clock_min(deadline, limit_at);
    int64_t idle_at = cp_plan_idle_at(pool);
    deadline = cp_clock_min(deadline, idle_at);
    int64_t rest_at = cp_pool_rest_at(pool);
    deadline = cp_clock_min(deadline, rest_at);
    pool->sleeps_until = deadline;
    pool->tick_ns = tick_ns;
    pool->asleep = true;
    cp_lock_release(&pool->lock);
    int n = cp_poller_wait(pool->poller, ready, 64, deadline);
    if (rest_at != CP_NEVER) {
        cp_heap_rest(pool->heap, cp_now()); /* too long for the pool's lock */
    }
    cp_lock_acquire(&pool->lock);
    pool->asleep = false;
    if (yields) {
        cp_watch_awake(pool);
    }
    if (n < 0) {
        return n;
    }
    for (int i = 0; i < n; i++) {
        cp_watch_on_ready(pool, ready[i].tag);
    }
    int64_t now = cp_now();
    pool->poll_at = now + TICK;
    /* By the clock: if workers answer all the time, the poller never reports
     * that there is nothing. */
    if (ticks && now >= pool->tick_at) {
        next_tick(pool, now + tick_ns);
        (void)cp_watch_harvest(pool);
        cp_watch_grow(pool);
        cp_jobs_note_each_job(pool);
        pool->stirred = false;
    }
    if (now >= probe_at) {
        cp_watch_probe(pool, now);
    } else if (n > 0) {
        cp_watch_hurry_probe(pool, now);
    }
    if (now >= limit_at) {
        cp_watch_limits(pool, now);
        cp_watch_kill_due(pool);
    }
    if (now >= idle_at) {
        cp_watch_end_idle(pool, now);
    }
    pool->stirred = pool->stirred || n > 0;
    act_on_answers(pool);
    return 0;
}

/* What a thread waits for: a job; one call of a job of calls; the end of any of
 * several jobs (n_any > 0); or the end of the workers. */
struct target {
    struct cp_job *job;
    const struct cp_call *call;
    struct cp_job *const *any;
    size_t n_any;
};

static void
take_seat(struct cp_pool *pool, const struct target *what)
{
    pool->driving = true;
    pool->seat_job = what->job;
    pool->seat_call = what->call;
    pool->seat_any = what->n_any > 0;
    pool->handlers_first = false;
    pool->is_back = pool->is_brief;
    pool->is_brief = false;
    pool->drives++;
}

/* Nobody has the seat: let the thread that has waited longest take it; or else
 * the standby, which may be asleep until it is told. */
static void
offer_seat(struct cp_pool *pool)
{
    if (pool->waiters != NULL) {
        cp_note_waiter(pool, pool->waiters);
    } else if (pool->standby_tick > STANDBY_MAX) {
        cp_note_standby(pool);
    }
}

static void
leave_seat(struct cp_pool *pool)
{
    pool->driving = false;
    pool->seat_job = NULL;
    pool->seat_any = false;
    pool->seat_call = NULL;
    if (pool->poller != NULL) {
        pool->due |= CP_DUE_FLUSH; /* nobody may drive for a while */
    }
    offer_seat(pool);
}

static bool
is_ready(const struct cp_pool *pool, const struct target *what)
{
    struct cp_job *job = what->job;
    if (what->n_any > 0) {
        size_t i = 0;
        while (i < what->n_any && !atomic_load(&what->any[i]->done)) {
            i++;
        }
        return i < what->n_any;
    }
    if (job == NULL) { /* all have ended, and none will be started */
        return pool->n_workers == 0
               && (pool->state != CP_CLOSING || pool->pending == 0
                   || pool->is_broken);
    }
    if ((job->flags & CP_JOB_EACH) != 0) {
        return cp_job_has_result(job) || atomic_load(&job->end) != CP_END_NONE
               || (what->call != NULL && atomic_load(&what->call->ended));
    }
    if (atomic_load(&job->done)) {
        return !job->decoding;
    }
    return !job->decoding && (job->flags & (CP_JOB_CALLS | CP_JOB_WHOLE)) == 0
           && cp_job_has_result(job);
}

/* Is nothing left to do except for another thread, which is decoding the job's
 * results? Then there is nothing to drive, and that thread wakes us. */
static bool
is_over(const struct cp_pool *pool, const struct cp_job *job)
{
    return pool->poller == NULL && job != NULL && atomic_load(&job->done);
}

static bool
waits_for_workers(const struct target *what)
{
    return what->job == NULL && what->n_any == 0;
}

/* What a wait for this target returns now; CP_WAIT_TIMEOUT: go on, and look
 * again at *again at the latest. */
static int
look(struct cp_pool *pool, const struct target *what, unsigned can,
     int64_t *again)
{
    const struct cp_job *job = what->job;
    *again = CP_NEVER;
    cp_watch_drop_overdue(pool, again);
    cp_watch_end_unready(pool, again);
    cp_watch_credit(pool, again);
    bool lacks = cp_plan_needs_workers(pool, again);
    bool ready = is_ready(pool, what);
    if (ready && !(waits_for_workers(what) && lacks)) {
        return CP_WAIT_READY;
    }
    if (lacks && (can & CP_CAN_FORK) != 0) {
        pool->lacks_workers = false;
        return CP_WAIT_WORKERS;
    }
    if (ready) {
        return CP_WAIT_READY;
    }
    if (job != NULL && (can & CP_CAN_FEED) != 0 && cp_plan_wants_feed(job)) {
        return CP_WAIT_FEED;
    }
    return CP_WAIT_TIMEOUT;
}

/* Sleep while another thread drives, or while worker threads work. */
static int
wait_behind(struct cp_pool *pool, const struct target *what, int64_t deadline,
            unsigned can)
{
    struct cp_waiter me = {.job = what->job,
                           .call = what->call,
                           .any = what->n_any > 0,
                           .feeds = (can & CP_CAN_FEED) != 0};
    int r = cp_cond_init(&me.cond);
    if (r != 0) {
        return r;
    }
    /* At the end of the list: the seat goes to the thread that has waited
     * longest. */
    struct cp_waiter **at = &pool->waiters;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = &me;
    if (pool->standby_drives) {
        cp_note_driver(pool);
    }
    cp_act(pool); /* this may end the very job */
    if (!me.is_woken) {
        cp_cond_wait(&me.cond, &pool->lock, deadline);
    }
    at = &pool->waiters;
    while (*at != &me) {
        at = &(*at)->next;
    }
    *at = me.next;
    cp_cond_fini(&me.cond);
    /* The seat may have been passed to us; the caller looks at once. But if the
     * seat is free and we leave without it, the next thread has to be told. */
    return 0;
}

static int
wait_for(struct cp_pool *pool, const struct target *what, int64_t deadline,
         unsigned can)
{
    bool joins = waits_for_workers(what);
    (void)atomic_fetch_add(&pool->threads.n_waiting, 1);
    cp_lock_acquire(&pool->lock);
    cp_watch_begin_wait(pool, joins);
    if (joins) {
        cp_note_feeders(pool);
    }
    int r;
    bool seated = false;
    bool last_look = false, in_vain = false;
    int64_t again;
    while ((r = look(pool, what, can, &again)) == CP_WAIT_TIMEOUT
           && !last_look) {
        /* Past the deadline there is one more round, which does not block, so
         * that a wait with a timeout of 0 still finds what has arrived. */
        last_look = cp_now() >= deadline;
        if (seated || (!pool->driving && !is_over(pool, what->job))) {
            if (!seated) {
                take_seat(pool, what);
                seated = true;
            }
            r = step(pool, last_look ? 0 : cp_clock_min(deadline, again));
            if (r == 0 && pool->handlers_first) {
                r = CP_EINTR;
            }
        } else if (!last_look
                   && !cp_threads_look(pool, what->job, deadline, &in_vain)) {
            r = wait_behind(pool, what, cp_clock_min(deadline, again), can);
        }
        if (r != 0) {
            break;
        }
    }
    if (seated) {
        /* It comes back after a look for signals. */
        pool->is_brief = r == CP_WAIT_TIMEOUT && !joins;
        leave_seat(pool);
    } else if (!pool->driving) {
        offer_seat(pool);
    }
    if (joins && r == CP_WAIT_READY && pool->state == CP_CLOSING) {
        /* A replacement that is being forked meanwhile is refused. */
        pool->state = CP_ENDED;
        cp_note_helper(pool);
        cp_note_starter(pool);
    }
    if (r != CP_WAIT_READY && pool->each_first != NULL) {
        cp_note_helper(pool); /* this thread will not take results */
    }
    cp_watch_end_wait(pool, joins, r == CP_WAIT_READY);
    cp_act(pool);
    bool needs_standby =
        !joins && !pool->has_standby && cp_pool_rest_at(pool) != CP_NEVER;
    cp_lock_release(&pool->lock); /* detached: nothing is released here */
    (void)atomic_fetch_sub(&pool->threads.n_waiting, 1);
    if (needs_standby) {
        /* Shared memory is to be freed while no thread is in a call. If this
         * fails, the next call tries again. */
        (void)cp_pool_start_standby(pool);
    }
    return r;
}

/* Glance, with the seat taken. An answer is near, since tasks are short; but a
 * worker that sleeps takes longer than one spin, so the whole glance counts as
 * one miss at most. */
static void
glance(struct cp_pool *pool)
{
    int64_t until = cp_now() + GLANCE;
    uint32_t misses = pool->spin_misses;
    pool->is_glanced_at = true;
    flush_all(pool);
    while (pool->each_first == NULL && pool->spin_rest == 0
           && cp_plan_spin_pays(pool) && cp_now() < until) {
        pool->spin_misses = misses;
        if (cp_spin(pool, until)) {
            act_on_answers(pool);
        } else if (step(pool, 0) != 0) { /* not in a ring: ask the poller */
            break;                       /* the standby will fail, too */
        }
    }
}

/* While threads glanced, the helper was not told of results: tell it of the
 * rest. */
static void
note_rest(struct cp_pool *pool)
{
    if (pool->each_first != NULL
        || (pool->pending == 0 && pool->ended_first != NULL)) {
        cp_note_helper(pool);
    }
}

bool
cp_pool_glance(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    pool->glances++;
    if (pool->spin_rest > 0) {
        pool->spin_rest--;
    } else if (cp_plan_is_short(pool)) {
        /* Also if the answer has arrived already: the standby was faster, and
         * would be again. */
        if (pool->standby_drives) {
            (void)wait_behind(pool, &(struct target){0}, cp_now() + GIVE_WAY,
                              0);
        }
        if (!pool->driving) {
            take_seat(pool, &(struct target){0});
            glance(pool);
            leave_seat(pool);
        }
    }
    pool->glances--;
    bool any = pool->each_first != NULL;
    if (!any) {
        note_rest(pool);
    }
    if (!any && !pool->driving && cp_plan_has_tasks(pool)) {
        pool->standby_due = true;
        cp_note_standby(pool);
    }
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return any;
}

void
cp_pool_glanced(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    note_rest(pool);
    cp_act(pool);
    cp_lock_release(&pool->lock);
}

int
cp_pool_wait(struct cp_pool *pool, struct cp_job *job, int64_t deadline,
             unsigned can)
{
    struct target what = {.job = job};
    return wait_for(pool, &what, deadline, can);
}

int
cp_pool_wait_any(struct cp_pool *pool, struct cp_job *const *jobs, size_t n,
                 int64_t deadline, unsigned can)
{
    struct target what = {.any = jobs, .n_any = n};
    return wait_for(pool, &what, deadline, can);
}

int
cp_job_wait_call(struct cp_job *job, const struct cp_call *call,
                 int64_t deadline, unsigned can)
{
    struct target what = {.job = job, .call = call};
    return wait_for(job->pool, &what, deadline, can);
}

int
cp_job_wait_wants(struct cp_job *job, uint64_t *n)
{
    struct cp_pool *pool = job->pool;
    int r = 0;
    int64_t until = CP_NEVER;
    cp_lock_acquire(&pool->lock);
    pool->feeders++;
    while (!job->fed && !cp_plan_wants_feed(job)) {
        if (!cp_plan_is_deadlocked(job)) {
            until = CP_NEVER;
        } else if (until == CP_NEVER) {
            until = cp_now() + READ_GRACE;
        } else if (cp_now() >= until) {
            break;
        }
        cp_cond_wait(&pool->feed, &pool->lock, until);
    }
    pool->feeders--;
    *n = 0;
    if (!job->fed) {
        *n = cp_plan_room(pool, job);
        r = cp_plan_wants_feed(job) ? 1 : CP_ECLOSED;
    }
    cp_lock_release(&pool->lock);
    return r;
}

static bool
is_gone(const struct cp_pool *pool)
{
    return pool->state == CP_ENDED
           || (cp_plan_is_over(pool) && pool->n_workers == 0);
}

/* What cp_pool_next() should return now; CP_WAIT_TIMEOUT: nothing to do, look
 * again at *again at the latest. */
static int
find_work(struct cp_pool *pool, unsigned duties, struct cp_job **job,
          int64_t *again)
{
    /* Act before everything is looked at: what is done may concern this thread,
     * and cannot wake it while it is awake. */
    bool acts = (duties & CP_DO_STARTS) != 0 && !is_gone(pool);
    do {
        *again = CP_NEVER;
        if (acts) {
            cp_watch_drop_overdue(pool, again);
            cp_watch_end_unready(pool, again);
            acts = (pool->due | pool->noted) != 0;
            cp_act(pool);
        }
    } while (acts);
    if ((duties & CP_DO_CALLS) != 0
        && (*job = cp_jobs_next_each(pool)) != NULL) {
        return CP_WAIT_EACH;
    }
    if ((duties & CP_DO_CALLS) != 0
        && (*job = cp_jobs_next_call(pool)) != NULL) {
        return CP_WAIT_CALL;
    }
    if (is_gone(pool)) {
        return CP_WAIT_ENDED;
    }
    if ((duties & CP_DO_STARTS) != 0 && cp_plan_needs_workers(pool, again)) {
        pool->lacks_workers = false;
        return CP_WAIT_WORKERS;
    }
    if ((duties & CP_DO_CALLS) != 0 && pool->pending == 0
        && pool->ended_first != NULL && !cp_pool_has_threads(pool)) {
        return CP_WAIT_IDLE;
    }
    return CP_WAIT_TIMEOUT;
}

int
cp_pool_next(struct cp_pool *pool, unsigned duties, struct cp_job **job)
{
    *job = NULL;
    cp_lock_acquire(&pool->lock);
    pool->duties |= duties;
    struct cp_cond *cond =
        (duties & CP_DO_CALLS) != 0 ? &pool->events : &pool->starts;
    int64_t again;
    int r;
    while ((r = find_work(pool, duties, job, &again)) == CP_WAIT_TIMEOUT) {
        cp_cond_wait(cond, &pool->lock, again);
    }
    cp_lock_release(&pool->lock);
    return r;
}

int
cp_pool_try_next(struct cp_pool *pool, unsigned duties, struct cp_job **job)
{
    int64_t again;
    *job = NULL;
    cp_lock_acquire(&pool->lock);
    int r = find_work(pool, duties, job, &again);
    cp_lock_release(&pool->lock);
    return r;
}

/* ---- the standby thread ---- */

static bool
has_work(const struct cp_pool *pool)
{
    return pool->n_workers > 0;
}

/* Drive until another thread wants to, or there is nothing to do: 0. Negative
 * if that failed, for example because memory is out. */
static int
standby_drive(struct cp_pool *pool)
{
    int r = 0;
    take_seat(pool, &(struct target){0});
    pool->standby_drives = true;
    pool->standby_due = pool->is_glanced_at = false;
    while (r == 0 && !pool->stop_standby && pool->waiters == NULL
           && has_work(pool)) {
        int64_t again = CP_NEVER;
        cp_watch_credit(pool, &again);
        cp_act(pool);
        r = step(pool, again);
    }
    pool->standby_drives = false;
    leave_seat(pool);
    cp_act(pool);
    return r;
}

/* Sleep while another thread drives, or is about to; or did so since the last
 * look and is likely to do so again. Look again twice; then, only when the seat
 * is left. */
static void
standby_wait(struct cp_pool *pool)
{
    int64_t tick = pool->standby_tick;
    cp_cond_wait(&pool->standby, &pool->lock,
                 tick == CP_NEVER ? CP_NEVER : cp_now() + tick);
    if (!pool->driving || (tick == CP_NEVER && !pool->is_back)) {
        pool->standby_tick = STANDBY_MIN; /* told that the seat is free */
    } else {
        pool->standby_tick = tick < STANDBY_MAX ? tick * 2 : CP_NEVER;
    }
}

/* The driver has left the seat for a moment, to look for signals. Wait whether
 * it comes back: a handler of the program may take long, or another thread may
 * hold the interpreter. If it does, sleep on as before; else the caller drives. */
static void
standby_wait_for_driver(struct cp_pool *pool)
{
    pool->is_brief = false;
    cp_cond_wait(&pool->standby, &pool->lock, cp_now() + STANDBY_MIN);
    if (pool->driving) {
        pool->standby_tick = CP_NEVER;
    }
}

static void *
standby_main(void *arg)
{
    struct cp_pool *pool = arg;
    uint64_t seen = UINT64_MAX; /* drive at once: work is waiting */
    cp_lock_acquire(&pool->lock);
    while (!pool->stop_standby && !is_gone(pool)) {
        if (!has_work(pool)) {
            pool->standby_tick = CP_NEVER;
            cp_cond_wait(&pool->standby, &pool->lock, CP_NEVER);
            /* The seat may be free, and nobody would tell. */
            pool->standby_tick = STANDBY_MIN;
        } else if (pool->driving || pool->waiters != NULL
                   || (pool->drives != seen && seen != UINT64_MAX
                       && !pool->standby_due)) {
            seen = pool->drives;
            standby_wait(pool);
        } else if (pool->is_brief && !pool->standby_due) {
            standby_wait_for_driver(pool);
        } else {
            int r = standby_drive(pool);
            seen = pool->drives;
            pool->standby_tick = STANDBY_MIN;
            if (r != 0) { /* wait, or this would be a busy loop */
                cp_cond_wait(&pool->standby, &pool->lock,
                             cp_now() + STANDBY_REST);
            }
        }
    }
    if (!pool->stop_standby) { /* nobody joins this thread */
        pool->has_standby = false;
        (void)pthread_detach(pthread_self());
    }
    cp_lock_release(&pool->lock);
    cp_pool_unref(pool);
    return NULL;
}

int
cp_pool_start_standby(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    if (is_gone(pool)) {
        cp_lock_release(&pool->lock);
        return CP_ECLOSED;
    }
    int e = 0;
    if (!pool->has_standby && !pool->stop_standby
        && !cp_pool_has_threads(pool)) {
        pool->standby_tick = STANDBY_MIN;
        /* The standby handles no signals: they are for the threads that run
         * Python. */
        sigset_t all, old;
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &old);
        /* Under the lock: a thread that stops the standby must find these
         * fields complete. */
        e = pthread_create(&pool->standby_thread, NULL, standby_main, pool);
        (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (e == 0) {
            pool->has_standby = true;
            cp_pool_ref(pool); /* the new thread's reference */
        }
    }
    cp_lock_release(&pool->lock);
    return e == 0 ? 0 : CP_ERRNO(e);
}

void
cp_pool_stop_standby(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    bool join = pool->has_standby && !pool->stop_standby;
    pool->stop_standby = true;
    cp_note_standby(pool);
    cp_note_driver(pool);
    cp_act(pool);
    cp_lock_release(&pool->lock);
    if (join) {
        (void)pthread_join(pool->standby_thread, NULL);
    }
}
