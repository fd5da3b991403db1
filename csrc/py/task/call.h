/*
 * Calling the function of a task, alike in a worker process and a worker thread.
 * [attached]
 */
#ifndef PY_CALL_H
#define PY_CALL_H

#include "value/run.h"

/* One call or one item: what func makes of arg as the mode says; kwds are for
 * PY_CALL_KW. A new reference, or NULL with an exception. */
PyObject *py_call_one(struct py_state *state, unsigned mode, PyObject *func,
                      PyObject *arg, PyObject *kwds);

/* Put in the place of each item what func makes of it: 0, or -1 with an
 * exception, and then the run holds some of both. */
int py_call_each(PyObject *func, struct py_run *run, bool star);

/* Run a little bytecode. A thread of ours that calls nothing but C would never come
 * to what the interpreter puts off until a thread runs some: collections, and
 * without the GIL freeing what other threads let go of. */
void py_breathe(struct py_state *state);

#endif
