/*
 * Waiting for jobs. The thread that waits also drives, that is, it runs the
 * event loop. Public, like pool/pool.h. All functions take the lock.
 */
#ifndef CP_POOL_DRIVE_H
#define CP_POOL_DRIVE_H

#include "base/base.h"

struct cp_call;
struct cp_job;
struct cp_pool;

enum cp_wait {
    CP_WAIT_TIMEOUT = 0,
    CP_WAIT_READY = 1,   /* there is a result, or the job is done */
    CP_WAIT_WORKERS = 2, /* workers are missing: the caller replaces them */
    CP_WAIT_FEED = 3,    /* the job wants tasks */
    CP_WAIT_CALL = 4,    /* cp_pool_next() only: a job wants callbacks */
    CP_WAIT_ENDED = 5,   /* cp_pool_next() only: the pool is gone */
    CP_WAIT_IDLE = 6,    /* cp_pool_next() only: collect cp_pool_ended() */
    CP_WAIT_EACH = 7,    /* cp_pool_next() only: as cp_pool_next_each() */
};

#define CP_CAN_FEED 0x1u
#define CP_CAN_FORK 0x2u

/*
 * Wait for a job (NULL: for the end of all workers) and drive meanwhile.
 * Returns enum cp_wait, CP_EINTR after a signal, or once for each worker
 * that has ended if the program has a handler of SIGCHLD, or a negative code.
 */
int cp_pool_wait(struct cp_pool *pool, struct cp_job *job, int64_t deadline,
                 unsigned can);

/* The same, for the end of any of n jobs, which the caller holds; n is not 0. */
int cp_pool_wait_any(struct cp_pool *pool, struct cp_job *const *jobs, size_t n,
                     int64_t deadline, unsigned can);

/* Wait for results of a job of calls, or until this call of it has ended;
 * otherwise as cp_pool_wait(). A thread that gets CP_WAIT_READY has to take the
 * results with cp_job_grab(). */
int cp_job_wait_call(struct cp_job *job, const struct cp_call *call,
                     int64_t deadline, unsigned can);

/*
 * For a thread that runs an event loop of its own, and must not wait: spin for
 * results for some microseconds, as a waiting thread does first, if that pays.
 * True: some jobs need attention, and the helper was not told: the caller takes
 * them with cp_pool_next_each(). False: the standby drives, and the helper is
 * told as always.
 */
bool cp_pool_glance(struct cp_pool *pool);

/* The caller of cp_pool_glance() has taken what it wants: the helper takes the
 * rest, if there is any. */
void cp_pool_glanced(struct cp_pool *pool);

/* Wait until the job wants more tasks: 1, and *n of them. 0 when the job is
 * done. CP_ECLOSED: the job has been at its limit for half a second, and
 * somebody waits for the closed pool to end; the caller ends the job's input.
 * Never drives. */
int cp_job_wait_wants(struct cp_job *job, uint64_t *n);

/* The duties of a thread in cp_pool_next(). Two threads share them, because
 * starting workers must not wait for the program's callbacks. */
#define CP_DO_CALLS 0x1u  /* CP_WAIT_CALL, CP_WAIT_IDLE: the helper */
#define CP_DO_STARTS 0x2u /* CP_WAIT_WORKERS: the starter */

/* Wait until one of these duties (CP_DO_*) has work, which needs an
 * interpreter. Never drives. With CP_WAIT_CALL, *job is the job, with a
 * reference for the caller. */
int cp_pool_next(struct cp_pool *pool, unsigned duties, struct cp_job **job);

/* The same without waiting: CP_WAIT_TIMEOUT where there is nothing to do. */
int cp_pool_try_next(struct cp_pool *pool, unsigned duties,
                     struct cp_job **job);

/* Have the standby thread drive while nobody else does. It ends by itself when the
 * pool is closed and its last worker is gone. Idempotent. CP_ECLOSED where the pool
 * has ended: then nothing needs a thread. */
int cp_pool_start_standby(struct cp_pool *pool);

/* End the standby thread, if there is one, and wait for it; not from that thread. */
void cp_pool_stop_standby(struct cp_pool *pool);

#endif
