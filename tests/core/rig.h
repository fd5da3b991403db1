/*
 * A whole pool for tests: processes made by a plain fork(), which run a worker
 * written in C that obeys its tasks (rig_worker.c).
 *
 * Two pipes order the events, never the time: a task can report that it has
 * begun, and wait at a gate until the test lets it through.
 */
#ifndef RIG_H
#define RIG_H

#include "pool/pool.h"

#include <pthread.h>
#include <stdatomic.h>

/* What a task orders the worker to do. The answer holds the task's own bytes
 * unless stated otherwise. */
enum op {
    OP_ECHO,
    OP_QUIET,      /* leave the answer in the ring, even if a flush is due */
    OP_GATE,       /* say "begun", then wait for the gate */
    OP_BUSY,       /* say "begun", then compute for ever */
    OP_TAKE,       /* take 64 MiB of memory, then the same */
    OP_RAISE,      /* answer by CP_ERROR */
    OP_AGAIN,      /* the same, and ask for a retry unless it is the last try */
    OP_STOPS,      /* say "begun", then compute until it is asked to stop */
    OP_STOPS_LATE, /* the same; then say "begun" again, and wait for the gate */
    OP_STOPS_DEAF, /* the same as OP_STOPS, but miss the first signal: be in a
                      system call that blocks until another one comes */
    OP_BIG,        /* answer with arg bytes of pattern `index` */
    OP_LAST,       /* answer, and end after that */
    OP_LINGER,     /* the same, but only when let through the gate */
    OP_LEAVE,  /* answer, send CP_LEAVE, and exit when let through the gate */
    OP_FUNC,   /* answer with the callable's bytes */
    OP_SLOTS,  /* answer with the number of callables kept (uint32_t) */
    OP_PID,    /* answer with the worker's pid (int) */
    OP_DIE,    /* by signal arg */
    OP_EXIT,   /* with code arg */
    OP_ORPHAN, /* die by SIGKILL, while a forked child keeps the pipes */
    OP_HALF,   /* die half-way through an answer of arg bytes */
    /* Yield arg values, the numbers from 0 (uint64_t); then answer with
     * nothing. If the credit is closed, say "begun" and answer. */
    OP_YIELD,
    OP_YIELD_DIE,  /* the same, then die by SIGKILL */
    OP_YIELD_FREE, /* the same as OP_YIELD, but without looking at the credit */
    /* violations of the protocol */
    OP_TWICE,     /* answer twice */
    OP_UNCLAIMED, /* answer an unclaimed task */
    OP_KIND,      /* send a frame of a kind that only the parent sends */
    OP_LENGTH,    /* announce an absurd length */
    OP_RUBBISH,   /* text into the result pipe */
    OP_BREAK,     /* send INIT_ERROR after HELLO */
    OP_RING,      /* write nonsense into the numbers of the row */
    OP_CLOSE_TX,  /* close the result pipe, then wait at the gate */
    OP_CLOSE_RX,  /* close the task pipe, then wait at the gate */
};

struct order {
    uint32_t op, arg;
    uint64_t index;
    uint32_t ns; /* the time that the task claims to have taken */
    uint32_t flags;
};
#define ORDER_COUNT 0x1u /* count in rig->shared->runs[index] */
#define ORDER_LEN sizeof(struct order)

/* How a worker starts. */
enum start {
    START_WELL,
    START_STUBBORN,   /* ignores SIGTERM */
    START_INIT_ERROR, /* its initializer fails */
    START_DIES,       /* before HELLO */
    START_WAITS,      /* in its initializer, at the gate */
    START_CHOKES,     /* well, but dies while it receives a big body */
};

#define RIG_RUNS 4096u

struct rig_shared {
    _Atomic uint32_t runs[RIG_RUNS];
};

struct rig {
    struct cp_pool *pool;
    struct cp_func *func; /* a small one, kept */
    uint32_t target;
    bool is_elastic; /* the pool's own target counts */
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

/* The same, with workers that start in this way. */
void rig_open_starting(struct rig *rig, uint32_t n, enum start start);

/* End the pool, wait for its workers, and check that nothing leaks. The test has
 * closed all jobs. */
void rig_close(struct rig *rig);

/* The same in two steps and without ending the pool: the workers have exited, or
 * will exit by themselves. */
void rig_join(struct rig *rig);
void rig_release(struct rig *rig);

/* Fork one more worker. Returns its pid, or 0 if the pool refuses the
 * worker. */
int rig_fork(struct rig *rig);

/* Fork the missing workers. */
void rig_fill(struct rig *rig);

/* A list of tasks. */
struct batch {
    struct cp_task *first, *last;
    uint64_t n; /* the next index */
};
struct order *batch_add(struct batch *batch, enum op op, uint32_t arg);
/* Add a task with len bytes of pattern `index` after the order. */
struct order *batch_add_long(struct batch *batch, enum op op, uint32_t arg,
                             size_t len);
/* Put the tasks added since the last put; fed ends the feed. */
void batch_put(struct batch *batch, struct cp_job *job, bool fed);

struct cp_job *rig_job(struct rig *rig, uint32_t flags);

/* A job of n tasks with this order. */
struct cp_job *rig_put_job(struct rig *rig, uint32_t flags, enum op op, int n);

/* A job that is still being fed and has run n tasks. They were quick, so
 * workers get many tasks ahead. */
struct cp_job *rig_quick_job(struct rig *rig, struct batch *batch,
                             uint32_t flags, int n);

/* Let jobs use a callable of this size, until the rig's own one is restored. */
struct cp_func *rig_use_big_func(struct rig *rig, size_t size);
void rig_restore_func(struct rig *rig, struct cp_func *own);

/* Wait for the job and replace workers: CP_WAIT_READY, or another wait result. */
int rig_wait(struct rig *rig, struct cp_job *job, int64_t deadline);

/* Wait for the next result; NULL if the job is done. */
struct cp_result *rig_take(struct rig *rig, struct cp_job *job);

/* The same as a thread's function. */
struct rig_taker {
    struct rig *rig;
    struct cp_job *job;
};
void *rig_take_one(void *taker);

/* Take n results, which must be answers of OP_ECHO and the like. */
void rig_take_echoes(struct rig *rig, struct cp_job *job, int n);

/* Close a job without an error whose results have all been taken. */
void rig_close_job(struct rig *rig, struct cp_job *job);

/* Take all results of the job, which must be n answers of OP_ECHO and the like;
 * then close the job. */
void rig_finish(struct rig *rig, struct cp_job *job, uint64_t n);

/* Check the answer to an order: the same index and the same bytes. */
void rig_check_echo(const struct cp_result *result);

/* Check that the result is a loss, and free it. */
void rig_check_lost(struct cp_result *result, uint64_t index, int exitcode);

/* Run one task in a job of its own; its result. */
struct cp_result *rig_call(struct rig *rig, enum op op, uint32_t arg);

/* Wait until n tasks have begun; let n tasks through the gate. */
void rig_await_begun(struct rig *rig, int n);
void rig_let_through(struct rig *rig, int n);

/* Run the event loop until all workers have sent HELLO. */
void rig_await_started(struct rig *rig);

/* Wait until the driver sleeps. */
void rig_await_asleep(struct rig *rig);

/* Close all jobs that have ended. Returns how many. */
int rig_collect(struct rig *rig);

/* rig_worker.c: the child's side. */
_Noreturn void rig_worker_main(struct rig *rig, struct cp_worker *w);

#endif
