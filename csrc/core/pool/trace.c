/* Spans of a timeline; see pool/trace.h. */
#include "pool/trace.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Short tasks are merged into one span until the span lasts this long, or this
 * part of the time since the trace began. So a timeline of any length has some
 * ten thousand spans for each worker. */
#define MERGED CP_MS
#define MERGED_PART 5000

#define NAME_BYTES CP_KIB(1)

struct cp_trace *
cp_trace_new(int64_t now)
{
    struct cp_trace *trace = calloc(1, sizeof(*trace));
    if (trace != NULL) {
        trace->since = now;
    }
    return trace;
}

void
cp_trace_free(struct cp_trace *trace)
{
    if (trace == NULL) {
        return;
    }
    for (uint16_t i = 0; i < trace->n_names; i++) {
        free(trace->names[i].bytes);
    }
    free(trace->open);
    free(trace->spans);
    free(trace->work);
    free(trace);
}

/* Make room for one more element in an array of n. Returns the array, which may
 * have moved; NULL: no memory, or the trace has as many as it may have. */
static void *
with_room(void *array, size_t n, size_t *cap, size_t size)
{
    return n < CP_TRACE_MOST ? cp_mem_grow(array, cap, n + 1, size) : NULL;
}

void
cp_trace_note(struct cp_trace *trace, const struct cp_span *span)
{
    struct cp_span *spans =
        with_room(trace->spans, trace->n, &trace->cap, sizeof(*spans));
    if (spans == NULL) {
        trace->dropped++;
        return;
    }
    trace->spans = spans;
    trace->spans[trace->n++] = *span;
}

static bool
is_name(const struct cp_trace_name *name, const uint8_t *func, size_t len)
{
    return name->len == len && memcmp(name->bytes, func, len) == 0;
}

/* guess: the name of the previous task. */
static uint16_t
find_name(struct cp_trace *trace, const uint8_t *func, size_t len,
          uint16_t guess)
{
    len = len < NAME_BYTES ? len : NAME_BYTES;
    if (func == NULL || len == 0) {
        return CP_NO_NAME;
    }
    if (guess < trace->n_names && is_name(&trace->names[guess], func, len)) {
        return guess;
    }
    for (uint16_t i = 0; i < trace->n_names; i++) {
        if (is_name(&trace->names[i], func, len)) {
            return i;
        }
    }
    uint8_t *bytes = trace->n_names < CP_TRACE_NAMES ? malloc(len) : NULL;
    if (bytes == NULL) {
        return CP_NO_NAME;
    }
    memcpy(bytes, func, len);
    trace->names[trace->n_names] =
        (struct cp_trace_name){.len = len, .bytes = bytes};
    return trace->n_names++;
}

/* The place of this worker's last span; NULL: no memory. */
static struct cp_span *
open_of(struct cp_trace *trace, uint32_t worker)
{
    if (worker >= trace->n_open) {
        struct cp_span *open =
            realloc(trace->open, ((size_t)worker + 1) * sizeof(*open));
        if (open == NULL) {
            return NULL;
        }
        memset(open + trace->n_open, 0,
               ((size_t)worker + 1 - trace->n_open) * sizeof(*open));
        trace->open = open;
        trace->n_open = worker + 1;
    }
    return &trace->open[worker];
}

/* Would a span from began to ended still be short enough to be merged? */
static bool
is_short(const struct cp_trace *trace, int64_t began, int64_t ended)
{
    int64_t most = (ended - trace->since) / MERGED_PART;
    return ended - began <= (most > MERGED ? most : MERGED);
}

static bool
may_grow(const struct cp_trace *trace, const struct cp_span *open,
         const struct cp_span *span)
{
    return open->pid == span->pid && open->name == span->name
           && open->outcome == CP_OK && span->outcome == CP_OK
           && span->began >= open->ended
           && is_short(trace, open->began, span->ended)
           && open->items <= UINT32_MAX - span->items;
}

static void
grow(struct cp_span *open, const struct cp_span *span)
{
    open->ended = span->ended;
    open->busy += span->busy;
    open->waited = open->waited > span->waited ? open->waited : span->waited;
    open->call = span->call;
    open->tasks++;
    open->items += span->items;
}

void
cp_trace_task(struct cp_trace *trace, const struct cp_span *task,
              const uint8_t *func, size_t len)
{
    struct cp_span span = *task;
    struct cp_span *open = open_of(trace, span.worker);
    if (open == NULL) {
        trace->dropped++;
        return;
    }
    span.began = span.began > trace->since ? span.began : trace->since;
    span.ended = span.ended > span.began ? span.ended : span.began;
    span.busy = span.ended - span.began;
    span.name =
        find_name(trace, func, len, open->tasks > 0 ? open->name : CP_NO_NAME);
    span.tasks = 1;
    if (open->tasks > 0 && may_grow(trace, open, &span)) {
        grow(open, &span);
        return;
    }
    if (open->tasks > 0) {
        cp_trace_note(trace, open);
    }
    *open = span;
}

static struct cp_trace_lane *
lane_of(struct cp_trace *trace, uint64_t thread)
{
    for (uint32_t i = 0; i < trace->n_lanes; i++) {
        if (trace->lanes[i].thread == thread) {
            return &trace->lanes[i];
        }
    }
    if (trace->n_lanes == CP_TRACE_LANES) {
        return NULL;
    }
    struct cp_trace_lane *lane = &trace->lanes[trace->n_lanes];
    *lane = (struct cp_trace_lane){.thread = thread};
    lane->open.lane = trace->n_lanes++;
    return lane;
}

static bool
has_work(const struct cp_work_span *span)
{
    uint64_t n = 0;
    for (int i = 0; i < CP_WORKS; i++) {
        n += span->n[i];
    }
    return n > 0;
}

/* Record the open span of the lane; the lane has none afterwards. */
static void
end_work(struct cp_trace *trace, struct cp_trace_lane *lane)
{
    uint32_t number = lane->open.lane;
    if (has_work(&lane->open)) {
        struct cp_work_span *work = with_room(trace->work, trace->n_work,
                                              &trace->cap_work, sizeof(*work));
        if (work == NULL) {
            trace->dropped++;
        } else {
            trace->work = work;
            trace->work[trace->n_work++] = lane->open;
        }
    }
    lane->open = (struct cp_work_span){.lane = number};
}

void
cp_trace_work(struct cp_trace *trace, enum cp_work kind, uint64_t thread,
              int64_t began, int64_t ended)
{
    struct cp_trace_lane *lane = lane_of(trace, thread);
    if (lane == NULL) {
        trace->dropped++;
        return;
    }
    began = began > trace->since ? began : trace->since;
    ended = ended > began ? ended : began;
    struct cp_work_span *open = &lane->open;
    if (began < open->ended || !is_short(trace, open->began, ended)) {
        end_work(trace, lane);
    }
    if (!has_work(open)) {
        open->began = began;
    }
    open->ended = ended;
    open->ns[kind] += ended - began;
    open->n[kind]++;
}

void
cp_trace_end(struct cp_trace *trace)
{
    for (uint32_t i = 0; i < trace->n_open; i++) {
        if (trace->open[i].tasks > 0) {
            cp_trace_note(trace, &trace->open[i]);
            trace->open[i].tasks = 0;
        }
    }
    for (uint32_t i = 0; i < trace->n_lanes; i++) {
        end_work(trace, &trace->lanes[i]);
    }
}
