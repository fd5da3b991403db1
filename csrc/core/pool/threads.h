/*
 * Workers that are threads of this process.
 *
 * Jobs, tasks and results are the same as with processes, and threads that
 * open, feed and wait for jobs see no difference. But nobody drives: a worker
 * hands in the result of its last task and takes its next task in one call,
 * under the pool's lock, and sleeps on a condition if there is none. Sleeping
 * workers are woken by queued tasks, and by the end of the pool.
 */
#ifndef CP_POOL_THREADS_H
#define CP_POOL_THREADS_H

#include "base/base.h"
#include "link/task.h"

struct cp_job;
struct cp_pool;

/* The state of one worker thread, all zero at first. */
struct cp_turn {
    struct cp_task *task; /* what it runs; its job field is the pool's */
    int64_t begun;   /* when that task began; the worker may set it later */
    uint32_t index;  /* of the worker; constant */
    bool had_pinned; /* see struct cp_worker */
    const char
        *func; /* the name of the callable that ran, if it took long; or NULL */
    bool dropped;    /* cp_pool_release_dropped() has something to do */
    bool retired;    /* the thread has to end: there are too many */
    bool sees_first; /* return 0 instead of a task if cp_pool_has_each() */
};

/* A worker with this index begins, or is about to. 0, or CP_ECLOSED: the pool
 * has ended. The end of the pool is complete only when the worker has left. */
int cp_threads_enter(struct cp_pool *pool, uint32_t worker);
void cp_threads_leave(struct cp_pool *pool, uint32_t worker);

/* Is a task that took so long one of the longest? A guess, without the lock. */
bool cp_threads_is_long(struct cp_pool *pool, int64_t ns);

/*
 * Hand in the outcome of turn->task, if there is one: the result, or NULL if
 * there was no memory for it, or the job has ended. Both are consumed. The task
 * must be empty, that is, it holds nothing that has to be released. Then take
 * the next task.
 *
 * 1: run turn->task. 0: there is no task now; with `wait`, because there is
 * something to release or to collect (cp_pool_ended()) first; or because of
 * turn->sees_first. CP_ECLOSED: the pool has ended. With `wait`, nothing is
 * released here.
 */
int cp_threads_swap(struct cp_pool *pool, struct cp_turn *turn,
                    struct cp_result *result, bool wait);

/*
 * The running task has yielded a value, which is consumed. *room: how many more
 * it may yield before it has to wait. 0, or CP_ECLOSED: the job has ended, so
 * the task has to end.
 */
int cp_threads_yield(struct cp_pool *pool, struct cp_task *task,
                     struct cp_result *value, uint64_t *room);

/* Wait until the task may yield *room more values. 0, or CP_ECLOSED as above.
 * Releases nothing, since the calling thread is detached from the
 * interpreter. */
int cp_threads_wait_room(struct cp_pool *pool, struct cp_task *task,
                         uint64_t *room);

/* Is a task waiting? A guess, without the lock. */
bool cp_threads_has_queued(const struct cp_pool *pool);

/* Release what was dropped while the dropping thread could not release it. */
void cp_pool_release_dropped(struct cp_pool *pool);

/* Spin for news of the job instead of sleeping, if that pays. The lock is held.
 * True: it was released meanwhile, so the caller has to check the state before
 * it sleeps. in_vain belongs to the caller, false at first: after one spin in
 * vain there is no other. */
bool cp_threads_look(struct cp_pool *pool, struct cp_job *job, int64_t deadline,
                     bool *in_vain);

#endif
