/*
 * What travels between the pool and one worker: callables, tasks and results.
 *
 * The bodies are the binding's; nothing here looks into them. A task names its
 * job only so that the pool finds the job again.
 */
#ifndef CP_TASK_H
#define CP_TASK_H

#include "base/base.h"
#include "base/buf.h"
#include "link/func.h"
#include "share/parts.h"

#include <limits.h>
#include <stdatomic.h>

struct cp_job;
struct cp_worker;

/* A body of at least this size is written from its own memory instead of being
 * copied, and only to an idle worker. The worker has to allocate for it, so the
 * body itself may be what kills the worker. */
#define CP_BIG CP_KIB(32)
/* Give up on a big task or callable after it has killed this many workers: it
 * would kill all the others too. */
#define CP_MAX_DEATHS 3u

/* One call of a job of calls (CP_JOB_EACH). It can be withdrawn until a worker
 * begins it. The binding owns it; it lives until its result was taken or its
 * job has ended. Guarded by the pool's lock. */
struct cp_call {
    /* Which was sent the task; NULL: it is queued, or answered. Not to be used
     * once the job has ended. */
    struct cp_worker *worker;
    uint64_t seq;       /* of the task in the worker's window */
    bool begun;         /* by a worker thread; or it is answered already */
    bool answered;      /* its result has come */
    bool watched;       /* somebody has looked: report its end at once */
    bool withdrawn;     /* the task will not run */
    _Atomic bool ended; /* the binding has finished with it; any thread */
};

struct cp_task {
    struct cp_task *next;
    struct cp_job *job;   /* holds a reference once the task is queued */
    struct cp_call *call; /* or NULL: it cannot be withdrawn alone */
    uint64_t index;    /* position in the job, from 0; of a call: its number */
    uint32_t items;    /* the user's items in this task; 1 at first */
    uint32_t tries;    /* how often it was lost, and run again */
    uint16_t flags;    /* the binding's; sent in the frame header */
    uint8_t deaths;    /* workers that died while they loaded it; if big */
    bool pinned;       /* only one worker may run it: struct cp_job's pin */
    int64_t cost_ns;   /* expected run time; set when it is sent */
    int64_t queued_at; /* cp_now(); 0: the pool was not traced then */
    size_t held;       /* bytes it takes while it waits: cp_pool_has_room() */
    size_t len;
    uint8_t *body;          /* points into `own` or into `taken` */
    void *taken;            /* a block taken over from a buffer, or NULL */
    struct cp_parts *parts; /* parts of the body in shared memory; or NULL */
    uint8_t own[];
};

enum cp_outcome {
    CP_OK = 1,    /* body: what the task returned */
    CP_RAISED,    /* body: what it raised */
    CP_LOST,      /* the worker died; see pid and exitcode */
    CP_LOCAL,     /* it failed in this process; the binding knows why */
    CP_NOMEM,     /* the result came, but there was no memory for its body */
    CP_WITHDRAWN, /* the call was withdrawn before it began */
};

/* Why a task was lost. */
enum cp_reason {
    CP_DIED = 0,    /* its worker died */
    CP_TIMED_OUT,   /* it ran for longer than its job's time limit */
    CP_TOOK_MEMORY, /* it took more than the pool's memory limit */
    CP_NO_WORKER,   /* it was for a worker that no longer exists */
};

struct cp_result {
    struct cp_result *next;
    uint64_t index;
    uint32_t items; /* of the task; 1 at first */
    uint16_t flags; /* of the frame that brought it */
    enum cp_outcome outcome : 8;
    enum cp_reason reason : 8; /* of CP_LOST */
    /* The worker's pid (0: no process sent it) and index. With CP_LOST: also
     * how the worker ended, and which item of the task it was running, from
     * 0. */
    int pid;
    int exitcode;
    uint32_t worker;
    /* With CP_OK: how many items failed nevertheless. For a task that yields:
     * how many values came before this result. */
    uint32_t item;
    union {
        int64_t amount; /* CP_TIMED_OUT: ns; CP_TOOK_MEMORY: bytes */
        struct cp_result
            *tail; /* if it is the first value of a list: the last value */
    };
    struct cp_loan *loan; /* parts of the body in shared memory, or NULL */
    size_t len;           /* CP_TIMED_OUT: of the stack, as text; 0: unknown */
    uint8_t body[];
};

/* How a task was lost. */
struct cp_loss {
    int pid, exitcode; /* of the worker */
    uint32_t worker;   /* its index in the pool */
    uint32_t item;     /* which item of the task it ran, from 0 */
    enum cp_reason reason;
    /* With CP_TIMED_OUT: how long that item had run, in ns. With
     * CP_TOOK_MEMORY: the memory of its worker, in bytes. */
    int64_t amount;
    int64_t ran_ns;       /* how long that item had run; 0: unknown */
    const uint8_t *stack; /* CP_TIMED_OUT: its stack at that time, as text */
    size_t stack_len;     /* 0: unknown */
};
/* In place of an exit code: the worker lives on, since the task stopped when
 * asked. */
#define CP_NO_EXIT INT_MIN

/* A task with room for len bytes of body, or NULL. [any] */
struct cp_task *cp_task_new(uint64_t index, uint16_t flags, size_t len);
/* A task whose body is the contents of the buffer, with the parts that the
 * buffer names. On success the buffer and the list of parts are empty. NULL:
 * out of memory, and nothing has changed. [any] */
struct cp_task *cp_task_new_take(uint64_t index, uint16_t flags,
                                 struct cp_buf *body);
/* A copy of a task, without its parts. The copy takes over the reference to the
 * job. NULL: out of memory. [any] */
struct cp_task *cp_task_clone(const struct cp_task *task);
void cp_task_free(struct cp_task *task); /* not queued yet; NULL is fine */

/* A result with room for len bytes, or NULL. [any] */
struct cp_result *cp_result_new(uint64_t index, enum cp_outcome outcome,
                                size_t len);
void cp_result_free(struct cp_result *result);      /* NULL is fine */
void cp_result_free_list(struct cp_result *result); /* the whole list */

/* Releases and frees a list of tasks and a list of results. Either may be
 * NULL. */
typedef void cp_release(struct cp_task *tasks, struct cp_result *results);

#endif
