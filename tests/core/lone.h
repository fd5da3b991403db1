/*
 * A lone worker: the parent's side and the worker's side of one pair of pipes in
 * one process, with no pool and nobody forked, so that a test decides what
 * happens when. What the parent's side calls up is written down in the rig.
 */
#ifndef LONE_H
#define LONE_H

#include "link/serve.h"
#include "link/worker.h"
#include "pool/job.h"

struct lone {
    struct cp_worker *w;
    struct cp_serve s;
    struct cp_func *func;
    struct cp_job *job;     /* all tasks are its */
    struct cp_result *last; /* of the last answer; owned */
    uint64_t last_index;    /* of its task */
    int64_t last_ns;
    int hellos, init_errors, results, funcs_sent;
    /* Called for each answer, where it is not NULL. */
    void (*on_result)(const struct cp_result *result);
};

/* budget as for cp_worker_new(). The callable has func_len bytes. One lone worker
 * at a time. */
void lone_open(struct lone *lone, uint64_t budget, size_t func_len);
void lone_close(struct lone *lone);

/* It says hello, and is heard. */
void lone_start(struct lone *lone);

/* Fill with bytes that follow from seed. */
void lone_pattern(uint8_t *bytes, size_t n, uint64_t seed);

/* Send a task with this index and len bytes of pattern `index`: what
 * cp_worker_send_task() says. The task is freed where it is not 1. */
int lone_send(struct lone *lone, uint64_t index, size_t len);

/* The worker's side: read until there is a frame. */
void lone_next(struct lone *lone, struct cp_frame *frame, const uint8_t **body);

/* The same, skipping callables. */
void lone_next_task(struct lone *lone, struct cp_frame *frame);

/* The worker's side: an answer to task seq into the ring, with len bytes of
 * pattern `seed`: what cp_serve_put() says. */
int lone_answer(struct lone *lone, uint64_t seq, size_t len, uint64_t seed);

/* Raw bytes into the result pipe. */
void lone_write(struct lone *lone, const void *bytes, size_t n);

#endif
