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

/* Take the pending exception as an object, normalised and with its traceback,
 * and clear the error indicator. A new reference, never NULL. */
PyObject *py_error_fetch(void);

/* Raise this exception object again. The caller keeps its reference. */
void py_error_restore(PyObject *exc);

/* Is the pending exception not an Exception (Ctrl-C, SystemExit)? Such an
 * exception ends what the thread does, and is never the failure of a task. */
static inline bool
py_error_is_interrupt(void)
{
    return PyErr_ExceptionMatches(PyExc_Exception) == 0;
}

/* Does the pending exception leave the call that it interrupts: is it an interrupt,
 * or was it raised by a signal handler on this thread, whatever its class? Runs
 * Python code; the exception stays pending, unless a handler raises again: then
 * the newer one is. */
bool py_error_leaves_call(struct py_state *state);

/* The second half of it. */
bool py_error_is_from_handler(struct py_state *state);

#endif
