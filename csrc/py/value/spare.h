/*
 * Memory of large bytes and strings, used again for the next ones.
 *
 * The kernel takes longer to provide fresh memory than a copy into it takes. So a
 * worker keeps a reference to the last large bytes object or string that a task
 * got. If nobody else has the object when the task is over, and the next task
 * gets one of the same type and length, then that one is made of the same
 * memory. Otherwise the object is dropped, at the latest when the worker has been
 * idle for py_spare_ms().
 */
#ifndef PY_SPARE_H
#define PY_SPARE_H

#include "base/state.h"

/* An object whose n bytes, or n characters up to `most` (as for PyUnicode_New()),
 * are still to be written. NULL without an exception: there is no spare for
 * it. */
PyObject *py_spare_bytes(struct py_state *state, size_t n);
PyObject *py_spare_str(struct py_state *state, size_t n, Py_UCS4 most);

/* A task gets this object, which is large. */
void py_spare_note(struct py_state *state, PyObject *obj);

/* The task is over, and everything of it is dropped. */
void py_spare_settle(struct py_state *state);

/* How long an idle worker keeps its spare, in ms; 0: it has none. That is a
 * moment, and the time in which the parent sends another object of its size. */
int py_spare_ms(const struct py_state *state);

void py_spare_drop(struct py_state *state);

#endif
