/*
 * Tasks that are made and not queued yet. If a task cannot be made (an item
 * cannot be pickled, the iterable raises), it becomes a failure that is kept in
 * this process. A batch lives on the stack of the thread that feeds the job.
 * [attached]
 */
#ifndef PY_BATCH_H
#define PY_BATCH_H

#include "task/input.h"
#include "value/run.h"

/* A batch is queued when it has about this many bytes. */
#define PY_BATCH_BYTES CP_KIB(512)

struct py_batch {
    struct cp_task *first, *last;
    struct cp_result
        *farewell;         /* the iterable failed: arrives after all tasks */
    struct cp_buf scratch; /* the body of the task that is being made */
    struct cp_parts parts; /* its large parts */
    struct py_run run;     /* the chunk that is being made */
    size_t n, bytes;       /* of all tasks in the batch */
    uint32_t items;        /* of the task that is being made */
    unsigned task_flags;   /* of each task, beside its mode */
    bool encoded;          /* the run is in the scratch already */
    bool in_call;          /* the calling thread itself feeds */
    bool holds;            /* its tasks set `held`: see cp_pool_has_room() */
    bool ran_code; /* encoding a task may have run code of the program */
};

/* Have large parts of a body of this input stored in shared memory, if its pool
 * has some. If the task may be run again, each run gets the parts unchanged. */
void py_batch_share(const struct py_input *in, struct cp_buf *body,
                    struct cp_parts *parts);

/* Make a task of payload, or of the run if payload is NULL. 0, or -1 with
 * MemoryError or an interrupt. */
int py_batch_add_task(struct py_input *in, struct py_batch *batch,
                      uint64_t index, unsigned mode, PyObject *payload);

/* Encode the run, if it shares nothing with other chunks. 1:
 * py_batch_add_task() will make a task of the encoded bytes; 0: it shares
 * something; -1 with an exception. */
int py_batch_encode_alone(const struct py_input *in, struct py_batch *batch);

/* Make a task of references: of the callable's arguments; or, if args is NULL,
 * of the run, whose values move into the task. kwds may be NULL. 0, or -1 with
 * MemoryError. */
int py_batch_add_refs(struct py_batch *batch, uint64_t index, unsigned mode,
                      PyObject *func, PyObject *args, PyObject *kwds);

/* Make the pending exception the failure of the task with this index, as
 * py_batch_fail_take(). Exception: in the thread of the call, an interrupt is
 * not a failure: -1, and it stays pending. */
int py_batch_fail(struct py_input *in, struct py_batch *batch, uint64_t index,
                  bool last);

/* The task with this index failed in this process. Steals exc. last: the
 * iterable failed, and no more tasks will come. 0, or -1 with MemoryError. */
int py_batch_fail_take(struct py_input *in, struct py_batch *batch,
                       uint64_t index, PyObject *exc, bool last);

/* Queue the tasks of the batch, and its farewell. fed: no more tasks will come.
 * The job may be done afterwards, and its input freed if nothing else holds the
 * result. */
void py_batch_flush(struct cp_job *job, struct py_batch *batch, bool fed);

/* How many bytes the first task of an input takes while it waits, with its
 * callable: its `held`. */
size_t py_batch_held(const struct py_input *in, const struct cp_task *task);

/* Release the memory that tasks are made in, but not the tasks. */
void py_batch_fini(struct py_batch *batch);

#endif
