/*
 * What the tasks of one job are made from: the callable, and the items of an
 * iterable.
 *
 * Only the thread that feeds the job uses it: first the thread of the call,
 * then the feeder thread that the call may start. Other threads read func,
 * mode, single_items, map_length and map_chunksize, which are written before
 * the first task is queued. [attached]
 */
#ifndef PY_INPUT_H
#define PY_INPUT_H

#include "base/engine.h"

/* The items, and how many there must be. */
struct py_source {
    EngineObject *engine; /* borrowed, as the input's */
    PyObject *iterator;   /* NULL: exhausted, or never set */
    Py_ssize_t length;    /* how many items there must be; -1: unknown */
    Py_ssize_t pulled;    /* how many items were pulled so far */
    char plain; /* iterating runs no Python code: tasks are made in blocks */
    char is_container; /* it holds one reference to each item */
    char is_sequence;  /* iterator is not an iterator, but the list or tuple */
    char at_end;       /* the end of the list was reached; never look again */
};

struct py_input {
    EngineObject *engine;  /* borrowed from the result that has this input */
    struct cp_job *job;    /* likewise */
    PyObject *func;        /* NULL: the items are the stdlib's task tuples */
    PyObject *func_error;  /* why the callable could not be pickled, or NULL */
    PyObject *args, *kwds; /* a call that is not encoded yet; or NULL */
    PyObject *failures;    /* index -> exception, of tasks that failed here */
    struct py_source source;
    Py_ssize_t chunksize;     /* items per task */
    Py_ssize_t map_length;    /* of the list that a map returns; -1: no map */
    Py_ssize_t map_chunksize; /* the chunksize that the map was called with */
    uint64_t index;           /* of the next task */
    unsigned mode;
    unsigned task_flags;  /* of each task, beside the mode */
    char single_items;    /* a task is one item, and its result is not a list */
    char func_may_change; /* pulling items may change the callable */
    char may_resize;      /* chunks may have other sizes than chunksize */
    char was_resizable;   /* chunks of other sizes were sent to processes */
    char probes;          /* until the first result, chunks have one item */
    char blocking; /* the thread of the call waits, and feeds meanwhile */
    char idle;     /* that thread is not feeding just now */
};

#endif
