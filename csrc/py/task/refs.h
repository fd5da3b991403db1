/*
 * If workers are threads, the bodies of tasks and results hold strong
 * references, which the core cannot release. A task holds its callable and
 * arguments until a worker runs it. A result holds the value or exception of a
 * task until the program takes it. The core passes tasks and results that it
 * drops to py_refs_release().
 *
 * A body belongs to one thread at a time: the thread that makes it, then each
 * thread that gets it from the core, under the core's lock. Only the garbage
 * collector looks into waiting results, also under that lock
 * (py_refs_traverse()). [attached]
 */
#ifndef PY_REFS_H
#define PY_REFS_H

#include "value/run.h"

#include "core/pool/pool.h"

/* A new reference, which another thread will most likely release. Without a GIL
 * an object has two counters: one for the thread that made the object, and one
 * for all others. A thread that releases a reference that the maker has counted
 * has to hand the object to the maker, through a list with a lock; so count this
 * reference where the other thread releases it. */
static inline PyObject *
py_refs_lend(PyObject *obj)
{
#ifdef Py_GIL_DISABLED
    if (!_Py_IsImmortal(obj)) {
        (void)_Py_atomic_add_ssize(&obj->ob_ref_shared,
                                   1 << _Py_REF_SHARED_SHIFT);
    }
    return obj;
#else
    return Py_NewRef(obj);
#endif
}

/* Hand over a reference of the caller's, which another thread will most likely
 * release: count it where that thread does. */
static inline void
py_refs_give(PyObject *obj)
{
#ifdef Py_GIL_DISABLED
    if (_Py_IsOwnedByCurrentThread(obj)) {
        Py_DECREF(py_refs_lend(obj));
    }
#else
    (void)obj;
#endif
}

/* The same for n references, none of which is NULL. */
static inline void
py_refs_give_all(PyObject *const *refs, Py_ssize_t n)
{
#ifdef Py_GIL_DISABLED
    for (Py_ssize_t i = 0; i < n; i++) {
        py_refs_give(refs[i]);
    }
#else
    (void)refs;
    (void)n;
#endif
}

/* The body of a task. */
struct py_refs {
    PyObject *func;
    PyObject *slots[]; /* args; or args and kwds; or the items of a chunk */
};

/* A new task with n references, all NULL; or NULL with MemoryError. */
struct cp_task *py_refs_task(uint64_t index, unsigned mode, PyObject *func,
                             Py_ssize_t n);

/* The task of a call with these n arguments; or NULL with MemoryError. */
struct cp_task *py_refs_call_flat(uint64_t index, PyObject *func,
                                  PyObject *const *args, Py_ssize_t n);

/* The task of func(*args, **kwds); or NULL with MemoryError. The values of a
 * tuple are taken out of it, so that the tuple is freed by the thread that made
 * it, which is faster if threads do not share a lock. */
struct cp_task *py_refs_call(uint64_t index, PyObject *func, PyObject *args,
                             PyObject *kwds);

static inline struct py_refs *
py_refs_of_task(struct cp_task *task)
{
    return (struct py_refs *)(void *)task->body;
}

/* How many references a task has, not counting its callable. */
static inline Py_ssize_t
py_refs_count(const struct cp_task *task)
{
    return (Py_ssize_t)((task->len - sizeof(struct py_refs))
                        / sizeof(PyObject *));
}

/* The call of an executor that the task is, to which it has a reference too: the
 * object whose address is the index. NULL: it is none. */
static inline PyObject *
py_refs_call_of_task(const struct cp_task *task)
{
    return task->call != NULL ? (PyObject *)(uintptr_t)task->index : NULL;
}

/* Release all references of the task, but for that to its call. */
void py_refs_clear_task(struct cp_task *task);

/* A new result with n references, all NULL; or NULL without an exception. */
struct cp_result *py_refs_result(uint64_t index, Py_ssize_t n);

static inline PyObject **
py_refs_of_result(struct cp_result *result)
{
    return (PyObject **)(void *)result->body;
}

/* The first reference of the result, as a new reference. */
PyObject *py_refs_first(struct cp_result *result);

/* The same, moved: the result has it no longer. */
PyObject *py_refs_take_first(struct cp_result *result);

/* The values of a chunk as a run over the result's own memory. The run must not
 * be cleared or grown. */
struct py_run py_refs_view(struct cp_result *result);

/* Move the values to a new list, which is returned; or NULL with
 * MemoryError. */
PyObject *py_refs_take_list(struct cp_result *result);

/* Release the references, and free the tasks and results. The core calls
 * this. */
void py_refs_release(struct cp_task *tasks, struct cp_result *results);

/* Visit the references of the results that were not taken, for a
 * tp_traverse. */
int py_refs_traverse(struct cp_job *job, visitproc visit, void *arg);

#endif
