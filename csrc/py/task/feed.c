/*
 * From items to tasks. What goes wrong with an item (it cannot be pickled, the
 * iterable raises) becomes the failure of its task, kept on our side.
 */
#include "task/feed.h"

#include "task/batch.h"
#include "base/error.h"
#include "value/pickle.h"
#include "value/replaced.h"

#include <string.h>

/* Queue this many at a time, so that the workers start early. */
#define SLICE 64
/* A block: enough to keep workers busy while nobody feeds. */
#define BLOCK_TASKS 8192
/* Into so many chunks the usual one is cut, where time is not measured. */
#define FINER 16

/* Is iterating over this known not to run anybody's code? */
static bool
is_plain(PyObject *it)
{
    return PyList_CheckExact(it) || PyTuple_CheckExact(it) || PyRange_Check(it)
           || PyDict_CheckExact(it) || PyAnySet_CheckExact(it)
           || PyUnicode_CheckExact(it) || PyBytes_CheckExact(it)
           || Py_TYPE(it) == &PyDictKeys_Type
           || Py_TYPE(it) == &PyDictValues_Type
           || Py_TYPE(it) == &PyDictItems_Type;
}

/* ---- the callable ---- */

/* Does it pickle as a name, so that one unpickling serves all tasks? */
static int
is_immutable(struct py_state *state, PyObject *func)
{
    PyTypeObject *type = Py_TYPE(func);
    bool named = PyFunction_Check(func) || type == &PyType_Type
                 || (PyCFunction_CheckExact(func)
                     && (PyCFunction_GET_SELF(func) == NULL
                         || PyModule_Check(PyCFunction_GET_SELF(func))));
    if (!named || atomic_load(&state->replaced)) {
        return 0;
    }
    int r = PyDict_Contains(state->extra_reducers, (PyObject *)type);
    return r < 0 ? -1 : !r;
}

/* Plain pickle first; then what cpool/_base/failures.py offers (cloudpickle). */
static int
dump_func(struct py_state *state, PyObject *func, struct cp_buf *out,
          int *immutable)
{
    *immutable = is_immutable(state, func);
    if (*immutable >= 0 && py_dumps(state, func, out) == 0) {
        return 0;
    }
    *immutable = 0;
    if (py_error_is_interrupt()) {
        return -1;
    }
    PyObject *exc = py_error_fetch();
    PyObject *bytes =
        PyObject_CallMethod(state->remote, "dump_callable", "OO", func, exc);
    Py_DECREF(exc);
    if (bytes == NULL) {
        return -1;
    }
    int r = cp_buf_put(out, PyBytes_AS_STRING(bytes),
                       (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    if (r != 0) {
        (void)PyErr_NoMemory();
    }
    return r != 0 ? -1 : 0;
}

/* Is it the callable that was pickled last? Then the job is given it. */
static bool
set_func_seen(EngineObject *engine, struct cp_job *job, PyObject *func)
{
    bool seen;
    Py_BEGIN_CRITICAL_SECTION(engine);
    seen = engine->func_seen == func;
    if (seen) {
        cp_job_set_func(job, engine->func_seen_core);
    }
    Py_END_CRITICAL_SECTION();
    return seen;
}

/* The reference to core is consumed. */
static void
keep_func_take(EngineObject *engine, PyObject *func, struct cp_func *core)
{
    PyObject *old;
    struct cp_func *old_core;
    Py_BEGIN_CRITICAL_SECTION(engine);
    old = engine->func_seen;
    old_core = engine->func_seen_core;
    engine->func_seen = Py_NewRef(func);
    engine->func_seen_core = core;
    Py_END_CRITICAL_SECTION();
    if (old_core != NULL) {
        cp_func_close(engine->pool, old_core);
    }
    Py_XDECREF(old);
}

/* Give the job its callable. A callable that cannot be pickled poisons the
 * source: each task fails with that. -1: MemoryError, or an interrupt. */
static int
set_func(ResultObject *self, PyObject *func)
{
    EngineObject *engine = self->engine;
    self->source.func = Py_NewRef(func);
    if (engine->threads) {
        return 0; /* each task has it */
    }
    if (py_replaced_check(self->state) < 0) {
        return -1;
    }
    if (!atomic_load(&self->state->replaced)
        && set_func_seen(engine, self->job, func)) {
        return 0;
    }
    struct cp_buf buf = {0};
    int immutable;
    if (dump_func(self->state, func, &buf, &immutable) < 0) {
        if (py_error_is_interrupt()) {
            cp_buf_fini(&buf);
            return -1;
        }
        self->source.poison = py_error_fetch();
        cp_buf_fini(&buf);
        return 0;
    }
    struct cp_func *core =
        cp_func_open(engine->pool, cp_buf_head(&buf), cp_buf_len(&buf),
                     immutable ? CP_KEEP : 0);
    cp_buf_fini(&buf);
    if (core == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    cp_job_set_func(self->job, core);
    if (immutable) {
        keep_func_take(engine, func, core);
    } else {
        cp_func_close(engine->pool, core);
    }
    return 0;
}

/* ---- tasks ---- */

int
py_feed_call(ResultObject *self, PyObject *func, PyObject *args, PyObject *kwds)
{
    struct py_batch batch = {.items = 1, .in_call = true};
    if (set_func(self, func) < 0) {
        py_result_cancel(self);
        return -1;
    }
    bool plain = PyDict_CheckExact(kwds) && PyDict_GET_SIZE(kwds) == 0;
    int r;
    if (plain) {
        r = py_batch_add_task(self, &batch, 0, PY_CALL, args);
    } else if (self->engine->threads) {
        r = py_batch_add_refs(&batch, 0, PY_CALL_KW, func, args, kwds);
    } else {
        PyObject *pair = PyTuple_Pack(2, args, kwds);
        r = pair == NULL ? -1
                         : py_batch_add_task(self, &batch, 0, PY_CALL_KW, pair);
        Py_XDECREF(pair);
    }
    py_batch_fini(&batch);
    if (r < 0) {
        py_result_cancel(self);
        return -1;
    }
    py_batch_flush(self, &batch, true);
    return 0;
}

/* ---- sources ---- */

int
py_feed_open(ResultObject *self, PyObject *func, PyObject *iterable,
             Py_ssize_t chunksize, unsigned mode, Py_ssize_t length)
{
    struct py_source *src = &self->source;
    src->chunksize = chunksize;
    src->length = length;
    src->mode = mode & ~PY_FIT;
    src->one =
        func != NULL
        && ((mode & PY_MODE) == PY_MAP_ONE || (mode & PY_MODE) == PY_STAR_ONE);
    src->plain = func != NULL && is_plain(iterable);
    PyObject *callable =
        func != NULL ? Py_NewRef(func)
                     : PyObject_GetAttrString(self->state->remote, "call");
    if (callable == NULL) {
        return -1;
    }
    int r = set_func(self, callable);
    Py_DECREF(callable);
    if (r < 0) {
        return -1;
    }
    if (func == NULL) {
        Py_CLEAR(src->func);
    }
    /* A callable that is unpickled for each task would be unpickled more often,
     * and what it keeps from item to item lost. */
    src->fit =
        (mode & PY_FIT) != 0 && !src->one && src->poison == NULL
        && (self->engine->threads || (self->job->func->flags & CP_KEEP) != 0);
    /* A list is read where it stands, as its iterator would. */
    src->is_row = PyList_CheckExact(iterable) || PyTuple_CheckExact(iterable);
    src->iterator =
        src->is_row ? Py_NewRef(iterable) : PyObject_GetIter(iterable);
    if (src->iterator == NULL) {
        /* Told by the first result, as the stdlib does. */
        struct py_batch none = {.items = 1, .in_call = true};
        return py_batch_fail(self, &none, 0, true);
    }
    return 0;
}

/* The items of a list or tuple from the next one on, at most n. */
static Py_ssize_t
copy_row(struct py_source *src, PyObject **items, Py_ssize_t n)
{
    PyObject *row = src->iterator;
    Py_BEGIN_CRITICAL_SECTION(row);
    Py_ssize_t left =
        src->is_over ? 0 : PySequence_Fast_GET_SIZE(row) - src->pulled;
    PyObject **from = PySequence_Fast_ITEMS(row); /* lint-ok: in the section */
    n = left < n ? left : n;
    for (Py_ssize_t i = 0; i < n; i++) {
        items[i] = Py_NewRef(from[src->pulled + i]);
    }
    Py_END_CRITICAL_SECTION();
    return n > 0 ? n : 0;
}

/* The next item: 1, 0 at the end, -1 with an exception. Sees to it that there
 * are as many as there have to be. */
static int
pull_item(struct py_source *src, PyObject **item)
{
    *item = NULL;
    if (!src->is_row) {
        *item = PyIter_Next(src->iterator);
    } else if (copy_row(src, item, 1) == 0) {
        src->is_over = 1; /* what is appended after this comes too late */
    }
    if (*item == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (src->length >= 0
        && (*item == NULL ? src->pulled < src->length
                          : src->pulled >= src->length)) {
        PyErr_Format(PyExc_ValueError,
                     "the iterable gave %s items than its length, %zd",
                     *item == NULL ? "fewer" : "more", src->length);
        Py_CLEAR(*item);
        return -1;
    }
    if (*item == NULL) {
        return 0;
    }
    src->pulled++;
    return 1;
}

/* Do the sizes of chunks follow the time that items take? Where nobody waits and
 * feeds they do not, nor where workers are threads: who waits would have to come
 * back among them for each chunk. */
static bool
follows(const ResultObject *self)
{
    return self->source.fit && self->blocking && !self->engine->threads;
}

/* How many items the next chunk is to have. Where all chunks are made at once, they
 * are some parts of the usual ones. */
static Py_ssize_t
next_size(const ResultObject *self)
{
    const struct py_source *src = &self->source;
    if (!src->fit) {
        return src->chunksize;
    }
    if (!follows(self)) {
        return src->chunksize / FINER > 0 ? src->chunksize / FINER : 1;
    }
    Py_ssize_t left = src->length - src->pulled;
    uint64_t n = cp_job_share(self->job, left > 0 ? (uint64_t)left : 0);
    return n < UINT32_MAX ? (Py_ssize_t)n : (Py_ssize_t)UINT32_MAX;
}

static int
pull_row(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    /* What is not there needs no room; copy_row() asks again, in its section. */
    Py_ssize_t left = PySequence_Fast_GET_SIZE(src->iterator) - src->pulled;
    n = left < n ? left : n;
    if (n > 0 && py_run_reserve(run, n) < 0) {
        return -1;
    }
    run->n = run->used = copy_row(src, run->slots, n);
    return 0;
}

static int
pull_iterator(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    PyObject *iterator = src->iterator;
    while (run->n < n) {
        PyObject *item = Py_TYPE(iterator)->tp_iternext(iterator);
        if (item == NULL) {
            break;
        }
        if (py_run_add_take(run, item) < 0) {
            return -1;
        }
    }
    return PyErr_Occurred() != NULL ? -1 : 0;
}

/* Up to n items of what runs nobody's code when it is iterated, and not more than
 * there have to be. 0, or -1 with an exception. */
static int
pull_plain(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    Py_ssize_t most = src->length >= 0 ? src->length - src->pulled : n;
    most = most < n ? most : n;
    int r =
        src->is_row ? pull_row(src, most, run) : pull_iterator(src, most, run);
    src->pulled += run->n;
    return r;
}

/* The next chunk, of n items: 1, 0 at the end, -1 with an exception. */
static int
pull_chunk(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    py_run_clear(run);
    int r = src->plain && pull_plain(src, n, run) < 0 ? -1 : 1;
    while (r == 1 && run->n < n) {
        PyObject *item;
        r = pull_item(src, &item);
        if (r == 1 && py_run_add_take(run, item) < 0) {
            r = -1;
        }
    }
    return r == 0 && run->n > 0 ? 1 : r;
}

static int
add_stdlib_call(ResultObject *self, struct py_batch *batch, uint64_t index,
                PyObject *tuple)
{
    PyObject *call = PyTuple_GetSlice(tuple, 2, 5);
    if (call == NULL) {
        return -1;
    }
    int r = self->engine->threads
                ? py_batch_add_refs(
                    batch, index, PY_CALL_KW, PyTuple_GET_ITEM(call, 0),
                    PyTuple_GET_ITEM(call, 1), PyTuple_GET_ITEM(call, 2))
                : py_batch_add_task(self, batch, index, PY_CALL, call);
    Py_DECREF(call);
    return r;
}

/* One of the stdlib's task tuples: (job, i, func, args, kwds). */
static int
add_stdlib_task(ResultObject *self, struct py_batch *batch, uint64_t index,
                PyObject *item)
{
    PyObject *tuple = PySequence_Tuple(item);
    if (tuple == NULL) {
        return py_batch_fail(self, batch, index, false);
    }
    PyObject *reraised =
        PyObject_CallMethod(self->state->remote, "reraised_by", "(O)", tuple);
    int r;
    if (reraised == NULL) {
        r = py_batch_fail(self, batch, index, false);
    } else if (reraised != Py_None) {
        r = py_batch_fail_take(self, batch, index, Py_NewRef(reraised), false);
    } else {
        r = add_stdlib_call(self, batch, index, tuple);
    }
    Py_XDECREF(reraised);
    Py_DECREF(tuple);
    return r;
}

/* How many items of a map this task has. */
static uint32_t
items_of(const ResultObject *self, const struct py_batch *batch)
{
    Py_ssize_t n = batch->run.n;
    if (self->source.func == NULL) { /* one of the usual chunks */
        Py_ssize_t left =
            self->length - (Py_ssize_t)self->source.index * self->chunksize;
        n = left < self->chunksize ? left : self->chunksize;
    }
    return n < 0 ? 0 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

/* Where in the list of a map its results begin. */
static uint64_t
place_of(const ResultObject *self, bool stdlib, uint32_t items)
{
    const struct py_source *src = &self->source;
    return stdlib ? src->index * (uint64_t)self->chunksize
                  : (uint64_t)src->pulled - items;
}

/* Pull one task's worth: 1, 0 at the end, -1 with MemoryError or an interrupt. */
static int
feed_one(ResultObject *self, struct py_batch *batch)
{
    struct py_source *src = &self->source;
    PyObject *payload = NULL;
    bool stdlib = src->func == NULL;
    uint64_t index = src->index;
    batch->items = 1;
    int r = src->one || stdlib ? pull_item(src, &payload)
                               : pull_chunk(src, next_size(self), &batch->run);
    if (r < 0) {
        /* The iterable raised: that is the last task's failure. */
        index = self->length >= 0 ? (uint64_t)src->pulled : index;
        return py_batch_fail(self, batch, index, true);
    }
    if (r == 0) {
        return 0;
    }
    if (self->length >= 0) {
        batch->items = src->one ? 1 : items_of(self, batch);
        index = place_of(self, stdlib, batch->items);
    }
    r = stdlib ? add_stdlib_task(self, batch, index, payload)
               : py_batch_add_task(self, batch, index, src->mode, payload);
    Py_XDECREF(payload);
    src->index++;
    return r < 0 ? -1 : 1;
}

/* Is it known that there are no more items? An iterable that is somebody's code
 * is not asked: it may wait for ever, and whoever joins the pool with it. */
static bool
is_at_end(struct py_source *src)
{
    PyObject *item = NULL;
    bool ends =
        src->iterator == NULL || (src->plain && pull_item(src, &item) == 0);
    Py_XDECREF(item);
    PyErr_Clear(); /* a container that was changed meanwhile: more or less */
    return ends;
}

void
py_feed_cut(ResultObject *self)
{
    struct py_source *src = &self->source;
    struct py_batch none = {.items = 1};
    PyObject *exc;
    if (is_at_end(src)) {
        py_batch_flush(self, &none, true);
    } else if ((exc =
                    PyObject_CallMethod(self->state->remote, "not_read", NULL))
                   == NULL
               || py_batch_fail_take(self, &none, src->index, exc, true) < 0) {
        PyErr_Clear(); /* no memory to say so */
        cp_job_fail(self->job);
    }
    Py_CLEAR(src->iterator);
}

int
py_feed(ResultObject *self, uint64_t n)
{
    struct py_source *src = &self->source;
    struct py_batch batch = {.in_call = n == 0};
    size_t tasks = 0;
    int r = 1;
    if (src->iterator == NULL) {
        return 0;
    }
    bool ahead = (src->plain && self->job->limit == 0) || src->length >= 0;
    bool block = n == 0 || n > BLOCK_TASKS || ahead;
    size_t limit = block ? BLOCK_TASKS : (size_t)n;
    if (follows(self)) {
        limit = (size_t)cp_job_wants(self->job) + 1; /* sizes follow results */
    }
    while (r == 1 && tasks < limit && batch.bytes < PY_BATCH_BYTES) {
        if (atomic_load(&self->job->done)) {
            r = 0;
            break;
        }
        r = feed_one(self, &batch);
        tasks++;
        if (batch.n >= (src->plain ? SLICE : 1)) {
            py_batch_flush(self, &batch, false);
        }
    }
    py_batch_fini(&batch);
    py_batch_flush(self, &batch, r == 0);
    if (r < 0 && !py_error_is_interrupt()) {
        /* No memory: a task is missing, so nothing else counts. */
        PyErr_Clear();
        cp_job_fail(self->job);
        r = 0;
    }
    if (r <= 0) {
        Py_CLEAR(src->iterator);
    }
    return r;
}
