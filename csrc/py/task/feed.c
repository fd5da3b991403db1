/*
 * From items to tasks; see task/feed.h. If something goes wrong with an item
 * (it cannot be pickled, the iterable raises), that becomes the failure of its
 * task, which is kept in this process.
 */
#include "task/feed.h"

#include "base/error.h"
#include "base/work.h"
#include "task/batch.h"
#include "task/func.h"
#include "task/mode.h"
#include "task/source.h"

/* Tasks are queued this many at a time, so that workers start early. */
#define SLICE 64
/* How many tasks a block has: enough to keep the workers busy while nobody
 * feeds. */
#define BLOCK_TASKS 8192
/* If all chunks are made at once, the usual chunk is cut into this many. */
#define FINER 16

/* Make the one task of the call: 0, or -1 with an exception. */
static int
make_call(struct py_input *in, struct py_batch *batch, uint64_t index,
          PyObject *func, PyObject *args, PyObject *kwds)
{
    if (py_func_set(in, func) < 0) {
        return -1;
    }
    if (kwds == NULL
        || (PyDict_CheckExact(kwds) && PyDict_GET_SIZE(kwds) == 0)) {
        return py_batch_add_task(in, batch, index, PY_CALL, args);
    }
    if (in->engine->threads) {
        return py_batch_add_refs(batch, index, PY_CALL_KW, func, args, kwds);
    }
    PyObject *pair = PyTuple_Pack(2, args, kwds);
    int r = pair == NULL
                ? -1
                : py_batch_add_task(in, batch, index, PY_CALL_KW, pair);
    Py_XDECREF(pair);
    return r;
}

int
py_feed_call(struct py_input *in, PyObject *func, PyObject *args,
             PyObject *kwds)
{
    struct py_batch batch = {.items = 1,
                             .in_call = true,
                             .holds = true,
                             .task_flags = in->task_flags};
    int64_t began = py_work_begin(in->engine);
    int r = make_call(in, &batch, 0, func, args, kwds);
    py_work_end(in->engine, CP_WORK_FEED, began);
    if (r == 0) {
        py_batch_flush(in->job, &batch, true);
    }
    py_batch_fini(&batch);
    return r;
}

int
py_feed_kept_call(struct py_input *in, uint64_t index, struct cp_call *call,
                  PyObject **holder)
{
    struct py_batch batch = {
        .items = 1, .holds = true, .task_flags = in->task_flags};
    struct cp_job *job = in->job;
    PyObject *func = in->func, *args = in->args, *kwds = in->kwds;
    in->func = in->args = in->kwds = NULL;
    int64_t began = py_work_begin(in->engine);
    int r = make_call(in, &batch, index, func, args, kwds);
    py_work_end(in->engine, CP_WORK_FEED, began);
    py_batch_fini(&batch);
    if (batch.first != NULL) {
        batch.first->call = call;
    }
    Py_DECREF(func);
    Py_DECREF(args);
    Py_XDECREF(kwds);
    if (r == 0) {
        Py_CLEAR(*holder);
        py_batch_flush(job, &batch, true);
    }
    return r;
}

/* Are chunk sizes adapted to the time that items take? Only if the thread that
 * waits also feeds; and not with worker threads, which that thread would have
 * to interrupt for each chunk. */
static bool
adapts(const struct py_input *in)
{
    return in->may_resize && in->blocking && !in->engine->threads;
}

int
py_feed_open(struct py_input *in, PyObject *func, PyObject *iterable,
             Py_ssize_t chunksize, unsigned mode, Py_ssize_t length)
{
    struct py_source *src = &in->source;
    in->chunksize = chunksize;
    src->engine = in->engine;
    src->length = length;
    in->mode = mode & ~(PY_FIT | PY_TASKS);
    in->single_items =
        func != NULL
        && ((mode & PY_MODE) == PY_MAP_ONE || (mode & PY_MODE) == PY_STAR_ONE);
    src->plain =
        func != NULL && py_source_is_plain(in->engine->state, iterable);
    PyObject *callable = func != NULL ? Py_NewRef(func)
                                      : PyObject_GetAttrString(
                                          in->engine->state->failures, "call");
    if (callable == NULL) {
        return -1;
    }
    int r = py_func_set(in, callable);
    Py_DECREF(callable);
    if (r < 0) {
        return -1;
    }
    if (func == NULL) {
        Py_CLEAR(in->func);
    }
    /* Other chunk sizes would be noticed if the callable is unpickled for each
     * task: that would happen more often, and its state would not reach the
     * next item. */
    in->may_resize =
        (mode & PY_FIT) != 0 && !in->single_items && in->func_error == NULL
        && (in->engine->threads || (in->job->func->flags & CP_KEEP) != 0);
    in->func_may_change = func != NULL && !src->plain && !in->engine->threads
                          && in->func_error == NULL
                          && (in->job->func->flags & CP_KEEP) == 0;
    enum py_results results = py_func_results(in);
    if (!in->engine->threads) {
        in->may_resize &= results != PY_RESULTS_SHARE;
        in->was_resizable = in->may_resize;
        in->probes = in->may_resize && results == PY_RESULTS_NEW;
        if (in->probes) {
            cp_job_set_probes(in->job);
        }
        if (adapts(in)) {
            cp_job_set_paced(in->job);
        }
    }
    if (py_source_open(src, iterable) < 0) {
        /* The first result raises this exception, as in multiprocessing. */
        struct py_batch none = {.items = 1, .in_call = true};
        r = py_batch_fail(in, &none, 0, true);
        py_batch_flush(in->job, &none, false);
        return r;
    }
    return 0;
}

/* How many items the next chunk should have. If sizes are fixed, a chunk ends
 * where one of the stdlib's chunks ends. */
static Py_ssize_t
next_size(const struct py_input *in)
{
    const struct py_source *src = &in->source;
    if (!in->may_resize) {
        return in->chunksize - src->pulled % in->chunksize;
    }
    if (in->probes) {
        return 1;
    }
    if (!adapts(in)) {
        return in->chunksize / FINER > 0 ? in->chunksize / FINER : 1;
    }
    Py_ssize_t left = src->length - src->pulled;
    uint64_t n = cp_job_share(in->job, left > 0 ? (uint64_t)left : 0);
    return n < UINT32_MAX ? (Py_ssize_t)n : (Py_ssize_t)UINT32_MAX;
}

static int
add_stdlib_call(struct py_input *in, struct py_batch *batch, uint64_t index,
                PyObject *tuple)
{
    PyObject *call = PyTuple_GetSlice(tuple, 2, 5);
    if (call == NULL) {
        return -1;
    }
    int r = in->engine->threads
                ? py_batch_add_refs(
                    batch, index, PY_CALL_KW, PyTuple_GET_ITEM(call, 0),
                    PyTuple_GET_ITEM(call, 1), PyTuple_GET_ITEM(call, 2))
                : py_batch_add_task(in, batch, index, PY_CALL, call);
    Py_DECREF(call);
    return r;
}

/* Make a task from one of the stdlib's task tuples: (job, i, func, args,
 * kwds). */
static int
add_stdlib_task(struct py_input *in, struct py_batch *batch, uint64_t index,
                PyObject *item)
{
    PyObject *tuple = PySequence_Tuple(item);
    if (tuple == NULL) {
        return py_batch_fail(in, batch, index, false);
    }
    PyObject *reraised = PyObject_CallMethod(in->engine->state->failures,
                                             "reraised_by", "(O)", tuple);
    int r;
    if (reraised == NULL) {
        r = py_batch_fail(in, batch, index, false);
    } else if (reraised != Py_None) {
        r = py_batch_fail_take(in, batch, index, Py_NewRef(reraised), false);
    } else {
        r = add_stdlib_call(in, batch, index, tuple);
    }
    Py_XDECREF(reraised);
    Py_DECREF(tuple);
    return r;
}

/* How many items of a map this task has. */
static uint32_t
items_of(const struct py_input *in, const struct py_batch *batch)
{
    Py_ssize_t n = batch->run.n;
    if (in->func == NULL) { /* a chunk that the stdlib made */
        Py_ssize_t left =
            in->map_length - (Py_ssize_t)in->index * in->map_chunksize;
        n = left < in->map_chunksize ? left : in->map_chunksize;
    }
    return n < 0 ? 0 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

/* The index, in the list of the map, of this task's first result. */
static uint64_t
place_of(const struct py_input *in, bool stdlib, uint32_t items)
{
    const struct py_source *src = &in->source;
    return stdlib ? in->index * (uint64_t)in->map_chunksize
                  : (uint64_t)src->pulled - items;
}

/* The chunk may share objects with others: from here on, cut chunks where the
 * stdlib does. Cut the present items there, and complete the last chunk. 0, or
 * -1 with MemoryError or an interrupt. */
static int
add_as_the_stdlib_does(struct py_input *in, struct py_batch *batch)
{
    struct py_source *src = &in->source;
    struct py_run rest = {0};
    Py_ssize_t at = src->pulled - batch->run.n;
    int r = 0;
    in->may_resize = 0;
    while (r == 0 && batch->run.n > 0) {
        Py_ssize_t n = in->chunksize - at % in->chunksize;
        if (batch->run.n < n && py_source_add_chunk(src, n, &batch->run) < 0) {
            r = py_batch_fail(in, batch, (uint64_t)src->pulled, true);
            Py_CLEAR(src->iterator);
            break;
        }
        r = py_run_split(&batch->run, n, &rest);
        if (r == 0) {
            batch->items = items_of(in, batch);
            r = py_batch_add_task(in, batch, (uint64_t)at, in->mode, NULL);
            at += n;
            in->index++;
            py_run_clear(&batch->run);
            struct py_run done = batch->run;
            batch->run = rest;
            rest = done;
        }
    }
    py_run_fini(&rest);
    return r;
}

/* Make one task: 1, 0 at the end, -1 with MemoryError or an interrupt. */
static int
feed_one(struct py_input *in, struct py_batch *batch)
{
    struct py_source *src = &in->source;
    PyObject *payload = NULL;
    bool stdlib = in->func == NULL;
    uint64_t index = in->index;
    unsigned mode = in->mode;
    batch->items = 1;
    if (!in->engine->threads && in->may_resize && cp_job_is_marked(in->job)) {
        in->may_resize = 0;
    }
    int r = in->single_items || stdlib
                ? py_source_next(src, &payload)
                : py_source_next_chunk(src, next_size(in), &batch->run);
    if (r < 0) {
        /* The iterable raised: its exception is the failure of the last
         * task. */
        index = in->map_length >= 0 ? (uint64_t)src->pulled : index;
        return py_batch_fail(in, batch, index, true);
    }
    if (r == 0) {
        return 0;
    }
    if (!in->single_items && (!stdlib || in->map_length >= 0)) {
        batch->items = items_of(in, batch);
    }
    if (in->map_length >= 0) {
        index = place_of(in, stdlib, batch->items);
    }
    if (in->may_resize && !in->engine->threads) {
        /* As long as the chunk shares no object with another one, nobody can
         * tell what size it has. */
        r = py_batch_encode_alone(in, batch);
        if (r < 0) {
            return py_batch_fail(in, batch, index, false) < 0 ? -1 : 1;
        }
        if (r == 0) {
            return add_as_the_stdlib_does(in, batch) < 0 ? -1
                   : src->iterator == NULL               ? 0
                                                         : 1;
        }
        mode |= PY_FIT;
    }
    r = stdlib ? add_stdlib_task(in, batch, index, payload)
               : py_batch_add_task(in, batch, index, mode, payload);
    Py_XDECREF(payload);
    in->index++;
    return r < 0 ? -1 : 1;
}

/* Queue what is in the batch. If this is the end (r <= 0), release the input
 * first, since the job may be done afterwards. failed: the job fails for lack
 * of memory. */
static void
end_block(struct py_input *in, struct py_batch *batch, int r, bool failed,
          PyObject **holder)
{
    struct cp_job *job = in->job;
    py_batch_fini(batch);
    if (r <= 0) {
        Py_CLEAR(in->source.iterator);
    }
    if (r == 0 && holder != NULL) {
        Py_CLEAR(*holder);
    }
    py_batch_flush(job, batch, r == 0 && !failed);
    if (failed) {
        cp_job_fail(job);
    }
}

void
py_feed_cut(struct py_input *in, PyObject **holder)
{
    struct py_batch none = {.items = 1};
    PyObject *exc;
    bool failed = false;
    if (!py_source_is_at_end(&in->source)
        && ((exc = PyObject_CallMethod(in->engine->state->failures, "not_read",
                                       NULL))
                == NULL
            || py_batch_fail_take(in, &none, in->index, exc, true) < 0)) {
        PyErr_Clear(); /* no memory for the exception */
        failed = true;
    }
    end_block(in, &none, 0, failed, holder);
}

int
py_feed(struct py_input *in, uint64_t n, PyObject **holder)
{
    struct py_source *src = &in->source;
    struct py_batch batch = {.in_call = n == 0,
                             .holds = in->source.pulled == 0,
                             .task_flags = in->task_flags};
    size_t tasks = 0;
    int r = 1;
    if (src->iterator == NULL) {
        return 0;
    }
    bool ahead =
        !in->engine->serial
        && ((src->plain && cp_job_limit(in->job) == 0) || src->length >= 0);
    bool block = n == 0 || n > BLOCK_TASKS || ahead;
    size_t limit = block ? BLOCK_TASKS : (size_t)n;
    if (in->probes && cp_job_arrived(in->job, NULL) > 0) {
        in->probes = 0;
    }
    if (in->probes) {
        limit = (size_t)cp_job_wants(in->job);
    } else if (adapts(in)) {
        limit = (size_t)cp_job_wants(in->job) + 1; /* sizes depend on results */
    }
    int64_t began = py_work_begin(in->engine);
    while (r == 1 && tasks < limit && batch.bytes < PY_BATCH_BYTES) {
        if (atomic_load(&in->job->done)) {
            r = 0;
            break;
        }
        r = feed_one(in, &batch);
        tasks++;
        if (r >= 0 && batch.ran_code && in->blocking
            && py_engine_attend(in->engine) < 0) {
            r = -1;
        }
        /* Code of the program may wait for the tasks before it. */
        if (r == 1 && batch.n >= (src->plain && !batch.ran_code ? SLICE : 1)) {
            py_batch_flush(in->job, &batch, false);
        }
    }
    py_work_end(in->engine, CP_WORK_FEED, began);
    bool failed = r < 0 && !py_error_leaves_call(in->engine->state);
    if (failed) {
        /* No memory: a task is missing, so the whole job fails. */
        PyErr_Clear();
        r = 0;
    }
    end_block(in, &batch, r, failed, holder);
    return r;
}
