/*
 * Tasks that are made and not queued yet. What goes wrong with one (it cannot be
 * pickled, the iterable raises) becomes its failure, kept on our side. Lives on
 * the stack of whoever feeds the job. [attached]
 */
#ifndef PY_BATCH_H
#define PY_BATCH_H

#include "value/run.h"

/* A batch is closed at about so many bytes. */
#define PY_BATCH_BYTES CP_KIB(512)

struct py_batch {
    struct cp_task *first, *last;
    struct cp_buf scratch;
    struct py_run run; /* the chunk that is being made */
    size_t n, bytes;
    uint32_t items; /* of the task that is being made */
    bool in_call;   /* made by the thread of the call itself */
};

/* Make a task of payload, or of the run where that is NULL. 0, or -1 with
 * MemoryError or an interrupt. */
int py_batch_add_task(ResultObject *self, struct py_batch *batch,
                      uint64_t index, unsigned mode, PyObject *payload);

/* A task of references: the callable's arguments, or the run where args is NULL,
 * whose values move to it. kwds may be NULL. 0, or -1 with MemoryError. */
int py_batch_add_refs(struct py_batch *batch, uint64_t index, unsigned mode,
                      PyObject *func, PyObject *args, PyObject *kwds);

/* The pending exception is the failure of the task with this index; see
 * py_batch_fail_take(). But an interrupt of the call is the call's own: -1. */
int py_batch_fail(ResultObject *self, struct py_batch *batch, uint64_t index,
                  bool last);

/* The task with this index failed on our side; steals exc. last: the iterable
 * failed, there will be no more. 0, or -1 with MemoryError. */
int py_batch_fail_take(ResultObject *self, const struct py_batch *batch,
                       uint64_t index, PyObject *exc, bool last);

/* Queue the tasks; the batch has none then. fed: no more will come. */
void py_batch_flush(ResultObject *self, struct py_batch *batch, bool fed);

/* Release the memory that tasks are made in; tasks are not looked at. */
void py_batch_fini(struct py_batch *batch);

#endif
