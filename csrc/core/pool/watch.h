/*
 * The traffic with the workers: writing to them, reading from them, noticing
 * that they end, and what happens to their tasks then. The lock is held;
 * nothing here blocks. What follows is recorded for cp_act().
 */
#ifndef CP_POOL_WATCH_H
#define CP_POOL_WATCH_H

#include "pool/state.h"

/* Watch a worker that has started. Takes a reference. Negative: it is not
 * watched. */
int cp_watch_add(struct cp_pool *pool, struct cp_worker *w);

/* Write as much as the pipe takes; the poller tells when more can be
 * written. */
void cp_watch_flush(struct cp_pool *pool, struct cp_worker *w);

/* Read what has arrived. */
void cp_watch_receive(struct cp_pool *pool, struct cp_worker *w);

/* Read results that are in the rings and not in the pipes yet. True: there were
 * some. */
bool cp_watch_harvest(struct cp_pool *pool);

/* The job has ended: ask its running tasks to stop, or mark their workers to be
 * killed. */
void cp_watch_stop_running(struct cp_pool *pool, const struct cp_job *job);

/* An item that exceeds the memory limit is killed only if it has added at least
 * one part in so many of the limit. */
#define CP_MEMORY_PART 8u

/* Check which tasks have run for longer than their jobs allow, or take more
 * memory than the pool allows; see cp_plan_limit_at(). */
void cp_watch_limits(struct cp_pool *pool, int64_t now);

/* Kill the workers with kill_due, with all of their descendants. Releases the
 * lock meanwhile. */
void cp_watch_kill_due(struct cp_pool *pool);

/* When the driver has to wake up to probe processes, or CP_NEVER. The end of a
 * worker usually shows as end-of-file of its result pipe; but a process that
 * the worker has forked may keep that pipe open. */
int64_t cp_watch_next_probe(struct cp_pool *pool);

/* That time has come: probe the processes of workers from which something is
 * awaited. */
void cp_watch_probe(struct cp_pool *pool, int64_t now);

/* Something has arrived: the next probe comes soon again. */
void cp_watch_hurry_probe(struct cp_pool *pool, int64_t now);

/* The poller reports the descriptor with this tag as ready. */
void cp_watch_on_ready(struct cp_pool *pool, uint64_t tag);

/* Close the task pipe: the worker ends when it has run the tasks that it
 * has. */
void cp_watch_tell_end(struct cp_pool *pool, struct cp_worker *w);

/* End n workers, each after its current task, idle ones first. They no longer
 * count. from: only those with this index or a higher one. */
void cp_watch_retire(struct cp_pool *pool, uint32_t n, uint32_t from);

/* In an elastic pool: start one more worker if cp_plan_wants_more(); and end
 * those that have been idle for too long, see cp_plan_idle_at(). */
void cp_watch_grow(struct cp_pool *pool);
void cp_watch_end_idle(struct cp_pool *pool, int64_t now);

/* Stop counting workers that ran their last task long ago and have not exited:
 * other workers take their place. *at is lowered to when the next one is
 * late. */
void cp_watch_drop_overdue(struct cp_pool *pool, int64_t *at);

/* The pool is closed and all jobs are done: end workers that do not get ready,
 * for example because an initializer hangs. *at is lowered to when the next one
 * is late. */
void cp_watch_end_unready(struct cp_pool *pool, int64_t *at);

/* See cp_pool_release_sentinel() and cp_pool_report_start_failure(). */
void cp_watch_release_sentinel(struct cp_pool *pool, struct cp_worker *w);
void cp_watch_on_start_failure(struct cp_pool *pool);

/* Before the driver sleeps: have workers flush the values that their tasks
 * yield from now on, and read those that are there already. True: there were
 * some. */
bool cp_watch_values(struct cp_pool *pool);

/* The driver is awake, and looks for values itself. */
void cp_watch_awake(struct cp_pool *pool);

/* Do tasks that wait for their readers keep workers from other work, or the
 * pool from its end? If so, let them yield more, or end them. *at is lowered to
 * when to ask again.
 *
 * A task that waits for credit holds up nobody unless all workers wait like it
 * and a thread or a coroutine waits for the pool. Only then somebody has to
 * look again by the clock. Whoever makes that true looks, or has another thread
 * look (cp_flow_note_watch()): the thread or coroutine that begins to wait; the
 * last worker thread that begins to wait for credit, or the driver, which sees
 * the first value of such a task; a worker thread that leaves the others
 * alone. All others sleep until they get credit, or their job ends. */
void cp_watch_credit(struct cp_pool *pool, int64_t *at);

/* A thread begins, or stops, to wait for the pool, or for its end (joins).
 * is_over: what it waited for has come. Otherwise the wait may only be interrupted,
 * for signals or to fork workers: if a thread waits again soon, that wait goes on
 * with the time to look of the last one. */
void cp_watch_begin_wait(struct cp_pool *pool, bool joins);
void cp_watch_end_wait(struct cp_pool *pool, bool joins, bool is_over);

#endif
