/*
 * The loop of a worker process: a task in, the function called, the answer out.
 * [attached; detached while it waits]
 */
#ifndef PY_SERVE_H
#define PY_SERVE_H

#include "base/state.h"

#include "core/link/serve.h"

/*
 * In the child: run tasks until the pool ends this worker, or until `budget`
 * tasks were run. Returns how many were run, or NULL with the exception that
 * ends the process.
 */
PyObject *py_serve(struct py_state *state, struct cp_serve *serve,
                   uint64_t budget);

/* Send one frame: 0, or a negative code. */
int py_serve_answer(struct cp_serve *serve, const struct cp_frame *frame,
                    const uint8_t *body);

/* _shared(slot): in a worker, the shared object in this slot; in the parent,
 * while it decodes an object that it shares, one that this object refers to. */
PyObject *py_serve_shared(PyObject *module, PyObject *arg);

/* The module's function _empty(empty, *args): what numpy.empty(*args) returns;
 * in a task, its data are in shared memory if they are large. */
PyObject *py_serve_empty(PyObject *module, PyObject *const *args, Py_ssize_t n);

#endif
