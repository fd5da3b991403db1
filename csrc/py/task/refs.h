/*
 * What tasks and results hold where workers are threads: strong references, in
 * their bodies, that the core knows nothing of. A task has its callable and its
 * arguments, and loses them to the worker that runs it; a result has what the task
 * came to, and loses that to whoever asks for it. What is dropped before comes to
 * py_refs_release().
 *
 * A body belongs to one thread at a time: that which makes it, then whoever the
 * core hands it to, under its lock. Only the collector looks into results that
 * wait, under that lock as well (py_refs_traverse). [attached]
 */
#ifndef PY_REFS_H
#define PY_REFS_H

#include "value/run.h"

/* The body of a task. */
struct py_refs {
    PyObject *func;
    PyObject *slots[]; /* args, or args and kwds, or the items of a chunk */
};

/* A task with room for n references, all NULL; or NULL with MemoryError. */
struct cp_task *py_refs_task(uint64_t index, unsigned mode, PyObject *func,
                             Py_ssize_t n);

static inline struct py_refs *
py_refs_of_task(struct cp_task *task)
{
    return (struct py_refs *)(void *)task->body;
}

/* How many references a task has besides its callable. */
static inline Py_ssize_t
py_refs_count(const struct cp_task *task)
{
    return (Py_ssize_t)((task->len - sizeof(struct py_refs))
                        / sizeof(PyObject *));
}

/* Release all that the task holds; it is empty then. */
void py_refs_clear_task(struct cp_task *task);

/* A result of n references, all NULL; or NULL, without an exception. */
struct cp_result *py_refs_result(uint64_t index, Py_ssize_t n);

static inline PyObject **
py_refs_of_result(struct cp_result *result)
{
    return (PyObject **)(void *)result->body;
}

/* What stands in its first place, as a new reference. */
PyObject *py_refs_first(struct cp_result *result);

/* The values of a chunk as a run, which does not own its memory: what is put into
 * its slots is the result's. */
struct py_run py_refs_view(struct cp_result *result);

/* Move them to a list: a new reference, or NULL with MemoryError. */
PyObject *py_refs_take_list(struct cp_result *result);

/* The pool's hook: release and free. */
void py_refs_release(struct cp_task *tasks, struct cp_result *results);

/* Visit what the results hold that nobody has taken: a traverse function's part. */
int py_refs_traverse(struct cp_job *job, visitproc visit, void *arg);

#endif
