/*
 * The pool's state, for pool/pool.c, pool/sched.c, pool/watch.c and pool/drive.c
 * alone. Everything is guarded by `lock`, but for what is marked.
 */
#ifndef CP_STATE_H
#define CP_STATE_H

#include "os/fd.h"
#include "base/lock.h"
#include "os/poller.h"
#include "pool/pool.h"
#include "pool/threads.h"

#define CP_INTERNED 64u

enum cp_pool_state { CP_RUN, CP_CLOSING, CP_ENDED };

/* A thread that waits while another drives. On that thread's stack. */
struct cp_waiter {
    struct cp_waiter *next;
    struct cp_job *job; /* NULL: waits for the end of the workers */
    bool feeds;         /* and is to be told when the job wants tasks */
    struct cp_cond cond;
};

struct cp_pool {
    struct cp_lock lock;
    _Atomic uint32_t refs;
    pid_t owner; /* never changes */
    enum cp_pool_state state;
    struct cp_result *broken; /* why nothing can run */
    bool is_broken;

    struct cp_worker *workers;
    uint32_t n_workers, target;
    uint32_t n_last;    /* workers that are through, and should be gone soon */
    uint32_t n_leaving; /* workers that should have gone long ago */
    uint64_t next_worker_id;
    uint32_t failed_starts;
    int64_t restart_at; /* no worker is to be started before */
    bool lacks_workers; /* somebody should replace them; not asked yet */

    struct cp_job *ready_first, *ready_last; /* have queued tasks */
    struct cp_job *all_first, *all_last;     /* are not done */
    struct cp_job *call_first, *call_last;   /* callbacks are to be run */
    struct cp_job *ended_first, *ended_last; /* done, not handed over */
    uint64_t pending, queued, next_job_id;

    struct cp_func **slots;
    uint32_t n_slots, free_slot; /* none is free below free_slot */
    struct cp_func *interned[CP_INTERNED];

    struct cp_common *common;
    int common_fd; /* -1 where workers fork */
    uint32_t n_cpus;
    int64_t task_ns; /* time of a task, whichever job's; -1: unknown */
    uint32_t spin_misses, spin_rest;
    struct cp_poller *poller;
    struct cp_wake wake;
    bool driving;            /* somebody has the seat */
    bool standby_drives;     /* and it is the standby thread */
    struct cp_job *seat_job; /* what whoever has the seat waits for */
    bool asleep;             /* the driver waits in the poller */
    bool ticking;            /* and looks up at tick_at at the latest */
    bool stirred;            /* there was something since the last tick */
    uint32_t woken; /* idle workers that others than the driver woke since */
    int64_t tick_at;
    int64_t poll_at; /* by then the poller is asked, however looking goes */
    uint64_t drives; /* counts every taking of the seat */
    struct cp_waiter *waiters;
    uint32_t joiners;      /* threads that wait for the workers to end */
    uint32_t feeders;      /* threads in cp_job_wait_wants() */
    struct cp_cond feed;   /* for them */
    struct cp_cond events; /* for cp_pool_next() */
    bool has_helper;       /* somebody calls cp_pool_next() */
    struct cp_cond standby;
    pthread_t standby_thread;
    bool has_standby, stop_standby;
    int64_t standby_tick;
    struct cp_threads threads;
};

/* Are its workers threads? [any] */
static inline bool
cp_pool_has_threads(const struct cp_pool *pool)
{
    return pool->threads.release != NULL;
}

/* pool/threads.c */
/* Nobody wants it any more: free it, or keep it for cp_pool_unlock(). NULL is
 * fine. The results with all that follow. */
void cp_pool_drop_task(struct cp_pool *pool, struct cp_task *task);
void cp_pool_drop_results(struct cp_pool *pool, struct cp_result *list);
/* Release the lock, and then what was dropped: may call up. */
void cp_pool_unlock(struct cp_pool *pool);
void cp_threads_on_queued(struct cp_pool *pool); /* tasks: wake workers */
void cp_threads_on_end(struct cp_pool *pool);    /* wake all of them */
/* Look for news of the job instead of sleeping, where that is worth it. True: the
 * lock was released meanwhile, so that the caller has to see what there is before
 * it sleeps. in_vain is the caller's, false at first: once in vain is enough. */
bool cp_threads_look(struct cp_pool *pool, struct cp_job *job, int64_t deadline,
                     bool *in_vain);

/* pool/pool.c, pool/func.c, pool/jobs.c */
void cp_job_finish_if_done(struct cp_job *job);
void cp_job_finish(struct cp_job *job, enum cp_end end);
void cp_job_on_result_take(struct cp_job *job, struct cp_result *result);
/* A worker has run a task of the job's, which took ns; NULL: there was no memory
 * for its result. Consumes the task's reference to the job. */
void cp_job_on_answer_take(struct cp_job *job, struct cp_result *result,
                           int64_t ns, uint32_t items);
/* A task that a worker was given and did not begin. */
void cp_job_queue_back(struct cp_job *job, struct cp_task *task);
/* A task that was lost with its worker, which ended so. */
void cp_job_lose_take(struct cp_task *task, int pid, int exitcode);
void cp_job_unref(struct cp_job *job);
void cp_func_unref(struct cp_pool *pool, struct cp_func *func);
void cp_pool_finish_all(struct cp_pool *pool, enum cp_end end);
void cp_pool_notify(struct cp_pool *pool); /* those who wait in cp_pool_next */

/* pool/sched.c: give queued tasks to workers; even out what was given. */
void cp_sched_hand_out(struct cp_pool *pool);
/* The next task, which counts as running now; or NULL. */
struct cp_task *cp_sched_take(struct cp_pool *pool);
void cp_sched_unready(struct cp_job *job);
void cp_sched_ready(struct cp_job *job);
/* Have tasks lately taken less than what it takes to wake somebody? */
bool cp_sched_is_short(const struct cp_pool *pool);
bool cp_sched_wants_tick(const struct cp_pool *pool);
uint64_t cp_sched_room(const struct cp_pool *pool, struct cp_job *job);
bool cp_sched_wants_feed(struct cp_job *job);
/* Does the job wait for somebody to take results, and somebody for the end of
 * the closed pool, so that each could wait for ever? */
bool cp_sched_is_held_up(struct cp_job *job);
void cp_sched_measure(struct cp_job *job, int64_t ns, uint32_t items);
uint64_t cp_sched_share(const struct cp_pool *pool, const struct cp_job *job,
                        uint64_t left);
bool cp_sched_even_out(struct cp_pool *pool); /* moved any? */
/* The newest n tasks that w has not begun go back in line: how many did. */
uint32_t cp_sched_take_back(struct cp_worker *w, uint32_t n);

/* pool/watch.c: what the workers do. */
void cp_watch_flush(struct cp_pool *pool, struct cp_worker *w);
void cp_watch_on_ready(struct cp_pool *pool, uint64_t tag);
void cp_watch_receive(struct cp_pool *pool, struct cp_worker *w);
/* Should somebody replace workers now? Else *at is lowered to when to look
 * again. */
bool cp_watch_needs_workers(struct cp_pool *pool, int64_t *at);
bool cp_watch_harvest(struct cp_pool *pool);
void cp_watch_tell_end_all(struct cp_pool *pool);

/* pool/spin.c */
uint32_t cp_spin_count_cpus(void);
/* How long a worker that is given a task now should look for the next one. */
uint32_t cp_spin_worker_us(const struct cp_pool *pool);
/* Look for results for a few microseconds, if that is worth it; the lock is
 * released meanwhile. True: some have come and been taken in. */
bool cp_spin(struct cp_pool *pool, int64_t deadline);

/* pool/drive.c */
void cp_drive_wake(struct cp_pool *pool);
void cp_drive_signal_job(struct cp_pool *pool, struct cp_job *job);
void cp_drive_signal_all(struct cp_pool *pool);
/* Who waits for the job and feeds it, if it wants tasks now. */
void cp_drive_signal_feeder(struct cp_pool *pool, struct cp_job *job);

/* Tags of the poller. */
#define CP_TAG_WAKE UINT64_C(0)
#define CP_TAG_RX 1u
#define CP_TAG_TX 2u
#define CP_TAG_PROC 3u
static inline uint64_t
cp_tag(const struct cp_worker *w, unsigned what)
{
    return w->id << 2 | what;
}

#endif
