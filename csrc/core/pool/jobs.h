/*
 * The jobs of a pool, from opening to the last result taken. The lock is held in
 * all functions here; they record and leave the rest to cp_act().
 *
 * A job is listed until it is done. Then its place in the list of ended jobs
 * holds it until the binding has collected what it kept for the job.
 */
#ifndef CP_POOL_JOBS_H
#define CP_POOL_JOBS_H

#include "pool/state.h"

/* See cp_job_open(). */
int cp_jobs_open(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
                 void *user, struct cp_job **job);

/* See cp_job_set_limits(). */
void cp_jobs_set_limits(struct cp_job *job, int64_t time_limit, int64_t grace,
                        uint32_t retries);

/* Drop a reference. */
void cp_jobs_unref(struct cp_job *job);

/* ---- tasks ---- */

/* Bytes that queued tasks may hold until no more calls are encoded; and until more
 * are again. */
#define CP_HELD_HIGH (8u << 20)
#define CP_HELD_LOW (4u << 20)

/* Queue a list of tasks, which is consumed. fed: no more will come. */
void cp_jobs_queue_take(struct cp_job *job, struct cp_task *list, bool fed);

/* The job's first task leaves the queue and counts as running; the task. NULL:
 * nothing is queued. */
struct cp_task *cp_jobs_start_task(struct cp_job *job);

/* A worker was given the task and did not begin it: queue it again, first. */
void cp_jobs_requeue_take(struct cp_task *task);

/* The newest n tasks that w has not begun are queued again: how many were. which:
 * CP_RECALL_ flags. */
uint32_t cp_jobs_recall(struct cp_worker *w, uint32_t n, unsigned which);

/* A worker has run a task of the job, which took ns; NULL: there was no memory
 * for the result. Consumes the task's reference to the job. */
void cp_jobs_answer_take(struct cp_job *job, struct cp_result *result,
                         int64_t ns, uint32_t items);

/* Run the task again, which the worker with this index has had, if its job has retries
 * left: false where not. */
bool cp_jobs_retry_take(struct cp_task *task, uint32_t worker);

/* The task ends: how many values it has yielded, UINT32_MAX at most. */
uint32_t cp_jobs_end_yield(struct cp_task *task);

/* The task was lost with its worker: run it again, or that is its result. */
void cp_jobs_lose_take(struct cp_task *task, const struct cp_loss *loss);

/* Lose the tasks that are for a worker that there will not be. */
void cp_jobs_lose_unplaced(struct cp_pool *pool);

/* The task, which w runs (NULL: a thread), has yielded a value. 0, or CP_EPROTO: it has no
 * credit for that. */
int cp_jobs_add_value_take(struct cp_task *task, struct cp_worker *w,
                           uint64_t seq, struct cp_result *value);

/* The job's tasks yield, each so many values ahead of the reader. */
void cp_jobs_set_credit(struct cp_job *job, uint64_t credit);

/* A task that yields waits for its reader, who is not there while the closed pool is joined:
 * its job ends. */
void cp_jobs_end_unread(struct cp_pool *pool);

/* The task leaves its worker, which has begun it: its result comes. */
void cp_jobs_note_answer(struct cp_task *task);

/* Withdraw a call of the job: false where a worker has begun it. */
bool cp_jobs_withdraw(struct cp_job *job, struct cp_call *call);

/* The task, which was withdrawn while it was queued, leaves the queue. */
void cp_jobs_drop_withdrawn(struct cp_job *job);

/* ---- results ---- */

/* A result arrives, from wherever. */
void cp_jobs_add_result_take(struct cp_job *job, struct cp_result *result);

/* The last result, which is kept until all others are there; no more tasks will
 * come. */
void cp_jobs_add_farewell_take(struct cp_job *job, struct cp_result *result);

/* The next result of the job, or NULL. */
struct cp_result *cp_jobs_get_result(struct cp_job *job);

/* All results that may be taken, and nobody else is given any until
 * cp_jobs_end_decoding(); NULL where there are none, or another thread decodes. */
struct cp_result *cp_jobs_begin_decoding(struct cp_job *job);
void cp_jobs_end_decoding(struct cp_job *job, struct cp_result *rest);

/* A job of calls: all results that have come. */
struct cp_result *cp_jobs_grab(struct cp_job *job);

/* A job of calls has results, or has ended: somebody is to see to its calls. urgent: at
 * once; otherwise at the driver's next tick, so that a burst of calls that nobody has
 * asked for yet does not wake a thread for each. */
void cp_jobs_note_each(struct cp_job *job, bool urgent);

/* The driver's tick: have somebody see to all jobs of calls with results. */
void cp_jobs_note_each_job(struct cp_pool *pool);

/* The next job of calls that somebody is to see to, or NULL; with a reference. */
struct cp_job *cp_jobs_next_each(struct cp_pool *pool);

/* ---- ends ---- */

/* No more calls will come to jobs of calls. */
void cp_jobs_close_each(struct cp_pool *pool);

/* End the job now, if it has not ended: its queued tasks are dropped. */
void cp_jobs_end(struct cp_job *job, enum cp_end end);
/* The same, and take back what workers have not begun. False: it has ended before. */
bool cp_jobs_stop(struct cp_job *job, enum cp_end end);
void cp_jobs_end_all(struct cp_pool *pool, enum cp_end end);

/* The callbacks of the job have run: it is done. */
void cp_jobs_called(struct cp_job *job);

/* The next job whose callbacks are to run, or NULL. */
struct cp_job *cp_jobs_next_call(struct cp_pool *pool);

/* The jobs that are done and were not handed over: a list by call_next. */
struct cp_job *cp_jobs_collect(struct cp_pool *pool);

#endif
