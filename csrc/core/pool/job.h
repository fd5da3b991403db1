/*
 * One job: its tasks that wait, and its results that nobody has taken yet.
 *
 * A job is one call of the API. Its tasks wait in a queue, are handed to
 * workers, and come back as results in the job's inbox, where whoever asks
 * takes them. All of it is guarded by the lock of the pool that the job
 * belongs to, but for what is marked. The core never looks into a body.
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

#define CP_JOB_ORDERED 0x1u /* results are taken in the order of the tasks */
#define CP_JOB_SINGLE 0x2u  /* one task; its time counts for the callable */
#define CP_JOB_CALLS 0x4u /* somebody has to run callbacks before it is done */
#define CP_JOB_WHOLE \
    0x8u /* whoever waits for it is not told before it is done */
#define CP_JOB_FAIL_FAST 0x10u /* the first failure ends it */

/* Its tasks are calls that end each for itself: whoever waits for one of them, or the
 * helper, takes the results as they come (cp_job_grab()). It stands in the line of
 * single calls, and never has callbacks of its own. */
#define CP_JOB_EACH 0x100u

/* Its results are taken one by one: a teller is told of each, and not only of the end. */
#define CP_JOB_TAKEN_SINGLY 0x200u

/* Jobs with queued tasks that take turns with other such lines. */
struct cp_line {
    struct cp_line *next, *prev;
    struct cp_job *first, *last;
    int64_t turn_ns; /* what its turn has given out so far */
    bool had_turn;   /* since its first job joined */
};

/* The lines of one priority, by turn. */
struct cp_level {
    struct cp_line *first, *last;
    struct cp_line singles; /* the jobs of one task */
};

/* Most of the priorities; from CP_PRIORITY_LEAST to CP_PRIORITY_MOST. */
#define CP_PRIORITIES 256
#define CP_PRIORITY_LEAST (-CP_PRIORITIES / 2)
#define CP_PRIORITY_MOST (CP_PRIORITIES / 2 - 1)

/* Of a job whose task i is for the worker with index i, or where it has `places`, with the
 * i-th of these. */
#define CP_PIN_EACH UINT16_MAX
/* The highest index of a worker that a task may be for. */
#define CP_PIN_MOST (UINT16_MAX - 2)

struct cp_levels {
    uint64_t active[CP_PRIORITIES / 64]; /* bits: which have lines */
    struct cp_level *at[CP_PRIORITIES];  /* by priority; made when it is used */
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
    int64_t item_ns;             /* of an item, following faster; likewise */
    struct cp_result **in_order; /* CP_JOB_ORDERED: a ring */
    size_t order_cap;
    uint64_t limit; /* tasks and results not taken, at most; 0: none */
    bool probes;    /* one task a worker, until the first result */
    /* Of a job whose tasks yield: how many values each may be ahead of the reader; 0: they
     * do not. Those that have yielded (pool/flow.h). */
    uint64_t credit;
    struct cp_flow *flows;
    bool is_read; /* values were taken since somebody looked */
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
    uint64_t
        left; /* that workers still had when the job ended early, and have */
    uint64_t put;            /* tasks so far; the next index */
    uint64_t arrived, items; /* results so far, and items of them */
    uint64_t failed;         /* of them, not CP_OK */

    struct cp_result *in_first, *in_last; /* not CP_JOB_ORDERED */
    uint64_t taken; /* results taken so far; the next index in order */
    struct cp_result *farewell; /* to come after all others */

    int64_t time_limit; /* how long an item may run, in ns; 0: for ever */
    int64_t grace;      /* how long it has then to stop by itself, in ns */
    uint64_t
        done_order; /* how many jobs of the pool were done before, and it */

    struct cp_line *in; /* its own, or that of all calls; not with a pin */
    struct cp_job *line_next, *line_prev; /* in that line: see pool/turns.h */
    struct cp_job *all_next, *all_prev;   /* jobs that are not done */
    struct cp_job *call_next;             /* jobs that wait for callbacks */
    /* The list of jobs that somebody is to see to: jobs of calls with results that
     * nobody has grabbed, and jobs whose teller is to be told. */
    struct cp_job *each_next, *each_prev;
    void
        *teller; /* the binding's; to be told of a result or of the end, once */

    uint32_t retries; /* how often a task that was lost is run again */
    /* The first item of a task is its index times this; 0: its items have no number.
     * Set by the binding before the first task. */
    uint32_t stride;
    _Atomic enum cp_end end; /* readable without the lock, like the next two */
    _Atomic bool done;
    _Atomic bool marked; /* by a result */
    bool fed;            /* no more tasks will be put */
    bool decoding;       /* one thread has taken results and is not back yet */
    bool is_limited;     /* it is counted in pool->n_limited */
    bool in_line, is_listed, in_each;
    bool
        is_urgent; /* of CP_JOB_EACH: with the result of a call that is watched */
    bool calling;    /* all has come; the callbacks are to be run, or are run */
    int8_t priority; /* a higher one is served first; constant */
    uint16_t
        pin; /* 0; or only the worker with index pin - 1 may run it; or CP_PIN_EACH */

    struct cp_many many[]; /* one; none with CP_JOB_SINGLE */
};

/* What a job of more than one task has, or NULL. */
static inline struct cp_many *
cp_job_many(const struct cp_job *job)
{
    return (job->flags & CP_JOB_SINGLE) == 0 ? (struct cp_many *)job->many
                                             : NULL;
}

/* Tasks and results not taken, at most; 0: no limit. */
static inline uint64_t
cp_job_limit(const struct cp_job *job)
{
    const struct cp_many *many = cp_job_many(job);
    return many != NULL ? many->limit : 0;
}

/* How many values each of its tasks may be ahead of the reader; 0: they yield none. */
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

/* Keep the result for whoever asks: 0, and it is the job's, or CP_ENOMEM. */
int cp_job_inbox_put(struct cp_job *job, struct cp_result *result);

/* The same for the result that ends a job: it comes next after those that can be taken
 * now, whatever is missing before it. *dropped: the list of those that would come after
 * it. */
int cp_job_inbox_put_last(struct cp_job *job, struct cp_result *result,
                          struct cp_result **dropped);

/* Is there a result that may be taken now? */
bool cp_job_has_result(const struct cp_job *job);

/* The next result that may be taken, or NULL. The caller owns it. */
struct cp_result *cp_job_inbox_get(struct cp_job *job);

/* All of them, as a list; not for CP_JOB_ORDERED. */
struct cp_result *cp_job_inbox_get_all(struct cp_job *job);

/* The end of a task that yields, if it comes next and is no failure; or NULL. The caller
 * owns it. Nobody is to see it: called whenever the inbox has changed. */
struct cp_result *cp_job_inbox_get_end(struct cp_job *job);

/* Empty it, in no order, of what may not be taken yet as well: a list. */
struct cp_result *cp_job_inbox_clear(struct cp_job *job);

/* Call visit for each result in there, until it returns other than 0: that. */
int cp_job_inbox_each(struct cp_job *job,
                      int (*visit)(struct cp_result *result, void *arg),
                      void *arg);

/* A time was measured: follow it. */
void cp_avg_follow(int64_t *avg_ns, int64_t ns);

#endif
