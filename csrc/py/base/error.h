/*
 * The only place where the core's codes become exceptions, and where what
 * a worker reported becomes one. [attached]
 */
#ifndef PY_ERROR_H
#define PY_ERROR_H

#include "base/state.h"

/* Set the exception for a core code; -1 is already one. Returns NULL. */
PyObject *py_raise(struct py_state *state, int code);

/* The exception for a result that is not CP_OK: a new reference, or NULL where
 * not even that could be made (an exception is set). func names the
 * callable in texts; it may be NULL. */
PyObject *py_error_of_result(struct py_state *state,
                             const struct cp_result *result, PyObject *func);

/* The exception for a job that ended early. */
PyObject *py_error_of_end(EngineObject *engine, struct cp_job *job);

/* The pending exception as an object, normalised, with its traceback; the
 * error indicator is clear after. A new reference, never NULL. */
PyObject *py_error_fetch(void);

/* Is the pending exception none that a task can be said to have failed with, but
 * one that is to end what this thread does (Ctrl-C, SystemExit)? */
static inline bool
py_error_is_interrupt(void)
{
    return PyErr_ExceptionMatches(PyExc_Exception) == 0;
}

/* Raise this object again (keeps the caller's reference). */
void py_error_restore(PyObject *exc);

#endif
