/* Tasks that are made and not queued yet; see task/batch.h. */
#include "task/batch.h"

#include "base/error.h"
#include "value/pickle.h"
#include "task/refs.h"

#include <string.h>

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
    batch->bytes += task->len;
}

void
py_batch_flush(ResultObject *self, struct py_batch *batch, bool fed)
{
    struct cp_task *list = batch->first;
    batch->first = batch->last = NULL;
    batch->n = 0;
    cp_job_put_take(self->job, list, fed);
}

int
py_batch_fail_take(ResultObject *self, const struct py_batch *batch,
                   uint64_t index, PyObject *exc, bool last)
{
    PyObject *key = PyLong_FromUnsignedLongLong(index);
    int r = -1;
    if (self->failures == NULL) {
        self->failures = PyDict_New();
    }
    struct cp_result *result = cp_result_new(index, CP_LOCAL, 0);
    if (key != NULL && self->failures != NULL && result != NULL) {
        r = PyDict_SetItem(self->failures, key, exc);
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
        cp_job_put_farewell_take(self->job, result);
    } else {
        cp_job_put_result_take(self->job, result);
    }
    return 0;
}

int
py_batch_fail(ResultObject *self, struct py_batch *batch, uint64_t index,
              bool last)
{
    if (batch->in_call && py_error_is_interrupt()) {
        return -1;
    }
    PyObject *exc = py_error_fetch();
    if (last) {
        py_batch_flush(self, batch, false);
    }
    return py_batch_fail_take(self, batch, index, exc, last);
}

int
py_batch_add_refs(struct py_batch *batch, uint64_t index, unsigned mode,
                  PyObject *func, PyObject *args, PyObject *kwds)
{
    struct py_run *run = &batch->run;
    Py_ssize_t n = args == NULL ? run->n : kwds != NULL ? 2 : 1;
    struct cp_task *task = py_refs_task(index, mode, func, n);
    if (task == NULL) {
        return -1;
    }
    PyObject **slots = py_refs_of_task(task)->slots;
    if (args == NULL) {
        memcpy(slots, run->slots, (size_t)n * sizeof(PyObject *));
        run->n = run->used = 0;
    } else {
        slots[0] = Py_NewRef(args);
    }
    if (kwds != NULL) {
        slots[1] = Py_NewRef(kwds);
    }
    task->items = batch->items;
    batch_add(batch, task);
    return 0;
}

int
py_batch_add_task(ResultObject *self, struct py_batch *batch, uint64_t index,
                  unsigned mode, PyObject *payload)
{
    PyObject *list = NULL;
    if (self->engine->threads) {
        return py_batch_add_refs(batch, index, mode, self->source.func, payload,
                                 NULL);
    }
    cp_buf_reset(&batch->scratch, PY_BATCH_BYTES);
    if (self->source.poison != NULL) {
        return py_batch_fail_take(self, batch, index,
                                  Py_NewRef(self->source.poison), false);
    }
    int r = payload != NULL
                ? py_body_put(self->state, payload, &batch->scratch)
                : py_run_put(self->state, &batch->run, &batch->scratch, &list);
    Py_XDECREF(list);
    if (r < 0) {
        return py_batch_fail(self, batch, index, false);
    }
    struct cp_task *task =
        cp_task_new_take(index, (uint16_t)mode, &batch->scratch);
    if (task == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    task->items = batch->items;
    batch_add(batch, task);
    return 0;
}

void
py_batch_fini(struct py_batch *batch)
{
    cp_buf_fini(&batch->scratch);
    py_run_fini(&batch->run);
}
