/*
 * The pool: jobs, workers, and the one loop that moves bytes between them.
 *
 * No thread owns the loop. The thread that waits drives it (cp_pool_wait()),
 * one thread at a time; a standby thread drives only while no other thread does
 * and there is work in progress. All state is guarded by one leaf lock, taken
 * inside the functions here. None of them calls the binding: what needs an
 * interpreter (a worker to be forked, callbacks to be run, a job to be fed) is
 * a return value of a wait.
 *
 * Every function may be called from any thread, without an interpreter, in
 * the process that made the pool and in no other: the caller checks
 * cp_pool_is_ours() first.
 */
#ifndef CP_POOL_H
#define CP_POOL_H

#include "link/worker.h"
#include "pool/drive.h"
#include "pool/job.h"
#include "pool/ref.h"
#include "pool/tallies.h"
#include "pool/trace.h"
#include "pool/threads.h"

/* 0 and *pool with one reference, or a negative code. */
int cp_pool_new(uint32_t target, struct cp_pool **pool);

/*
 * A pool whose workers are threads (pool/threads.h). Their tasks and results hold
 * references that only the caller can release: dropped tasks and results are passed
 * to release() by the call that drops them, after the lock is released.
 * take_turns: only one thread at a time can run tasks.
 */
int cp_pool_new_threads(uint32_t target, cp_release *release, bool take_turns,
                        struct cp_pool **pool);
/* ---- workers ---- */

/* A worker to be forked, or, after cp_pool_share(), to be started by exec: see
 * cp_worker_new(). CP_ECLOSED: the pool has ended. */
int cp_pool_new_worker(struct cp_pool *pool, uint64_t budget,
                       struct cp_worker **w);

/* A worker was forked: watch it. The pool takes a reference of its own.
 * Negative: the caller kills the process. CP_ECLOSED after cp_pool_end(). */
int cp_pool_add_worker(struct cp_pool *pool, struct cp_worker *w);

/* After CP_WAIT_WORKERS: the missing workers could not be started. A thread is
 * told to try again, after a longer time with each failure. */
void cp_pool_report_start_failure(struct cp_pool *pool);

/* A descriptor that becomes readable when the worker has ended, opened at the first
 * call, or a system error. It stays open until cp_pool_release_sentinel(). */
int cp_pool_lend_sentinel(struct cp_pool *pool, struct cp_worker *w);

/* Drop the worker's sentinel. If the process has ended, the pool reads its last
 * results first; while the process runs, the sentinel stays open, since the pool
 * watches it. */
void cp_pool_release_sentinel(struct cp_pool *pool, struct cp_worker *w);

/* The memory that all workers share; lives as long as the pool. */
struct cp_common *cp_pool_common(struct cp_pool *pool);

/* Workers will start by exec: before the first one is made. 0 or a system error. */
int cp_pool_share(struct cp_pool *pool);

/*
 * Limit the memory of each worker, in bytes; 0: no limit. A worker that has
 * more memory of its own between two tasks takes no more tasks and ends. One
 * that passes the limit while an item runs is killed if this item has added at
 * least an eighth of the limit. Call before the first worker is made. 0 or a
 * system error: ENOSYS if the memory of processes cannot be read.
 */
int cp_pool_set_memory_limit(struct cp_pool *pool, uint64_t bytes);
uint64_t cp_pool_memory_limit(const struct cp_pool *pool); /* [any] */

/* The descriptor of the memory that all workers share, owned by the pool; -1 if
 * workers are forked. */
int cp_pool_common_fd(const struct cp_pool *pool);

/* Send large data through shared memory, of this many bytes at most. Call
 * before the first worker is made. 0, or a negative code: they go through the
 * pipes. */
int cp_pool_open_memory(struct cp_pool *pool, uint64_t limit);

/* The allocator for parts of tasks in shared memory; NULL: there is none.
 * [any] */
struct cp_heap *cp_pool_heap(const struct cp_pool *pool);

/* The shared memory for large data; or NULL. */
struct cp_region *cp_pool_region(const struct cp_pool *pool);

/* The descriptor of that memory, owned by the pool; or -1. */
int cp_pool_memory_fd(const struct cp_pool *pool);

/* Set how many workers there should be. Returns how many are missing. Surplus
 * worker threads end after their tasks. */
uint32_t cp_pool_set_target(struct cp_pool *pool, uint32_t target);

/*
 * Make the pool elastic: its target follows its work. The driver raises the
 * target by one while all workers are busy and tasks are queued, up to `most`;
 * and ends workers that have been idle for idle_ns (0: none), down to `least`.
 * most 0: the target is fixed.
 */
void cp_pool_set_elastic(struct cp_pool *pool, uint32_t least, uint32_t most,
                         int64_t idle_ns);
uint32_t cp_pool_target(struct cp_pool *pool);

/* Workers may start processes of their own: from now on cp_pool_end() kills
 * busy workers with all of their descendants, and cp_pool_kill_trees() kills
 * all workers that way (it does nothing unless this was called). See
 * cp_proc_kill_tree(). */
void cp_pool_set_trees(struct cp_pool *pool);
void cp_pool_kill_trees(struct cp_pool *pool);

/* End n worker processes, each after its current task, idle ones first. They no
 * longer count. from: only workers with this index or a higher one. */
void cp_pool_retire(struct cp_pool *pool, uint32_t n, uint32_t from);

/* From now on there are only workers with indexes below n: tasks for other ones
 * are lost (CP_NO_WORKER). */
void cp_pool_set_indexes(struct cp_pool *pool, uint32_t n);

/* The lowest index, not below `from`, of a missing worker for which tasks wait;
 * UINT32_MAX: none. */
uint32_t cp_pool_next_unplaced(struct cp_pool *pool, uint32_t from);

/* ---- jobs ---- */

/* The callable with these bytes, with one reference; NULL: out of memory. A
 * short callable with CP_KEEP is shared by all calls that bring the same bytes;
 * one that was pickled by value, only with CP_KEPT. */
struct cp_func *cp_func_open(struct cp_pool *pool, const void *bytes,
                             size_t len, uint16_t flags);
/* Make a callable or a shared object, with one reference, from the complete
 * file in parts->sealed, which is taken from the parts. NULL: out of memory,
 * and the parts keep it. name: the beginning of a pickle, from which the
 * statistics show a name. flags: CP_SHARED, or those of a callable. */
struct cp_func *cp_func_open_sealed(struct cp_pool *pool,
                                    struct cp_parts *parts, const void *name,
                                    size_t len, uint16_t flags);
void cp_func_close(struct cp_pool *pool, struct cp_func *func);

/* Record that the body with these parts refers to this shared object, which
 * then lives until the body has been answered. 0; CP_ECLOSED: the object is
 * closed; CP_ENOMEM. */
int cp_func_use(struct cp_pool *pool, struct cp_func *func,
                struct cp_parts *parts);

/* Close a shared object: no new body can refer to it. Consumes the reference of
 * cp_func_open_sealed(). The object is freed with the last body that refers to
 * it. */
void cp_share_close_take(struct cp_pool *pool, struct cp_func *func);

/* A job with one reference for the caller, or a negative code. It keeps a
 * reference to func, and keeps user (NULL: see cp_job_hold()) until
 * cp_pool_ended() hands user over. On a pool that is broken the job is done at
 * once. CP_ECLOSED: the pool does not run any more. */
int cp_job_open(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
                void *user, struct cp_job **job);
void cp_job_ref(struct cp_job *job);   /* one more, while the caller has one */
void cp_job_close(struct cp_job *job); /* the caller's reference */
/* Close the jobs of such a list; see cp_pool_ended(). */
void cp_pool_close_jobs(struct cp_pool *pool, struct cp_job *list);
/* The same as cp_job_close(), without the lock: soon, with dozens of others. For
 * a job that holds nothing but memory: it is done, and its results were taken.
 * The caller keeps the pool alive. cp_pool_close_late() closes what is left; that
 * is needed only at the end of the pool. */
void cp_job_close_later(struct cp_job *job);
void cp_pool_close_late(struct cp_pool *pool);

/* A job of one task, and its task, at once: as cp_job_open() with user, and
 * cp_job_put_take(). Consumes task always. *held: the job keeps user; false on
 * a pool that is broken. *job is set before a worker can see the task. */
int cp_job_open_call_take(struct cp_pool *pool, uint32_t flags, void *user,
                          struct cp_task *task, struct cp_job **job,
                          bool *held);

/* Set user, which the job keeps from now on. False: the job has one already, or
 * is done and will hand nothing over; the caller keeps user. */
bool cp_job_hold(struct cp_job *job, void *user);

/* Set the callable of a job that was opened without one. */
void cp_job_set_func(struct cp_job *job, struct cp_func *func);

/* Queue a list of tasks and hand out what can go. Consumes the list always.
 * fed: no more will come. */
void cp_job_put_take(struct cp_job *job, struct cp_task *list, bool fed);

/* A result that no worker gave (a task that could not be pickled). Consumes
 * result; it counts as the task with its index. */
void cp_job_put_result_take(struct cp_job *job, struct cp_result *result);

/* The same, but it arrives after all others, and no more tasks will come. */
void cp_job_put_farewell_take(struct cp_job *job, struct cp_result *result);

/* Limit the job's queued tasks, running tasks and untaken results, in sum, as
 * far as cp_job_wants() controls them. A closed pool keeps to the limit until
 * somebody waits for it to end (see cp_job_wait_wants()). 0: no limit. */
void cp_job_set_limit(struct cp_job *job, uint64_t limit);

/* Until the first result has come, no more than one task for each worker is
 * wanted. */
void cp_job_set_probes(struct cp_job *job);

/* At first only a few tasks for each worker are wanted, and with each result one
 * more: the sizes of the job's tasks follow cp_job_share(), which knows nothing
 * before the first results. */
void cp_job_set_paced(struct cp_job *job);

/* Before its first task: the job's tasks yield (CP_YIELDS), and each may be
 * `credit` values ahead of the reader. cp_job_take() then returns values
 * (CP_IS_VALUE) and failures. */
void cp_job_set_credit(struct cp_job *job, uint64_t credit);

/* Before its first task: an item that runs for longer than time_limit (in ns;
 * 0: no limit) is asked to stop, and after `grace` more its worker is killed
 * (0: at once). A task that was lost with its worker, was killed like that, or
 * was answered with CP_AGAIN is run again, up to `retries` times. Not for
 * worker threads. */
void cp_job_set_limits(struct cp_job *job, int64_t time_limit, int64_t grace,
                       uint32_t retries);

/* Before its first task: set which worker runs its tasks (struct cp_job's pin),
 * and its priority. 0 or CP_ENOMEM. */
int cp_job_set_place(struct cp_job *job, uint16_t pin, int8_t priority);

/* Before the first of the n tasks of a job with CP_PIN_EACH: set the index of
 * the worker for each. 0 or CP_ENOMEM. */
int cp_job_set_places(struct cp_job *job, const uint16_t *places, size_t n);

/* From now on the first result that is not CP_OK ends the job, with
 * CP_END_FAILED. That result comes next, and tasks that no worker has begun are
 * withdrawn. */
void cp_job_set_fail_fast(struct cp_job *job);

/* Did one of its results have a mark (CP_MARK)? */
bool cp_job_is_marked(const struct cp_job *job);

/* How many more tasks should be queued now; 0 when the job is done. */
uint64_t cp_job_wants(struct cp_job *job);

/* How many results have arrived, and how many of them are not CP_OK. */
uint64_t cp_job_arrived(struct cp_job *job, uint64_t *failed);

/* Has a worker begun or finished a task of the job? */
bool cp_job_is_begun(struct cp_job *job);

/* How many items are done: those of all results, and, of each chunk that a
 * process runs, the items before its current one. The number may go down: when
 * the result of a chunk is in transit, or when a worker has died. */
uint64_t cp_job_items(struct cp_job *job);

/* How many of the items that are left the next task should have, going by what
 * items have taken so far: large first, small last, 1 while nothing is known. */
uint64_t cp_job_share(struct cp_job *job, uint64_t left);

/*
 * Calls that workers cannot take soon should not be encoded yet: references
 * take less memory than bytes. False while queued tasks hold more than some
 * megabytes: the sum of `held`, which the binding sets for the first tasks of a
 * job. Without the lock: a hint.
 */
bool cp_pool_has_room(struct cp_pool *pool);

/* Wait until cp_pool_has_room(), or until the pool has ended and nothing is
 * queued. Never drives. */
void cp_pool_wait_room(struct cp_pool *pool);

/* Wait until fewer than `most` jobs are waiting, that is, no task of theirs was
 * given to a worker. False: the deadline has passed first. Never drives. */
bool cp_pool_wait_pending(struct cp_pool *pool, uint64_t most,
                          int64_t deadline);

/* Take the next result; NULL where there is none now. */
struct cp_result *cp_job_take(struct cp_job *job);

/* Take all results, in order of arrival. While the caller decodes them, no
 * other thread gets any; cp_job_decoded() ends that, and gives back the rest
 * (NULL: none). NULL: there are no results, or another thread decodes. */
struct cp_result *cp_job_take_all(struct cp_job *job);
/* Returns what cp_job_is_drained() would. */
bool cp_job_decoded(struct cp_job *job, struct cp_result *rest);

/* Take the result of a job with CP_JOB_SINGLE that is done, if it is a value; or
 * NULL. Other threads do not wait until the caller has decoded it. */
struct cp_result *cp_job_take_single(struct cp_job *job);

/* Set the job's teller, which is told once, when the job is done (with
 * CP_JOB_TAKEN_SINGLY: when a result can be taken). The job then comes out of
 * cp_pool_next() as CP_WAIT_CALL, or out of cp_pool_next_each(), and
 * cp_job_take_teller() returns the teller. 1: it is set. 0: the job is done, or
 * has such a result, already. CP_EPROTO: the job has a teller already. In these
 * two cases the caller keeps its teller. */
int cp_job_tell(struct cp_job *job, void *teller);
void *cp_job_take_teller(struct cp_job *job);

/* ---- jobs of calls, CP_JOB_EACH ---- */

/* Queue one more call: a task whose `call` is set. Always consumes the task.
 * CP_ECLOSED: the job takes no more calls, or has ended; there will be no
 * result. */
int cp_job_put_call_take(struct cp_job *job, struct cp_task *task);

/* Before the task of the only call of a job with CP_JOB_KEPT is made: true, and
 * no task is needed, since the call was withdrawn or the job has ended. index:
 * the task's. */
bool cp_job_end_withdrawn(struct cp_job *job, const struct cp_call *call,
                          uint64_t index);

/* Take all results, in order of arrival. Unlike with cp_job_take_all(), other
 * threads may take the results that come next. */
struct cp_result *cp_job_grab(struct cp_job *job);

/* Calls of the job have just `ended`: wake the threads that wait for one of
 * them. more: there are other calls that need attention, and the caller will
 * not give it. */
void cp_job_note_ended(struct cp_job *job, bool more);

/* The state of the call. If its job has ended early, so has the call: it counts
 * as answered. watch: from now on its end is urgent; false: it no longer is,
 * because the caller itself waits for it. */
enum cp_call_state { CP_CALL_WAITS, CP_CALL_BEGUN, CP_CALL_ANSWERED };
enum cp_call_state cp_job_look(struct cp_job *job, struct cp_call *call,
                               bool watch);

/* Withdraw the call: true, and it will not run, and its result will be CP_WITHDRAWN.
 * False: a worker has begun it. */
bool cp_job_withdraw(struct cp_job *job, struct cp_call *call);

/* The next job that needs attention, with a reference for the caller; or
 * NULL. */
struct cp_job *cp_pool_next_each(struct cp_pool *pool);

/* Is there such a job? A guess, without the lock. */
bool cp_pool_has_each(const struct cp_pool *pool);

/* Is the job done, and has every result been taken and decoded? */
bool cp_job_is_drained(struct cp_job *job);

/* Call visit for each untaken result, with the lock held: visit may only look.
 * A non-zero return value of visit ends the loop and is returned. */
int cp_job_each_result(struct cp_job *job,
                       int (*visit)(struct cp_result *result, void *arg),
                       void *arg);

/* Drop all results that were not taken. */
void cp_job_drop_results(struct cp_job *job);

/* Cancel the job: it is done now, with CP_END_TERMINATED. Running tasks go on, their
 * results are dropped, and no callbacks are run. */
void cp_job_cancel(struct cp_job *job);

/*
 * Cancel the job for the program: it ends now, with CP_END_CANCELLED, its
 * callbacks are run, and tasks that no worker has begun are withdrawn. kill:
 * workers that run one of its tasks are killed, and only that task is lost;
 * otherwise the results of these tasks are dropped. False: nothing changes,
 * since the job has ended before, or has all of its results.
 */
bool cp_job_stop(struct cp_job *job, bool kill);

/* There is no memory for one of its tasks: it is done now, with
 * CP_END_NOMEM. */
void cp_job_fail(struct cp_job *job);

/* A job with CP_JOB_CALLS: the callbacks have been run, it is done. */
void cp_job_called(struct cp_job *job);

/* Jobs that are done and not handed over yet, linked by call_next. The caller
 * releases the `user` of each job, then calls cp_job_close(). Without such jobs
 * it takes no lock. */
struct cp_job *cp_pool_ended(struct cp_pool *pool);

/* ---- the end ---- */

/* No more jobs; the workers end when all is done. */
void cp_pool_close(struct cp_pool *pool);

/* End now: all jobs are done with CP_END_TERMINATED; idle workers are told to
 * end, busy ones get SIGTERM. Does not wait. */
void cp_pool_end(struct cp_pool *pool);

/* All workers have ended: close what is left of the pool's descriptors. */
void cp_pool_close_fds(struct cp_pool *pool);

/* SIGNAL to every worker that still lives. */
void cp_pool_signal(struct cp_pool *pool, int signal);

/* Close the life line of all workers: each dies as if this process had ended.
 * For a process that is no longer allowed to signal its workers. */
void cp_pool_hang_up(struct cp_pool *pool);

/* Break the pool, since nothing can run: all jobs, also future ones, end with
 * CP_END_BROKEN. Consumes why (NULL is fine); the first one is kept. */
void cp_pool_break_take(struct cp_pool *pool, struct cp_result *why);

/* Was the pool broken? */
bool cp_pool_is_broken(struct cp_pool *pool);

/* Why it was broken, or NULL. Lives as long as the pool. */
const struct cp_result *cp_pool_broken(struct cp_pool *pool);

/* How many jobs are not done; tasks are queued; workers are alive; how many of
 * the workers have been ready for work; and how many have finished and should
 * have exited long ago. */
struct cp_counts {
    uint64_t pending, queued;
    uint32_t workers, ready, overdue;
    uint32_t failed_starts; /* in a row: ended before hello, or not started */
};
void cp_pool_count(struct cp_pool *pool, struct cp_counts *counts);

/* What a worker process is doing. */
struct cp_sight {
    uint64_t id; /* of the worker */
    uint32_t index;
    int pid;
    bool hello, exiting; /* it was ready; it takes no more tasks */
    bool runs;           /* a task; the rest describes that task */
    uint64_t task;       /* its index in its call */
    uint32_t stride, items, item;
    int64_t ns;              /* for how long the current item has run */
    uint8_t func[CP_KIB(1)]; /* the first bytes of its callable */
    size_t func_len;
    int stack_len; /* of the stack that it gave when asked; -1: none yet */
    uint8_t stack[CP_STACK];
};

/* Ask all workers that run Python code for their stacks. cp_pool_sights() then
 * returns those that have arrived. */
void cp_pool_ask_stacks(struct cp_pool *pool);

/* What each worker is doing: an array of *n elements, for free(). NULL: out of
 * memory. */
struct cp_sight *cp_pool_sights(struct cp_pool *pool, size_t *n);

/* Begin to trace what the pool does; drops a trace that is on. since: when the
 * whole trace began (cp_now()), which may be before the pool was made. 0, or
 * CP_ENOMEM. */
int cp_pool_trace(struct cp_pool *pool, int64_t since);

/* Is a trace on? It may begin or end at any time. [any] */
bool cp_pool_is_traced(const struct cp_pool *pool);

/* Record in the trace that a thread of the parent did this work from began to
 * ended; see cp_trace_work(). thread: its id. Does nothing if no trace is
 * on. */
void cp_pool_trace_work(struct cp_pool *pool, enum cp_work kind,
                        uint64_t thread, int64_t began, int64_t ended);

/* End the trace, and return it, for cp_trace_free(); NULL: no trace was on.
 * Works after the pool's end too. */
struct cp_trace *cp_pool_trace_take(struct cp_pool *pool);

/* Copy what the pool has counted so far, for cp_tallies_free(). Works after the
 * pool's end too. 0, or CP_ENOMEM. */
int cp_pool_tallies(struct cp_pool *pool, struct cp_tallies *copy);

/* How many tasks have no answer yet. */
uint64_t cp_pool_unanswered(struct cp_pool *pool);

/* Call visit for each job that is not done, with the lock held: visit does
 * nothing but take notes. */
void cp_pool_each_job(struct cp_pool *pool,
                      void (*visit)(struct cp_job *job, void *arg), void *arg);

#endif
