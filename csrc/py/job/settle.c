/* From bytes to a settled result; see job/settle.h. */
#include "job/settle.h"

#include "base/error.h"
#include "base/work.h"
#include "job/failure.h"
#include "task/func.h"
#include "task/mode.h"
#include "task/refs.h"
#include "value/decoder.h"
#include "value/arena.h"
#include "value/body.h"
#include "value/run.h"

/* ---- the value so far ---- */

PyObject *
py_result_peek(ResultObject *self, char *success)
{
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = Py_XNewRef(self->value);
    *success = self->success;
    Py_END_CRITICAL_SECTION();
    return value;
}

/* Set the value of the only task; steals value. */
static void
set_value_take(ResultObject *self, PyObject *value)
{
    PyObject *old;
    Py_BEGIN_CRITICAL_SECTION(self);
    old = self->value;
    self->value = value;
    self->success = 1;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
}

/* In the critical section: make exc the failure. Returns the old value, for the
 * caller to release. */
static PyObject *
swap_failure(ResultObject *self, PyObject *exc)
{
    PyObject *old = self->value;
    self->value = exc;
    self->success = 0;
    return old;
}

/* Make exc the failure, unless there is one already; steals exc. */
static void
fail_take(ResultObject *self, PyObject *exc)
{
    PyObject *old = exc;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (!self->settled && (self->success == 1 || self->value == NULL)) {
        old = swap_failure(self, exc);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
}

bool
py_result_settle_take(ResultObject *self, PyObject *exc)
{
    PyObject *old = exc;
    bool first;
    Py_BEGIN_CRITICAL_SECTION(self);
    first = !self->settled;
    if (first && exc != NULL) {
        old = swap_failure(self, exc);
    }
    atomic_store_explicit(&self->settled, 1, memory_order_release);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    return first;
}

/* ---- decoding ---- */

/* Is each task a chunk of items? For the stdlib's own tasks this is unknown. */
static bool
has_chunks(const ResultObject *self)
{
    unsigned mode = self->input.mode & PY_MODE;
    return mode == PY_MAP || mode == PY_STAR;
}

PyObject *
py_result_value(ResultObject *self, struct cp_result *r)
{
    if (self->engine->threads) {
        return has_chunks(self) ? py_refs_take_list(r) : py_refs_first(r);
    }
    PyObject *value = py_body_get(self->state, r->body, r->len, r->loan);
    if (value != NULL && (r->flags & PY_CAUGHT) != 0 && PyList_CheckExact(value)
        && py_failure_release(
               self, r, ((PyListObject *)value)->ob_item, /* lint-ok: ours */
               PyList_GET_SIZE(value))
               < 0) {
        Py_CLEAR(value);
    }
    return value;
}

void
py_result_free(ResultObject *self, struct cp_result *r)
{
    if (self->engine->threads) {
        r->next = NULL;
        py_refs_release(NULL, r);
    } else {
        cp_result_free(r);
    }
}

/* Swap the results of a chunk with the items of the list at their places. Runs
 * no Python code. 0, or -1 with an exception. */
static int
place_run(ResultObject *self, const struct cp_result *r, struct py_run *run)
{
    Py_ssize_t at = (Py_ssize_t)r->index;
    PyObject *list = self->value;
    int is_done = -1;
    Py_BEGIN_CRITICAL_SECTION(list);
    if (PyList_CheckExact(list) && PyList_GET_SIZE(list) - at >= run->n) {
        for (Py_ssize_t i = 0; i < run->n; i++) {
            PyObject *old =
                PyList_GET_ITEM(list, at + i); /* lint-ok: swapped */
            PyList_SET_ITEM(list, at + i, run->slots[i]);
            run->slots[i] = old;
        }
        is_done = 0;
    }
    Py_END_CRITICAL_SECTION();
    if (is_done < 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the list of results was changed while it was filled");
    }
    return is_done;
}

/* Decode the result of a map's task into its places in the list. 0, or -1 with
 * an exception. */
static int
place(ResultObject *self, struct cp_result *r)
{
    if (self->input.single_items) {
        PyObject *value = py_result_value(self, r);
        return value == NULL
                   ? -1
                   : PyList_SetItem(self->value, (Py_ssize_t)r->index, value);
    }
    struct py_run run = {0};
    int n;
    if (!self->engine->threads) {
        n = py_run_get(self->state, r->body, r->len, r->loan,
                       (Py_ssize_t)r->items, false, &run);
    } else if (has_chunks(self)) {
        run = py_refs_view(r);
        return place_run(self, r, &run);
    } else {
        PyObject *list = py_refs_first(r);
        n = py_run_copy(self->state, list, (Py_ssize_t)r->items, &run);
        Py_DECREF(list);
    }
    if (n == 0) {
        n = py_failure_release(self, r, run.slots, run.n);
    }
    if (n == 0) {
        n = place_run(self, r, &run);
    }
    py_run_fini(&run);
    return n;
}

/* The value of the result; for a map None, and the values are in the list; or
 * the failure. NULL with an exception. */
static PyObject *
decode_once(ResultObject *self, struct cp_result *r)
{
    if (r->outcome != CP_OK) {
        return py_failure_of_result(self, r);
    }
    if (!py_result_is_map(self)) {
        return py_result_value(self, r);
    }
    return place(self, r) < 0 ? NULL : Py_NewRef(Py_None);
}

/* Did a signal handler raise the pending exception of decode_once()? The
 * traceback shows most handlers, but not those without a frame, such as that of
 * Ctrl-C. An exception that is not an Exception came from such a handler if
 * decoding succeeds now. */
static bool
is_interrupted(ResultObject *self, struct cp_result *r)
{
    if (py_error_is_from_handler(self->state)) {
        return true;
    }
    if (!py_error_is_interrupt()) {
        return false;
    }
    PyObject *first = py_error_fetch();
    PyObject *obj = decode_once(self, r);
    if (obj != NULL) {
        py_error_restore(first);
    }
    Py_DECREF(first);
    Py_XDECREF(obj);
    return obj != NULL;
}

PyObject *
py_result_decode_one(ResultObject *self, struct cp_result *r, bool *is_value)
{
    *is_value = r->outcome == CP_OK;
    PyObject *obj = decode_once(self, r);
    if (obj == NULL && !is_interrupted(self, r)) {
        *is_value = false;
        obj = py_error_fetch();
    }
    return obj;
}

bool
py_result_returns(const ResultObject *self, const struct cp_result *r)
{
    return self->return_exceptions
           && (r->outcome != CP_LOCAL || (r->flags & PY_OF_CALL) == 0);
}

/* An item failed, or all items of a chunk: put the exception in their places.
 * 0, or -1 with an exception. */
static int
place_failure(ResultObject *self, const struct cp_result *r, PyObject *exc)
{
    Py_ssize_t at = (Py_ssize_t)r->index;
    for (uint32_t i = 0; i < r->items; i++) {
        if (PyList_SetItem(self->value, at + i, Py_NewRef(exc)) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Decode one result into the object. 0, or -1 with an interrupt: then the
 * result has to be decoded again. */
static int
absorb_one(ResultObject *self, struct cp_result *r)
{
    bool is_map = py_result_is_map(self);
    if (is_map && self->success == 0) {
        return 0; /* only the first failure counts */
    }
    bool is_value;
    PyObject *obj = py_result_decode_one(self, r, &is_value);
    if (obj == NULL) {
        return -1;
    }
    if (!is_value && py_result_returns(self, r)) {
        if (!is_map) {
            set_value_take(self, obj);
            return 0;
        }
        is_value = place_failure(self, r, obj) == 0;
        if (!is_value) {
            Py_SETREF(obj, py_error_fetch());
        }
    }
    if (!is_value && is_map) {
        obj = py_failure_raisable_take(self, obj);
        fail_take(self, obj != NULL ? obj : py_error_fetch());
    } else if (!is_value) {
        fail_take(self, obj);
    } else if (is_map) {
        Py_DECREF(obj);
    } else {
        set_value_take(self, obj);
    }
    return 0;
}

/* The size of the smallest object. */
#define LEAST_OBJECT 32

/* How much memory the decoded objects will take at least. 0 with worker
 * threads, where the objects exist already. */
static size_t
memory_of(ResultObject *self, const struct cp_result *list)
{
    size_t n = self->input.map_length > 0
                   ? (size_t)self->input.map_length * LEAST_OBJECT
                   : 0;
    for (; list != NULL; list = list->next) {
        self->received += list->len;
    }
    return self->engine->threads ? 0 : n + self->received;
}

/* Decoding may run the program's code: have the pool's threads started, which
 * do the pool's work meanwhile. This comes before the decoding, so that what
 * the threads allocate does not lie in the result's large pages. 0, or -1 with
 * an exception. */
static int
attend(ResultObject *self, const struct cp_result *list)
{
    while (list != NULL && !py_decode_runs_code(list->body, list->len)) {
        list = list->next;
    }
    return list != NULL && self->input.blocking ? py_engine_attend(self->engine)
                                                : 0;
}

int
py_result_decode(ResultObject *self)
{
    if (py_engine_check(self->engine) < 0) {
        return -1;
    }
    struct cp_result *list = cp_job_take_all(self->job);
    if (list == NULL) {
        return 0;
    }
    int r = attend(self, list);
    int64_t began = py_work_begin(self->engine);
    atomic_store(&self->decoder, PyThread_get_thread_ident());
    bool is_active = r == 0 && py_arena_begin(memory_of(self, list));
    while (list != NULL && r == 0) {
        struct cp_result *next = list->next;
        r = absorb_one(self, list);
        if (r == 0) {
            py_result_free(self, list);
            list = next;
            r = py_engine_check(self->engine);
        }
    }
    py_arena_end(is_active);
    atomic_store(&self->decoder, 0);
    py_work_end(self->engine, CP_WORK_DECODE, began);
    if (cp_pool_is_ours(self->engine->pool)) {
        bool drained = cp_job_decoded(self->job, list);
        return r < 0 ? r : drained;
    }
    /* A forked copy of the process must not touch the job: the pool's lock may
     * be locked for ever. */
    while (list != NULL) {
        struct cp_result *next = list->next;
        py_result_free(self, list);
        list = next;
    }
    return r;
}

/* All results are decoded: the failure of the job as a whole, or NULL if the
 * value so far is final. */
static PyObject *
failure_at_end(ResultObject *self)
{
    char success;
    PyObject *value = py_result_peek(self, &success);
    PyObject *exc = NULL;
    /* A single value stays, even if the job was terminated later. So does the
     * first failure. */
    bool is_final = value != NULL && (!py_result_is_map(self) || success == 0);
    if (!is_final) {
        bool ended = atomic_load(&self->job->end) != CP_END_NONE;
        if (ended || value == NULL) {
            exc = ended ? py_failure_of_end(self) : py_failure_of_no_task(self);
            exc = exc != NULL ? exc : py_error_fetch();
        }
    }
    Py_XDECREF(value);
    return exc;
}

/* With worker threads, the value of a single call needs no decoding, so that its
 * result is taken and settled at once. False: there is no value, or not yet. */
static bool
settle_value(ResultObject *self)
{
    struct cp_result *r;
    Py_BEGIN_CRITICAL_SECTION(self);
    r = self->settled ? NULL : cp_job_take_single(self->job);
    if (r != NULL) {
        self->value = py_refs_take_first(r);
        self->success = 1;
        atomic_store_explicit(&self->settled, 1, memory_order_release);
    }
    Py_END_CRITICAL_SECTION();
    if (r == NULL) {
        return self->settled;
    }
    cp_result_free(r);
    py_result_release(self);
    return true;
}

int
py_result_absorb(ResultObject *self)
{
    if (self->settled) {
        return 1;
    }
    if (self->engine->threads
        && (self->job->flags & (CP_JOB_SINGLE | CP_JOB_CALLS)) == CP_JOB_SINGLE
        && !has_chunks(self) && atomic_load(&self->job->done)
        && cp_pool_is_ours(self->engine->pool) && settle_value(self)) {
        return 1;
    }
    if ((self->job->flags & CP_JOB_CALLS) != 0
        && !atomic_load(&self->job->done)) {
        return 0; /* the helper decodes, and runs the callbacks */
    }
    int r = py_result_decode(self);
    if (r < 0) {
        return -1;
    }
    if (r == 0 && !cp_job_is_drained(self->job)) {
        return 0;
    }
    /* Several threads may do this at once. */
    py_func_note_results(&self->input);
    (void)py_result_settle_take(self, failure_at_end(self));
    py_result_release(self);
    return 1;
}

void
py_result_finish(ResultObject *self)
{
    PyObject *exc = failure_at_end(self);
    py_func_note_results(&self->input);
    if (exc != NULL) {
        fail_take(self, exc);
    }
}

PyObject *
py_result_outcome(ResultObject *self)
{
    py_result_set_retrieved(self);
    if (self->success) {
        return Py_NewRef(self->value);
    }
    py_error_sleep_if_exiting(self->state);
    py_error_restore(self->value);
    return NULL;
}
