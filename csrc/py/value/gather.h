/*
 * Copies of the contents of lists, sets and dicts, as new references. They are
 * needed because, while one object is encoded, code of the program may change
 * another one, and without the GIL another thread may change it at any time.
 * [attached]
 */
#ifndef PY_GATHER_H
#define PY_GATHER_H

#include "base/state.h"

/* Put the items of a list or tuple into every stride-th place. True; or false
 * if there are not exactly n of them, and then no reference was made. */
bool py_gather_items(PyObject *sequence, Py_ssize_t n, PyObject **to,
                     Py_ssize_t stride);

/* The same for the items of a set or frozenset, into adjacent places. */
bool py_gather_set(PyObject *set, Py_ssize_t n, PyObject **to);

/* The same for a dict: its keys, into adjacent places, and its values. If
 * `expected` is not NULL, the keys must be these strings in this order, and
 * `keys` may be NULL. */
bool py_gather_dict(PyObject *dict, Py_ssize_t n, PyObject *const *expected,
                    PyObject **keys, PyObject **values, Py_ssize_t stride);

/* Allocate an array of n places that are NULL, or NULL with MemoryError; and
 * release the array and its contents. */
PyObject **py_gather_new(Py_ssize_t n);
void py_gather_free(PyObject **array, Py_ssize_t n);

#endif
