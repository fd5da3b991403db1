/*
 * The contents of lists, sets and dicts, as new references: while one object is
 * encoded, code of the program may run that changes another one, and without
 * the GIL another thread may change it at any time. [attached]
 */
#ifndef PY_GATHER_H
#define PY_GATHER_H

#include "base/state.h"

/* Put the items of a list or tuple into every stride-th place: true; or false
 * where there are not n of them, and then no reference was made. */
bool py_gather_items(PyObject *sequence, Py_ssize_t n, PyObject **to,
                     Py_ssize_t stride);

/* The same for the items of a set or frozenset, one after the other. */
bool py_gather_set(PyObject *set, Py_ssize_t n, PyObject **to);

/* The same for keys, which lie one after the other, and values of a dict. With
 * `expected` not NULL only where its keys are the same strings as these, in this
 * order; then keys may be NULL. */
bool py_gather_dict(PyObject *dict, Py_ssize_t n, PyObject *const *expected,
                    PyObject **keys, PyObject **values, Py_ssize_t stride);

/* An array of n places that are NULL, or NULL with MemoryError; and releasing
 * what is in it, and the array. */
PyObject **py_gather_new(Py_ssize_t n);
void py_gather_free(PyObject **array, Py_ssize_t n);

#endif
