/*
 * Whose task is next: the jobs take turns.
 *
 * The rule. Jobs with queued tasks stand in lines. All calls of one task (apply)
 * stand in one line, in the order of their submission; every other job is a line of
 * its own. The lines take turns: a turn is one task, or as many as are worth
 * CP_TURN. A line that gets its first task queues up behind the others, but the
 * line of single calls goes to the front. A job whose reader is far behind gives
 * its turn away while anybody else has tasks.
 *
 * Why. In the order of submission a job that is fed as it goes (imap over an endless
 * iterable) never runs dry, and no later call is ever served. With turns, a single
 * call waits for the tasks that workers have begun and for no line; a job waits for
 * one turn of each other line, however long these are. Single calls share one line,
 * so that ten thousand of them leave a map every second turn; among themselves they
 * keep their order. Giving out a turn costs O(1), whatever the number of jobs. Turns
 * are as long as a short task and a chunk of the pool's own choice, so a job alone
 * and a job beside others fill the workers' windows with the same batches.
 *
 * Priorities. Each has lines of its own, and the highest one that has any is served:
 * the rule holds among its lines. So a turn costs O(1), whatever the number of jobs.
 *
 * Workers. A job for one worker (its pin) stands in the line of that worker, by priority
 * and submission, which is served in turns with the others' tasks when that worker is
 * given tasks. What is in such a line waits for the worker that takes the place of one
 * that has died.
 *
 * The lock is held in all functions here.
 */
#ifndef CP_POOL_TURNS_H
#define CP_POOL_TURNS_H

#include "pool/state.h"

/* What a turn is worth, in ns of measured task time. */
#define CP_TURN CP_MS

/* Of a job that has no task yet. 0 or CP_ENOMEM. */
int cp_turns_set_priority(struct cp_job *job, int8_t priority);
int cp_turns_set_pin(struct cp_job *job, uint16_t pin);

/* The job whose task is next of those that only the worker with this index may run, that
 * task the first of its queue; or NULL. */
struct cp_job *cp_turns_next_pinned(struct cp_pool *pool, uint32_t index);

/* The same for tasks that are for no worker that there will be. */
struct cp_job *cp_turns_next_unplaced(struct cp_pool *pool, uint32_t *index);

/* The job has queued tasks now, or has none left. Repeating either is harmless.
 * again: they were taken back from a worker, so the line has had its turn. */
void cp_turns_add(struct cp_job *job, bool again);
void cp_turns_del(struct cp_job *job);

/* The job whose task is next, or NULL. */
struct cp_job *cp_turns_next(struct cp_pool *pool);

/* The first job, by turns and among single calls by submission, whose next task is not
 * big (CP_BIG); or NULL where there is none among the first few. */
struct cp_job *cp_turns_next_small(struct cp_pool *pool);

/* May the job, which is next, have other lines' tasks taken back? Not if its line has
 * given out a task since it has queued tasks, or its reader is far behind. */
bool cp_turns_may_make_room(struct cp_job *job);

/* The job's line is next, before lines whose tasks were taken back for it. */
void cp_turns_put_first(struct cp_job *job);

/* Do the two stand in one line? */
bool cp_turns_share_line(struct cp_job *a, struct cp_job *b);

/* A task of the job, worth so many ns, was given to a worker. Before the job may
 * leave its line. */
void cp_turns_charge(struct cp_job *job, int64_t ns);

#endif
