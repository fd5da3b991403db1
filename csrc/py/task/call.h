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

/* How the items of a chunk are called; all zero but star: plainly. */
struct py_calls {
    bool star;
    /* Stop without an exception once this is above 0, because func forked and this is
     * the copy. */
    const int *forked;
    struct cp_row *row;        /* where to publish which item runs */
    bool timed;                /* and since when */
    struct cp_serve *measured; /* of a worker with a memory_limit; or NULL */
    /* What stands for an item that raised, made of the pending exception; or NULL with
     * one, and then the chunk fails. */
    PyObject *(*catch)(const struct py_calls *calls, PyObject *func,
                       Py_ssize_t item);
    struct py_state *state; /* for catch */
    PyObject *retrying; /* likewise: whose exceptions are not caught; or NULL */
    uint32_t caught;    /* how often it was called */
};

/* Replace each item of the run by what func returns for it: 0, or -1 with an
 * exception, and then only some of the items are replaced. */
int py_call_each(PyObject *func, struct py_run *run, struct py_calls *calls);

/* Run a little bytecode. The interpreter puts off some work until a thread runs
 * bytecode (garbage collections; without the GIL, freeing objects for other
 * threads). A thread that calls nothing but C would never do that work. */
void py_run_bytecode(struct py_state *state);

#endif
