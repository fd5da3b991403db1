/*
 * The pool's state, and who guards what.
 *
 * `lock` guards everything except what is marked. The functions of this folder
 * that are declared in pool/pool.h, pool/drive.h and pool/threads.h take the
 * lock; all others are called with the lock held.
 *
 * State functions only record: they change the fields below, set a bit of `due`
 * where something follows from the change, and a bit of `noted` where somebody
 * has to hear of it. cp_act() does what is due. Every public entry has the
 * shape: lock, change, cp_act(), unlock.
 */
#ifndef CP_POOL_STATE_H
#define CP_POOL_STATE_H

#include "base/lock.h"
#include "link/worker.h"
#include "os/fd.h"
#include "os/poller.h"
#include "pool/job.h"
#include "pool/ref.h"
#include "pool/tallies.h"
#include "pool/trace.h"

#define CP_INTERNED 64u

enum cp_pool_state { CP_RUN, CP_CLOSING, CP_ENDED };

/* What cp_act() is to do. */
#define CP_DUE_TASKS 0x1u /* tasks are queued, or a worker has room: hand out */
#define CP_DUE_EVEN 0x2u  /* workers have answered: even out what they have */
#define CP_DUE_OUTPUT 0x4u    /* a worker with flush_due is to be written to */
#define CP_DUE_FLUSH 0x8u     /* so is every worker that has output */
#define CP_DUE_RETIRE 0x20u   /* worker threads are to end */
#define CP_DUE_END 0x10u      /* the last job has ended, or the pool closes */
#define CP_DUE_UNPLACED 0x40u /* a task of a removed worker came back */

/* Whom cp_wake_noted() is to wake. */
#define CP_NOTED_DRIVER 0x1u
#define CP_NOTED_WAITERS 0x2u /* those with is_noted */
#define CP_NOTED_FEEDERS 0x4u
#define CP_NOTED_HELPER 0x8u
#define CP_NOTED_STANDBY 0x10u
#define CP_NOTED_STARTER 0x20u
#define CP_NOTED_YIELDERS 0x40u /* those with is_noted */

/* A thread that waits while another drives. On that thread's stack. */
struct cp_waiter {
    struct cp_waiter *next;
    const struct cp_job *job;   /* NULL: waits for the end of the workers */
    const struct cp_call *call; /* of a job of calls; or NULL */
    bool any;                   /* waits for the end of any of several jobs */
    bool feeds;    /* it also feeds the job, for a caller that blocks */
    bool is_noted; /* cp_wake_noted() is to wake it */
    bool is_woken; /* it has, perhaps before the thread sleeps */
    struct cp_cond cond;
};

/* A worker thread whose task waits for credit. On that thread's stack. */
struct cp_yielder {
    struct cp_yielder *next;
    bool is_noted;
    struct cp_cond cond;
};

/* Of workers that are threads; see pool/threads.h. */
struct cp_threads {
    cp_release *release; /* never changes; NULL: workers are processes */
    bool take_turns;     /* never changes */
    struct cp_cond work;
    uint32_t asleep, woken; /* of them, signalled and not up yet */
    uint32_t n_retire;      /* surplus workers, which end after their tasks */
    uint32_t looking;       /* workers that spin for a task before they sleep */
    struct cp_yielder *yielders;
    uint32_t n_yielders;
    struct cp_task *tasks; /* dropped, not released yet */
    struct cp_result *results;
    /* How many spins in a row were in vain, and how many spins to skip now. One
     * for workers, and one for waiters. */
    struct cp_patience {
        uint32_t misses, rest;
    } for_task, for_result;
    _Atomic bool has_queued;        /* readable by anybody */
    _Atomic uint64_t n_put, n_done; /* only grow; readable by anybody */
    _Atomic uint32_t n_waiting;     /* in cp_pool_wait(); readable by anybody */
};

struct cp_pool {
    struct cp_lock lock;
    _Atomic uint32_t refs;
    pid_t owner; /* never changes */
    enum cp_pool_state state;
    unsigned due, noted;      /* CP_DUE_*, CP_NOTED_* */
    struct cp_result *broken; /* why nothing can run */
    bool is_broken;

    struct cp_worker *workers;
    uint32_t n_workers, target;
    /* The bounds of the target of an elastic pool; most 0: the target is
     * fixed. */
    uint32_t least, most;
    bool kills_trees;    /* never changes; see cp_pool_set_trees() */
    int64_t idle_ns;     /* an idle worker ends after this time; 0: never */
    uint32_t n_exiting;  /* workers after their last task, which should exit */
    uint32_t n_retiring; /* workers that end after their current task */
    uint32_t n_overdue;  /* workers that should have exited long ago */
    uint64_t next_worker_id;
    uint32_t failed_starts;
    int64_t restart_at; /* no worker is to be started before this time */
    int64_t
        longest_start; /* of all workers so far, until ready; 0: none was yet */
    int64_t over_at;   /* when the closed pool was seen to have nothing to do */
    uint32_t
        n_limited; /* jobs with a time limit that are not done or still run */
    int64_t least_limit;   /* the lowest of their limits */
    uint64_t memory_limit; /* of a worker, in bytes; 0: none. Never changes */
    int64_t memory_at;     /* when to check the memory of workers next */
    uint32_t n_stopping;   /* workers with a task that was asked to stop */
    int64_t sleeps_until;  /* the driver, while it is asleep */
    bool kills_due;        /* some worker has kill_due */
    bool lacks_workers;    /* workers are missing, and nobody was told yet */

    struct cp_level level;    /* jobs with queued tasks, of priority 0 */
    struct cp_levels *levels; /* by priority; NULL: no other is used */
    struct cp_pins *pins; /* jobs for one worker; NULL: there never was one */
    uint64_t n_pinned;    /* tasks that are queued in `pins` */
    uint32_t n_indexes;   /* all workers have indexes below this */
    uint64_t n_yielding;  /* jobs that are not done and whose tasks yield */
    int64_t look_at;     /* when to check if these hold up others; 0: not set */
    bool looks_for_join; /* check if they hold up a join instead */
    /* The last wait that did not see its end: when it stopped, and look_at as it
     * was then; 0: not set. */
    int64_t left_at, left_look_at;
    uint32_t n_given; /* how often in a row they got credit without a read */
    struct cp_job *all_first, *all_last;   /* jobs that are not done */
    struct cp_job *call_first, *call_last; /* jobs whose callbacks are to run */
    /* Jobs of calls with results; readable without the lock. */
    struct cp_job *_Atomic each_first;
    struct cp_job *each_last;
    /* Done, not handed over; the first is readable without the lock. */
    struct cp_job *_Atomic ended_first;
    struct cp_job *ended_last;
    /* Jobs that cp_job_close_later() closes; anybody may push. */
    struct cp_job *_Atomic closing;
    _Atomic uint32_t n_closing;            /* about that many */
    uint64_t pending, queued, next_job_id; /* queued: not those in `pins` */
    _Atomic uint64_t held; /* bytes of queued tasks; see cp_pool_has_room() */
    int64_t room_at;  /* until then no tasks are taken back for a new line */
    uint32_t callers; /* threads in cp_pool_wait_room() */
    uint32_t n_waits; /* threads in cp_pool_wait(), cp_pool_wait_pending() */
    uint64_t n_done;  /* jobs, ever */

    struct cp_func **slots;
    uint32_t n_slots, free_slot; /* none is free below free_slot */
    /* Set when the last body that refers to a shared object ends: cp_act() then
     * frees the objects that are no longer needed. [any] */
    _Atomic bool has_unused;
    struct cp_func *interned[CP_INTERNED];

    struct cp_rows rows; /* of workers that are forked */
    struct cp_common *common;
    int common_fd; /* -1 where workers fork */
    /* Shared memory for large data, and the parent's area of it with its
     * allocator; NULL if there is none. Set before the first worker is made. */
    struct cp_region *region;
    struct cp_area *area;
    struct cp_heap *heap;
    uint32_t next_area; /* of the next worker */
    /* The life line. Only this process has the write end: when it dies, the
     * kernel kills the workers, which have the read end. */
    int life[2];
    uint32_t n_cpus;
    int64_t task_ns; /* average time of a task of any job; -1: unknown */
    /* The values that tasks yield: how many have come, when the last ones came,
     * and the average time from one to the next; -1: unknown. */
    uint64_t n_values;
    int64_t values_at, value_ns;
    uint32_t spin_misses, spin_rest;
    struct cp_poller *poller;
    struct cp_wake wake;
    bool driving;                  /* somebody has the seat */
    bool standby_drives;           /* the standby thread has it */
    const struct cp_job *seat_job; /* what the driver waits for */
    const struct cp_call *seat_call;
    bool seat_any;   /* or for the end of any of several jobs */
    bool asleep;     /* the driver waits in the poller */
    int64_t tick_ns; /* the longest it sleeps there; or CP_NEVER */
    bool stirred;    /* something has happened since the last tick */
    uint32_t woken;  /* idle workers woken by others since the last tick */
    int64_t tick_at;
    int64_t probe_at;   /* when to probe processes next; or CP_NEVER */
    int64_t probe_wait; /* the interval before that probe */
    bool armed;         /* the driver sleeps until probe_at at most */
    /* A worker has ended and is not reaped yet: the thread that waits runs the
     * handlers of signals before. */
    bool handlers_first;
    int64_t poll_at; /* when to ask the poller, even while spinning pays */
    uint64_t drives; /* how often the seat was taken */
    struct cp_waiter *waiters;
    uint32_t joiners;      /* threads that wait for the workers to end */
    uint32_t feeders;      /* threads in cp_job_wait_wants() */
    struct cp_cond feed;   /* for them */
    struct cp_cond events; /* for cp_pool_next() with CP_DO_CALLS */
    struct cp_cond starts; /* for cp_pool_next() with CP_DO_STARTS alone */
    unsigned duties;       /* of all threads that call cp_pool_next() */
    struct cp_cond standby;
    pthread_t standby_thread;
    bool has_standby, stop_standby;
    bool standby_due;     /* a glance was in vain: the standby drives at once */
    uint32_t glances;     /* threads in cp_pool_glance() */
    bool is_glanced_at;   /* a glancing thread had the seat last */
    bool is_brief;        /* the driver has left its seat to look for signals */
    bool is_back;         /* and has taken it again */
    int64_t standby_tick; /* how long it sleeps; CP_NEVER: until it is woken */
    struct cp_threads threads;
    struct cp_tallies tally;
    struct cp_trace *trace; /* NULL: it is off */
    _Atomic bool is_traced; /* the same, readable without the lock */
};

/* A new pool without workers, poller or shared memory, with one reference. 0, or a
 * negative code. */
int cp_pool_alloc(uint32_t target, struct cp_pool **pool);

/* Drop the shared memory, which no worker uses any more. */
void cp_pool_free_memory(struct cp_pool *pool);

/* When the driver has to free unused memory of the heap; or CP_NEVER. [any] */
static inline int64_t
cp_pool_rest_at(const struct cp_pool *pool)
{
    return pool->heap != NULL ? cp_heap_rest_at(pool->heap) : CP_NEVER;
}

/* Are its workers threads? [any] */
static inline bool
cp_pool_has_threads(const struct cp_pool *pool)
{
    return pool->threads.release != NULL;
}

/* Is there anything whose limit may pass while nothing happens? */
static inline bool
cp_pool_has_limits(const struct cp_pool *pool)
{
    return pool->n_limited > 0 || pool->n_stopping > 0
           || pool->memory_limit > 0;
}

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
