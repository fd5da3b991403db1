/*
 * What a pool counts: for each worker index, and in total. Called with the
 * pool's lock held, in places that run once per task.
 *
 * An item is counted once when it is queued, and once when it is over: as done,
 * failed, lost or cancelled. Code that drops a task for good counts it as
 * cancelled. So the number of queued items is the sum of these four and of the
 * items still in progress.
 */
#ifndef CP_POOL_TALLY_H
#define CP_POOL_TALLY_H

#include "pool/state.h"

/* The counts of this worker index. */
struct cp_tally *cp_tally_of(struct cp_pool *pool, uint32_t worker);

/* A worker with this index starts. It is not counted if there is no memory. */
void cp_tally_enter(struct cp_pool *pool, uint32_t worker, int64_t now);

/* A worker thread with this index has ended. */
void cp_tally_leave(struct cp_pool *pool, uint32_t worker, int64_t now);

/* A worker process has ended: add the counts in its row to those of its
 * index. */
void cp_tally_end(struct cp_pool *pool, const struct cp_worker *w);

/* Add what a live worker has counted in its row. Numbers in the row are not
 * trusted, and limited to what is possible. */
void cp_tally_add_row(struct cp_tally *to, const struct cp_worker *w,
                      int64_t now);

/* Record the starts of live workers in the trace, which is about to end. */
void cp_tally_trace_lives(const struct cp_pool *pool);

/* Copy all counts, including what live workers have counted so far, for
 * cp_tallies_free(). 0, or CP_ENOMEM. */
int cp_tally_copy(const struct cp_pool *pool, struct cp_tallies *copy);

/* These items have failed without ever being sent to a worker. */
void cp_tally_failed_here(struct cp_pool *pool, uint32_t items);

/*
 * The answer to a task has come from the worker with this index: the task took
 * ns nanoseconds. result: NULL if there was no memory for it, or if the task
 * was not run because its job had ended. name: of the callable, if the core
 * does not have it; or NULL.
 */
void cp_tally_answer(struct cp_pool *pool, const struct cp_task *task,
                     const struct cp_result *result, int64_t ns,
                     uint32_t worker, const char *name);

/* The task is lost for good, or was lost after its job had ended. */
void cp_tally_loss(struct cp_pool *pool, const struct cp_task *task,
                   const struct cp_loss *loss);

/* The bytes of a task's callable, from the task or from its job. Not for worker
 * threads. */
const uint8_t *cp_tally_func(const struct cp_task *task, size_t *len);

/* How long the task took: the time in its answer, or, if that is too long for
 * an answer, the time in the row. */
int64_t cp_tally_time(const struct cp_worker *w, uint64_t seq, int64_t ns);

/* Record in the trace, which is on, that the task ran from began to ended.
 * name: as in cp_tally_answer(). */
void cp_tally_trace(struct cp_pool *pool, const struct cp_task *task,
                    const struct cp_result *result, uint32_t worker,
                    int64_t began, int64_t ended, const char *name);

/* The same for a task that a process has answered, and that took ns
 * nanoseconds. */
void cp_tally_trace_process(const struct cp_worker *w, uint64_t seq,
                            const struct cp_task *task,
                            const struct cp_result *result, int64_t ns);

/* How many items of the task failed while the others went on. */
uint32_t cp_tally_caught(const struct cp_worker *w, uint64_t seq,
                         const struct cp_result *result);

#endif
