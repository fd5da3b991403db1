/*
 * The pool: jobs, workers, and the one loop that moves bytes between them.
 *
 * Nobody owns the loop. Whoever waits drives it (cp_pool_wait), one thread at
 * a time; a standby thread drives only while nobody else does and work is under
 * way. All state is guarded by one leaf lock, taken inside the functions here.
 * None of them calls up: what needs an interpreter (a worker to be forked,
 * callbacks to be run, a job to be fed) is a return value of a wait.
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

/* After CP_WAIT_WORKERS: the missing workers could not be started. A thread is asked
 * to start them again, after a longer time each time. */
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
 * A worker that has more memory of its own than this between two tasks takes no more and
 * ends; one that passes it while an item runs is killed, if that item has taken at least
 * an eighth of the limit itself. Before the first worker is made. 0 or a system error:
 * ENOSYS where nobody knows the memory of a process. 0 bytes: no limit.
 */
int cp_pool_set_memory_limit(struct cp_pool *pool, uint64_t bytes);
uint64_t cp_pool_memory_limit(const struct cp_pool *pool); /* [any] */

/* The descriptor of what all workers share, the pool's; -1 where they fork. */
int cp_pool_common_fd(const struct cp_pool *pool);

/* Large data go through shared memory, up to so many bytes: before the first worker is
 * made. 0, or a negative code: they go through the pipes. */
int cp_pool_open_memory(struct cp_pool *pool, uint64_t limit);

/* The allocator for the parts of tasks; NULL: there is none. [any] */
struct cp_heap *cp_pool_heap(const struct cp_pool *pool);

/* The shared memory; or NULL. */
struct cp_region *cp_pool_region(const struct cp_pool *pool);

/* The descriptor of the shared memory, the pool's; or -1. */
int cp_pool_memory_fd(const struct cp_pool *pool);

/* How many workers there should be: returns how many are missing. Of worker threads, those
 * that are too many end after their tasks. */
uint32_t cp_pool_set_target(struct cp_pool *pool, uint32_t target);

/*
 * An elastic pool, whose target follows its work: the driver raises it by one while all
 * workers are busy and tasks are queued, up to `most`; and ends workers that were idle for
 * idle_ns (0: none), down to `least`. most 0: the target stays as it is.
 */
void cp_pool_set_elastic(struct cp_pool *pool, uint32_t least, uint32_t most,
                         int64_t idle_ns);
uint32_t cp_pool_target(struct cp_pool *pool);

/* Workers may have processes: cp_pool_end() kills those that are busy with all processes
 * that they have started, and cp_pool_kill_trees() kills all of them in that way, where
 * this was called. See cp_proc_kill_tree(). */
void cp_pool_set_trees(struct cp_pool *pool);
void cp_pool_kill_trees(struct cp_pool *pool);

/* So many worker processes end, each after the task that it runs, idle ones first; they
 * count no more. from: only those with this index or a higher one. */
void cp_pool_retire(struct cp_pool *pool, uint32_t n, uint32_t from);

/* From now on there will be no workers but those with indexes below n: tasks for another
 * one are lost (CP_NO_WORKER). */
void cp_pool_set_indexes(struct cp_pool *pool, uint32_t n);

/* The lowest index, from `from` on, of a worker that is not there and that tasks wait for;
 * UINT32_MAX: none. */
uint32_t cp_pool_next_unplaced(struct cp_pool *pool, uint32_t from);

/* ---- jobs ---- */

/* The callable with these bytes, with one reference; NULL: no memory. Short
 * ones with CP_KEEP are found again when they come again; of those by value, these with
 * CP_KEPT. */
struct cp_func *cp_func_open(struct cp_pool *pool, const void *bytes,
                             size_t len, uint16_t flags);
/* What was written to parts->sealed, and is complete, with one reference; the parts have
 * nothing then. NULL: no memory, and they have what they had. name: what the statistics
 * show, the begin of a pickle. flags: of CP_FUNC; CP_SHARED, or of a callable. */
struct cp_func *cp_func_open_sealed(struct cp_pool *pool,
                                    struct cp_parts *parts, const void *name,
                                    size_t len, uint16_t flags);
void cp_func_close(struct cp_pool *pool, struct cp_func *func);

/* A callable that was just opened refers to what these parts do, which have no uses
 * then. */
void cp_func_set_uses_take(struct cp_func *func, struct cp_parts *parts);

/* The body with these parts refers to what is shared, which lives until the body has been
 * answered. 0; CP_ECLOSED: it is closed; CP_ENOMEM. */
int cp_func_use(struct cp_pool *pool, struct cp_func *func,
                struct cp_parts *parts);

/* No more bodies will refer to it: consumes the reference of cp_func_open_sealed(). The
 * last body that does is the end of it. */
void cp_share_close_take(struct cp_pool *pool, struct cp_func *func);

/* A job with one reference for the caller, or a negative code. It keeps a
 * reference to func, and user (NULL: see cp_job_hold()) until cp_pool_ended()
 * hands it over. On a pool that is broken the job is done at once. CP_ECLOSED:
 * not running. */
int cp_job_open(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
                void *user, struct cp_job **job);
void cp_job_ref(struct cp_job *job);   /* one more, while the caller has one */
void cp_job_close(struct cp_job *job); /* the caller's reference */

/* Set user: from now on the job keeps it. False where the job has one, or is done
 * and will hand over nothing; user is the caller's then. */
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

/* Queued and running tasks and results that were not taken are never more than
 * this together, as far as cp_job_wants() has a say; of a closed pool too, until
 * somebody waits for it to end (see cp_job_wait_wants()). 0: no limit. */
void cp_job_set_limit(struct cp_job *job, uint64_t limit);

/* Until the first result has come, no more than one task for each worker is
 * wanted. */
void cp_job_set_probes(struct cp_job *job);

/* Before its first task: the job's tasks yield (CP_YIELDS), each so many values ahead of
 * what was taken of it; cp_job_take() returns the values, CP_IS_VALUE, and failures. */
void cp_job_set_credit(struct cp_job *job, uint64_t credit);

/* Before its first task: an item that runs for longer than time_limit (in ns; 0: any
 * time) is asked to stop, and after `grace` more its worker is killed (0: at once). A task
 * that was lost with its worker, or was killed so, or that its worker answers with CP_AGAIN,
 * is run again, up to `retries` times. Not for worker threads. */
void cp_job_set_limits(struct cp_job *job, int64_t time_limit, int64_t grace,
                       uint32_t retries);

/* Before its first task: who runs its tasks (struct cp_job's pin), and which jobs go
 * before it. 0 or CP_ENOMEM. */
int cp_job_set_place(struct cp_job *job, uint16_t pin, int8_t priority);

/* Likewise, of a job with CP_PIN_EACH and n tasks: the indexes of their workers. 0 or
 * CP_ENOMEM. */
int cp_job_set_places(struct cp_job *job, const uint16_t *places, size_t n);

/* The first result that is not CP_OK ends the job, with CP_END_FAILED: it comes next, and
 * what no worker has begun is withdrawn. */
void cp_job_set_fail_fast(struct cp_job *job);

/* Has one of its results a mark (CP_MARK)? */
bool cp_job_is_marked(const struct cp_job *job);

/* How many more tasks should be queued now; 0 when the job is done. */
uint64_t cp_job_wants(struct cp_job *job);

/* Results so far, and how many of them are not CP_OK. */
uint64_t cp_job_arrived(struct cp_job *job, uint64_t *failed);

/* Has a worker begun a task of the job, or ended one? */
bool cp_job_is_begun(struct cp_job *job);

/* How many items are done: those of the results so far, and in the chunks that processes
 * run those before the item that runs. May be less than before: the result of a chunk is
 * on its way, or its worker has died. */
uint64_t cp_job_items(struct cp_job *job);

/* How many of the items that are left the next task should have, going by what
 * items have taken so far: large first, small last, 1 while nothing is known. */
uint64_t cp_job_share(struct cp_job *job, uint64_t left);

/*
 * Calls that workers cannot take soon are better not encoded yet: references take less
 * than bytes. The binding sets `held` of the first tasks of a job. False while the
 * queued tasks hold more than some megabytes. Without the lock: a hint.
 */
bool cp_pool_has_room(struct cp_pool *pool);

/* Wait until it has; or until the pool has ended, where nothing is queued. Never drives. */
void cp_pool_wait_room(struct cp_pool *pool);

/* Wait until fewer than `most` jobs wait: no worker was given a task of theirs. False where
 * the deadline passes first. Never drives. */
bool cp_pool_wait_pending(struct cp_pool *pool, uint64_t most,
                          int64_t deadline);

/* Take the next result; NULL where there is none now. */
struct cp_result *cp_job_take(struct cp_job *job);

/* Take all results, in order of arrival. While the caller decodes them nobody
 * else is given any; cp_job_decoded() ends that, and gives the rest back
 * (NULL: none). NULL: nothing there, or another thread decodes. */
struct cp_result *cp_job_take_all(struct cp_job *job);
void cp_job_decoded(struct cp_job *job, struct cp_result *rest);

/* Have the teller told, once, when the job is done (or, of CP_JOB_TAKEN_SINGLY, when a
 * result can be taken): then the job comes out of cp_pool_next() as CP_WAIT_CALL, or out
 * of cp_pool_next_each(), and cp_job_take_teller() returns the teller. 1: it will be told.
 * 0: that is so already; -3: there is a teller, which will be told. In both cases this one
 * stays the caller's. */
int cp_job_tell(struct cp_job *job, void *teller);
void *cp_job_take_teller(struct cp_job *job);

/* ---- jobs of calls, CP_JOB_EACH ---- */

/* Queue one more call, whose task has its `call`. Consumes the task always. CP_ECLOSED:
 * the job takes no more calls, or has ended; nothing will come of this one. */
int cp_job_put_call_take(struct cp_job *job, struct cp_task *task);

/* Take all results, in order of arrival. Unlike cp_job_take_all() nobody is kept from
 * taking the ones that come next. */
struct cp_result *cp_job_grab(struct cp_job *job);

/* Calls of the job have `ended` now: wake the threads that wait for one of them. more:
 * there are some that nobody has seen to, and the caller will not. */
void cp_job_note_ended(struct cp_job *job, bool more);

/* How far is the call? From now on its end is urgent, or (watch false) it is not, since
 * the caller waits for it. */
enum cp_call_state { CP_CALL_WAITS, CP_CALL_BEGUN, CP_CALL_ANSWERED };
enum cp_call_state cp_job_look(struct cp_job *job, struct cp_call *call,
                               bool watch);

/* Withdraw the call: true, and it will not run, and its result will be CP_WITHDRAWN.
 * False: a worker has begun it. */
bool cp_job_withdraw(struct cp_job *job, struct cp_call *call);

/* The next job that somebody is to see to, with a reference for the caller; or NULL. */
struct cp_job *cp_pool_next_each(struct cp_pool *pool);

/* Is there one? A guess, without the lock. */
bool cp_pool_has_each(const struct cp_pool *pool);

/* Is it done, and has every result been taken and decoded? */
bool cp_job_is_drained(struct cp_job *job);

/* Call visit for each result that was not taken, with the lock held: visit does
 * nothing but look, and returns other than 0 to stop: that is returned. */
int cp_job_each_result(struct cp_job *job,
                       int (*visit)(struct cp_result *result, void *arg),
                       void *arg);

/* Drop all results that were not taken. */
void cp_job_drop_results(struct cp_job *job);

/* Cancel the job: it is done now, with CP_END_TERMINATED. Running tasks go on, their
 * results are dropped, and no callbacks are run. */
void cp_job_cancel(struct cp_job *job);

/*
 * Cancel the job for the program: it ends now, with CP_END_CANCELLED, its callbacks are
 * run, and what no worker has begun is withdrawn. kill: workers that run a task of it are
 * killed and lose that task only; otherwise its results are dropped. False: it has
 * ended before, or all of its results have come, and nothing changes.
 */
bool cp_job_stop(struct cp_job *job, bool kill);

/* There is no memory for one of its tasks: it is done now, with
 * CP_END_NOMEM. */
void cp_job_fail(struct cp_job *job);

/* A job with CP_JOB_CALLS: the callbacks have been run, it is done. */
void cp_job_called(struct cp_job *job);

/* Jobs that are done and not handed over yet, linked by call_next; the caller
 * releases `user` of each, then cp_job_close()s it. */
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

/* Close the life line of all workers: each dies as if this process had ended. For
 * a process that may no longer signal its workers. */
void cp_pool_hang_up(struct cp_pool *pool);

/* Nothing can run: all jobs, also those to come, end with CP_END_BROKEN.
 * Consumes why (NULL is fine); the first one is kept. */
void cp_pool_break_take(struct cp_pool *pool, struct cp_result *why);

/* Is it so? */
bool cp_pool_is_broken(struct cp_pool *pool);

/* Why, or NULL. Lives as long as the pool. */
const struct cp_result *cp_pool_broken(struct cp_pool *pool);

/* How many jobs are not done, tasks not handed out, workers alive; and how many of
 * these have been ready for work, or are through and should be gone long ago. */
struct cp_counts {
    uint64_t pending, queued;
    uint32_t workers, ready, overdue;
    uint32_t failed_starts; /* in a row: ended before hello, or not started */
};
void cp_pool_count(struct cp_pool *pool, struct cp_counts *counts);

/* What a worker process does now. */
struct cp_sight {
    uint64_t id; /* of the worker */
    uint32_t index;
    int pid;
    bool hello, exiting; /* it was ready; it takes no more tasks */
    bool runs;           /* a task; the rest is of that */
    uint64_t task;       /* its index in its call */
    uint32_t stride, items, item;
    int64_t ns;              /* for how long that item has run */
    uint8_t func[CP_KIB(1)]; /* the first bytes of its callable */
    size_t func_len;
    int stack_len; /* of what the worker told, where it was asked; -1: nothing yet */
    uint8_t stack[CP_STACK];
};

/* Ask all workers that run Python code for their stacks, of which cp_pool_sights() then
 * has what has come. */
void cp_pool_ask_stacks(struct cp_pool *pool);

/* What each worker does now: *n of them, for free(); or NULL: no memory. */
struct cp_sight *cp_pool_sights(struct cp_pool *pool, size_t *n);

/* Begin to trace what the pool does; a trace that is on is dropped. since: cp_now() when the
 * whole trace began, which the pool's own start may follow. 0, or CP_ENOMEM. */
int cp_pool_trace(struct cp_pool *pool, int64_t since);

/* Is a trace on? It may begin or end meanwhile. [any] */
bool cp_pool_is_traced(const struct cp_pool *pool);

/* This thread of the parent, which has this id, did this work from began to ended: see
 * cp_trace_work(). Does nothing where no trace is on. */
void cp_pool_trace_work(struct cp_pool *pool, enum cp_work kind,
                        uint64_t thread, int64_t began, int64_t ended);

/* End it: what was noted, for cp_trace_free(); NULL: it was off. Also after the end of the
 * pool. */
struct cp_trace *cp_pool_trace_take(struct cp_pool *pool);

/* What the pool has counted until now, for cp_tallies_free(). Also after its end. 0, or
 * CP_ENOMEM. */
int cp_pool_tallies(struct cp_pool *pool, struct cp_tallies *copy);

/* How many tasks have no answer yet. */
uint64_t cp_pool_unanswered(struct cp_pool *pool);

/* Call visit for each job that is not done, with the lock held: visit does
 * nothing but take notes. */
void cp_pool_each_job(struct cp_pool *pool,
                      void (*visit)(struct cp_job *job, void *arg), void *arg);

#endif
