/*
 * What a submission returns, _core.Result or _core.Stream: its layout, how it
 * is created and destroyed, and how it and its job in the core hold each other.
 * [attached]
 *
 * The result holds a reference to the job until it is deallocated. The job
 * holds the result from its submission until the job has ended, so that the
 * result of a running job lives even if the program has dropped it; then the
 * core hands the result back (py_job_collect()). But a job holds an iterator
 * with a buffer size only weakly: once nobody can read, such a job would stay
 * at its limit for ever, so its input ends with the iterator.
 */
#ifndef PY_LIFE_H
#define PY_LIFE_H

#include "base/engine.h"
#include "task/input.h"

/* ApplyResult, MapResult and the iterators are Python classes over this. */
typedef struct py_result {
    PyObject_HEAD
    struct py_state *state;
    EngineObject *_Atomic engine; /* strong; NULL before __init__. Set last */
    struct cp_job *job;
    PyObject *pool; /* the Python pool, until the job is done; guarded by the
                       critical section */
    PyObject *callback, *error_callback;
    PyObject *value; /* the value, the list or the exception; guarded by the
                        critical section until it is settled */
    struct py_input input; /* what the job's tasks are made from */
    /* In the engine's list of calls, while not all tasks of the job are made;
     * and the thread whose call makes them. 0: not in the list. */
    struct py_result *call_next, *call_prev;
    _Atomic unsigned long caller;
    struct py_result *kept_next; /* in the engine's list of kept calls */
    size_t received;             /* bytes of results that were decoded */
    struct cp_result *untaken;   /* results of an iterator whose decoding was
                                  interrupted, guarded by the critical section */
    const char *call; /* the method that was called; for error messages */
    _Atomic unsigned long decoder; /* the thread that decodes now; or 0 */
    char return_exceptions;        /* exceptions of items are values */
    char success; /* guarded like value; of a map valid even before settled */
    _Atomic char init_called; /* __init__ was called */
    _Atomic char is_closed;   /* an iterator: it gives no more items */
    _Atomic char settled;     /* value and success are final */
    _Atomic char submitted;   /* the job was given its tasks */
    _Atomic char retrieved;   /* the program has seen the outcome */
} ResultObject;

/* Does the job return a list? */
static inline bool
py_result_is_map(const ResultObject *self)
{
    return self->input.map_length >= 0;
}

/* ---- construction ---- */

/* A new result without a job; or NULL with an exception. */
PyObject *py_result_new(PyTypeObject *type, PyObject *args, PyObject *kwds);
ResultObject *py_result_alloc(PyTypeObject *type, struct py_state *state);

/* __init__ calls this first, and may do so only once: 0, or -1 with
 * TypeError. */
int py_result_begin(ResultObject *self);

/* Open the job, with these CP_JOB_ flags: 0, or -1 with an exception.
 * py_result_open() takes the engine of the Python pool. */
int py_result_open(ResultObject *self, PyObject *pool, uint32_t flags);
int py_result_open_job(ResultObject *self, EngineObject *engine, PyObject *pool,
                       uint32_t flags);

/* With worker threads: open the job of a single call with its only task, which
 * is consumed, and have the job hold the result. 0, or -1 with an exception. */
int py_result_open_call_take(ResultObject *self, EngineObject *engine,
                             PyObject *pool, uint32_t flags,
                             struct cp_task *task);

/* ---- the job ---- */

/* Have the job hold the result, from its submission on. */
void py_result_hold(ResultObject *self);
/* The same, but weakly. Returns a new weak reference, which the job shares; or
 * NULL with an exception. */
PyObject *py_result_hold_weakly(ResultObject *self);

/* The object of a weak reference: a new reference, or NULL without an
 * exception. */
PyObject *py_result_of_weak(PyObject *weak);

/* Nobody will wait for the job: end the job, and release what it held. A
 * pending exception stays pending. */
void py_result_cancel(ResultObject *self);

/* The job is done: release what only a pending one needs. */
void py_result_release(ResultObject *self);

/* Release the results of all jobs that have ended and that the core hands
 * back. */
void py_job_collect(EngineObject *engine);

/* All tasks of the job are made, or the job was cancelled: a join of the pool
 * does not wait for the call any more. */
void py_result_end_call(ResultObject *self);

/* The result of a call that the current thread is in the middle of: a new
 * reference, or NULL. */
ResultObject *py_result_own_call(EngineObject *engine);

/* tell(): have the result's _told() called once, on the helper thread, when the
 * job is done, or (of a Stream) when a result can be taken. True; or False if
 * that is the case already. */
PyObject *py_result_tell(PyObject *op, PyObject *ignored);

/* is_begun(): has a worker begun the call? */
PyObject *py_result_is_begun(PyObject *op, PyObject *ignored);

/* progress(): how many items are done, and whether the job is. */
PyObject *py_result_progress(PyObject *op, PyObject *ignored);

/* ---- attributes ---- */

/* The number of the job, a new reference; or None. From now on the job holds
 * the result, since the program may look it up by its number. */
PyObject *py_result_number(ResultObject *self);

PyObject *py_result_get_pool(PyObject *op, void *closure);

/* ---- destruction ---- */

int py_result_traverse(PyObject *op, visitproc visit, void *arg);
int py_result_clear(PyObject *op);
void py_result_dealloc(PyObject *op);

#endif
