/*
 * Who sleeps where, and how they are woken. Also the list of what is dropped,
 * to be released when the lock is.
 *
 * A state function never wakes anybody: it notes who has to hear of the change
 * (cp_note_*), and cp_act() wakes all of them at its end. The lock is held in
 * all functions here.
 *
 *   who                             sleeps in             woken by
 *   the driver                      the poller            the pool's eventfd
 *   waiters, behind the driver      a condition each      the driver, cp_note_job()
 *   feeders, cp_job_wait_wants()    pool->feed            cp_note_feeders()
 *   the helper, cp_pool_next()      pool->events          cp_note_helper()
 *   the starter, cp_pool_next()     pool->starts          cp_note_starter()
 *   the standby thread              pool->standby         cp_note_standby(), a tick
 *   worker threads                  pool->threads.work    cp_wake_workers()
 *   those whose task yields         a condition each      cp_note_yielder()
 */
#ifndef CP_POOL_WAKE_H
#define CP_POOL_WAKE_H

#include "pool/state.h"

/* The threads that wait for the job (NULL: for the end of the workers). */
void cp_note_job(struct cp_pool *pool, const struct cp_job *job);
/* The threads that wait for the end of any of several jobs. */
void cp_note_any(struct cp_pool *pool);
/* One of the threads that wait for the job: the driver if it is one of them, or
 * the thread that has waited longest. */
void cp_note_one_waiter(struct cp_pool *pool, const struct cp_job *job);
/* Of the threads that wait for the job, those whose call has ended. */
void cp_note_ended_calls(struct cp_pool *pool, const struct cp_job *job);
/* Of the threads that wait for the job, those that also feed it. */
void cp_note_feeding_waiters(struct cp_pool *pool, const struct cp_job *job);
/* Every waiter, every feeder, and the driver. */
void cp_note_all(struct cp_pool *pool);

static inline void
cp_note_driver(struct cp_pool *pool)
{
    pool->noted |= CP_NOTED_DRIVER;
}

static inline void
cp_note_feeders(struct cp_pool *pool)
{
    pool->noted |= CP_NOTED_FEEDERS;
}

static inline void
cp_note_helper(struct cp_pool *pool)
{
    pool->noted |= CP_NOTED_HELPER;
}

/* Workers are missing, or will be: the thread that starts workers has to
 * look. */
static inline void
cp_note_starter(struct cp_pool *pool)
{
    pool->noted |= CP_NOTED_STARTER;
}

static inline void
cp_note_standby(struct cp_pool *pool)
{
    pool->noted |= CP_NOTED_STANDBY;
}

/* A worker thread that waits for credit. */
void cp_note_yielder(struct cp_pool *pool, struct cp_yielder *yielder);

/* One waiter, which has to look at the state again. */
void cp_note_waiter(struct cp_pool *pool, struct cp_waiter *waiter);

/* Wake all threads that were noted. For cp_act() alone. */
void cp_wake_noted(struct cp_pool *pool);

/* Wake worker threads: one for each task that no running thread will take; or
 * all of them. For cp_act() alone. */
void cp_wake_workers(struct cp_pool *pool);
void cp_wake_all_workers(struct cp_pool *pool);

/* Publish, for threads that look without the lock, whether tasks are queued. */
void cp_publish_queued(struct cp_pool *pool);

/* Free a task that is no longer needed. If workers are threads, it is kept
 * until cp_unlock(). NULL is fine. */
void cp_drop_task(struct cp_pool *pool, struct cp_task *task);
/* The same for a list of results. */
void cp_drop_results(struct cp_pool *pool, struct cp_result *list);
bool cp_has_dropped(const struct cp_pool *pool);

/* Release the lock, and then what was dropped, which may call the binding.
 * Nothing may be left for cp_act() to do. */
void cp_unlock(struct cp_pool *pool);

#endif
