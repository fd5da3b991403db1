/* The jobs of a pool; see pool/jobs.h. */
#include "pool/jobs.h"

#include "pool/flow.h"
#include "pool/func.h"
#include "pool/plan.h"
#include "pool/tally.h"
#include "pool/turns.h"
#include "pool/wake.h"

#include <stdlib.h>
#include <string.h>

/* ---- lists ---- */

static void
list_job(struct cp_pool *pool, struct cp_job *job)
{
    job->all_prev = pool->all_last;
    if (pool->all_last != NULL) {
        pool->all_last->all_next = job;
    } else {
        pool->all_first = job;
    }
    pool->all_last = job;
    job->is_listed = true;
    job->refs++;
    pool->pending++;
}

/* Stop counting the job's time limit, unless workers still run tasks of the
 * job. */
static void
drop_limit(struct cp_job *job)
{
    if (job->is_limited && !job->is_listed && job->left == 0) {
        job->is_limited = false;
        job->pool->n_limited--;
    }
}

static void
unlist_job(struct cp_pool *pool, struct cp_job *job)
{
    if (job->all_prev != NULL) {
        job->all_prev->all_next = job->all_next;
    } else {
        pool->all_first = job->all_next;
    }
    if (job->all_next != NULL) {
        job->all_next->all_prev = job->all_prev;
    } else {
        pool->all_last = job->all_prev;
    }
    job->all_next = job->all_prev = NULL;
    job->is_listed = false;
    pool->pending--;
    pool->n_yielding -= cp_job_credit(job) > 0 ? 1 : 0;
    drop_limit(job);
}

/* The counter that includes the job's queued tasks. */
static uint64_t *
count_of(const struct cp_job *job)
{
    return job->pin > 0 ? &job->pool->n_pinned : &job->pool->queued;
}

/* Note that the job has queued tasks. */
static void
note_queued(struct cp_job *job, bool again)
{
    cp_turns_add(job, again);
    job->pool->due |= CP_DUE_TASKS;
}

/* A task that holds this many bytes is queued. With let_go(), it has left. */
static void
hold(struct cp_pool *pool, size_t bytes)
{
    (void)atomic_fetch_add(&pool->held, bytes);
}

static void
let_go(struct cp_pool *pool, size_t bytes)
{
    if (bytes > 0 && atomic_fetch_sub(&pool->held, bytes) > CP_HELD_LOW
        && atomic_load(&pool->held) <= CP_HELD_LOW && pool->callers > 0) {
        cp_note_feeders(pool);
    }
}

/* ---- jobs of calls ---- */

/* Does a thread wait for the job? Then that thread takes the results. */
static bool
is_awaited(const struct cp_pool *pool, const struct cp_job *job)
{
    const struct cp_waiter *it = pool->waiters;
    while (it != NULL && it->job != job) {
        it = it->next;
    }
    return it != NULL || pool->seat_job == job || pool->glances > 0;
}

void
cp_jobs_note_each(struct cp_job *job, bool urgent)
{
    struct cp_pool *pool = job->pool;
    if (!job->in_each) {
        job->in_each = true;
        job->refs++;
        cp_pool_ref(pool);
        job->each_next = NULL;
        job->each_prev = pool->each_last;
        if (pool->each_last != NULL) {
            pool->each_last->each_next = job;
        } else {
            atomic_store(&pool->each_first, job);
        }
        pool->each_last = job;
    }
    /* Worker threads handle it themselves, between two tasks. */
    if (urgent && !is_awaited(pool, job)
        && (!cp_pool_has_threads(pool) || atomic_load(&job->done))) {
        cp_note_helper(pool);
    }
}

void
cp_jobs_note_each_job(struct cp_pool *pool)
{
    for (struct cp_job *job = pool->each_first; job != NULL;
         job = job->each_next) {
        if (!is_awaited(pool, job)) {
            cp_note_helper(pool);
        }
    }
}

static void
leave_each(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    struct cp_job *prev = job->each_prev, *next = job->each_next;
    if (prev != NULL) {
        prev->each_next = next;
    } else {
        atomic_store(&pool->each_first, next);
    }
    *(next != NULL ? &next->each_prev : &pool->each_last) = prev;
    job->each_next = job->each_prev = NULL;
    job->in_each = job->is_urgent = false;
}

struct cp_job *
cp_jobs_next_each(struct cp_pool *pool)
{
    struct cp_job *job = pool->each_first;
    if (job != NULL) {
        leave_each(job);
    }
    return job;
}

/* ---- opening and closing ---- */

int
cp_jobs_open(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
             void *user, struct cp_job **out)
{
    *out = NULL;
    if (pool->state != CP_RUN) {
        return CP_ECLOSED;
    }
    struct cp_job *job = cp_job_alloc(pool, func, flags, user);
    if (job == NULL) {
        return CP_ENOMEM;
    }
    cp_pool_ref(pool); /* dropped by the caller's cp_job_close() */
    if (func != NULL) {
        func->refs++;
    }
    job->id = pool->next_job_id++;
    job->in =
        (flags & CP_JOB_SINGLE) != 0 ? &pool->level.singles : &job->many->line;
    list_job(pool, job);
    *out = job;
    if (pool->is_broken) {
        cp_jobs_end(job, CP_END_BROKEN);
    }
    return 0;
}

void
cp_jobs_set_limits(struct cp_job *job, int64_t time_limit, int64_t grace,
                   uint32_t retries)
{
    struct cp_pool *pool = job->pool;
    CP_ASSERT(job->time_limit == 0 && job->put == 0);
    job->grace = grace;
    job->retries = retries;
    if (time_limit > 0 && job->is_listed) {
        job->time_limit = time_limit;
        job->is_limited = true;
        if (pool->n_limited == 0 || time_limit < pool->least_limit) {
            pool->least_limit = time_limit;
        }
        pool->n_limited++;
    }
}

void
cp_jobs_set_credit(struct cp_job *job, uint64_t credit)
{
    CP_ASSERT(job->put == 0 && cp_job_credit(job) == 0 && credit > 0);
    job->many->credit = credit;
    job->pool->n_yielding += job->is_listed ? 1 : 0;
}

void
cp_jobs_unref(struct cp_job *job)
{
    if (--job->refs > 0) {
        return;
    }
    if (job->func != NULL) {
        cp_funcs_unref(job->pool, job->func);
    }
    cp_drop_results(job->pool, cp_job_inbox_clear(job));
    cp_job_free(job);
}

/* ---- ends ---- */

/* Wake the job's waiters. */
static void
mark_done(struct cp_job *job)
{
    if (!atomic_load(&job->done)) {
        job->done_order = ++job->pool->n_done;
        atomic_store(&job->done, true);
        cp_note_any(job->pool);
    }
    cp_note_job(job->pool, job);
}

/* The job has a result, or is done: have its teller told of that. */
static void
note_teller(struct cp_job *job)
{
    if (job->teller != NULL) {
        cp_jobs_note_each(job, true);
        if (job->pool->glances == 0) {
            cp_note_helper(job->pool); /* also if workers are threads */
        }
    }
}

/* The job is done: wake its waiters, and let `user` be handed over. */
static void
set_done(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    if (job->func != NULL && job->running == 0
        && atomic_load(&job->end) == CP_END_NONE) {
        cp_funcs_unref(pool, job->func); /* results may be kept for long */
        job->func = NULL;
    }
    unlist_job(pool, job); /* its reference goes to the list of ended jobs */
    cp_pool_ref(pool);     /* dropped by the collector's cp_job_close() */
    job->call_next = NULL;
    if (pool->ended_last != NULL) {
        pool->ended_last->call_next = job;
    } else {
        atomic_store_explicit(&pool->ended_first, job, memory_order_relaxed);
    }
    pool->ended_last = job;
    mark_done(job);
    if ((job->flags & CP_JOB_EACH) != 0
        && atomic_load(&job->end) != CP_END_NONE) {
        cp_jobs_note_each(job, true); /* its calls have failed */
    }
    note_teller(job);
    if (pool->pending == 0) {
        /* A glancing thread collects it; so does an idle worker thread. */
        if (pool->glances == 0 && !cp_pool_has_threads(pool)) {
            cp_note_helper(pool);
        }
        if (pool->state != CP_RUN) {
            cp_note_starter(pool); /* it ends with the last worker */
            cp_note_standby(pool); /* likewise */
        }
        cp_note_job(pool, NULL); /* no more workers will be started */
        pool->due |= CP_DUE_END;
    }
}

/* Drop the tasks that no worker has. */
static void
drop_queued(struct cp_job *job)
{
    struct cp_task *task;
    cp_turns_del(job);
    *count_of(job) -= job->queued;
    while ((task = cp_job_dequeue(job)) != NULL) {
        let_go(job->pool, task->held);
        job->pool->tally.cancelled += task->items;
        cp_drop_task(job->pool, task);
        cp_jobs_unref(job); /* never the last one: the job is listed */
    }
}

/* End the job if all of its tasks are answered. */
static void
end_if_complete(struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    if (!job->is_listed || job->calling || !job->fed || job->queued > 0
        || job->running > 0) {
        return;
    }
    if (job->farewell != NULL) {
        struct cp_result *farewell = job->farewell;
        job->farewell = NULL;
        cp_jobs_add_result_take(job, farewell);
        if (!job->is_listed || job->calling) {
            return; /* no memory for the result: that has ended the job */
        }
    }
    if ((job->flags & CP_JOB_CALLS) == 0) {
        set_done(job);
        return;
    }
    job->calling = true;
    job->call_next = NULL;
    job->refs++;
    cp_pool_ref(pool);
    if (pool->call_last != NULL) {
        pool->call_last->call_next = job;
    } else {
        pool->call_first = job;
    }
    pool->call_last = job;
    cp_note_helper(pool);
}

void
cp_jobs_end(struct cp_job *job, enum cp_end end)
{
    struct cp_pool *pool = job->pool;
    if (!job->is_listed) {
        return;
    }
    if (job->calling) {
        /* The job has its results, or was cancelled. The helper runs its
         * callbacks, and ends it after them; waiters do not wait for
         * callbacks. */
        mark_done(job);
        return;
    }
    if (atomic_load(&job->end) != CP_END_NONE) {
        return;
    }
    drop_queued(job);
    job->fed = true;
    job->left = job->running;
    atomic_store(&job->end, end);
    if (cp_job_credit(job) > 0) {
        cp_flow_close(job);
    }
    cp_note_feeders(pool);
    if ((job->flags & CP_JOB_CALLS) == 0) {
        set_done(job);
        return;
    }
    if (end == CP_END_TERMINATED) {
        /* Waiters do not wait for the callbacks. */
        mark_done(job);
    }
    job->running = 0; /* later answers are dropped */
    end_if_complete(job);
}

/* Take back the tasks of the job that workers have not begun. */
static void
withdraw(struct cp_job *job)
{
    for (struct cp_worker *w = job->pool->workers; w != NULL; w = w->next) {
        uint32_t n = UINT32_MAX;
        struct cp_task *task = cp_worker_recall(w, &n, CP_RECALL_ALL, job);
        while (task != NULL) {
            struct cp_task *next = task->next;
            cp_jobs_requeue_take(task); /* drops it, since the job has ended */
            task = next;
        }
    }
    job->pool->due |= CP_DUE_TASKS; /* workers may have room */
}

bool
cp_jobs_stop(struct cp_job *job, enum cp_end end)
{
    if (!job->is_listed || job->calling
        || atomic_load(&job->end) != CP_END_NONE) {
        return false;
    }
    bool under_way = job->running > 0;
    job->refs++; /* the list's reference goes to the collector */
    cp_jobs_end(job, end);
    if (under_way) {
        withdraw(job);
    }
    cp_jobs_unref(job);
    return true;
}

void
cp_jobs_end_all(struct cp_pool *pool, enum cp_end end)
{
    struct cp_job *job = pool->all_first;
    while (job != NULL) {
        struct cp_job *next = job->all_next;
        cp_jobs_end(job, end);
        job = next;
    }
    cp_note_job(pool, NULL); /* threads that join the workers */
}

void
cp_jobs_close_each(struct cp_pool *pool)
{
    struct cp_job *job = pool->all_first;
    while (job != NULL) {
        struct cp_job *next = job->all_next;
        if ((job->flags & (CP_JOB_EACH | CP_JOB_KEPT)) == CP_JOB_EACH) {
            job->fed = true;
            end_if_complete(job);
        }
        job = next;
    }
}

void
cp_jobs_called(struct cp_job *job)
{
    if (job->is_listed) {
        set_done(job);
    }
}

struct cp_job *
cp_jobs_next_call(struct cp_pool *pool)
{
    struct cp_job *job = pool->call_first;
    if (job != NULL) {
        pool->call_first = job->call_next;
        if (pool->call_first == NULL) {
            pool->call_last = NULL;
        }
        job->call_next = NULL;
    }
    return job;
}

struct cp_job *
cp_jobs_collect(struct cp_pool *pool)
{
    struct cp_job *list = pool->ended_first;
    atomic_store_explicit(&pool->ended_first, NULL, memory_order_relaxed);
    pool->ended_last = NULL;
    return list;
}

/* ---- tasks ---- */

void
cp_jobs_queue_take(struct cp_job *job, struct cp_task *list, bool fed)
{
    struct cp_pool *pool = job->pool;
    bool ended = atomic_load(&job->end) != CP_END_NONE;
    int64_t now = pool->trace != NULL ? cp_now() : 0;
    while (list != NULL) {
        struct cp_task *next = list->next;
        if (ended) {
            cp_drop_task(pool, list);
        } else {
            list->queued_at = now;
            list->job = job;
            list->pinned = job->pin > 0;
            /* Tasks pinned to one worker are no reason to hold up other
             * calls. */
            list->held = list->pinned ? 0 : list->held;
            job->refs++;
            job->put++;
            cp_job_queue_last(job, list);
            ++*count_of(job);
            pool->tally.submitted += list->items;
            hold(pool, list->held);
        }
        list = next;
    }
    if (ended) {
        return;
    }
    if (job->queued > 0) {
        note_queued(job, false);
    }
    if (fed && !job->fed) {
        job->fed = true;
        cp_note_feeders(pool); /* another thread may have ended its input */
        end_if_complete(job);
    }
    if (job->pin > 0 && pool->n_indexes != UINT32_MAX) {
        cp_jobs_lose_unplaced(pool);
    }
}

struct cp_task *
cp_jobs_start_task(struct cp_job *job)
{
    struct cp_task *task = cp_job_dequeue(job);
    if (task == NULL) {
        return NULL;
    }
    --*count_of(job);
    job->running++;
    let_go(job->pool, task->held);
    if (job->queued == 0) {
        cp_turns_del(job);
        cp_note_feeders(job->pool);
    }
    return task;
}

/* A worker no longer has a task of the job. */
static void
note_returned(struct cp_job *job)
{
    if (atomic_load(&job->end) == CP_END_NONE) {
        job->running--;
    } else {
        job->left--;
        drop_limit(job);
    }
}

/* The index of the only worker that may run this pinned task. */
static uint32_t
place_of(const struct cp_job *job, const struct cp_task *task)
{
    return job->pin == CP_PIN_EACH ? cp_job_place(job, task) : job->pin - 1u;
}

void
cp_jobs_requeue_take(struct cp_task *task)
{
    struct cp_job *job = task->job;
    note_returned(job);
    if (atomic_load(&job->end) != CP_END_NONE) {
        job->pool->tally.cancelled += task->items;
        cp_task_free(task);
        cp_jobs_unref(job);
        return;
    }
    if (task->call != NULL) {
        task->call->worker = NULL;
    }
    /* If the worker has denied its claim in the row, after values of the task:
     * the task begins anew, and the flow must not outlive the worker. */
    (void)cp_jobs_end_yield(task);
    cp_job_queue_first(job, task);
    ++*count_of(job);
    hold(job->pool, task->held);
    note_queued(job, true);
    if (task->pinned && place_of(job, task) >= job->pool->n_indexes) {
        job->pool->due |= CP_DUE_UNPLACED;
    }
}

uint32_t
cp_jobs_recall(struct cp_worker *w, uint32_t n, unsigned which)
{
    struct cp_task *task = cp_worker_recall(w, &n, which, NULL);
    while (task != NULL) {
        struct cp_task *next = task->next;
        cp_jobs_requeue_take(task);
        task = next;
    }
    return n;
}

/* The call with this number was withdrawn, and will not be run. */
static void
add_withdrawn(struct cp_job *job, uint64_t index)
{
    struct cp_result *result = cp_result_new(index, CP_WITHDRAWN, 0);
    if (result == NULL) {
        cp_jobs_end(job, CP_END_NOMEM);
    } else {
        cp_jobs_add_result_take(job, result);
        end_if_complete(job);
    }
}

/* End a withdrawn call, whose task has left the queue or its worker without
 * being run. */
static void
end_withdrawn_take(struct cp_task *task)
{
    struct cp_job *job = task->job;
    uint64_t index = task->index;
    job->pool->tally.cancelled += task->items;
    cp_drop_task(job->pool, task);
    add_withdrawn(job, index);
    cp_jobs_unref(job);
}

bool
cp_jobs_end_withdrawn(struct cp_job *job, const struct cp_call *call,
                      uint64_t index)
{
    if (atomic_load(&job->end) != CP_END_NONE) {
        return true;
    }
    if (call->withdrawn) {
        job->put++;
        job->fed = true;
        add_withdrawn(job, index);
    }
    return call->withdrawn;
}

void
cp_jobs_drop_withdrawn(struct cp_job *job)
{
    struct cp_task *task = cp_jobs_start_task(job);
    job->running--;
    end_withdrawn_take(task);
}

void
cp_jobs_note_answer(struct cp_task *task)
{
    if (task->call != NULL && atomic_load(&task->job->end) == CP_END_NONE) {
        task->call->worker = NULL;
        task->call->begun = task->call->answered = true;
        task->job->is_urgent |= task->call->watched;
    }
}

bool
cp_jobs_withdraw(struct cp_job *job, struct cp_call *call)
{
    if (atomic_load(&job->end) != CP_END_NONE || call->withdrawn) {
        return true;
    }
    if (call->begun) {
        return false;
    }
    if (call->worker != NULL) {
        struct cp_task *task = cp_worker_recall_one(call->worker, call->seq);
        if (task == NULL) {
            return false;
        }
        job->running--;
        job->pool->due |= CP_DUE_TASKS;
        call->worker = NULL;
        call->withdrawn = true;
        end_withdrawn_take(task);
        return true;
    }
    call->withdrawn = true; /* the task is dropped when its turn comes */
    return true;
}

/* The job may want tasks: a thread that waits for the whole job may be its
 * feeder. */
static void
note_wants(struct cp_job *job)
{
    if ((job->flags & CP_JOB_WHOLE) != 0 && job->pool->waiters != NULL
        && cp_plan_wants_feed(job)) {
        cp_note_feeding_waiters(job->pool, job);
    }
}

void
cp_jobs_answer_take(struct cp_job *job, struct cp_result *result, int64_t ns,
                    uint32_t items)
{
    cp_plan_measure(job, ns, items);
    note_returned(job);
    if (result != NULL) {
        if ((result->flags & CP_MARK) != 0) {
            atomic_store(&job->marked, true);
        }
        cp_jobs_add_result_take(job, result);
        end_if_complete(job);
    } else {
        cp_jobs_end(job, CP_END_NOMEM);
    }
    note_wants(job);
    cp_jobs_unref(job);
}

uint32_t
cp_jobs_end_yield(struct cp_task *task)
{
    if ((task->flags & CP_YIELDS) == 0) {
        return 0;
    }
    uint64_t sent = cp_flow_end(task->job, task->index);
    return sent < UINT32_MAX ? (uint32_t)sent : UINT32_MAX;
}

bool
cp_jobs_retry_take(struct cp_task *task, uint32_t worker)
{
    /* The reader may have seen values of the task already. */
    if (task->tries >= task->job->retries
        || ((task->flags & CP_YIELDS) != 0
            && cp_flow_find(task->job, task->index) != NULL)) {
        return false;
    }
    task->tries++;
    cp_tally_of(task->job->pool, worker)->retried += task->items;
    if (task->tries == task->job->retries) {
        task->flags |= CP_FINAL;
    }
    cp_jobs_requeue_take(task);
    return true;
}

void
cp_jobs_lose_take(struct cp_task *task, const struct cp_loss *loss)
{
    struct cp_job *job = task->job;
    if (cp_jobs_retry_take(task, loss->worker)) {
        return;
    }
    cp_tally_loss(job->pool, task, loss);
    cp_jobs_note_answer(task);
    uint32_t sent = cp_jobs_end_yield(task);
    struct cp_result *lost =
        cp_result_new(task->index, CP_LOST, loss->stack_len);
    if (lost != NULL) {
        if (loss->stack_len > 0) {
            memcpy(lost->body, loss->stack, loss->stack_len);
        }
        lost->items = task->items;
        lost->pid = loss->pid;
        lost->exitcode = loss->exitcode;
        lost->worker = loss->worker;
        lost->item = (task->flags & CP_YIELDS) != 0 ? sent : loss->item;
        lost->reason = loss->reason;
        lost->amount = loss->amount;
    }
    cp_drop_task(job->pool, task);
    note_returned(job);
    if (lost == NULL) {
        cp_jobs_end(job, CP_END_NOMEM);
    } else {
        cp_jobs_add_result_take(job, lost);
        end_if_complete(job);
    }
    note_wants(job);
    cp_jobs_unref(job);
}

void
cp_jobs_lose_unplaced(struct cp_pool *pool)
{
    struct cp_loss loss = {.reason = CP_NO_WORKER};
    struct cp_job *job;
    while ((job = cp_turns_next_unplaced(pool, &loss.worker)) != NULL) {
        struct cp_task *task = cp_jobs_start_task(job);
        task->tries = job->retries; /* it would only be lost again */
        cp_jobs_lose_take(task, &loss);
    }
}

/* ---- results ---- */

/* Drop the ends of tasks that yield: readers see the values of these tasks
 * only. */
static void
drop_ends(struct cp_job *job)
{
    struct cp_result *end;
    while ((end = cp_job_inbox_get_end(job)) != NULL) {
        cp_drop_results(job->pool, end);
    }
}

int
cp_jobs_add_value_take(struct cp_task *task, struct cp_worker *w, uint64_t seq,
                       struct cp_result *value)
{
    struct cp_job *job = task->job;
    if (atomic_load(&job->end) != CP_END_NONE) {
        cp_drop_results(job->pool, value);
        return 0;
    }
    int r = cp_flow_count(task, w, seq);
    job->pool->n_values++;
    if (r == 0) {
        r = cp_job_inbox_put(job, value);
    }
    if (r != 0) {
        cp_drop_results(job->pool, value);
        if (r == CP_ENOMEM) {
            cp_jobs_end(job, CP_END_NOMEM);
            r = 0;
        }
        return r;
    }
    if (cp_job_has_result(job)) {
        cp_note_job(job->pool, job);
        note_teller(job);
    }
    return 0;
}

void
cp_jobs_add_result_take(struct cp_job *job, struct cp_result *result)
{
    job->arrived++;
    job->items += result->items;
    if (atomic_load(&job->end) != CP_END_NONE) {
        cp_drop_results(job->pool, result);
        return;
    }
    if (cp_pool_has_threads(job->pool) && (result->flags & CP_TAKEN) != 0) {
        job->taken++;
        cp_result_free(result);
        return;
    }
    bool last =
        result->outcome != CP_OK && (job->flags & CP_JOB_FAIL_FAST) != 0;
    struct cp_result *dropped = NULL;
    job->failed += result->outcome != CP_OK ? 1 : 0;
    result->next = NULL;
    int r = last ? cp_job_inbox_put_last(job, result, &dropped)
                 : cp_job_inbox_put(job, result);
    cp_drop_results(job->pool, dropped);
    if (r != 0) {
        cp_drop_results(job->pool, result);
        cp_jobs_end(job, CP_END_NOMEM);
        return;
    }
    drop_ends(job);
    if (last) {
        (void)cp_jobs_stop(job, CP_END_FAILED);
    }
    if ((job->flags & CP_JOB_EACH) != 0) {
        cp_note_one_waiter(job->pool, job);
    } else if ((job->flags & CP_JOB_WHOLE) == 0 && cp_job_has_result(job)) {
        cp_note_job(job->pool, job);
        if ((job->flags & CP_JOB_TAKEN_SINGLY) != 0) {
            note_teller(job);
        }
    }
    if ((job->flags & CP_JOB_EACH) != 0) {
        cp_jobs_note_each(job, job->is_urgent || result->outcome != CP_OK);
    }
    if (job->pool->feeders > 0
        && (cp_plan_wants_feed(job) || cp_plan_is_deadlocked(job))) {
        cp_note_feeders(job->pool);
    }
}

void
cp_jobs_add_farewell_take(struct cp_job *job, struct cp_result *result)
{
    if (job->fed) {
        cp_drop_results(job->pool, result);
        return;
    }
    job->put++;
    job->farewell = result;
    job->fed = true;
    end_if_complete(job);
}

struct cp_result *
cp_jobs_get_result(struct cp_job *job)
{
    uint64_t taken = job->taken;
    struct cp_result *result = cp_job_inbox_get(job);
    if (result != NULL && (result->flags & CP_IS_VALUE) != 0) {
        cp_flow_take(job, result->index);
        drop_ends(job);
    }
    if (job->taken != taken && cp_job_limit(job) > 0) {
        cp_note_feeders(job->pool);
    }
    if (result != NULL && cp_job_has_result(job)) {
        cp_note_job(job->pool, job); /* another thread can decode now */
    }
    return result;
}

void
cp_jobs_end_unread(struct cp_pool *pool)
{
    struct cp_job *job = pool->all_first;
    while (job != NULL) {
        struct cp_job *next = job->all_next;
        bool waits = false;
        if (cp_job_credit(job) > 0) {
            const struct cp_flow *flow = job->many->flows;
            for (; flow != NULL; flow = flow->next) {
                waits = waits || cp_flow_waits(flow);
            }
            waits = waits && !job->many->is_read;
            job->many->is_read = false;
        }
        if (waits) {
            (void)cp_jobs_stop(job, CP_END_UNREAD);
        }
        job = next;
    }
}

struct cp_result *
cp_jobs_grab(struct cp_job *job)
{
    if (job->in_each) {
        leave_each(job);
        job->refs--;              /* never the last one: the caller has one */
        cp_pool_unref(job->pool); /* likewise */
    }
    return cp_job_inbox_get_all(job);
}

struct cp_result *
cp_jobs_begin_decoding(struct cp_job *job)
{
    if (job->decoding || !cp_job_has_result(job)) {
        return NULL;
    }
    job->decoding = true;
    return cp_job_inbox_get_all(job);
}

void
cp_jobs_end_decoding(struct cp_job *job, struct cp_result *rest)
{
    if (rest != NULL) {
        struct cp_result *last = rest;
        job->taken--;
        while (last->next != NULL) {
            last = last->next;
            job->taken--;
        }
        last->next = job->in_first;
        job->in_first = rest;
        if (job->in_last == NULL) {
            job->in_last = last;
        }
    }
    job->decoding = false;
    cp_note_job(job->pool, job);
}
