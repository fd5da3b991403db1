/*
 * The optional argument `timeout` of get(), wait() and next(). [attached]
 */
#ifndef PY_TIMEOUT_H
#define PY_TIMEOUT_H

#include "base/state.h"

/* Convert a timeout (seconds as any real number; None or NULL: wait for ever)
 * to a deadline. 0, or -1 with the exception that the interpreter's own waits
 * would raise. */
int py_timeout_deadline(struct py_state *state, PyObject *timeout,
                        int64_t *deadline);

/* Raise multiprocessing.TimeoutError. Returns NULL. */
PyObject *py_timeout_raise(struct py_state *state);

#endif
