/*
 * A task that yields (CP_YIELDS), in a worker process: each value of the iterator that its
 * callable returns is sent as it comes. [attached; detached while it waits for credit]
 */
#ifndef PY_VALUES_H
#define PY_VALUES_H

#include "base/state.h"

#include "core/link/serve.h"

struct py_values {
    struct py_state *state;
    struct cp_serve *serve;
    uint64_t seq; /* of the task */
    bool timed;   /* each value has the task's time limit */
    bool is_measured;
    struct cp_buf *scratch;
    PyObject *
        report; /* a value cannot be encoded: the body of the answer; or NULL */
};

/* What a task yields, iterated; of an asynchronous iterator by an event loop of its own. A
 * new reference, or NULL with an exception. */
PyObject *py_values_iterator(struct py_state *state, PyObject *source);

/* Nobody takes more: run what the generator has to clean up. Its failure is nobody's, unless
 * it is no Exception: 0, or -1 with that. */
int py_values_close(PyObject *iterator);

/*
 * Send all values of what the callable has returned: 0 at its end, or when it was closed
 * because nobody takes them. -1 with an exception, or without one in a copy of the worker.
 * Or a code of the core: nothing can be sent any more.
 */
int py_values_send(struct py_values *values, PyObject *source);

#endif
