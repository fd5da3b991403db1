/*
 * A whole pool for tests: real processes by a plain fork(), running a worker
 * written in C that does what its tasks tell it to (rig_worker.c).
 *
 * The order of events is made by two pipes and never by time: a task can say
 * that it has begun, and wait at a gate until the test lets it through.
 */
#ifndef RIG_H
#define RIG_H

#include "pool/pool.h"

#include <pthread.h>
#include <stdatomic.h>

/* What a task asks of the worker. The answer holds the task's own bytes where
 * nothing else is said. */
enum op {
    OP_ECHO,
    OP_QUIET,  /* leave the answer in the ring, due or not */
    OP_GATE,   /* say "begun", then wait for the gate */
    OP_BUSY,   /* say "begun", then compute for ever */
    OP_RAISE,  /* answer by CP_ERROR */
    OP_BIG,    /* answer with arg bytes of pattern `index` */
    OP_LAST,   /* answer, and end after that */
    OP_LINGER, /* the same, but only when let through the gate */
    OP_FUNC,   /* answer with the callable's bytes */
    OP_SLOTS,  /* answer with the number of callables kept (uint32_t) */
    OP_PID,    /* answer with the worker's pid (int) */
    OP_DIE,    /* by signal arg */
    OP_EXIT,   /* with code arg */
    OP_ORPHAN, /* die by SIGKILL; a process that it has forked keeps its pipes */
    OP_HALF,   /* die half-way through an answer of arg bytes */
    /* what no worker may do */
    OP_TWICE,     /* answer twice */
    OP_UNCLAIMED, /* answer a task that is not ours */
    OP_KIND,      /* send a frame that goes down only */
    OP_LENGTH,    /* announce an absurd length */
    OP_RUBBISH,   /* text into the result pipe */
    OP_BREAK,     /* send INIT_ERROR after HELLO */
    OP_RING,      /* nonsense in the row's numbers */
    OP_CLOSE_TX,  /* close the result pipe, then wait at the gate */
    OP_CLOSE_RX,  /* close the task pipe, then wait at the gate */
};

struct order {
    uint32_t op, arg;
    uint64_t index;
    uint32_t ns; /* the time it pretends to have taken */
    uint32_t flags;
};
#define ORDER_COUNT 0x1u /* count in rig->shared->runs[index] */
#define ORDER_LEN sizeof(struct order)

/* How a worker starts. */
enum start {
    START_WELL,
    START_STUBBORN,   /* ignores SIGTERM */
    START_INIT_ERROR, /* its initializer fails */
    START_DIES,       /* before any sign of life */
    START_WAITS,      /* in its initializer, at the gate */
    START_CHOKES,     /* well, but dies of a big body before it takes it */
};

#define RIG_RUNS 4096u
#define RIG_WORKERS 64

struct rig_shared {
    _Atomic uint32_t runs[RIG_RUNS];
};

struct rig {
    struct cp_pool *pool;
    struct cp_func *func; /* a small one, kept */
    uint32_t target;
    uint64_t budget; /* of workers forked from now on */
    enum start start;
    struct rig_shared *shared;
    int begun[2], gate[2];
    pthread_mutex_t forking; /* one thread at a time forks, as in Python */
    _Atomic int forks;
    _Atomic int last_pid; /* of the worker forked last */
};

/* A pool of n workers. */
void rig_open(struct rig *rig, uint32_t n);

/* End the pool, wait for its workers, and check that nothing is left. Jobs are
 * closed before, but for their users. */
void rig_close(struct rig *rig);

/* The same in two steps, and without ending it: the workers are gone, or will
 * go by themselves. */
void rig_join(struct rig *rig);
void rig_release(struct rig *rig);

/* Fork one more worker: its pid, or 0 where the pool does not take it. */
int rig_fork(struct rig *rig);

/* Fork what is missing. */
void rig_fill(struct rig *rig);

/* A list of tasks. */
struct batch {
    struct cp_task *first, *last;
    uint64_t n; /* the next index */
};
struct order *batch_add(struct batch *batch, enum op op, uint32_t arg);
/* With len bytes of pattern `index` behind the order. */
struct order *batch_add_long(struct batch *batch, enum op op, uint32_t arg,
                             size_t len);
/* Put the tasks that were added since, and maybe end the feed. */
void batch_put(struct batch *batch, struct cp_job *job, bool fed);

struct cp_job *rig_job(struct rig *rig, uint32_t flags);

/* Wait for the job, replacing workers: CP_WAIT_READY, or what else a wait says. */
int rig_wait(struct rig *rig, struct cp_job *job, int64_t deadline);

/* The next result, waiting for it; NULL where the job is done. */
struct cp_result *rig_take(struct rig *rig, struct cp_job *job);

/* Take all results of the job, which have to be n answers of OP_ECHO and
 * alike; then close the job. */
void rig_finish(struct rig *rig, struct cp_job *job, uint64_t n);

/* The answer to an order: this index, and the order's own bytes back. */
void rig_check_echo(const struct cp_result *result);

/* The result has to be a loss; frees it. */
void rig_check_lost(struct cp_result *result, uint64_t index, int exitcode);

/* One task, alone in a job: its result. */
struct cp_result *rig_call(struct rig *rig, enum op op, uint32_t arg);

/* Read n bytes of "begun", let n tasks through the gate. */
void rig_await_begun(struct rig *rig, int n);
void rig_let_through(struct rig *rig, int n);

/* Drive until all workers have said hello. */
void rig_await_started(struct rig *rig);

/* Wait until a driver sleeps. */
void rig_await_asleep(struct rig *rig);

/* Close all jobs that have ended: how many. */
int rig_collect(struct rig *rig);

/* rig_worker.c: the child's side. */
_Noreturn void rig_worker_main(struct rig *rig, struct cp_worker *w);
void rig_pattern(uint8_t *bytes, size_t n, uint64_t seed);

#endif
