/*
 * A task that yields (CP_YIELDS), in a worker process: its callable returns an
 * iterator, and each value of the iterator is sent as it comes. [attached;
 * detached while it waits for credit]
 */
#ifndef PY_VALUES_H
#define PY_VALUES_H

#include "base/state.h"

#include "core/link/serve.h"

struct py_values {
    struct py_state *state;
    struct cp_serve *serve;
    uint64_t seq; /* of the task */
    bool timed;   /* the task's time limit holds for each value */
    bool is_measured;
    struct cp_buf *scratch;
    PyObject
        *report; /* the answer's body if a value cannot be encoded; or NULL */
};

/* The iterator of the values that a task yields. An asynchronous iterator is
 * run by an event loop of its own. A new reference, or NULL with an
 * exception. */
PyObject *py_values_iterator(struct py_state *state, PyObject *source);

/* Nobody takes more values: run the generator's cleanup. Its failure is
 * ignored, unless it is not an Exception: 0, or -1 with that. */
int py_values_close(PyObject *iterator);

/*
 * Send all values of what the callable has returned. 0 at the end, or when the
 * iterator was closed because nobody takes its values. -1 with an exception;
 * or, in a forked copy of the worker, without one. Or a code of the core:
 * nothing can be sent any more.
 */
int py_values_send(struct py_values *values, PyObject *source);

#endif
