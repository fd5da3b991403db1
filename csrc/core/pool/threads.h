/*
 * Workers that are threads of this process.
 *
 * Jobs, tasks and results are those of any pool, and whoever opens, feeds and
 * waits for jobs sees no difference. But nobody drives: a worker takes its next
 * task and hands in the result of the last one in one call, under the pool's
 * lock, and sleeps on a condition where there is none. Sleeping workers are woken
 * by tasks that are queued, and by the end of the pool.
 */
#ifndef CP_POOL_THREADS_H
#define CP_POOL_THREADS_H

#include "base/base.h"
#include "link/task.h"

struct cp_job;
struct cp_pool;

/* A worker thread's own, all zero at first. */
struct cp_turn {
    struct cp_task *task; /* what it runs; its job field is the pool's */
    int64_t begun;        /* when that began; the worker may set it later */
    uint32_t index;       /* of the worker; constant */
    bool had_pinned;      /* see struct cp_worker */
    const char
        *func;    /* the name of what it ran, where that took long; or NULL */
    bool dropped; /* cp_pool_release_dropped() has something to do */
    bool retired; /* the thread ends, since there are too many */
    bool
        sees_first; /* 0 instead of a task where cp_pool_has_each(): what sees to those
                        may wait for that task */
};

/* The worker with this index will begin, or begins: 0, or CP_ECLOSED where the pool has
 * ended. The pool's end is waited for until it has left. */
int cp_threads_enter(struct cp_pool *pool, uint32_t worker);
void cp_threads_leave(struct cp_pool *pool, uint32_t worker);

/* Is a task that took so long one of the longest? A guess, without the lock. */
bool cp_threads_is_long(struct cp_pool *pool, int64_t ns);

/*
 * Hand in what became of turn->task, if there is one: the result, or NULL where
 * there was no memory for one, or the job has ended. Both are consumed; the task
 * has to be empty, which is to say that nothing is left in it to be released. Then
 * take the next.
 *
 * 1: turn->task is to be run. 0: there is none now; wait: because there is
 * something to release or to collect (cp_pool_ended()) first; or turn->sees_first. CP_ECLOSED: the pool
 * has ended. With `wait` nothing is released here.
 */
int cp_threads_swap(struct cp_pool *pool, struct cp_turn *turn,
                    struct cp_result *result, bool wait);

/*
 * The task that runs has yielded a value, which is consumed. *room: how many more it may
 * yield before it has to wait. 0, or CP_ECLOSED: its job has ended, and it is to end.
 */
int cp_threads_yield(struct cp_pool *pool, struct cp_task *task,
                     struct cp_result *value, uint64_t *room);

/* Wait until the task may yield, *room values. 0, or CP_ECLOSED as above. Releases nothing:
 * for a thread that is detached. */
int cp_threads_wait_room(struct cp_pool *pool, struct cp_task *task,
                         uint64_t *room);

/* Is a task waiting? A guess, without the lock. */
bool cp_threads_has_queued(const struct cp_pool *pool);

/* Release what was dropped while nobody could. */
void cp_pool_release_dropped(struct cp_pool *pool);

/* Look for news of the job instead of sleeping, where that is worth it. True: the
 * lock was released meanwhile, so that the caller has to look at the state before
 * it sleeps. in_vain is the caller's, false at first: one look in vain is enough.
 * The lock is held. */
bool cp_threads_look(struct cp_pool *pool, struct cp_job *job, int64_t deadline,
                     bool *in_vain);

#endif
