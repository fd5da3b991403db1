/*
 * The loop of a worker process; see worker/serve.h. It runs on the main thread
 * of the process.
 *
 * While the loop waits, it holds no arguments and no result of a task. A global
 * function is loaded once, as long as its name leads to it. Any other callable
 * is decoded again for each task, so that a change of state in one
 * task does not reach the next.
 */
#include "worker/serve.h"

#include "base/error.h"
#include "base/name.h"
#include "task/call.h"
#include "task/mode.h"
#include "value/array.h"
#include "value/body.h"
#include "value/pickle.h"
#include "value/run.h"
#include "value/spare.h"
#include "value/uses.h"
#include "worker/stack.h"
#include "worker/values.h"

#include "core/base/clock.h"
#include "core/link/worker.h"

/* The scratch buffer keeps up to this much memory between tasks. */
#define KEEP_SCRATCH (1u << 20)

/* A callable that the parent has sent, or a shared object. */
struct func_entry {
    PyObject *object;    /* if it was unpickled and is kept */
    struct py_name name; /* where the callable was found */
    uint8_t *bytes;      /* its body; if is_sealed, the message */
    size_t len;
    struct cp_sealed *sealed; /* is_sealed: the file, once it is open */
    bool keep;                /* CP_KEEP */
    bool by_value;            /* CP_BY_VALUE */
    bool is_sealed;           /* CP_SEALED */
    bool is_shared;           /* CP_SHARED */
};

/* Has the task to be run again after this exception? */
static bool
is_retried(struct py_state *state, PyObject *exc, PyObject *retrying)
{
    PyObject *found =
        PyObject_CallMethod(state->failures, "is_retried", "OO", exc, retrying);
    bool yes = found == Py_True;
    Py_XDECREF(found);
    PyErr_Clear();
    return yes;
}

/* The placeholder of an item that raised, until the parent has the chunk. An
 * exception that is not an Exception ends the process, and with it the chunk;
 * an exception that is retried ends the chunk, too. */
static PyObject *
catch_item(const struct py_calls *calls, PyObject *func, Py_ssize_t item)
{
    struct py_state *state = calls->state;
    if (py_error_is_interrupt()) {
        return NULL;
    }
    PyObject *exc = py_error_fetch();
    if (calls->retrying != NULL && is_retried(state, exc, calls->retrying)) {
        py_error_restore(exc);
        Py_DECREF(exc);
        return NULL;
    }
    PyObject *caught =
        PyObject_CallMethod(state->failures, "catch", "OOn", exc, func, item);
    Py_DECREF(exc);
    return caught;
}

struct loop {
    struct py_state *state;
    struct cp_serve *serve;
    struct func_entry *funcs; /* by slot */
    uint32_t n_funcs;
    struct cp_buf scratch;
    struct cp_parts parts; /* of the answer in the scratch buffer */
    struct py_run run;     /* items of the chunk, then their results */
    uint64_t left;         /* how many tasks may still be run */
    int64_t now;           /* when the last task ended; 0: unknown */
    uint32_t caught;  /* items of the task that failed while others went on */
    PyObject *report; /* the report on a yielded value that cannot be encoded */
    unsigned long thread; /* that runs the tasks */
    bool last;            /* the process ends after this answer */
    bool is_measured;     /* it has a memory limit */
    bool is_over;         /* it is over that limit: it takes no more tasks */
};

/* Has code of the program forked, so that this process is a copy of the worker?
 * Two processes must not use the same row and pipes: the copy runs no task,
 * sends nothing, and leaves the loop. */
static bool
is_copy(const struct loop *loop)
{
    return loop->state->forked > 0;
}

int
py_serve_answer(struct cp_serve *serve, const struct cp_frame *frame,
                const uint8_t *body)
{
    int r = cp_serve_put(serve, frame, body, cp_now());
    if (r == 0) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    r = r == 1 ? cp_serve_flush(serve) : cp_serve_send(serve, frame, body);
    Py_END_ALLOW_THREADS
    return r;
}

static void
entry_clear(struct func_entry *entry)
{
    Py_CLEAR(entry->object);
    py_name_clear(&entry->name);
    PyMem_RawFree(entry->bytes);
    cp_sealed_unref(entry->sealed);
    memset(entry, 0, sizeof(*entry));
}

/* Keep the bytes of a callable in its slot: 0, or a negative code. */
static int
store_func(struct loop *loop, const struct cp_frame *frame, const uint8_t *body)
{
    if (frame->arg >= loop->n_funcs) {
        uint32_t n = frame->arg + 16;
        struct func_entry *funcs =
            PyMem_RawRealloc(loop->funcs, n * sizeof(*funcs));
        if (funcs == NULL) {
            return CP_ENOMEM;
        }
        memset(funcs + loop->n_funcs, 0, (n - loop->n_funcs) * sizeof(*funcs));
        loop->funcs = funcs;
        loop->n_funcs = n;
    }
    struct func_entry *entry = &loop->funcs[frame->arg];
    entry_clear(entry);
    entry->bytes = PyMem_RawMalloc(frame->len > 0 ? (size_t)frame->len : 1);
    if (entry->bytes == NULL) {
        return CP_ENOMEM;
    }
    memcpy(entry->bytes, body, (size_t)frame->len);
    entry->len = (size_t)frame->len;
    entry->keep = (frame->flags & CP_KEEP) != 0;
    entry->by_value = (frame->flags & CP_BY_VALUE) != 0;
    entry->is_sealed = (frame->flags & CP_SEALED) != 0;
    entry->is_shared = (frame->flags & CP_SHARED) != 0;
    return 0;
}

/* Decode the object in the parent's sealed file: a new reference, or NULL with
 * an exception. */
static PyObject *
load_sealed(struct py_state *state, struct func_entry *entry)
{
    int r = 0;
    if (entry->sealed == NULL) {
        r = cp_sealed_open(entry->bytes, entry->len, &entry->sealed);
    }
    if (r == 0 && entry->len > sizeof(struct cp_sealed_head)) {
        /* entry->sealed has all of it. Without memory the bytes stay. */
        void *less = PyMem_RawRealloc(entry->bytes, 1);
        entry->bytes = less != NULL ? less : entry->bytes;
        entry->len = 0;
    }
    if (r == CP_ENOMEM) {
        return PyErr_NoMemory();
    }
    if (r != 0) {
        (void)py_raise(state, r);
        PyObject *exc = py_error_fetch();
        PyErr_Format(PyExc_RuntimeError,
                     "this worker cannot read what the pool has written once "
                     "for all workers: %S",
                     exc);
        Py_DECREF(exc);
        return NULL;
    }
    return py_body_of_sealed(state, entry->sealed);
}

PyObject *
py_serve_shared(PyObject *module, PyObject *arg)
{
    struct py_state *state = py_state_of_module(module);
    struct loop *loop = state->loop;
    unsigned long slot = PyLong_AsUnsignedLong(arg);
    if (slot == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (py_uses_now()->handles != NULL) {
        return py_uses_find(slot);
    }
    struct func_entry *entry =
        loop != NULL && slot < loop->n_funcs ? &loop->funcs[slot] : NULL;
    if (entry == NULL || !entry->is_shared) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a shared object is only there in a worker of the "
                        "pool whose share() made it");
        return NULL;
    }
    if (entry->object == NULL) {
        PyObject *made = load_sealed(state, entry);
        if (made == NULL) {
            return NULL;
        }
        entry = &loop->funcs[slot];
        entry->object = made;
        cp_sealed_unref(entry->sealed);
        entry->sealed = NULL;
    }
    return Py_NewRef(entry->object);
}

PyObject *
py_serve_empty(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    struct py_state *state = py_state_of_module(module);
    if (n < 1) {
        PyErr_SetString(PyExc_TypeError, "_empty() needs a function to call");
        return NULL;
    }
    struct loop *loop = state->loop;
    bool is_here = loop != NULL && state->forked == 0
                   && loop->thread == PyThread_get_thread_ident();
    return py_array_empty(state, is_here ? loop->parts.heap : NULL, args[0],
                          args + 1, n - 1);
}

/* The callable of a slot: a new reference, or NULL with an exception. */
static PyObject *
load_func(struct loop *loop, uint32_t slot)
{
    CP_ASSERT(slot < loop->n_funcs && loop->funcs[slot].bytes != NULL);
    struct func_entry *entry = &loop->funcs[slot];
    if (entry->object != NULL) {
        PyObject *kept = Py_NewRef(entry->object);
        if (entry->by_value || py_name_leads_to(&entry->name, kept)) {
            return kept;
        }
        Py_DECREF(kept);
        Py_CLEAR(entry->object);
        py_name_clear(&entry->name);
    }
    PyObject *func = entry->is_sealed ? load_sealed(loop->state, entry)
                                      : py_body_get(loop->state, entry->bytes,
                                                    entry->len, NULL);
    if (func != NULL && entry->keep) {
        if (!entry->by_value) {
            py_name_find(&entry->name, func);
        }
        entry->object = Py_NewRef(func);
    }
    return func;
}

/* The callable of a task. If the task brings its own, the callable is taken off
 * the body. A new reference, or NULL with an exception. */
static PyObject *
func_of(struct loop *loop, struct cp_frame *task, const uint8_t **body)
{
    uint64_t len;
    if ((task->flags & PY_OWN_FUNC) == 0) {
        return load_func(loop, task->arg);
    }
    memcpy(&len, *body, sizeof(len));
    const uint8_t *bytes = *body + sizeof(len);
    *body = bytes + len;
    task->len -= sizeof(len) + len;
    return py_body_get(loop->state, bytes, (size_t)len, NULL);
}

/* Run the chunk in loop->run. Sets PY_CAUGHT in *flags if an item raised and
 * the chunk went on. */
static int
run_chunk(struct loop *loop, const struct cp_frame *frame, PyObject *func,
          PyObject *retrying, uint16_t *flags)
{
    bool catches = (frame->flags & PY_CATCH) != 0;
    bool is_final = (frame->flags & CP_FINAL) != 0;
    struct py_calls calls = {
        .star = (frame->flags & PY_MODE) == PY_STAR,
        .forked = &loop->state->forked,
        .row = loop->serve->row,
        .timed = loop->is_measured || (frame->flags & PY_TIMED) != 0,
        .measured = loop->is_measured ? loop->serve : NULL,
        .catch = catches ? catch_item : NULL,
        .retrying = is_final ? NULL : retrying,
        .state = loop->state};
    int r = py_call_each(func, &loop->run, &calls);
    *flags |= calls.caught > 0 ? PY_CAUGHT : 0u;
    loop->caught = calls.caught;
    return r;
}

/* Drop what the scratch buffer holds. */
static void
reset_scratch(struct loop *loop)
{
    cp_buf_reset(&loop->scratch, KEEP_SCRATCH);
    cp_parts_cut(&loop->parts, 0);
}

/* Close the loan: nothing of the task will be decoded any more. */
static void
end_loan(struct cp_loan **loan)
{
    if (*loan != NULL) {
        cp_loan_close(*loan);
        *loan = NULL;
    }
}

/* Send the values that the task yields; releases *result. Returns as
 * py_values_send(). */
static int
send_values(struct loop *loop, const struct cp_frame *frame, PyObject **result)
{
    struct py_values values = {.state = loop->state,
                               .serve = loop->serve,
                               .seq = frame->seq,
                               .timed = (frame->flags & PY_TIMED) != 0,
                               .is_measured = loop->is_measured,
                               .scratch = &loop->scratch};
    int r = py_values_send(&values, *result);
    loop->report = values.report;
    Py_CLEAR(*result);
    return r;
}

/* Run the task. 0: its result is *result, or, if that is NULL, in loop->run. -1
 * with the exception that is the answer; in a forked copy of the worker the
 * exception may be missing. For a task that yields: 0 once everything is sent,
 * or a code of the core. */
static int
run_task(struct loop *loop, const struct cp_frame *frame, const uint8_t *body,
         struct cp_loan **loan, PyObject *func, PyObject *retrying,
         PyObject **result, uint16_t *flags)
{
    struct py_state *state = loop->state;
    unsigned mode = frame->flags & PY_MODE;
    *result = NULL;
#ifndef Py_GIL_DISABLED
    /* Where memory is limited, what is kept would count against the tasks. */
    state->keeps_spare = !loop->is_measured;
#endif
    if (mode == PY_MAP || mode == PY_STAR) {
        bool star = mode == PY_STAR;
        int r = py_run_get(state, body, (size_t)frame->len, *loan, -1, star,
                           &loop->run);
        state->keeps_spare = false;
        end_loan(loan);
        return r < 0 || is_copy(loop)
                   ? -1
                   : run_chunk(loop, frame, func, retrying, flags);
    }
    PyObject *payload = py_body_get(state, body, (size_t)frame->len, *loan);
    state->keeps_spare = false;
    end_loan(loan);
    if (payload == NULL || is_copy(loop)) {
        Py_XDECREF(payload);
        return -1;
    }
    PyObject *arg = payload, *kwds = NULL;
    if (mode == PY_CALL_KW) {
        arg = PyTuple_GET_ITEM(payload, 0);
        kwds = PyTuple_GET_ITEM(payload, 1);
    }
    *result = py_call_one(state, mode, func, arg, kwds);
    Py_DECREF(payload);
    if (*result != NULL && (frame->flags & CP_YIELDS) != 0 && !is_copy(loop)) {
        return send_values(loop, frame, result);
    }
    return *result != NULL ? 0 : -1;
}

/* The item of the task that is running, or ran last. */
static unsigned int
current_item(const struct loop *loop)
{
    return atomic_load_explicit(&loop->serve->row->item, memory_order_relaxed);
}

/* Is it the exception that failures.handle_stop() raises in a task that has to
 * stop? */
static bool
is_stop(struct loop *loop, PyObject *exc)
{
    PyObject *type =
        PyObject_GetAttrString(loop->state->failures, "TaskInterrupted");
    bool found = (PyObject *)Py_TYPE(exc) == type;
    Py_XDECREF(type);
    PyErr_Clear();
    return found;
}

/* Encode the pending exception as the body of an answer: bytes, or NULL with an
 * exception if that fails. If the exception ends the process, *fatal is set to
 * it. retrying: NULL, or the callable of a task with PY_RETRY. */
static PyObject *
pack_error(struct loop *loop, PyObject *func, PyObject *retrying,
           uint16_t *flags, PyObject **fatal)
{
    PyObject *exc = py_error_fetch();
    bool stops = is_stop(loop, exc);
    bool ends =
        !stops && !PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_Exception);
    *flags |= stops ? CP_STOPPED : 0u;
    if (retrying != NULL && is_retried(loop->state, exc, retrying)) {
        *flags |= CP_AGAIN;
    }
    PyObject *bytes =
        PyObject_CallMethod(loop->state->failures, "report_error", "OOI", exc,
                            func != NULL ? func : Py_None, current_item(loop));
    if (ends) {
        Py_XSETREF(*fatal, exc);
    } else {
        Py_DECREF(exc);
    }
    return bytes;
}

/* The result cannot be pickled: make a report of the pending exception, as the
 * body of an answer. */
static PyObject *
pack_unpicklable(struct loop *loop, PyObject *result, bool listed)
{
    PyObject *exc = py_error_fetch();
    PyObject *bytes =
        PyObject_CallMethod(loop->state->failures, "pack_unpicklable", "OOO",
                            exc, result, listed ? Py_True : Py_False);
    Py_DECREF(exc);
    return bytes;
}

/* How many items of the list are placeholders for items that failed. */
static uint32_t
count_caught(struct loop *loop, PyObject *list)
{
    PyObject *type = PyObject_GetAttrString(loop->state->failures, "Caught");
    uint32_t n = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *item = PyList_GET_ITEM(list, i); /* lint-ok: only its type */
        n += (PyObject *)Py_TYPE(item) == type ? 1 : 0;
    }
    Py_XDECREF(type);
    PyErr_Clear();
    return n;
}

/* Some values of the chunk cannot be pickled: put placeholders for them. 0, or
 * -1 with an exception. Releases *list. */
static int
put_each(struct loop *loop, PyObject **list, uint16_t *flags)
{
    PyErr_Clear();
    PyObject *each = PyObject_CallMethod(loop->state->failures,
                                         "catch_unpicklable", "O", *list);
    Py_CLEAR(*list);
    int r = each != NULL ? py_dumps(loop->state, each, &loop->scratch) : -1;
    loop->caught = r == 0 ? count_caught(loop, each) : 0;
    Py_XDECREF(each);
    *flags |= PY_CAUGHT;
    return r;
}

/* Append the result to the scratch buffer. Sets the mark in *flags if the
 * parent chooses chunk sizes and results share objects. Values of the chunk
 * that had to be pickled, or raised, move to *list; otherwise *list is NULL. 0,
 * or -1 with an exception. */
static int
put_result(struct loop *loop, const struct cp_frame *task, PyObject *result,
           uint16_t *flags, PyObject **list)
{
    struct py_state *state = loop->state;
    *list = NULL;
    if (result != NULL) {
        return py_body_put(state, result, &loop->scratch, NULL);
    }
    if ((task->flags & PY_FIT) != 0) {
        int alone =
            py_run_put_alone(state, &loop->run, 1, &loop->scratch, NULL);
        if (alone == 1) {
            return 0;
        }
        if (alone < 0 && !PyErr_ExceptionMatches(PyExc_MemoryError)) {
            *list =
                py_run_fail(&loop->run); /* so that no value is asked twice */
            return -1;
        }
        PyErr_Clear(); /* no memory: the next attempt will show */
        *flags |= CP_MARK;
    }
    return py_run_put(state, &loop->run, &loop->scratch, list, NULL);
}

/* Encode the result into the scratch buffer. If that fails, set *report to the
 * body of an error answer. 0, or -1 with an exception if both fail. */
static int
pack_result(struct loop *loop, const struct cp_frame *task, PyObject *result,
            uint16_t *flags, PyObject **report)
{
    PyObject *list;
    bool listed = (task->flags & PY_LISTED) != 0;
    int r = put_result(loop, task, result, flags, &list);
    if (r < 0 && list != NULL && (task->flags & PY_CATCH) != 0) {
        return put_each(loop, &list, flags);
    }
    if (r < 0) {
        *report = result == NULL && list == NULL
                      ? NULL
                      : pack_unpicklable(loop, result != NULL ? result : list,
                                         listed);
        r = *report != NULL ? 0 : -1;
    }
    Py_XDECREF(list);
    return r;
}

/* Send the answer to a task, and the time that the task took. 0, or a negative
 * code. */
static int
answer(struct loop *loop, struct cp_frame *frame, const uint8_t *body)
{
    int64_t now = cp_now();
    int64_t ns = now - loop->now;
    cp_serve_note(loop->serve->row, frame->seq, loop->now, now, loop->caught);
    loop->now = now;
    frame->arg = (frame->flags & CP_STOPPED) != 0 ? current_item(loop)
                 : ns < 0                         ? 0
                 : ns > UINT32_MAX                ? UINT32_MAX
                                                  : (uint32_t)ns;
    int r = cp_serve_put(loop->serve, frame, body, now);
    if (r == 0) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    r = r == 1 ? cp_serve_flush(loop->serve)
               : cp_serve_send(loop->serve, frame, body);
    Py_END_ALLOW_THREADS
    loop->now = cp_now();
    return r;
}

/* Send the result in the scratch buffer; or the report of a failure, if there
 * is one. */
static int
answer_task(struct loop *loop, struct cp_frame *frame, PyObject *report,
            bool last)
{
    (void)atomic_fetch_add_explicit(&loop->state->tasks_done, 1,
                                    memory_order_relaxed);
    if (--loop->left == 0 || last) {
        frame->flags |= CP_LAST;
        loop->last = true;
    }
    if (report == NULL) {
        if (loop->parts.n > 0) {
            int lent = cp_serve_lend(loop->serve, frame, &loop->scratch);
            if (lent != 0) {
                return lent;
            }
        }
        frame->len = cp_buf_len(&loop->scratch);
        return answer(loop, frame, cp_buf_head(&loop->scratch));
    }
    frame->kind = CP_ERROR;
    frame->len = (uint64_t)PyBytes_GET_SIZE(report);
    return answer(loop, frame, (const uint8_t *)PyBytes_AS_STRING(report));
}

/* The task raised an exception that ends the process. r: the outcome of sending
 * its answer. */
static int
end_process(struct loop *loop, int r, PyObject *fatal)
{
    if (r == 0) {
        Py_BEGIN_ALLOW_THREADS
        r = cp_serve_flush(loop->serve);
        Py_END_ALLOW_THREADS
        PyObject *none =
            PyObject_CallMethod(loop->state->failures, "leave", "O", fatal);
        Py_XDECREF(none);
        r = -1;
    }
    return r;
}

/* From now on the task may be asked to stop, if its job grants time for that.
 * 0, or -1 with an exception. */
static int
prepare_stop(struct loop *loop, const struct cp_frame *task)
{
    struct py_state *state = loop->state;
    if ((task->flags & PY_GRACE) == 0) {
        return 0;
    }
    if (!state->handles_stop) {
        PyObject *none = PyObject_CallMethod(state->failures, "handle_stop",
                                             "i", CP_STOP_SIGNAL);
        if (none == NULL) {
            return -1;
        }
        Py_DECREF(none);
        state->handles_stop = 1;
        py_stack_watch_again();
    }
    state->may_stop = 1;
    return 0;
}

/* One task: 0, a core code, or -1 with the exception that ends the process. */
static int
do_task(struct loop *loop, struct cp_frame *task, const uint8_t *body)
{
    struct cp_frame frame = {.kind = CP_RESULT, .seq = task->seq};
    PyObject *result = NULL, *report = NULL, *fatal = NULL;
    if (loop->now == 0) {
        loop->now = cp_now();
    }
    cp_serve_begin(loop->serve, task->seq, loop->now);
    loop->caught = 0;
    loop->report = NULL;
    struct cp_loan *loan = NULL;
    if ((task->flags & CP_PARTS) != 0) {
        int lent = cp_serve_loan(loop->serve, body, &task->len, &loan);
        if (lent != 0) {
            return lent; /* without an answer, the task counts as lost */
        }
    }
    PyObject *retrying = NULL, *func = func_of(loop, task, &body);
    if (func != NULL && (task->flags & PY_RETRY) != 0) {
        retrying = func;
        func = PyObject_GetAttrString(retrying, "func");
    }
    int r = func != NULL && !is_copy(loop) && prepare_stop(loop, task) == 0
                ? run_task(loop, task, body, &loan, func, retrying, &result,
                           &frame.flags)
                : -1;
    loop->state->may_stop = 0;
    end_loan(&loan);
    reset_scratch(loop);
    if (is_copy(loop)) {
        /* An exception of the task in the forked copy ends that copy, as in any
         * program. */
        r = PyErr_Occurred() ? -1 : CP_ECLOSED;
    } else if (r == -1) {
        report = pack_error(loop, func, retrying, &frame.flags, &fatal);
        r = report != NULL ? 0 : -1;
    } else if ((task->flags & CP_YIELDS) != 0) {
        report =
            loop->report; /* the task fails; else nothing is left to send */
    } else {
        r = pack_result(loop, task, result, &frame.flags, &report);
    }
    Py_XDECREF(func);
    Py_XDECREF(retrying);
    Py_XDECREF(result);
    py_run_clear(&loop->run);
    if (r >= 0 && is_copy(loop)) {
        r = CP_ECLOSED; /* encoding the answer, or a __del__, has forked */
    }
    /* Without an answer (no memory for it), the task counts as lost. */
    if (r == 0) {
        r = answer_task(loop, &frame, report, fatal != NULL);
        r = fatal != NULL ? end_process(loop, r, fatal) : r;
    }
    reset_scratch(loop); /* the worker may be idle from now on */
    py_spare_settle(loop->state);
    if (r == 0 && loop->is_measured) {
        loop->is_over = cp_serve_is_over_memory(loop->serve, loop->now);
    }
    Py_XDECREF(report);
    Py_XDECREF(fatal);
    return r;
}

/* Wait for more tasks. A KeyboardInterrupt between tasks is ignored: there is
 * no task for it to stop. */
static int
wait_for_more(struct loop *loop)
{
    int r, look_ms = loop->serve->look_ms;
    loop->now = 0;
    if (loop->state->spare != NULL) {
        loop->serve->look_ms = py_spare_ms(loop->state);
    }
    Py_BEGIN_ALLOW_THREADS
    r = cp_serve_wait(loop->serve);
    Py_END_ALLOW_THREADS
    loop->serve->look_ms = look_ms;
    if (r == CP_EINTR) {
        py_spare_drop(loop->state);
    }
    if (r != 0 && r != CP_EINTR) {
        return r;
    }
    if (PyErr_CheckSignals() < 0) {
        if (!PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
            return -1;
        }
        PyErr_Clear();
    }
    return 0;
}

static int
loop_once(struct loop *loop)
{
    struct cp_frame frame;
    const uint8_t *body;
    int r = cp_serve_next(loop->serve, &frame, &body);
    if (r <= 0) {
        return r < 0 ? r : wait_for_more(loop);
    }
    switch (frame.kind) {
        case CP_FUNC: return store_func(loop, &frame, body);
        case CP_FORGET:
            if (frame.arg < loop->n_funcs) {
                entry_clear(&loop->funcs[frame.arg]);
            }
            return 0;
        default: return do_task(loop, &frame, body);
    }
}

/* How long an idle worker sleeps at a time if debuggers may want its
 * attention. */
#define LOOK_MS 1000

/* Could a debugger want attention? sys.remote_exec() and `pdb -p` (from 3.14
 * on) write a request into the memory of a process, and do not wake the
 * process. */
static int
may_be_debugged(void)
{
#if PY_VERSION_HEX >= 0x030E0000
    PyObject *sys = PyImport_ImportModule("sys");
    PyObject *is =
        sys == NULL ? NULL
                    : PyObject_CallMethod(sys, "is_remote_debug_enabled", NULL);
    int r = is != NULL ? PyObject_IsTrue(is) : -1;
    Py_XDECREF(is);
    Py_XDECREF(sys);
    if (r < 0) {
        PyErr_Clear(); /* another implementation of Python, or no memory */
    }
    return r > 0;
#else
    return 0;
#endif
}

PyObject *
py_serve(struct py_state *state, struct cp_serve *serve, uint64_t budget)
{
    struct loop loop = {.state = state, .serve = serve, .left = budget};
    struct cp_frame hello = {.kind = CP_HELLO};
    loop.is_measured = atomic_load(&serve->row->memory_limit) > 0;
    serve->look_ms = may_be_debugged() ? LOOK_MS : 0;
    /* Measure the memory now, so that the initializer's is not charged to the
     * first task. */
    (void)cp_serve_is_over_memory(serve, cp_now());
    loop.parts.heap = serve->heap;
    loop.parts.moves = true;
    loop.thread = PyThread_get_thread_ident();
    loop.scratch.parts = serve->heap != NULL ? &loop.parts : NULL;
    state->loop = &loop;
    cp_serve_look(serve);
    int r = is_copy(&loop) ? CP_ECLOSED : py_serve_answer(serve, &hello, NULL);
    while (r == 0 && !loop.last && !loop.is_over) {
        r = loop_once(&loop);
        if (r == 0 && is_copy(&loop)) {
            r = CP_ECLOSED;
        }
    }
    if (r == 0 && loop.is_over && !loop.last) {
        /* Others run the tasks that were sent here. */
        struct cp_frame leave = {.kind = CP_LEAVE};
        r = py_serve_answer(serve, &leave, NULL);
    } else if (r == 0) {
        Py_BEGIN_ALLOW_THREADS
        r = cp_serve_flush(serve);
        Py_END_ALLOW_THREADS
    } else if (r == -1 && !loop.last && !is_copy(&loop)) {
        /* An exception ends the process, but the exit may take for ever: tell
         * the parent. Not if there was no memory for a task: that counts
         * against the task. */
        struct cp_frame leave = {.kind = CP_LEAVE};
        (void)py_serve_answer(serve, &leave, NULL);
    }
    state->loop = NULL;
    py_spare_drop(state);
    for (uint32_t i = 0; i < loop.n_funcs; i++) {
        entry_clear(&loop.funcs[i]);
    }
    PyMem_RawFree(loop.funcs);
    cp_buf_fini(&loop.scratch);
    cp_parts_fini(&loop.parts);
    py_run_fini(&loop.run);
    if (r == 0 || r == CP_ECLOSED) {
        /* The budget is used up; or the memory is; or the parent is gone, or
         * has ended this worker; or this is a forked copy of the worker. */
        return PyLong_FromUnsignedLongLong(budget - loop.left);
    }
    return py_raise(state, r);
}
