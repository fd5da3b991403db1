/*
 * Calling the function of a task, in a worker process or in a worker thread.
 * [attached]
 */
#ifndef PY_CALL_H
#define PY_CALL_H

#include "value/run.h"

/* Call func for one call or one item, as the mode says. kwds is only for
 * PY_CALL_KW. A new reference, or NULL with an exception. */
PyObject *py_call_one(struct py_state *state, unsigned mode, PyObject *func,
                      PyObject *arg, PyObject *kwds);

/* How to call the items of a chunk. All zero except star: without anything
 * special. */
struct py_calls {
    bool star;
    /* Stop without an exception once this is above 0: func has forked, and this
     * is the forked copy. */
    const int *forked;
    const struct cp_pool *pool; /* likewise once this pool is a forked copy's */
    struct cp_row *row;         /* where to publish which item runs */
    bool timed;                 /* publish also when it began */
    struct cp_serve *measured;  /* of a worker with a memory_limit; or NULL */
    /* Makes the placeholder of an item that raised, from the pending exception.
     * NULL with an exception: the chunk fails. */
    PyObject *(*catch)(const struct py_calls *calls, PyObject *func,
                       Py_ssize_t item);
    struct py_state *state; /* for catch */
    PyObject *retrying; /* for catch: do not catch its exceptions; or NULL */
    uint32_t caught;    /* how often catch was called */
};

/* Replace each item of the run by the return value of func. 0; or -1 with an
 * exception, and only some items are replaced. */
int py_call_each(PyObject *func, struct py_run *run, struct py_calls *calls);

/* Run a little bytecode. The interpreter postpones some work until a thread
 * runs bytecode (garbage collections; without the GIL, freeing objects for
 * other threads). A thread that only calls C code would never do that work. */
void py_run_bytecode(struct py_state *state);

#endif
