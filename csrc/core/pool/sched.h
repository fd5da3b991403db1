/*
 * Which worker gets which task.
 *
 * A worker is given as many tasks as fill some milliseconds of its time, so that
 * it never waits for the parent; only one while tasks are long or nothing is
 * known. Tasks that were sent too early are taken back through the claims as soon as
 * another worker would idle. The lock is held. For cp_act() and worker threads.
 */
#ifndef CP_POOL_SCHED_H
#define CP_POOL_SCHED_H

#include "pool/state.h"

/* One handing out of queued tasks to the workers that are open. */
struct cp_round {
    int64_t now;
    uint64_t level; /* so many tasks each of them is to have under way */
    const struct cp_worker *drained; /* is left to run dry for a big task */
};

/* Look at the workers, and set takes_part of those that are to be given tasks: true
 * where there is at least one. */
bool cp_sched_begin(struct cp_pool *pool, struct cp_round *round);

/* Are the tasks that w is about to be given to be written at once? A busy worker's
 * go out with the next ones: it will not look at them before it has answered, and
 * then the driver is awake. An idle worker's may be left to the driver. */
bool cp_sched_is_urgent(struct cp_pool *pool, struct cp_worker *w,
                        const struct cp_round *round);

/* Give w tasks, up to the level. True: its output is to be written now. A big task goes
 * to an idle worker only: while it is next, one worker is left to run dry for it, and
 * the others get the small tasks behind it. */
bool cp_sched_fill(struct cp_pool *pool, struct cp_worker *w, bool urgent,
                   struct cp_round *round);

/* A line that has not had a turn yet finds all workers full: take back tasks that one
 * of them has not begun, so that its first task need not wait for theirs. True: some
 * were, and there is room. */
bool cp_sched_make_room(struct cp_pool *pool, const struct cp_round *round);

/* Take tasks back from a worker that has many, where another one idles, and from a
 * worker that has been stuck for long, where another one is not. They are queued
 * again. */
void cp_sched_even_out(struct cp_pool *pool);

/* The next task for the worker thread with this index, which counts as running now; or
 * NULL. *had_pinned is the worker's: see struct cp_worker. */
struct cp_task *cp_sched_take(struct cp_pool *pool, uint32_t index,
                              bool *had_pinned);

#endif
