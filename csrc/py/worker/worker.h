/*
 * The type _core.Worker: one worker process, as the parent sees it; and in the
 * child, the loop that runs its tasks. [attached]
 */
#ifndef PY_WORKER_H
#define PY_WORKER_H

#include "base/depth.h"

#include "core/pool/pool.h"

/* A worker of this pool that is not started yet. It may run `budget` tasks, and
 * has this index in the pool. If it is forked, it starts at this call depth. A
 * new reference, or NULL with an exception. */
PyObject *py_worker_new(struct py_state *state, struct cp_pool *pool,
                        uint64_t budget, uint32_t index, struct py_depth depth);

/* _core._fork_all(workers, processes, run, around, flush): fork the workers of a
 * tuple, one right after the other: little memory changes in between, which each
 * fork would have to copy. Between two forks it calls flush(): what the program's
 * fork hooks have printed must not be in the buffers of the next worker, too.
 * Returns (how many were forked, the exception that ended it or None). A worker
 * calls run(process, worker, around), with its process of the second tuple, and
 * ends: code of the caller that it ran on its way there would be on pages that it
 * has to copy. */
PyObject *py_worker_fork_all(PyObject *module, PyObject *args);

/* _core._attach(...): in a worker process that was not forked, the worker that
 * this process is, made from what Worker.ends() returned in the parent. */
PyObject *py_worker_attach(PyObject *module, PyObject *args);

/* Add the type to the module: 0, or -1 with an exception. */
int py_worker_add_type(PyObject *module, struct py_state *state);

#endif
