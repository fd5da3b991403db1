/*
 * Whose task is next: the jobs take turns.
 *
 * The rule. Jobs with queued tasks stand in lines. All calls of one task
 * (apply) stand in one line, in the order of their submission; every other job
 * is a line of its own. The lines take turns: a turn is one task, or several
 * that are worth CP_TURN together. A line that gets its first task joins behind
 * the others, but the line of single calls goes to the front. A job whose
 * reader is far behind gives its turn away while any other job has tasks.
 *
 * Why. In the order of submission, a job that is fed while it runs (imap over
 * an endless iterable) would never run dry, and no later call would ever be
 * served. With turns, a single call waits only for the tasks that workers have
 * begun; a job waits for one turn of each other line, however long these are.
 * Single calls share one line, so that ten thousand of them leave every second
 * turn to a map; among themselves they keep their order. A turn is worth about
 * as much as a chunk of the size that the pool chooses, so a job alone and a
 * job beside others fill the workers' windows with the same batches.
 *
 * Priorities. Each priority has lines of its own. The highest priority that has
 * any line is served, by the rule above. Choosing the next task costs O(1),
 * whatever the number of jobs.
 *
 * Workers. A job for one worker (its pin) stands in a line of that worker, in
 * the order of priority and submission, which it joins in O(1). When the worker
 * is given tasks, that line and the others take turns. If the worker dies, the
 * tasks in its line wait for the worker that replaces it.
 *
 * The lock is held in all functions here.
 */
#ifndef CP_POOL_TURNS_H
#define CP_POOL_TURNS_H

#include "pool/state.h"

/* What a turn is worth, in ns of measured task time. */
#define CP_TURN CP_MS

/* For a job that has no task yet; the priority comes first. 0 or CP_ENOMEM. */
int cp_turns_set_priority(struct cp_job *job, int8_t priority);
int cp_turns_set_pin(struct cp_job *job, uint16_t pin);

/* Of the jobs with tasks that only the worker with this index may run: the one
 * whose turn it is, with such a task at the front of its queue; or NULL. */
struct cp_job *cp_turns_next_pinned(struct cp_pool *pool, uint32_t index);

/* The same for tasks whose worker will never exist; *index: that worker. */
struct cp_job *cp_turns_next_unplaced(struct cp_pool *pool, uint32_t *index);

/* The job has queued tasks now, or has none left. Repeating either call is
 * harmless. again: the tasks were taken back from a worker, so the line has had
 * its turn. */
void cp_turns_add(struct cp_job *job, bool again);
void cp_turns_del(struct cp_job *job);

/* The job whose task is next, or NULL. */
struct cp_job *cp_turns_next(struct cp_pool *pool);

/* The first job whose next task is not big (CP_BIG), in the order of turns, and
 * among single calls of submission. NULL: there is none among the first few. */
struct cp_job *cp_turns_next_small(struct cp_pool *pool);

/* May tasks of other lines be taken back for this job, which is next? Not if
 * its line has given out a task since it got queued tasks, or if its reader is
 * far behind. */
bool cp_turns_may_make_room(struct cp_job *job);

/* The job's line is next, before lines whose tasks were taken back for it. */
void cp_turns_put_first(struct cp_job *job);

/* Do the two jobs stand in the same line? */
bool cp_turns_share_line(struct cp_job *a, struct cp_job *b);

/* A task of the job, with an expected time of ns, was given to a worker. Call
 * this before the job can leave its line. */
void cp_turns_charge(struct cp_job *job, int64_t ns);

#endif
