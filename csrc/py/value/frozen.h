/*
 * Lists and dicts that another thread may change while they are encoded. With
 * the GIL nothing changes, since encoding runs no Python code; without the GIL,
 * copies are encoded. [attached]
 */
#ifndef PY_FROZEN_H
#define PY_FROZEN_H

#include "base/state.h"

/* Set *copies to copies of the lists or dicts; or to NULL for tuples, and where
 * there is a GIL. 1; or OTHER_KIND where the items differ in type or length; or
 * -1 with MemoryError. */
int py_frozen_copy(PyObject *const *items, Py_ssize_t n, PyObject ***copies);

/* Release the copies. copies may be NULL. */
void py_frozen_release(PyObject **copies, Py_ssize_t n);

#endif
