/* The traffic with the workers; see pool/watch.h. */
#include "pool/watch.h"

#include "pool/flow.h"
#include "pool/func.h"
#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/tally.h"
#include "pool/wake.h"

#include <signal.h>

#define RESTART_FIRST (5 * CP_MS)
/* While the pool is about to end, a reader of values has this long to come back
 * for more. */
#define READ_GRACE (500 * CP_MS)
/* How long tasks that wait for readers may keep other tasks from workers. A
 * reader that has not come by then most likely waits for one of the other tasks,
 * as where one thread reads many streams in turns: then the next SOONER looks
 * follow at intervals of STILL_STARVED. */
#define STARVED (50 * CP_MS)
#define STILL_STARVED (10 * CP_MS)
#define SOONER 6
/* A thread that waits may run other code for so long, such as signal handlers, or
 * fork workers. */
#define INTERRUPTED (250 * CP_MS)
/* How long a worker that ran its last task may take to exit before another worker
 * takes its place: exit handlers, or threads that its tasks left behind, may block
 * the exit for ever. */
#define LINGER CP_SECOND
/* Probes of processes: the first one after this time, each later one after
 * four times the time before, up to a limit. */
#define PROBE_FIRST (100 * CP_MS)
#define PROBE_LAST (64 * PROBE_FIRST)
#define PROBE_GROWTH 4

/* When all jobs are done, a worker that is not ready may go on starting for
 * this long, or for this many times the longest start of any worker. Then it
 * gets SIGTERM, and this long to exit. */
#define START_GRACE (2 * CP_SECOND)
#define START_TIMES 4
/* The same if no worker was ever ready, so that nobody knows how long a start
 * takes. No job was ever run then. */
#define UNKNOWN_GRACE (10 * CP_SECOND)
#define TERM_GRACE CP_SECOND

/* If a task has run out of time, its worker has this long to give its stack
 * before it is killed. */
#define LOOK_GRACE (250 * CP_MS)

/* A task is asked to stop by a signal. If the signal comes just before a system
 * call that blocks, the task notices it when that call returns; another signal
 * interrupts the call. So a task is asked again after ASK_FIRST, and then after
 * twice the time before, up to a limit. */
#define ASK_FIRST (20 * CP_MS)
#define ASK_LAST (25 * ASK_FIRST)
#define ASK_GROWTH 2

static void
on_hello(struct cp_worker *w)
{
    w->pool->failed_starts = 0;
    /* The HELLO frame may have been unread for long, so the worker's own note
     * of the time is used. The worker may be ready before the parent has noted
     * its start. */
    int64_t now = cp_now();
    int64_t ready = atomic_load_explicit(&w->row->ready, memory_order_relaxed);
    ready = ready != 0 && ready < now ? ready : now;
    int64_t took = ready > w->started_at ? ready - w->started_at + 1 : 1;
    if (took > w->pool->longest_start) {
        w->pool->longest_start = took;
    }
}

static void
on_exiting(struct cp_worker *w)
{
    if (w->exiting_since == 0) {
        w->exiting_since = cp_now();
        w->pool->n_exiting++;
        cp_note_starter(w->pool); /* so that it looks again in time */
    }
}

/* The task that was asked to stop has ended, or its worker has. */
static void
end_stop(struct cp_worker *w)
{
    if (w->stop_seq != 0) {
        w->stop_seq = 0;
        w->pool->n_stopping--;
        atomic_store(&w->row->stop, 0);
    }
}

/* The worker whose task was asked to stop is not killed after all. */
static void
let_go(struct cp_worker *w)
{
    end_stop(w);
    atomic_store(&w->row->held, 0);
}

/* Put the stack of a worker whose task ran out of time into buf, and into the
 * loss. */
static void
add_stack(const struct cp_worker *w, struct cp_loss *loss, uint8_t *buf)
{
    int len = loss->reason == CP_TIMED_OUT && w->was_asked_stack
                  ? cp_stack_get(w->row, buf)
                  : -1;
    loss->stack = buf;
    loss->stack_len = len > 0 ? (size_t)len : 0;
}

/* The task stopped when asked, and the worker lives on: the task is lost. */
static void
lose_stopped(struct cp_worker *w, struct cp_task *task, uint32_t item)
{
    struct cp_loss loss = {.pid = (int)w->proc.pid,
                           .exitcode = CP_NO_EXIT,
                           .worker = w->index,
                           .item = item < task->items ? item : 0,
                           .reason = w->stop_reason,
                           .amount = cp_now() - w->kill_at + task->job->grace
                                     + task->job->time_limit};
    uint8_t stack[CP_STACK];
    add_stack(w, &loss, stack);
    cp_jobs_lose_take(task, &loss);
}

static void
on_result(struct cp_worker *w, uint64_t seq, struct cp_task *task,
          struct cp_result *result, int64_t ns)
{
    if (w->exiting) {
        on_exiting(w);
    }
    if (w->end_due && w->n_yield == 0) {
        cp_watch_tell_end(w->pool, w);
    }
    struct cp_job *job = task->job;
    job->func->deaths = 0;
    /* The answer of a task that stopped may arrive after its grace. */
    bool was_asked = w->asked_seq == seq + 1;
    if (w->stop_is_look && w->stop_seq == seq + 1) {
        let_go(w); /* the task ended just before it was killed */
    }
    if (was_asked && result->outcome == CP_RAISED
        && (result->flags & CP_STOPPED) != 0) {
        cp_result_free(result);
        lose_stopped(w, task, (uint32_t)ns);
        end_stop(w);
        return;
    }
    if (was_asked) {
        end_stop(w);
    }
    if (result->outcome == CP_RAISED && (result->flags & CP_AGAIN) != 0
        && cp_jobs_retry_take(task, w->index)) {
        cp_result_free(result);
        return;
    }
    result->item = cp_tally_caught(w, seq, result);
    cp_tally_answer(w->pool, task, result, cp_tally_time(w, seq, ns), w->index,
                    NULL);
    if (w->pool->trace != NULL) {
        cp_tally_trace_process(w, seq, task, result, ns);
    }
    cp_jobs_note_answer(task);
    if ((task->flags & CP_YIELDS) != 0) {
        result->item = cp_jobs_end_yield(task);
    }
    cp_task_free(task);
    cp_jobs_answer_take(job, result, ns, result->items);
}

static int
on_value(struct cp_worker *w, uint64_t seq, struct cp_task *task,
         struct cp_result *value)
{
    return cp_jobs_add_value_take(task, w, seq, value);
}

static void
on_init_error(struct cp_worker *w, struct cp_result *result)
{
    struct cp_pool *pool = w->pool;
    if (pool->broken == NULL) {
        pool->broken = result;
        result = NULL;
    }
    cp_result_free(result);
    if (!pool->is_broken) {
        pool->is_broken = true;
        cp_jobs_end_all(pool, CP_END_BROKEN);
    }
}

/* The worker takes no more tasks, and its exit may take for ever: others run
 * what it has not begun. It does not read any more. */
static void
on_leave(struct cp_worker *w)
{
    on_exiting(w);
    (void)cp_jobs_recall(w, UINT32_MAX, CP_RECALL_ALL);
    cp_watch_tell_end(w->pool, w);
}

static void
on_func_sent(struct cp_worker *w, struct cp_func *func)
{
    cp_funcs_unref(w->pool, func);
}

static const struct cp_worker_ops ops = {
    .on_hello = on_hello,
    .on_result = on_result,
    .on_value = on_value,
    .on_init_error = on_init_error,
    .on_leave = on_leave,
    .on_func_sent = on_func_sent,
};

/* ---- probing processes ---- */

static void
probe_within(struct cp_pool *pool, int64_t now, int64_t wait)
{
    if (pool->probe_at == CP_NEVER || pool->probe_at > now + wait) {
        pool->probe_at = now + wait;
        pool->probe_wait = wait;
    }
}

int64_t
cp_watch_next_probe(struct cp_pool *pool)
{
    if (pool->probe_at == CP_NEVER && cp_plan_wants_probe(pool)) {
        probe_within(pool, cp_now(), PROBE_FIRST);
    }
    /* probe_at stays set even if nothing is awaited any more, so that tasks
     * that follow soon need not wake the driver for it. */
    pool->armed = pool->probe_at != CP_NEVER;
    return pool->probe_at;
}

void
cp_watch_hurry_probe(struct cp_pool *pool, int64_t now)
{
    if (pool->probe_at != CP_NEVER) {
        probe_within(pool, now, PROBE_FIRST);
    }
}

void
cp_watch_tell_end(struct cp_pool *pool, struct cp_worker *w)
{
    if (w->wants_out) {
        cp_poller_del(pool->poller, w->tx);
        w->wants_out = false;
        if (cp_poller_needs_wake()) {
            cp_note_driver(pool); /* a running poll() keeps the pipe open */
        }
    }
    w->end_due = false;
    cp_worker_close_tx(w);
}

/* Have the poller watch for the end of the process; if that fails, probes find
 * it. */
static void
watch_end(struct cp_pool *pool, struct cp_worker *w)
{
    if (w->watches_end) {
        return;
    }
    int fd = cp_proc_open_sentinel(&w->proc, false);
    if (fd >= 0 && !cp_proc_needs_polling(&w->proc)) {
        w->watches_end =
            cp_poller_add(pool->poller, fd, CP_IN, cp_tag(w, CP_TAG_PROC)) == 0;
    }
    if (!w->watches_end) {
        probe_within(pool, cp_now(), CP_MS);
    }
    if (cp_poller_needs_wake() || !w->watches_end) {
        cp_note_driver(pool);
    }
}

static int
watch(struct cp_pool *pool, struct cp_worker *w)
{
    int r = cp_poller_add(pool->poller, w->rx, CP_IN, cp_tag(w, CP_TAG_RX));
    if (r == 0 && w->proc.by_server) {
        watch_end(pool, w); /* the sentinel is open anyway */
    }
    return r;
}

int
cp_watch_add(struct cp_pool *pool, struct cp_worker *w)
{
    w->id = pool->next_worker_id++;
    w->started_at = cp_now();
    w->pool = pool;
    w->ops = &ops;
    int r = watch(pool, w);
    if (r != 0) {
        return r;
    }
    cp_worker_ref(w);
    struct cp_worker **end = &pool->workers;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = w;
    pool->n_workers++;
    cp_tally_enter(pool, w->index, w->started_at);
    atomic_store_explicit(&w->row->is_traced, pool->trace != NULL ? 1 : 0,
                          memory_order_relaxed);
    pool->due |= CP_DUE_TASKS;
    cp_note_standby(pool);
    if (pool->state == CP_CLOSING && pool->pending == 0) {
        cp_watch_tell_end(pool, w); /* others have done its work by now */
    }
    if (cp_poller_needs_wake()) {
        cp_note_driver(pool);
    }
    return 0;
}

void
cp_watch_drop_overdue(struct cp_pool *pool, int64_t *at)
{
    if (pool->n_exiting == 0) {
        return;
    }
    int64_t now = cp_now();
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->exiting_since == 0 || w->overdue || w->retiring) {
            continue;
        }
        if (now < w->exiting_since + LINGER) {
            *at = cp_clock_min(*at, w->exiting_since + LINGER);
        } else {
            w->overdue = true;
            pool->n_exiting--;
            pool->n_overdue++;
            pool->lacks_workers = true;
            (void)cp_jobs_recall(w, UINT32_MAX, CP_RECALL_ALL);
            if (w->in_flight > 0) { /* claimed, and will never be answered */
                (void)cp_proc_kill(&w->proc, SIGKILL);
            }
        }
    }
}

void
cp_watch_end_unready(struct cp_pool *pool, int64_t *at)
{
    if (pool->state != CP_CLOSING || pool->pending > 0) {
        return;
    }
    int64_t now = cp_now();
    int64_t grace = pool->longest_start == 0
                        ? UNKNOWN_GRACE
                        : START_TIMES * pool->longest_start;
    if (pool->over_at == 0) {
        pool->over_at = now;
    }
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->hello || w->exiting || w->eof) {
            continue;
        }
        int64_t end =
            w->started_at > pool->over_at ? w->started_at : pool->over_at;
        end += grace > START_GRACE ? grace : START_GRACE;
        if (now >= end && !w->got_sigterm) {
            w->got_sigterm = true;
            (void)cp_proc_kill(&w->proc, SIGTERM);
        }
        end += w->got_sigterm ? TERM_GRACE : 0;
        if (now < end) {
            *at = cp_clock_min(*at, end);
        } else {
            (void)cp_proc_kill(&w->proc, SIGKILL);
        }
    }
}

/* The task that the worker was loading, that is, the next one if it had not
 * begun it; or NULL. A worker that was told to exit, or was not ready yet, did
 * not die of a task. */
static struct cp_task *
taken_in_last(const struct cp_worker *w)
{
    if (!w->hello || w->exiting || w->head == w->tail
        || cp_worker_is_claimed(w, w->head)) {
        return NULL;
    }
    return w->window[w->head & (CP_WINDOW - 1)];
}

/* The worker may have died because of the task or callable that it was loading,
 * for example because memory was out: count that against them. */
static void
suspect(const struct cp_worker *w, int exitcode)
{
    struct cp_task *task = taken_in_last(w);
    struct cp_func *func = w->hello && !w->exiting ? w->big_func : NULL;
    if (task != NULL && task->len >= CP_BIG) {
        task->deaths++;
    } else if (task != NULL && task->job->func->len >= CP_BIG) {
        func = task->job->func;
    }
    if (func != NULL) {
        func->deaths++;
        func->lost_pid = (int)w->proc.pid;
        func->lost_exitcode = exitcode;
        func->lost_worker = w->index;
    }
}

/* Which item of the task the worker runs. The number in its row is not
 * trusted. */
static uint32_t
item_of(const struct cp_worker *w, uint64_t seq, const struct cp_task *task)
{
    const struct cp_row *row = w->row;
    uint32_t item = atomic_load_explicit(&row->item, memory_order_relaxed);
    bool runs =
        atomic_load_explicit(&row->running, memory_order_relaxed) == seq + 1;
    return runs && item < task->items ? item : 0;
}

/* How long the item has run; 0: unknown. The time in the row is used only if it
 * is possible. */
static int64_t
time_of(const struct cp_worker *w, uint64_t seq)
{
    const struct cp_row *row = w->row;
    int64_t ran = cp_now() - atomic_load(&row->since);
    return atomic_load(&row->running) == seq + 1 && ran > 0
                   && ran <= cp_now() - w->started_at
               ? ran
               : 0;
}

/* Queue the tasks again that the worker had not begun, and lose the others. */
static void
give_up_tasks(struct cp_worker *w, int exitcode)
{
    uint8_t stack[CP_STACK];
    for (uint64_t seq = w->tail; seq > w->head; seq--) {
        struct cp_task **place = &w->window[(seq - 1) & (CP_WINDOW - 1)];
        struct cp_task *task = *place;
        *place = NULL;
        if (task == NULL) {
            continue;
        }
        if (cp_worker_is_claimed(w, seq - 1) || task->deaths >= CP_MAX_DEATHS) {
            struct cp_loss loss = {.pid = (int)w->proc.pid,
                                   .exitcode = exitcode,
                                   .worker = w->index,
                                   .item = item_of(w, seq - 1, task),
                                   .ran_ns = time_of(w, seq - 1)};
            if (w->doomed && w->doom_seq == seq) {
                loss.reason = w->doom_reason;
                loss.amount = w->doom_reason == CP_TOOK_MEMORY
                                  ? (int64_t)w->doom_bytes
                                  : cp_now() - atomic_load(&w->row->since);
                add_stack(w, &loss, stack);
            }
            cp_jobs_lose_take(task, &loss);
        } else {
            cp_jobs_requeue_take(task);
        }
    }
    w->in_flight = 0;
    w->ahead_ns = 0;
    w->head = w->tail;
}

/* Workers that end before they are ready, or cannot be started, are replaced at
 * once the first time, then after a delay that doubles with each round. */
static void
back_off(struct cp_pool *pool)
{
    uint32_t round = pool->target > 0 ? pool->failed_starts / pool->target : 0;
    int64_t wait = round == 0 ? 0 : RESTART_FIRST << (round < 7 ? round : 7);
    pool->restart_at = cp_now() + wait;
}

static void
ask_for_workers(struct cp_pool *pool)
{
    pool->lacks_workers = true;
    cp_note_helper(pool); /* it ends with the last worker */
    cp_note_starter(pool);
    cp_note_all(pool);
    if (pool->n_workers == 0) {
        cp_note_standby(pool); /* likewise */
    }
}

void
cp_watch_on_start_failure(struct cp_pool *pool)
{
    if (cp_plan_at_work(pool) < pool->target) {
        pool->failed_starts += pool->target - cp_plan_at_work(pool);
        back_off(pool);
        ask_for_workers(pool);
    }
}

static void
remove_worker(struct cp_pool *pool, struct cp_worker *w, int exitcode)
{
    struct cp_worker **at = &pool->workers;
    while (*at != w) {
        at = &(*at)->next;
    }
    *at = w->next;
    pool->n_workers--;
    if (w->overdue) {
        pool->n_overdue--;
    } else if (w->exiting_since != 0) {
        pool->n_exiting--;
    }
    if (w->watches_end) {
        cp_poller_del(pool->poller, w->proc.sentinel);
    }
    if (!w->eof) {
        cp_poller_del(pool->poller, w->rx);
    }
    end_stop(w);
    suspect(w, exitcode);
    cp_tally_end(pool, w);
    cp_watch_tell_end(pool, w);
    cp_worker_close(w);
    cp_worker_unshare(w);
    pool->n_retiring -= w->retiring ? 1 : 0;
    if (!w->hello && !pool->is_broken && !w->retiring) {
        pool->failed_starts++;
        back_off(pool);
    }
    give_up_tasks(w, exitcode);
    ask_for_workers(pool);
    cp_worker_unref(w);
}

/* The worker's pipe is closed. Most often its process is ending; if not, kill
 * it. Watch for the end of the process. */
static void
end_process(struct cp_pool *pool, struct cp_worker *w)
{
    (void)cp_proc_kill(&w->proc, SIGKILL);
    watch_end(pool, w);
}

static void
stop_reading(struct cp_pool *pool, struct cp_worker *w)
{
    w->eof = true;
    cp_poller_del(pool->poller, w->rx);
}

static void
condemn(struct cp_pool *pool, struct cp_worker *w)
{
    if (!w->eof) {
        stop_reading(pool, w);
        end_process(pool, w);
    }
}

/* Something has arrived from w. before: how many values had arrived before
 * that. */
static void
note_active(struct cp_pool *pool, struct cp_worker *w, uint64_t before)
{
    w->active_at = cp_now();
    if (pool->n_values > before) {
        cp_plan_measure_values(pool, pool->n_values - before, w->active_at);
    }
}

/* Read from the pipe. False: there is nothing more to read from it. */
static bool
receive(struct cp_pool *pool, struct cp_worker *w)
{
    uint64_t before = pool->n_values;
    int r = cp_worker_recv(w);
    note_active(pool, w, before);
    w->bad = w->bad || (r < 0 && r != CP_ECLOSED);
    return r >= 0;
}

void
cp_watch_receive(struct cp_pool *pool, struct cp_worker *w)
{
    if (!receive(pool, w)) {
        condemn(pool, w);
    }
}

/* If the process has ended, read what it left and drop the worker: 1. 0: it has
 * not. Or let the program's handler of SIGCHLD run first: CP_EINTR, and this is
 * due again. */
static int
on_process_end(struct cp_pool *pool, struct cp_worker *w)
{
    int exitcode = 0;
    int r = cp_proc_check(&w->proc, &exitcode);
    if (r == CP_EINTR) {
        pool->handlers_first = true;
    }
    if (r != 1) {
        return r;
    }
    r = w->eof ? CP_ECLOSED : 1;
    while (r == 1) {
        r = cp_worker_recv(w);
    }
    if (!w->bad && (r == 0 || r == CP_ECLOSED)) {
        (void)cp_worker_recv_ring(w);
    }
    remove_worker(pool, w, exitcode);
    return 1;
}

/* The poller has reported that there is something to read, or that the pipe is
 * closed. Then the process has most often ended already, and w is dropped. */
static void
on_input(struct cp_pool *pool, struct cp_worker *w)
{
    if (receive(pool, w)) {
        return;
    }
    stop_reading(pool, w);
    if (cp_proc_seems_to_run(&w->proc) || on_process_end(pool, w) != 1) {
        end_process(pool, w);
    }
}

void
cp_watch_probe(struct cp_pool *pool, int64_t now)
{
    struct cp_worker *next;
    bool again = false;
    for (struct cp_worker *w = pool->workers; w != NULL; w = next) {
        next = w->next;
        again |= cp_plan_is_probed(w) && on_process_end(pool, w) == CP_EINTR;
    }
    pool->probe_wait =
        cp_clock_min(pool->probe_wait * PROBE_GROWTH, PROBE_LAST);
    pool->probe_at =
        cp_plan_wants_probe(pool) ? now + pool->probe_wait : CP_NEVER;
    if (again) {
        probe_within(pool, now, CP_MS);
    }
}

void
cp_watch_release_sentinel(struct cp_pool *pool, struct cp_worker *w)
{
    struct cp_worker *listed = pool->workers;
    while (listed != NULL && listed != w) {
        listed = listed->next;
    }
    cp_worker_ref(w);
    int r = 0;
    /* The lock is held, and the caller has seen the end: no handler runs first. */
    while (listed != NULL && (r = cp_proc_poll(&w->proc, NULL)) == CP_EINTR) {
    }
    if (r == 1) {
        (void)on_process_end(pool, w);
        listed = NULL;
    }
    if (listed == NULL) {
        cp_proc_close_sentinel(&w->proc);
    }
    cp_worker_unref(w);
}

static void
retire(struct cp_pool *pool, struct cp_worker *w)
{
    w->retiring = true;
    pool->n_retiring++;
    (void)cp_jobs_recall(w, UINT32_MAX, CP_RECALL_ALL);
    if (w->n_yield > 0) { /* its task still has to hear how much it may yield */
        w->tx_closed = w->end_due = true;
    } else {
        cp_watch_tell_end(pool, w);
    }
}

void
cp_watch_retire(struct cp_pool *pool, uint32_t n, uint32_t from)
{
    for (int busy = 0; busy < 2; busy++) {
        for (struct cp_worker *w = pool->workers; w != NULL && n > 0;
             w = w->next) {
            if (w->index < from || !cp_plan_may_retire(w)
                || (busy == 0 && w->in_flight > 0)) {
                continue;
            }
            n--;
            retire(pool, w);
        }
    }
}

void
cp_watch_grow(struct cp_pool *pool)
{
    if (cp_plan_wants_more(pool)) {
        pool->target++;
        ask_for_workers(pool);
    }
}

void
cp_watch_end_idle(struct cp_pool *pool, int64_t now)
{
    while (cp_plan_idle_at(pool) <= now) {
        const struct cp_worker *idlest = cp_plan_idlest(pool);
        struct cp_worker *w = pool->workers;
        while (w != idlest) {
            w = w->next;
        }
        retire(pool, w);
        uint32_t left = cp_plan_at_work(pool);
        if (left < pool->target) {
            pool->target = left;
        }
    }
}

/* Values of `since` besides a start time. */
#define ANY_ITEM CP_NEVER /* whichever item of the task runs */
#define NOT_BEGUN 0 /* the same; or the task is claimed and about to begin */

/* Kill w because of task seq, the last one that it has claimed. Others run what
 * it has not begun, so nothing else is lost. since: kill it only in the item
 * that began then. */
static void
doom(struct cp_pool *pool, struct cp_worker *w, uint64_t seq, int64_t since,
     enum cp_reason reason)
{
    uint64_t claimed;
    (void)cp_jobs_recall(w, UINT32_MAX, CP_RECALL_ALL);
    if (cp_worker_claimed(w, &claimed) == NULL || claimed != seq) {
        return; /* it has begun another task by now */
    }
    w->doomed = w->kill_due = true;
    w->doom_seq = seq + 1;
    w->doom_since = since;
    w->doom_reason = reason;
    pool->kills_due = true;
}

/* Send the signal to a task that has to stop. after: when to do so again, if it
 * has no effect. */
static void
ask(struct cp_worker *w, int64_t now, int64_t after)
{
    w->ask_after = after;
    w->ask_at = now + after;
    (void)cp_proc_kill(&w->proc, CP_STOP_SIGNAL);
}

/* Ask the task to stop; if its job grants no time for that, kill the worker. */
static void
stop_task(struct cp_pool *pool, struct cp_worker *w, uint64_t seq,
          int64_t since, enum cp_reason reason, int64_t grace)
{
    bool looks = reason == CP_TIMED_OUT
                 && atomic_load(&w->row->tells_stack) != 0
                 && cp_proc_handles(&w->proc, CP_STOP_SIGNAL);
    if (looks) {
        atomic_store(&w->row->held_since, since);
        atomic_store(&w->row->held, grace <= 0 ? seq + 1 : 0);
        cp_worker_ask_stack(w);
        w->was_asked_stack = true;
    }
    w->stop_is_look = grace <= 0;
    if (grace <= 0 && !looks) {
        doom(pool, w, seq, since, reason);
        return;
    }
    w->stop_seq = seq + 1;
    w->stop_reason = reason;
    w->kill_at = cp_now() + (grace > 0 ? grace : LOOK_GRACE);
    pool->n_stopping++;
    if (grace <= 0) {
        w->look_since = since;
        return;
    }
    atomic_store(&w->row->stop_since, since);
    atomic_store(&w->row->stop, seq + 1);
    w->asked_seq = seq + 1;
    ask(w, cp_now(), ASK_FIRST);
}

void
cp_watch_stop_running(struct cp_pool *pool, const struct cp_job *job)
{
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint64_t seq, running;
        int64_t since;
        const struct cp_task *task = cp_worker_claimed(w, &seq);
        if (task == NULL || task->job != job || w->doomed || w->eof
            || w->stop_seq != 0) {
            continue;
        }
        bool runs =
            cp_worker_running(w, &running, &since) != NULL && running == seq;
        stop_task(pool, w, seq, runs ? ANY_ITEM : NOT_BEGUN, CP_DIED,
                  runs ? job->grace : 0);
    }
}

/* When the item that was asked to stop had begun. */
static int64_t
stop_since_of(const struct cp_worker *w)
{
    return w->stop_is_look ? w->look_since : atomic_load(&w->row->stop_since);
}

/* Has the item that was asked to stop ended, so that the rest of its chunk
 * runs? */
static bool
has_moved_on(const struct cp_worker *w)
{
    int64_t stop_since = stop_since_of(w);
    return w->stop_seq != 0 && stop_since != ANY_ITEM
           && (atomic_load(&w->row->running) != w->stop_seq
               || atomic_load(&w->row->since) != stop_since);
}

/* Kill w if its current item takes more memory than the limit. An item that is
 * not to blame goes on: it found little room, and takes little more. */
static void
check_memory(struct cp_pool *pool, struct cp_worker *w, uint64_t seq,
             int64_t since)
{
    uint64_t all, own;
    uint64_t limit = pool->memory_limit;
    if (cp_proc_memory(w->proc.pid, &all) != 0) {
        return; /* that item has just ended */
    }
    uint64_t shared = atomic_load(&w->row->memory_shared);
    uint64_t before = atomic_load(&w->row->memory_before);
    own = all > shared ? all - shared : 0;
    if (own > limit && before < own && own - before > limit / CP_MEMORY_PART) {
        doom(pool, w, seq, since, CP_TOOK_MEMORY);
        w->doom_bytes = own;
    }
}

/* Has the worker given its stack? */
static bool
has_told(const struct cp_worker *w)
{
    return atomic_load(&w->row->stack_given)
           == atomic_load(&w->row->stack_asked);
}

void
cp_watch_limits(struct cp_pool *pool, int64_t now)
{
    bool measures = pool->memory_limit > 0 && now >= pool->memory_at;
    if (measures) {
        pool->memory_at = now + CP_MEMORY_LOOK;
    }
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint64_t seq;
        int64_t since;
        if (w->doomed || w->eof || w->in_flight == 0) {
            continue;
        }
        const struct cp_task *task = cp_worker_running(w, &seq, &since);
        if (has_moved_on(w)) {
            let_go(w);
        }
        if (w->stop_seq != 0) {
            if (now >= w->kill_at || (w->stop_is_look && has_told(w))) {
                seq = w->stop_seq - 1;
                since = stop_since_of(w);
                end_stop(w);
                doom(pool, w, seq, since, w->stop_reason);
            } else if (!w->stop_is_look && now >= w->ask_at
                       && !cp_worker_has_heard(w)) {
                ask(w, now, cp_clock_min(w->ask_after * ASK_GROWTH, ASK_LAST));
            }
        } else if (task != NULL && task->job->time_limit > 0
                   && now - since >= task->job->time_limit) {
            stop_task(pool, w, seq, since, CP_TIMED_OUT, task->job->grace);
        }
        if (measures && task != NULL && !w->doomed) {
            check_memory(pool, w, seq, since);
        }
    }
}

/* Does w, which is stopped now, still run the item that it is to be killed
 * for? */
static bool
is_still_doomed(void *arg)
{
    const struct cp_worker *w = arg;
    uint64_t running = atomic_load(&w->row->running);
    if (running == 0) {
        return w->doom_since == NOT_BEGUN;
    }
    return running == w->doom_seq
           && (w->doom_since == ANY_ITEM || w->doom_since == NOT_BEGUN
               || atomic_load(&w->row->since) == w->doom_since);
}

void
cp_watch_kill_due(struct cp_pool *pool)
{
    while (pool->kills_due) {
        struct cp_worker *w = pool->workers;
        while (w != NULL && !w->kill_due) {
            w = w->next;
        }
        if (w == NULL) {
            pool->kills_due = false;
            break;
        }
        w->kill_due = false;
        cp_worker_ref(w);
        cp_lock_release(&pool->lock);
        int r = cp_proc_kill_tree(&w->proc, is_still_doomed, w);
        cp_lock_acquire(&pool->lock);
        if (r == 1) { /* it finished just before, and lives on */
            w->doomed = false;
            atomic_store(&w->row->held, 0);
            pool->due |= CP_DUE_TASKS;
        }
        cp_worker_unref(w);
    }
}

void
cp_watch_flush(struct cp_pool *pool, struct cp_worker *w)
{
    w->flush_deferred = false;
    w->flush_due = false;
    if (w->tx < 0) {
        return;
    }
    if (atomic_load_explicit(&w->row->got, memory_order_relaxed)
        == atomic_load_explicit(&w->row->sent, memory_order_relaxed)) {
        w->active_at = cp_now(); /* it has something to read from now on */
    }
    atomic_store_explicit(&w->row->spin_us, cp_plan_worker_spin_us(pool),
                          memory_order_relaxed);
    if (cp_worker_flush(w) != 0) {
        /* Nobody reads: the worker is ending, as its result pipe will show. */
        cp_watch_tell_end(pool, w);
        probe_within(pool, cp_now(), CP_MS);
    }
    /* A frame for which there was no memory is tried again by the clock: the
     * poller would report at once, and for ever, that the pipe is writable. */
    bool wants = cp_worker_has_bytes(w);
    if (wants != w->wants_out) {
        if (wants) {
            wants =
                cp_poller_add(pool->poller, w->tx, CP_OUT, cp_tag(w, CP_TAG_TX))
                == 0;
        } else {
            cp_poller_del(pool->poller, w->tx);
        }
        w->wants_out = wants;
        if (wants && cp_poller_needs_wake()) {
            cp_note_driver(pool);
        }
    }
}

void
cp_watch_on_ready(struct cp_pool *pool, uint64_t tag)
{
    if (tag == CP_TAG_WAKE) {
        cp_wake_drain(&pool->wake);
        return;
    }
    struct cp_worker *w = pool->workers;
    while (w != NULL && w->id != tag >> 2) {
        w = w->next;
    }
    if (w == NULL) {
        return; /* it was removed after the poller had reported it */
    }
    switch ((unsigned)(tag & 3)) {
        case CP_TAG_RX:
            if (!w->eof) {
                on_input(pool, w);
            }
            break;
        case CP_TAG_TX: cp_watch_flush(pool, w); break;
        default: (void)on_process_end(pool, w); break;
    }
}

/* Read what is in the ring of w. True: there was something. */
static bool
receive_ring(struct cp_pool *pool, struct cp_worker *w)
{
    uint64_t before = pool->n_values;
    bool any = cp_worker_recv_ring(w);
    if (any) {
        note_active(pool, w, before);
    }
    if (w->bad) {
        condemn(pool, w);
    }
    return any;
}

/* Note whether w has read since the last look. Reading a large body takes long,
 * and does not count as silence. */
static void
note_reading(struct cp_worker *w)
{
    uint64_t got = atomic_load_explicit(&w->row->got, memory_order_relaxed);
    if (got != w->seen_got) {
        w->seen_got = got;
        w->active_at = cp_now();
    }
}

bool
cp_watch_values(struct cp_pool *pool)
{
    bool any = false;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->n_yield > 0 && !w->eof) {
            atomic_store(&w->row->sleeps, 1);
            atomic_thread_fence(memory_order_seq_cst);
            any = receive_ring(pool, w) || any;
        }
    }
    return any;
}

void
cp_watch_awake(struct cp_pool *pool)
{
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->n_yield > 0) {
            atomic_store_explicit(&w->row->sleeps, 0, memory_order_relaxed);
        }
    }
}

void
cp_watch_begin_wait(struct cp_pool *pool, bool joins)
{
    if (pool->left_look_at != 0 && pool->look_at == 0
        && cp_now() - pool->left_at < INTERRUPTED) {
        pool->look_at = pool->left_look_at;
    }
    pool->left_look_at = 0;
    pool->n_waits++;
    pool->joiners += joins ? 1 : 0;
}

void
cp_watch_end_wait(struct cp_pool *pool, bool joins, bool is_over)
{
    pool->n_waits--;
    pool->joiners -= joins ? 1 : 0;
    if (pool->look_at != 0 && !cp_plan_has_waiter(pool)) {
        pool->left_look_at = is_over ? 0 : pool->look_at;
        pool->left_at = cp_now();
        pool->look_at = 0;
    }
}

/* Has anybody read values since the last call? */
static bool
take_reads(struct cp_pool *pool)
{
    bool any = false;
    for (struct cp_job *job = pool->all_first; job != NULL;
         job = job->all_next) {
        if (cp_job_credit(job) > 0) {
            any = any || job->many->is_read;
            job->many->is_read = false;
        }
    }
    return any;
}

void
cp_watch_credit(struct cp_pool *pool, int64_t *at)
{
    if (pool->n_yielding == 0) {
        pool->look_at = 0;
        return;
    }
    bool joined = pool->joiners > 0 && pool->state == CP_CLOSING;
    if (!joined && !cp_plan_may_starve(pool)) {
        pool->look_at = 0;
        return;
    }
    int64_t now = cp_now(), after = joined ? READ_GRACE : STARVED;
    if (pool->look_at == 0 || pool->looks_for_join != joined) {
        (void)take_reads(pool); /* from now on, reads count */
        pool->n_given = 0;
        pool->looks_for_join = joined;
        pool->look_at = now + after;
    } else if (now >= pool->look_at) {
        if (joined) {
            cp_jobs_end_unread(pool);
        } else if (take_reads(pool)) {
            pool->n_given = 0;
        } else if (cp_plan_is_starved(pool)) {
            cp_flow_give_all(pool, pool->n_given++);
            after = pool->n_given <= SOONER ? STILL_STARVED : STARVED;
        }
        pool->look_at = now + after;
    }
    *at = cp_clock_min(*at, pool->look_at);
}

bool
cp_watch_harvest(struct cp_pool *pool)
{
    bool any = false;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->in_flight == 0 || w->eof) {
            continue;
        }
        note_reading(w);
        any = receive_ring(pool, w) || any;
    }
    return any;
}
