/*
 * Codes of the core as exceptions, and the pending exception as an object. No
 * other file turns a code of the core into an exception. [attached]
 */
#ifndef PY_ERROR_H
#define PY_ERROR_H

#include "base/state.h"

/* Set the exception for a code of the core; for -1 an exception is already set.
 * Returns NULL. */
PyObject *py_raise(struct py_state *state, int code);

/* Before an exception that the end of the pool may have caused is raised. While the
 * interpreter ends, other threads than the one that ends it sleep here, usually
 * until the process is gone: they are daemon threads, and would print an error
 * that is none. Two seconds after the first of them all go on, as an exit
 * handler may wait for such a thread. Does not change a pending exception. */
void py_error_sleep_if_exiting(struct py_state *state);

/* Take the pending exception as an object, normalised and with its traceback,
 * and clear the error indicator. A new reference, never NULL. */
PyObject *py_error_fetch(void);

/* Raise this exception object again. The caller keeps its reference. */
void py_error_restore(PyObject *exc);

/* Is the pending exception one that is not an Exception (Ctrl-C, SystemExit)?
 * Such an exception ends what the thread does, and is never the failure of a
 * task. */
static inline bool
py_error_is_interrupt(void)
{
    return PyErr_ExceptionMatches(PyExc_Exception) == 0;
}

/* Does the pending exception end the call that it interrupts? True for an
 * interrupt, and for any exception that a signal handler raised on this thread.
 * Runs Python code. The exception stays pending, but if another handler raises
 * meanwhile, the newer exception is pending. */
bool py_error_leaves_call(struct py_state *state);

/* Was the pending exception raised by a signal handler? Otherwise as
 * py_error_leaves_call(). */
bool py_error_is_from_handler(struct py_state *state);

#endif
