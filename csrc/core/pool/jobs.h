/*
 * The jobs of a pool, from opening to the last result taken. The lock is held in
 * all functions here; they record and leave the rest to cp_act().
 *
 * A job is listed until it is done. After that, the list of ended jobs keeps it
 * until the binding has collected its `user`.
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

/* While queued tasks hold more than HIGH bytes, no more calls are encoded,
 * until they hold less than LOW. */
#define CP_HELD_HIGH (8u << 20)
#define CP_HELD_LOW (4u << 20)

/* Queue a list of tasks, which is consumed. fed: no more will come. */
void cp_jobs_queue_take(struct cp_job *job, struct cp_task *list, bool fed);

/* Take the job's first task from its queue, and count it as running. NULL:
 * nothing is queued. */
struct cp_task *cp_jobs_start_task(struct cp_job *job);

/* A worker was given the task and did not begin it: put it back at the front of
 * the queue. */
void cp_jobs_requeue_take(struct cp_task *task);

/* Queue the newest n tasks that w has not begun again. Returns how many there
 * were. which: CP_RECALL_ flags. */
uint32_t cp_jobs_recall(struct cp_worker *w, uint32_t n, unsigned which);

/* A worker has run a task of the job in ns nanoseconds. result NULL: there was
 * no memory for it. Consumes the task's reference to the job. */
void cp_jobs_answer_take(struct cp_job *job, struct cp_result *result,
                         int64_t ns, uint32_t items);

/* Queue the task again if its job has retries left; false if not. worker: the
 * index of the worker that has had it. */
bool cp_jobs_retry_take(struct cp_task *task, uint32_t worker);

/* The task ends. Returns how many values it has yielded, UINT32_MAX at most. */
uint32_t cp_jobs_end_yield(struct cp_task *task);

/* The task was lost with its worker: run it again, or make the loss its
 * result. */
void cp_jobs_lose_take(struct cp_task *task, const struct cp_loss *loss);

/* Lose the tasks for workers that will never exist. */
void cp_jobs_lose_unplaced(struct cp_pool *pool);

/* The task, which runs in w (NULL: in a thread), has yielded a value. 0, or
 * CP_EPROTO: it has no credit for that. */
int cp_jobs_add_value_take(struct cp_task *task, struct cp_worker *w,
                           uint64_t seq, struct cp_result *value);

/* The job's tasks yield: set how many values each may be ahead of the
 * reader. */
void cp_jobs_set_credit(struct cp_job *job, uint64_t credit);

/* End jobs whose tasks wait for a reader: while the closed pool is joined,
 * nobody reads. */
void cp_jobs_end_unread(struct cp_pool *pool);

/* The task leaves its worker, which has begun it: a result will follow. */
void cp_jobs_note_answer(struct cp_task *task);

/* Withdraw a call of the job: false where a worker has begun it. */
bool cp_jobs_withdraw(struct cp_job *job, struct cp_call *call);

/* The task of the job's only call (CP_JOB_KEPT) is about to be made. True: it is
 * not needed, because the call was withdrawn, and ends here, or because the job
 * has ended. index: the number of the call. */
bool cp_jobs_end_withdrawn(struct cp_job *job, const struct cp_call *call,
                           uint64_t index);

/* Drop the first queued task of the job, which was withdrawn. */
void cp_jobs_drop_withdrawn(struct cp_job *job);

/* ---- results ---- */

/* Add a result, wherever it comes from. */
void cp_jobs_add_result_take(struct cp_job *job, struct cp_result *result);

/* Add the last result, which is kept back until all others have arrived. No
 * more tasks will come. */
void cp_jobs_add_farewell_take(struct cp_job *job, struct cp_result *result);

/* The next result of the job, or NULL. */
struct cp_result *cp_jobs_get_result(struct cp_job *job);

/* Take all results that may be taken. Nobody else gets any until
 * cp_jobs_end_decoding(). NULL: there are none, or another thread decodes. */
struct cp_result *cp_jobs_begin_decoding(struct cp_job *job);
void cp_jobs_end_decoding(struct cp_job *job, struct cp_result *rest);

/* A job of calls: all results that have come. */
struct cp_result *cp_jobs_grab(struct cp_job *job);

/* A job of calls has results, or has ended: have somebody see to its calls.
 * urgent: at once; otherwise at the driver's next tick, so that a burst of
 * calls for which nobody waits yet does not wake a thread for each. */
void cp_jobs_note_each(struct cp_job *job, bool urgent);

/* The driver's tick: have somebody see to all jobs of calls with results. */
void cp_jobs_note_each_job(struct cp_pool *pool);

/* The next job of calls that needs attention, with a reference; or NULL. */
struct cp_job *cp_jobs_next_each(struct cp_pool *pool);

/* ---- ends ---- */

/* No more calls will come to jobs of calls. */
void cp_jobs_close_each(struct cp_pool *pool);

/* End the job now, if it has not ended: its queued tasks are dropped. */
void cp_jobs_end(struct cp_job *job, enum cp_end end);
/* The same, and take back the tasks that workers have not begun. False: the job
 * had ended before. */
bool cp_jobs_stop(struct cp_job *job, enum cp_end end);
void cp_jobs_end_all(struct cp_pool *pool, enum cp_end end);

/* The callbacks of the job have run: it is done. */
void cp_jobs_called(struct cp_job *job);

/* The next job whose callbacks are to run, or NULL. */
struct cp_job *cp_jobs_next_call(struct cp_pool *pool);

/* The jobs that are done and not handed over yet: a list by call_next. */
struct cp_job *cp_jobs_collect(struct cp_pool *pool);

#endif
