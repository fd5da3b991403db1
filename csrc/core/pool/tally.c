/* Counting items, tasks and bytes; see pool/tally.h. */
#include "pool/tally.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

struct cp_tally *
cp_tally_of(struct cp_pool *pool, uint32_t worker)
{
    return worker < pool->tally.n ? &pool->tally.workers[worker]
                                  : &pool->tally.none;
}

void
cp_tally_enter(struct cp_pool *pool, uint32_t worker, int64_t now)
{
    struct cp_tallies *all = &pool->tally;
    if (worker >= all->n) {
        struct cp_tally *workers =
            realloc(all->workers, ((size_t)worker + 1) * sizeof(*workers));
        if (workers != NULL) {
            memset(workers + all->n, 0,
                   ((size_t)worker + 1 - all->n) * sizeof(*workers));
            all->workers = workers;
            all->n = worker + 1;
        }
    }
    struct cp_tally *tally = cp_tally_of(pool, worker);
    tally->starts++;
    tally->entered_at = cp_pool_has_threads(pool) ? now : 0;
}

void
cp_tally_leave(struct cp_pool *pool, uint32_t worker, int64_t now)
{
    struct cp_tally *tally = cp_tally_of(pool, worker);
    tally->ready_ns += now - tally->entered_at;
    tally->entered_at = 0;
}

static int64_t
within(int64_t ns, int64_t most)
{
    return ns < 0 || most < 0 ? 0 : cp_clock_min(ns, most);
}

void
cp_tally_add_row(struct cp_tally *to, const struct cp_worker *w, int64_t now)
{
    const struct cp_row *row = w->row;
    int64_t alive = now - w->started_at;
    int64_t ready = atomic_load_explicit(&row->ready, memory_order_relaxed);
    int64_t start = ready != 0 ? within(ready - w->started_at, alive) : alive;
    int64_t work = atomic_load_explicit(&row->work, memory_order_relaxed);
    if (atomic_load_explicit(&row->running, memory_order_acquire) != 0) {
        work += within(
            now - atomic_load_explicit(&row->since, memory_order_relaxed),
            alive);
    }
    to->start_ns += start;
    to->ready_ns += alive - start;
    to->work_ns += within(work, alive - start);
    to->bytes_out += atomic_load_explicit(&row->sent, memory_order_relaxed);
    to->bytes_out += w->lent_bytes;
    to->bytes_in += w->seen_bytes + w->got_bytes;
}

/* Record the start of the worker, and its end. */
static void
trace_life(struct cp_trace *trace, const struct cp_worker *w, int64_t now)
{
    struct cp_span span = {.worker = w->index,
                           .pid = (int)w->proc.pid,
                           .name = CP_NO_NAME,
                           .waited = -1,
                           .tasks = 0};
    int64_t ready = atomic_load_explicit(&w->row->ready, memory_order_relaxed);
    ready = ready != 0 && ready < now ? ready : now;
    if (w->started_at >= trace->since) {
        /* A forked worker may be ready before the parent has noted its
         * start. */
        span.began = cp_clock_min(w->started_at, ready);
        span.ended = ready;
        span.outcome = CP_SPAN_START;
        cp_trace_note(trace, &span);
    }
    if (w->proc.ended) {
        span.began = span.ended = now;
        span.outcome = CP_SPAN_END;
        cp_trace_note(trace, &span);
    }
}

void
cp_tally_end(struct cp_pool *pool, const struct cp_worker *w)
{
    int64_t now = cp_now();
    cp_tally_add_row(cp_tally_of(pool, w->index), w, now);
    if (pool->trace != NULL) {
        trace_life(pool->trace, w, now);
    }
}

void
cp_tally_trace_lives(const struct cp_pool *pool)
{
    int64_t now = cp_now();
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        trace_life(pool->trace, w, now);
    }
}

void
cp_tally_failed_here(struct cp_pool *pool, uint32_t items)
{
    pool->tally.submitted += items;
    pool->tally.failed_here += items;
}

/* ---- the longest tasks ---- */

const uint8_t *
cp_tally_func(const struct cp_task *task, size_t *len)
{
    const struct cp_func *func = task->job->func;
    if ((task->flags & CP_OWN_FUNC) != 0 && task->len > sizeof(uint64_t)) {
        uint64_t own;
        memcpy(&own, task->body, sizeof(own));
        *len = own < task->len - sizeof(own) ? (size_t)own : 0;
        return task->body + sizeof(own);
    }
    *len = func != NULL ? func->len : 0;
    return func != NULL ? func->bytes : NULL;
}

static void
note_long(struct cp_pool *pool, const struct cp_task *task,
          const struct cp_long *found, const char *name)
{
    struct cp_long *all = pool->tally.longest;
    size_t at = CP_LONGEST - 1, len = name != NULL ? strlen(name) : 0;
    const uint8_t *func = (const uint8_t *)name;
    if (found->ns <= all[at].ns) {
        return;
    }
    if (name == NULL && !cp_pool_has_threads(pool)) {
        func = cp_tally_func(task, &len);
    }
    len = len < CP_NAME_BYTES ? len : CP_NAME_BYTES;
    uint8_t *kept = len > 0 ? malloc(len) : NULL;
    if (kept != NULL) {
        memcpy(kept, func, len);
    }
    free(all[at].func);
    while (at > 0 && all[at - 1].ns < found->ns) {
        all[at] = all[at - 1];
        at--;
    }
    all[at] = *found;
    all[at].index = task->index;
    all[at].items = task->items;
    all[at].stride = task->job->stride;
    all[at].func = kept;
    all[at].func_len = kept != NULL ? len : 0;
    atomic_store_explicit(&pool->tally.least, all[CP_LONGEST - 1].ns,
                          memory_order_relaxed);
}

/* ---- the timeline ---- */

static struct cp_span
span_of(const struct cp_task *task, uint32_t worker, int64_t began,
        int64_t ended)
{
    int64_t at = task->queued_at;
    return (struct cp_span){
        .began = began,
        .ended = ended,
        .waited = at == 0      ? -1
                  : began > at ? began - at
                               : 0,
        .call = task->job->id,
        .index = task->index,
        .items = task->items,
        .stride = task->job->stride,
        .worker = worker,
    };
}

static void
note_span(struct cp_pool *pool, const struct cp_task *task,
          const struct cp_span *span, const char *name)
{
    size_t len = name != NULL ? strlen(name) : 0;
    const uint8_t *func = (const uint8_t *)name;
    if (name == NULL && !cp_pool_has_threads(pool)) {
        func = cp_tally_func(task, &len);
    }
    cp_trace_task(pool->trace, span, func, len);
}

void
cp_tally_trace(struct cp_pool *pool, const struct cp_task *task,
               const struct cp_result *result, uint32_t worker, int64_t began,
               int64_t ended, const char *name)
{
    struct cp_span span = span_of(task, worker, began, ended);
    span.pid = result != NULL ? result->pid : 0;
    span.outcome =
        result != NULL && result->outcome == CP_OK && result->item == 0
            ? CP_OK
            : CP_RAISED;
    note_span(pool, task, &span, name);
}

void
cp_tally_trace_process(const struct cp_worker *w, uint64_t seq,
                       const struct cp_task *task,
                       const struct cp_result *result, int64_t ns)
{
    struct cp_pool *pool = w->pool;
    const struct cp_times *times = &w->row->times[seq & (CP_WINDOW - 1)];
    int64_t now = cp_now();
    int64_t ended = atomic_load_explicit(&times->ended, memory_order_relaxed);
    int64_t began = atomic_load_explicit(&times->began, memory_order_relaxed);
    /* A task that began before the trace may have left no times; and the row is
     * not trusted. */
    if (began < pool->trace->since || ended < began || ended > now) {
        ended = now;
        began = now - within(cp_tally_time(w, seq, ns), now - w->started_at);
    }
    cp_tally_trace(pool, task, result, w->index, began, ended, NULL);
}

/* ---- what becomes of a task ---- */

void
cp_tally_answer(struct cp_pool *pool, const struct cp_task *task,
                const struct cp_result *result, int64_t ns, uint32_t worker,
                const char *name)
{
    struct cp_tally *tally = cp_tally_of(pool, worker);
    if (result == NULL && atomic_load(&task->job->end) != CP_END_NONE) {
        pool->tally.cancelled += task->items;
        return;
    }
    tally->tasks++;
    if (cp_pool_has_threads(pool)) {
        tally->work_ns += ns;
    }
    uint32_t failed =
        result != NULL && result->outcome == CP_OK ? result->item : task->items;
    tally->failed += failed;
    tally->done += task->items - failed;
    if (ns > pool->tally.longest[CP_LONGEST - 1].ns) {
        struct cp_long found = {
            .ns = ns,
            .worker = worker,
            .pid = result != NULL ? result->pid : 0,
            .outcome = failed > 0 ? CP_RAISED : CP_OK,
        };
        note_long(pool, task, &found, name);
    }
}

void
cp_tally_loss(struct cp_pool *pool, const struct cp_task *task,
              const struct cp_loss *loss)
{
    if (atomic_load(&task->job->end) != CP_END_NONE) {
        pool->tally.cancelled += task->items;
        return;
    }
    cp_tally_of(pool, loss->worker)->lost += task->items;
    int64_t ns = loss->ran_ns;
    if (loss->reason == CP_TIMED_OUT && loss->amount > ns) {
        ns = loss->amount;
    }
    if (pool->trace != NULL && loss->reason != CP_NO_WORKER) {
        int64_t now = cp_now();
        struct cp_span span = span_of(task, loss->worker, now - ns, now);
        span.pid = loss->pid;
        span.outcome = CP_LOST;
        span.reason = (uint8_t)loss->reason;
        note_span(pool, task, &span, NULL);
    }
    struct cp_long found = {
        .ns = ns, .worker = loss->worker, .pid = loss->pid, .outcome = CP_LOST};
    note_long(pool, task, &found, NULL);
}

int64_t
cp_tally_time(const struct cp_worker *w, uint64_t seq, int64_t ns)
{
    if (ns < UINT32_MAX) {
        return ns;
    }
    const struct cp_times *times = &w->row->times[seq & (CP_WINDOW - 1)];
    int64_t took = atomic_load_explicit(&times->ended, memory_order_relaxed)
                   - atomic_load_explicit(&times->began, memory_order_relaxed);
    took = within(took, cp_now() - w->started_at);
    return took > ns ? took : ns;
}

uint32_t
cp_tally_caught(const struct cp_worker *w, uint64_t seq,
                const struct cp_result *result)
{
    if ((result->flags & CP_CAUGHT) == 0) {
        return 0;
    }
    uint32_t failed = atomic_load_explicit(
        &w->row->times[seq & (CP_WINDOW - 1)].failed, memory_order_relaxed);
    return failed < result->items ? failed : result->items;
}

/* ---- reading ---- */

static int
copy_longest(struct cp_long *to, const struct cp_long *from)
{
    *to = *from;
    to->func = NULL;
    if (from->func_len > 0) {
        to->func = malloc(from->func_len);
        if (to->func == NULL) {
            return CP_ENOMEM;
        }
        memcpy(to->func, from->func, from->func_len);
    }
    return 0;
}

int
cp_tally_copy(const struct cp_pool *pool, struct cp_tallies *copy)
{
    const struct cp_tallies *all = &pool->tally;
    int64_t now = cp_now();
    *copy = (struct cp_tallies){.submitted = all->submitted,
                                .cancelled = all->cancelled,
                                .failed_here = all->failed_here,
                                .none = all->none,
                                .n = all->n};
    copy->workers = calloc(all->n > 0 ? all->n : 1, sizeof(*copy->workers));
    int r = copy->workers != NULL ? 0 : CP_ENOMEM;
    for (size_t i = 0; r == 0 && i < CP_LONGEST; i++) {
        r = copy_longest(&copy->longest[i], &all->longest[i]);
    }
    if (r != 0) {
        cp_tallies_free(copy);
        return r;
    }
    for (uint32_t i = 0; i < all->n; i++) {
        copy->workers[i] = all->workers[i];
        if (all->workers[i].entered_at != 0) {
            copy->workers[i].ready_ns += now - all->workers[i].entered_at;
        }
    }
    for (const struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        if (w->index < all->n) {
            cp_tally_add_row(&copy->workers[w->index], w, now);
            copy->workers[w->index].pid = (int)w->proc.pid;
        }
    }
    return 0;
}
