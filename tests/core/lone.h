/*
 * A lone worker: the parent's end and the worker's end of one pair of pipes in
 * one process, without a pool and without a fork, so that a test decides the
 * order of events. The struct records every callback of the parent's end.
 */
#ifndef LONE_H
#define LONE_H

#include "link/serve.h"
#include "link/worker.h"
#include "pool/job.h"

struct lone {
    struct cp_rows rows;
    struct cp_worker *w;
    struct cp_serve s;
    struct cp_func *func;
    struct cp_job *job;     /* the job of all tasks */
    struct cp_result *last; /* the last answer; owned */
    uint64_t last_index;    /* of the task of the last answer */
    int64_t last_ns;
    int hellos, init_errors, leaves, results, funcs_sent;
    /* Called for each answer, unless NULL. */
    void (*on_result)(const struct cp_result *result);
};

/* budget as for cp_worker_new(). The callable has func_len bytes. One lone worker
 * at a time. */
void lone_open(struct lone *lone, uint64_t budget, size_t func_len);
void lone_close(struct lone *lone);

/* Send HELLO and receive it. */
void lone_start(struct lone *lone);

/* Recall at most n tasks and drop them: how many came back. */
uint32_t lone_recall(struct lone *lone, uint32_t n);

/* Send a task with this index and len bytes of pattern `index`; returns what
 * cp_worker_send_task() returns. The task is freed unless that is 1. */
int lone_send(struct lone *lone, uint64_t index, size_t len);

/* The worker's end: read until a frame has arrived. */
void lone_next(struct lone *lone, struct cp_frame *frame, const uint8_t **body);

/* The same, but skip callables. */
void lone_next_task(struct lone *lone, struct cp_frame *frame);

/* The worker's end: put an answer to task seq into the ring, with len bytes of
 * pattern `seed`; returns what cp_serve_put() returns. */
int lone_answer(struct lone *lone, uint64_t seq, size_t len, uint64_t seed);

/* Write raw bytes into the result pipe. */
void lone_write(struct lone *lone, const void *bytes, size_t n);

#endif
