/*
 * What the workers say, and that they end: writing to them, reading from them,
 * and what becomes of their tasks. The lock is held; nothing here blocks. What
 * follows is recorded for cp_act().
 */
#ifndef CP_POOL_WATCH_H
#define CP_POOL_WATCH_H

#include "pool/state.h"

/* Watch a worker that has started. Takes a reference of its own; negative: it did
 * not. */
int cp_watch_add(struct cp_pool *pool, struct cp_worker *w);

/* Write what can be written; the poller watches for the rest. */
void cp_watch_flush(struct cp_pool *pool, struct cp_worker *w);

/* Read what has come. */
void cp_watch_receive(struct cp_pool *pool, struct cp_worker *w);

/* Read results that stand in the rings and not in the pipes: were there any? */
bool cp_watch_harvest(struct cp_pool *pool);

/* The job has ended: the tasks of it that run are asked to stop, or their workers are to
 * be killed. */
void cp_watch_stop_running(struct cp_pool *pool, const struct cp_job *job);

/* An item is killed for the memory of its worker only if it has added at least this part
 * of the limit itself. */
#define CP_MEMORY_PART 8u

/* Look which tasks have run for longer than their jobs allow, or take more memory than
 * the pool allows; see cp_plan_limit_at(). */
void cp_watch_limits(struct cp_pool *pool, int64_t now);

/* Kill the workers that are to be killed, with all processes that they have started.
 * Releases the lock meanwhile. */
void cp_watch_kill_due(struct cp_pool *pool);

/* When the driver has to wake up to look at processes, or CP_NEVER. A worker's end is
 * seen at its result pipe; but a process that it has forked may hold that pipe. */
int64_t cp_watch_next_probe(struct cp_pool *pool);

/* It is that late: look at the processes of workers from which something is awaited. */
void cp_watch_probe(struct cp_pool *pool, int64_t now);

/* Something has come: the next look is soon again. */
void cp_watch_hurry_probe(struct cp_pool *pool, int64_t now);

/* The poller says that this is ready. */
void cp_watch_on_ready(struct cp_pool *pool, uint64_t tag);

/* Close the task pipe: the worker ends when it has run what it has. */
void cp_watch_tell_end(struct cp_pool *pool, struct cp_worker *w);

/* So many workers end, each after the task that it runs, idle ones first. They count no
 * more. */
void cp_watch_retire(struct cp_pool *pool, uint32_t n, uint32_t from);

/* Of an elastic pool: one more worker if cp_plan_wants_more(); and those end that have
 * been idle for too long, see cp_plan_idle_at(). */
void cp_watch_grow(struct cp_pool *pool);
void cp_watch_end_idle(struct cp_pool *pool, int64_t now);

/* Workers that ran their last task long ago and have not exited count no more: other
 * workers take their place. *at is lowered to when the next one is late. */
void cp_watch_drop_overdue(struct cp_pool *pool, int64_t *at);

/* The pool is closed and all jobs are done: end workers that do not get ready, as in
 * an initializer that hangs. *at is lowered to when the next one is late. */
void cp_watch_end_unready(struct cp_pool *pool, int64_t *at);

/* See cp_pool_release_sentinel() and cp_pool_report_start_failure(). */
void cp_watch_release_sentinel(struct cp_pool *pool, struct cp_worker *w);
void cp_watch_on_start_failure(struct cp_pool *pool);

/* Before the driver sleeps: have workers flush the values that their tasks yield from now
 * on, and read those that are there. Were there any? */
bool cp_watch_values(struct cp_pool *pool);

/* The driver is up: it looks for values itself. */
void cp_watch_awake(struct cp_pool *pool);

/* Do tasks that wait for their readers keep workers from others, or the pool from its end?
 * Then they yield more, or end. *at is lowered to when that is to be asked again. */
void cp_watch_credit(struct cp_pool *pool, int64_t *at);

#endif
