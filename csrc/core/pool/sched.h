/*
 * Which worker gets which task.
 *
 * A worker is given enough tasks for some milliseconds of its time, so that it
 * never waits for the parent; but only one task while tasks are long or nothing
 * is known. Tasks that were sent too early are taken back through the claims as
 * soon as another worker would be idle. The lock is held. For cp_act() and
 * worker threads.
 */
#ifndef CP_POOL_SCHED_H
#define CP_POOL_SCHED_H

#include "pool/state.h"

/* One round of handing out queued tasks to the workers that are open. */
struct cp_round {
    int64_t now;
    uint64_t level; /* how many tasks each worker should have in flight */
    const struct cp_worker
        *drained; /* it gets nothing, so that it can take a big task */
};

/* Begin a round: set takes_part of the workers that should be given tasks.
 * True: there is at least one. */
bool cp_sched_begin(struct cp_pool *pool, struct cp_round *round);

/* Should the tasks that w is about to be given be written at once? Those of a
 * busy worker go out with the next ones: it does not look at them before it has
 * answered, and then the driver is awake. Those of an idle worker may be left
 * to the driver. */
bool cp_sched_is_urgent(struct cp_pool *pool, struct cp_worker *w,
                        const struct cp_round *round);

/* Give w tasks, up to the level. True: its output has to be written now. Only
 * an idle worker gets a big task: while a big task is next, one worker is left
 * to run dry for it, and the others get the small tasks behind it. */
bool cp_sched_fill(struct cp_pool *pool, struct cp_worker *w, bool urgent,
                   struct cp_round *round);

/* The line that is next has not had a turn yet, and all workers are full: take
 * back tasks that one of them has not begun, so that the first task of the line
 * need not wait for them. True: some were taken back, and there is room. */
bool cp_sched_make_room(struct cp_pool *pool, const struct cp_round *round);

/* Take tasks back from a worker that has many while another one is idle, and
 * from a worker that has been stuck for long while another one is not. They are
 * queued again. */
void cp_sched_even_out(struct cp_pool *pool);

/* The next task for the worker thread with this index, now counted as running;
 * or NULL. *had_pinned belongs to that worker: see struct cp_worker. */
struct cp_task *cp_sched_take(struct cp_pool *pool, uint32_t index,
                              bool *had_pinned);

#endif
