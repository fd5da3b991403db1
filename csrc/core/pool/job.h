/*
 * One job: its tasks that wait, and its results that nobody has taken yet.
 *
 * A job is one call of the API. Its tasks wait in a queue, are handed to
 * workers, and come back as results in the job's inbox, from which readers take
 * them. All of it is guarded by the lock of the pool that the job belongs to,
 * except what is marked. The core never looks into a body.
 */
#ifndef CP_JOB_H
#define CP_JOB_H

#include "base/base.h"
#include "link/task.h"

#include <stdatomic.h>

struct cp_flow;
struct cp_pool;

/* Why a job ended without all of its results. */
enum cp_end {
    CP_END_NONE = 0,
    CP_END_TERMINATED, /* the pool was terminated */
    CP_END_BROKEN,     /* the pool cannot run anything: see cp_pool_broken() */
    CP_END_CANCELLED,  /* by cp_job_stop() */
    CP_END_FAILED,     /* an item failed, and the job is CP_JOB_FAIL_FAST */
    CP_END_NOMEM,      /* a result came and there was no memory for it */
    CP_END_UNREAD,     /* nobody took its values, and the pool was joined */
};

#define CP_JOB_ORDERED 0x1u    /* results are taken in the order of the tasks */
#define CP_JOB_SINGLE 0x2u     /* one task; its time counts for the callable */
#define CP_JOB_CALLS 0x4u      /* callbacks have to run before it is done */
#define CP_JOB_WHOLE 0x8u      /* waiters are told only when it is done */
#define CP_JOB_FAIL_FAST 0x10u /* the first failure ends it */

/* Its tasks are calls, each of which ends on its own: the thread that waits for
 * one of them, or the helper, takes the results as they come (cp_job_grab()).
 * The job stands in the line of single calls, and never has callbacks of its
 * own. */
#define CP_JOB_EACH 0x100u

/* With CP_JOB_EACH: its only call is not encoded yet. Its first task is its last
 * one, and until then it stays open though the pool is closed. */
#define CP_JOB_KEPT 0x400u

/* Its results are taken one by one: its teller (cp_job_tell()) is told of each
 * result, not only of the end. */
#define CP_JOB_TAKEN_SINGLY 0x200u

/* A line: jobs with queued tasks that take turns with the other lines; see
 * pool/turns.h. */
struct cp_line {
    struct cp_line *next, *prev;
    struct cp_job *first, *last;
    int64_t turn_ns; /* work given out in its current turn */
    bool had_turn;   /* since its first job joined the line */
    /* Of a line whose jobs have several priorities: where each of these ends;
     * or NULL. */
    struct cp_ends *ends;
};

/* The lines of one priority, by turn. */
struct cp_level {
    struct cp_line *first, *last;
    struct cp_line singles; /* the jobs of one task */
};

/* The number of priorities, and the lowest and the highest one. */
#define CP_PRIORITIES 256
#define CP_PRIORITY_LEAST (-CP_PRIORITIES / 2)
#define CP_PRIORITY_MOST (CP_PRIORITIES / 2 - 1)

/* The pin of a job whose tasks are for different workers: task i is for the
 * worker with index i, or, if the job has `places`, with index places[i]. */
#define CP_PIN_EACH UINT16_MAX
/* The highest index of a worker to which a task can be pinned. */
#define CP_PIN_MOST (UINT16_MAX - 2)

struct cp_levels {
    uint64_t active[CP_PRIORITIES / 64]; /* bits: which have lines */
    struct cp_level *at[CP_PRIORITIES];  /* by priority; made when it is used */
};

struct cp_ends {
    uint64_t active[CP_PRIORITIES / 64];
    struct cp_job *last[CP_PRIORITIES]; /* valid where the bit is set */
};

struct cp_pins {
    struct cp_line *lines; /* by index of worker */
    uint32_t n;
    struct cp_line each; /* jobs with CP_PIN_EACH */
};

/* What only a job of more than one task has. */
struct cp_many {
    struct cp_line line;         /* where its tasks queue */
    int64_t avg_ns;              /* time of a task; -1: nothing measured */
    int64_t item_ns;             /* of an item, adapting faster; -1 likewise */
    struct cp_result **in_order; /* CP_JOB_ORDERED: a ring */
    size_t order_cap;
    uint64_t limit; /* tasks and results not taken, at most; 0: none */
    bool probes;    /* one task for each worker, until the first result */
    bool paced;     /* see cp_job_set_paced() */
    /* If the job's tasks yield: how many values each of them may be ahead of
     * the reader (0: they do not yield), and the flows of those that have
     * yielded (pool/flow.h). */
    uint64_t credit;
    struct cp_flow *flows;
    bool is_read; /* values were taken since the last check */
    uint16_t
        *places; /* of CP_PIN_EACH: a worker's index for each task; or NULL */
};

/* Small, since a program may have a hundred thousand calls that wait. */
struct cp_job {
    struct cp_pool *pool;
    uint32_t refs;
    _Atomic uint32_t flags; /* readable without the lock */
    uint64_t id;            /* never changes */
    void *user;             /* the binding's; the core only keeps it */
    struct cp_func *func;

    struct cp_task *first, *last; /* queued, not handed out */
    uint64_t queued, running;     /* how many tasks */
    uint64_t left; /* after an early end: tasks that workers still have */
    uint64_t put;  /* tasks so far; the next index */
    uint64_t arrived, items; /* results so far, and items of them */
    uint64_t failed;         /* of them, not CP_OK */

    struct cp_result *in_first, *in_last; /* not CP_JOB_ORDERED */
    uint64_t taken; /* results taken so far; the next index in order */
    struct cp_result *farewell; /* arrives after all others */

    int64_t time_limit;  /* how long an item may run, in ns; 0: for ever */
    int64_t grace;       /* how long it may then take to stop, in ns */
    uint64_t done_order; /* its number among the pool's done jobs, from 1 */

    struct cp_line
        *in; /* its own, or that of single calls; unused with a pin */
    struct cp_job *line_next, *line_prev; /* in that line: see pool/turns.h */
    struct cp_job *all_next, *all_prev;   /* jobs that are not done */
    struct cp_job *call_next;             /* jobs that wait for callbacks */
    struct cp_job *closing_next;          /* see cp_job_close_later() */
    /* The list of jobs that need attention: jobs of calls with results that
     * nobody has grabbed, and jobs whose teller has to be told. */
    struct cp_job *each_next, *each_prev;
    void *teller; /* the binding's; told once, of a result or of the end */

    uint32_t retries; /* how often a task that was lost is run again */
    /* The first item of a task has the number index * stride; 0: items have no
     * numbers. Set by the binding before the first task. */
    uint32_t stride;
    _Atomic enum cp_end end; /* readable without the lock, like the next two */
    _Atomic bool done;
    _Atomic bool marked; /* by a result */
    bool fed;            /* no more tasks will be put */
    bool decoding;       /* a thread is decoding results that it has taken */
    bool is_limited;     /* it is counted in pool->n_limited */
    bool in_line, is_listed, in_each;
    bool is_urgent;  /* CP_JOB_EACH: it has the result of a watched call */
    bool calling;    /* all has arrived; its callbacks run, or will */
    int8_t priority; /* a higher one is served first; constant */
    uint16_t
        pin; /* 1 + index of the only worker to run it; CP_PIN_EACH; or 0 */

    struct cp_many many[]; /* one element; none with CP_JOB_SINGLE */
};

/* What a job of more than one task has, or NULL. */
static inline struct cp_many *
cp_job_many(const struct cp_job *job)
{
    return (job->flags & CP_JOB_SINGLE) == 0 ? (struct cp_many *)job->many
                                             : NULL;
}

/* The most tasks and untaken results it may have together; 0: no limit. */
static inline uint64_t
cp_job_limit(const struct cp_job *job)
{
    const struct cp_many *many = cp_job_many(job);
    return many != NULL ? many->limit : 0;
}

/* How many values each of its tasks may be ahead of the reader; 0: its tasks do
 * not yield. */
static inline uint64_t
cp_job_credit(const struct cp_job *job)
{
    const struct cp_many *many = cp_job_many(job);
    return many != NULL ? many->credit : 0;
}

/* Internal to the core, with the pool's lock held. */
struct cp_job *cp_job_alloc(struct cp_pool *pool, struct cp_func *func,
                            uint32_t flags, void *user);
void cp_job_free(struct cp_job *job); /* no reference is left */

/* Of a job with CP_PIN_EACH: the index of the worker that the task is for. */
static inline uint32_t
cp_job_place(const struct cp_job *job, const struct cp_task *task)
{
    const struct cp_many *many = cp_job_many(job);
    return many != NULL && many->places != NULL ? many->places[task->index]
                                                : (uint32_t)task->index;
}

/* Queue at the end, or back at the front (a task that was recalled). */
void cp_job_queue_last(struct cp_job *job, struct cp_task *task);
void cp_job_queue_first(struct cp_job *job, struct cp_task *task);
struct cp_task *cp_job_dequeue(struct cp_job *job); /* NULL where empty */

/* Keep the result until a reader takes it: 0, and the job owns it; or
 * CP_ENOMEM. */
int cp_job_inbox_put(struct cp_job *job, struct cp_result *result);

/* The same for the result that ends a job. It comes next after the results that
 * can be taken now, even if earlier ones are missing. *dropped: the list of the
 * results that would have come after it. */
int cp_job_inbox_put_last(struct cp_job *job, struct cp_result *result,
                          struct cp_result **dropped);

/* Is there a result that may be taken now? */
bool cp_job_has_result(const struct cp_job *job);

/* The next result that may be taken, or NULL. The caller owns it. */
struct cp_result *cp_job_inbox_get(struct cp_job *job);

/* All of them, as a list; not for CP_JOB_ORDERED. */
struct cp_result *cp_job_inbox_get_all(struct cp_job *job);

/* The end of a task that yields, if it comes next in the inbox and is no
 * failure; or NULL. The caller owns it. Readers must not see it: call this
 * whenever the inbox has changed. */
struct cp_result *cp_job_inbox_get_end(struct cp_job *job);

/* Empty the inbox, including results that may not be taken yet. Returns them as
 * a list in no order. */
struct cp_result *cp_job_inbox_clear(struct cp_job *job);

/* Call visit for each result in the inbox until it returns non-zero, and return
 * that value. */
int cp_job_inbox_each(struct cp_job *job,
                      int (*visit)(struct cp_result *result, void *arg),
                      void *arg);

/* Include a measured time in a moving average. */
void cp_avg_follow(int64_t *avg_ns, int64_t ns);

#endif
