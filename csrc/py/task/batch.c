/* Making tasks and queueing them together; see task/batch.h. */
#include "task/batch.h"

#include "base/error.h"
#include "task/func.h"
#include "task/mode.h"
#include "task/refs.h"
#include "task/source.h"
#include "value/body.h"
#include "value/decoder.h"

#include <string.h>

/* The size of a task, including its parts in shared memory. */
static size_t
bytes_of(const struct cp_task *task)
{
    return task->len + (task->parts != NULL ? (size_t)task->parts->bytes : 0);
}

/* Begin a new body in the scratch buffer. */
static void
reset_scratch(const struct py_input *in, struct py_batch *batch)
{
    cp_buf_reset(&batch->scratch, PY_BATCH_BYTES);
    cp_use_end_all(&batch->parts);
    if (batch->scratch.parts == NULL) {
        py_batch_share(in, &batch->scratch, &batch->parts);
    }
}

static void
batch_add(struct py_batch *batch, struct cp_task *task)
{
    if (batch->last != NULL) {
        batch->last->next = task;
    } else {
        batch->first = task;
    }
    batch->last = task;
    batch->n++;
    batch->bytes += bytes_of(task);
}

void
py_batch_share(const struct py_input *in, struct cp_buf *body,
               struct cp_parts *parts)
{
    parts->heap = cp_pool_heap(in->engine->pool);
    parts->is_private = in->job != NULL && in->job->retries > 0;
    parts->pool = in->engine->pool;
    body->parts = parts;
}

void
py_batch_flush(struct cp_job *job, struct py_batch *batch, bool fed)
{
    struct cp_task *list = batch->first;
    struct cp_result *farewell = batch->farewell;
    batch->first = batch->last = NULL;
    batch->farewell = NULL;
    batch->n = 0;
    if (list != NULL || (fed && farewell == NULL)) {
        cp_job_put_take(job, list, fed && farewell == NULL);
    }
    if (farewell != NULL) {
        cp_job_put_farewell_take(job, farewell);
    }
}

int
py_batch_fail_take(struct py_input *in, struct py_batch *batch, uint64_t index,
                   PyObject *exc, bool last)
{
    PyObject *key = PyLong_FromUnsignedLongLong(index);
    int r = -1;
    if (in->failures == NULL) {
        in->failures = PyDict_New();
    }
    struct cp_result *result = cp_result_new(index, CP_LOCAL, 0);
    if (key != NULL && in->failures != NULL && result != NULL) {
        r = PyDict_SetItem(in->failures, key, exc);
    }
    Py_XDECREF(key);
    Py_DECREF(exc);
    if (r < 0) {
        cp_result_free(result);
        if (!PyErr_Occurred()) {
            (void)PyErr_NoMemory();
        }
        return -1;
    }
    result->items = batch->items;
    if (last) {
        result->flags |= PY_OF_CALL;
        CP_ASSERT(batch->farewell == NULL);
        batch->farewell = result;
    } else {
        cp_job_put_result_take(in->job, result);
    }
    return 0;
}

int
py_batch_fail(struct py_input *in, struct py_batch *batch, uint64_t index,
              bool last)
{
    if (batch->in_call && py_error_leaves_call(in->engine->state)) {
        return -1;
    }
    return py_batch_fail_take(in, batch, index, py_error_fetch(), last);
}

int
py_batch_add_refs(struct py_batch *batch, uint64_t index, unsigned mode,
                  PyObject *func, PyObject *args, PyObject *kwds)
{
    struct py_run *run = &batch->run;
    Py_ssize_t n = args == NULL ? run->n : kwds != NULL ? 2 : 1;
    struct cp_task *task =
        py_refs_task(index, mode | batch->task_flags, func, n);
    if (task == NULL) {
        return -1;
    }
    PyObject **slots = py_refs_of_task(task)->slots;
    if (args == NULL) {
        memcpy(slots, run->slots, (size_t)n * sizeof(PyObject *));
        run->n = run->used = 0;
        py_refs_give_all(slots, n);
    } else {
        slots[0] = py_refs_lend(args);
    }
    if (kwds != NULL) {
        slots[1] = py_refs_lend(kwds);
    }
    task->items = batch->items;
    batch_add(batch, task);
    return 0;
}

int
py_batch_encode_alone(const struct py_input *in, struct py_batch *batch)
{
    reset_scratch(in, batch);
    int r = py_run_put_alone(in->engine->state, &batch->run,
                             py_source_references(&in->source), &batch->scratch,
                             &batch->ran_code);
    batch->encoded = r == 1;
    return r;
}

/* A smaller task takes no more memory than the result object that the program
 * holds. */
#define HELD_LEAST 256

size_t
py_batch_held(const struct py_input *in, const struct cp_task *task)
{
    const struct cp_func *func = in->job->func;
    size_t n = bytes_of(task);
    if (func != NULL && (func->flags & CP_KEEP) == 0
        && (task->index == 0 || (in->job->flags & CP_JOB_EACH) != 0)) {
        n +=
            func->len
            + (func->sealed != NULL ? (size_t)cp_sealed_size(func->sealed) : 0);
    }
    return n >= HELD_LEAST ? n : 0;
}

/* Encode the payload, or the run; and the callable, if pulling items has
 * changed it. 0, or -1 with an exception. */
static int
encode(const struct py_input *in, struct py_batch *batch, unsigned *mode,
       PyObject *payload)
{
    struct py_state *state = in->engine->state;
    PyObject *list = NULL;
    if (batch->encoded) {
        batch->encoded = false;
        return 0;
    }
    reset_scratch(in, batch);
    int changed =
        in->func_may_change ? py_func_put_changed(in, &batch->scratch) : 0;
    if (changed < 0) {
        return -1;
    }
    *mode |= changed ? PY_OWN_FUNC : 0;
    int r = payload != NULL
                ? py_body_put(state, payload, &batch->scratch, &batch->ran_code)
                : py_run_put(state, &batch->run, &batch->scratch, &list,
                             &batch->ran_code);
    Py_XDECREF(list);
    return r;
}

int
py_batch_add_task(struct py_input *in, struct py_batch *batch, uint64_t index,
                  unsigned mode, PyObject *payload)
{
    if (in->engine->threads) {
        return py_batch_add_refs(batch, index, mode, in->func, payload, NULL);
    }
    if (in->func_error != NULL) {
        return py_batch_fail_take(in, batch, index, Py_NewRef(in->func_error),
                                  false);
    }
    if (encode(in, batch, &mode, payload) < 0) {
        return py_batch_fail(in, batch, index, false);
    }
    mode |= batch->task_flags;
    struct cp_task *task =
        cp_task_new_take(index, (uint16_t)mode, &batch->scratch);
    if (task == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    task->items = batch->items;
    task->held = batch->holds ? py_batch_held(in, task) : 0;
    batch_add(batch, task);
    return 0;
}

void
py_batch_fini(struct py_batch *batch)
{
    cp_buf_fini(&batch->scratch);
    cp_use_end_all(&batch->parts);
    cp_parts_fini(&batch->parts);
    py_run_fini(&batch->run);
}
