/*
 * The type _core.Worker: one worker process, seen from the parent, and in the
 * child the loop that runs its tasks. [attached]
 */
#ifndef PY_WORKER_H
#define PY_WORKER_H

#include "base/state.h"

typedef struct {
    PyObject_HEAD
    struct py_state *state;
    struct cp_worker *worker;
    struct cp_pool *pool; /* referenced until the process is being watched */
} WorkerObject;

/* A worker that is ready to be forked, for this pool. */
PyObject *py_worker_new(struct py_state *state, struct cp_pool *pool,
                        uint64_t budget);

/* _core._attach(): the worker that this process is, from what ends() gave, where it
 * was not forked. */
PyObject *py_worker_attach(PyObject *module, PyObject *args);

/*
 * In the child: run tasks until the pool ends this worker, or `budget` tasks
 * have been run. Their number, or NULL with the exception that ends the process.
 */
PyObject *py_serve(struct py_state *state, struct cp_serve *serve,
                   uint64_t budget);

/* Send one frame whose body is bytes: 0, or a negative code. */
int py_serve_answer(struct cp_serve *serve, const struct cp_frame *frame,
                    const uint8_t *body);

#endif
