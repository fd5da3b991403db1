/*
 * What a pool counts: for each worker index, and in all. With the pool's lock held, in
 * places that run once a task.
 *
 * An item is counted once when it is queued, and once when it is over: done, failed,
 * lost or cancelled. Whoever drops a task for good counts it as cancelled. So what was
 * queued is the sum of these four, and of what is still under way.
 */
#ifndef CP_POOL_TALLY_H
#define CP_POOL_TALLY_H

#include "pool/state.h"

/* Of the workers with this index. */
struct cp_tally *cp_tally_of(struct cp_pool *pool, uint32_t worker);

/* A worker with this index starts. Where there is no memory, it is not counted. */
void cp_tally_enter(struct cp_pool *pool, uint32_t worker, int64_t now);

/* It has ended, and is a thread. */
void cp_tally_leave(struct cp_pool *pool, uint32_t worker, int64_t now);

/* It has ended, and is a process: what its row has counted goes to its index. */
void cp_tally_end(struct cp_pool *pool, const struct cp_worker *w);

/* Add what a live worker has counted in its row. The row is not believed beyond what is
 * possible. */
void cp_tally_add_row(struct cp_tally *to, const struct cp_worker *w,
                      int64_t now);

/* Note the starts of live workers in the trace, which is on and about to end. */
void cp_tally_trace_lives(const struct cp_pool *pool);

/* A copy of all, with what live workers have counted until now, for cp_tallies_free(). 0, or
 * CP_ENOMEM. */
int cp_tally_copy(const struct cp_pool *pool, struct cp_tallies *copy);

/* Items that no worker has, and none will get, have failed. */
void cp_tally_failed_here(struct cp_pool *pool, uint32_t items);

/*
 * The answer to a task has come from the worker with this index: it took so many ns.
 * result: NULL where there was no memory for it, or where its job had ended and the task
 * was not run. name: of its callable, where that is not in the core; or NULL.
 */
void cp_tally_answer(struct cp_pool *pool, const struct cp_task *task,
                     const struct cp_result *result, int64_t ns,
                     uint32_t worker, const char *name);

/* The task is lost for good, or its job had ended before. */
void cp_tally_loss(struct cp_pool *pool, const struct cp_task *task,
                   const struct cp_loss *loss);

/* The bytes of the callable of a task of processes, in the task or in its job. */
const uint8_t *cp_tally_func(const struct cp_task *task, size_t *len);

/* How long the task took: what its answer says, or what the row says of one that took
 * longer than an answer can say. */
int64_t cp_tally_time(const struct cp_worker *w, uint64_t seq, int64_t ns);

/* Note the task in the trace, which is on: it ran from began to ended. name: as in
 * cp_tally_answer(). */
void cp_tally_trace(struct cp_pool *pool, const struct cp_task *task,
                    const struct cp_result *result, uint32_t worker,
                    int64_t began, int64_t ended, const char *name);

/* The same, of a task that a process has answered, which took so many ns. */
void cp_tally_trace_process(const struct cp_worker *w, uint64_t seq,
                            const struct cp_task *task,
                            const struct cp_result *result, int64_t ns);

/* How many items of the answer failed, while the others went on. */
uint32_t cp_tally_caught(const struct cp_worker *w, uint64_t seq,
                         const struct cp_result *result);

#endif
