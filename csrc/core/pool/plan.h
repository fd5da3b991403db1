/*
 * Arithmetic on the state, and nothing else: windows, shares, averages, and the
 * questions that decide what to do next. Nothing here changes more than an
 * average. The lock is held.
 */
#ifndef CP_POOL_PLAN_H
#define CP_POOL_PLAN_H

#include "pool/state.h"

/* ---- tasks ---- */

/* A task of the job's took ns for so many items: follow that. */
void cp_plan_measure(struct cp_job *job, int64_t ns, uint32_t items);

/* So many values have come at this time. */
void cp_plan_measure_values(struct cp_pool *pool, uint64_t n, int64_t now);

/* Do tasks yield values, one soon after the other? */
bool cp_plan_values_come(const struct cp_pool *pool);

/* The average time of the job's tasks in ns; -1: nothing was measured. */
int64_t cp_plan_task_ns(const struct cp_job *job);

/* What one task of the job is expected to take, in ns. At most CP_AHEAD while tasks
 * may queue up behind it in a worker; more where nothing is known, or where tasks
 * are so long that waiting for the parent costs them nothing. */
int64_t cp_plan_cost(const struct cp_job *job);

/* Work that a worker may have ahead of it, in ns. The thread that feeds it decodes
 * results as well and may have no core of its own, so it comes back to the worker
 * some milliseconds late. */
#define CP_AHEAD (8 * CP_MS)

/* How many of the `left` items the next chunk of the job should have. */
uint64_t cp_plan_share(const struct cp_pool *pool, const struct cp_job *job,
                       uint64_t left);

/* How many more tasks should be queued for the job. */
uint64_t cp_plan_room(const struct cp_pool *pool, const struct cp_job *job);

/* Is it time to queue more? Not after every task, but before the workers run
 * dry. */
bool cp_plan_wants_feed(const struct cp_job *job);

/* Does the job wait until somebody takes its results, while somebody waits for the
 * closed pool to end? Each could wait for ever. */
bool cp_plan_is_deadlocked(const struct cp_job *job);

/* Have tasks lately taken less than it takes to wake a thread? */
bool cp_plan_is_short(const struct cp_pool *pool);

/* ---- workers ---- */

/* Has w been sent something that it has not read, or tasks that it has not answered? */
bool cp_plan_is_awaited(const struct cp_worker *w);

/* Is w no reason to wait: does it run a task that has taken long already, or has it
 * been given something and does not react? */
bool cp_plan_is_stuck(const struct cp_worker *w, int64_t now);

/* Has w been stuck for so long that tasks which it has not begun are for others? */
bool cp_plan_is_given_up(const struct cp_worker *w, int64_t now);

/* May w be given a task now, whether or not it is idle? */
bool cp_plan_is_open(const struct cp_worker *w, int64_t now);

/* In how many ns the driver has to look up, whatever comes; CP_NEVER: it need not.
 * Results may sit in a ring behind a slow task, tasks in the window of a worker that
 * is stuck, and output that the poller does not watch has to be tried again. */
int64_t cp_plan_tick(const struct cp_pool *pool);

/* Does the driver sleep for too long? A task that was just sent to an idle worker needs
 * no tick yet: the next look at processes is soon enough for a worker that is stopped. */
bool cp_plan_is_tick_late(const struct cp_pool *pool);

/* When the driver has to look whether a time limit has passed, or a worker takes too much
 * memory, or CP_NEVER. A worker that runs no task with a limit may begin one at any time. */
int64_t cp_plan_limit_at(const struct cp_pool *pool, int64_t now);

/* How often it looks at the memory of workers that have tasks. */
#define CP_MEMORY_LOOK (20 * CP_MS)

/* Has w's process to be looked at by the clock: is something awaited from w, or its
 * end, that the poller does not watch? */
bool cp_plan_is_probed(struct cp_worker *w);
bool cp_plan_wants_probe(const struct cp_pool *pool); /* any of them */

/* Workers that are not about to exit. */
uint32_t cp_plan_at_work(const struct cp_pool *pool);

/* May w be told to end, and is it none of those that end anyway? */
bool cp_plan_may_retire(const struct cp_worker *w);

/* Of an elastic pool: does work wait while all workers are busy, or for a worker that is not
 * there, so that there should be one more? */
bool cp_plan_wants_more(const struct cp_pool *pool);

/* The lowest index, from `from` on, of a worker that is not there and that tasks wait for;
 * UINT32_MAX: none. */
uint32_t cp_plan_next_unplaced(const struct cp_pool *pool, uint32_t from);

/* Of an elastic pool with more workers than it has to have: the one that has been idle for
 * longest, and when that is too long; NULL and CP_NEVER where there is none. */
const struct cp_worker *cp_plan_idlest(const struct cp_pool *pool);
int64_t cp_plan_idle_at(const struct cp_pool *pool);

/* Should somebody replace workers now? Where that is to be asked again later, *at
 * is lowered to when. */
bool cp_plan_needs_workers(const struct cp_pool *pool, int64_t *at);

/* Have all jobs ended, and will no more come? */
bool cp_plan_is_over(const struct cp_pool *pool);

/* ---- tasks that yield ---- */

/* Do all workers run such tasks, while a thread waits for something? Each may wait for the
 * other. */
bool cp_plan_may_starve(const struct cp_pool *pool);

/* And do all of these tasks wait for their readers? */
bool cp_plan_is_starved(const struct cp_pool *pool);

/* ---- spinning ---- */

/* With more busy workers than this, one of them will answer soon enough. */
#define CP_WATCHED 4u

/* Are there tasks that are queued, or that workers have? */
bool cp_plan_has_tasks(const struct cp_pool *pool);

/* Is there a core for a thread that looks for results, beside the busy workers, and
 * are tasks short enough? */
bool cp_plan_spin_pays(const struct cp_pool *pool);

/* For how many microseconds a worker that is given a task now should look for the
 * next one before it sleeps. */
uint32_t cp_plan_worker_spin_us(const struct cp_pool *pool);

#endif
