/*
 * Arithmetic on the state, and nothing else: windows, shares, averages, and the
 * questions that decide what to do next. Nothing here changes more than an
 * average. The lock is held.
 */
#ifndef CP_POOL_PLAN_H
#define CP_POOL_PLAN_H

#include "pool/state.h"

/* ---- tasks ---- */

/* A task of the job with this many items took ns: update the averages. */
void cp_plan_measure(struct cp_job *job, int64_t ns, uint32_t items);

/* n values have arrived at this time: update their average. */
void cp_plan_measure_values(struct cp_pool *pool, uint64_t n, int64_t now);

/* Do the values that tasks yield arrive at short intervals? */
bool cp_plan_values_come(const struct cp_pool *pool);

/* The average time of the job's tasks in ns; -1: not measured yet. */
int64_t cp_plan_task_ns(const struct cp_job *job);

/* The expected time of one task of the job, in ns. At most CP_AHEAD while tasks
 * may queue up behind it in a worker; more if nothing is known, or if tasks are
 * so long that waiting for the parent costs them nothing. */
int64_t cp_plan_cost(const struct cp_job *job);

/* How much work a worker may have ahead of it, in ns. The thread that sends it
 * tasks also decodes results and may have no core of its own, so it may come
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

/* Does the job wait for a reader of its results, while somebody waits for the
 * closed pool to end? Each could wait for the other for ever. */
bool cp_plan_is_deadlocked(const struct cp_job *job);

/* Have recent tasks taken less time than waking a thread does? */
bool cp_plan_is_short(const struct cp_pool *pool);

/* ---- workers ---- */

/* Has w been sent something that it has not read, or tasks that it has not answered? */
bool cp_plan_is_awaited(const struct cp_worker *w);

/* Is it pointless to wait for w, because its task has taken long already, or
 * because it does not react to what it was sent? */
bool cp_plan_is_stuck(const struct cp_worker *w, int64_t now);

/* Has w been stuck for so long that others should run the tasks it has not
 * begun? */
bool cp_plan_is_given_up(const struct cp_worker *w, int64_t now);

/* May w be given a task now, idle or not? */
bool cp_plan_is_open(const struct cp_worker *w, int64_t now);

/* How soon the driver has to wake up even if nothing happens, in ns; CP_NEVER:
 * it need not. Results may be in a ring behind a slow task, tasks in the window
 * of a stuck worker, and output that the poller does not watch has to be tried
 * again. */
int64_t cp_plan_tick(const struct cp_pool *pool);

/* Would the driver sleep for too long? A task that was just sent to an idle
 * worker needs no tick yet: the next probe of processes is soon enough to
 * notice a stopped worker. */
bool cp_plan_is_tick_late(const struct cp_pool *pool);

/* When the driver has to check time limits and memory limits next, or CP_NEVER.
 * A worker that runs no task with a limit may begin one at any time. */
int64_t cp_plan_limit_at(const struct cp_pool *pool, int64_t now);

/* How often the memory of workers with tasks is checked. */
#define CP_MEMORY_LOOK (20 * CP_MS)

/* Does w's process have to be probed from time to time? True if an answer of w
 * is awaited, or its end, and the poller does not watch for that end. */
bool cp_plan_is_probed(struct cp_worker *w);
bool cp_plan_wants_probe(const struct cp_pool *pool); /* does any w? */

/* Workers that are not about to exit. */
uint32_t cp_plan_at_work(const struct cp_pool *pool);

/* May w be told to end, and is it not ending already? */
bool cp_plan_may_retire(const struct cp_worker *w);

/* In an elastic pool: should there be one more worker? True if work waits while
 * all workers are busy, or if work waits for a worker that does not exist
 * yet. */
bool cp_plan_wants_more(const struct cp_pool *pool);

/* The lowest index, not below `from`, of a missing worker for which tasks wait;
 * UINT32_MAX: none. */
uint32_t cp_plan_next_unplaced(const struct cp_pool *pool, uint32_t from);

/* In an elastic pool with more workers than its minimum: the worker that has
 * been idle longest, and when its idle time is over. NULL and CP_NEVER if there
 * is none. */
const struct cp_worker *cp_plan_idlest(const struct cp_pool *pool);
int64_t cp_plan_idle_at(const struct cp_pool *pool);

/* Should somebody replace workers now? If the answer may change with time, *at
 * is lowered to when to ask again. */
bool cp_plan_needs_workers(const struct cp_pool *pool, int64_t *at);

/* Have all jobs ended, and will no more come? */
bool cp_plan_is_over(const struct cp_pool *pool);

/* ---- tasks that yield ---- */

/* Does a thread or a coroutine wait? */
bool cp_plan_has_waiter(const struct cp_pool *pool);

/* Do all workers run such tasks, while a thread waits for something else? Each
 * may wait for the other. */
bool cp_plan_may_starve(const struct cp_pool *pool);

/* The same, and do all of these tasks wait for their readers? */
bool cp_plan_is_starved(const struct cp_pool *pool);

/* ---- spinning ---- */

/* How many busy workers a spinning thread watches at most. With more
 * of them, one answers soon enough. */
#define CP_WATCHED 4u

/* Are there tasks in a queue or in a worker? */
bool cp_plan_has_tasks(const struct cp_pool *pool);

/* Would a thread that spins for results have a core of its own, beside the busy
 * workers, and are tasks short enough? */
bool cp_plan_spin_pays(const struct cp_pool *pool);

/* For how many microseconds a worker that gets a task now should spin for the
 * next one before it sleeps. */
uint32_t cp_plan_worker_spin_us(const struct cp_pool *pool);

#endif
