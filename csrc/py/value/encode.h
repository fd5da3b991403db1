/*
 * Functions that the two files that encode values call of each other: encoder.c
 * puts values and containers, and reduce.c puts all other objects. See
 * value/writer.h for what the functions return. [attached]
 */
#ifndef PY_ENCODE_H
#define PY_ENCODE_H

#include "value/writer.h"

/* One value, with its tag; a column of n values, with its tag. */
int py_put_value(struct py_writer *w, PyObject *obj);
int py_put_column(struct py_writer *w, PyObject *const *items, Py_ssize_t n);

/* A column of values that objects hold. copied: an array of ours has one more
 * reference to each value. */
int py_put_inner(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
                 bool copied);

/* A column of keys, or of attribute names, each of which is sent once in a
 * body. */
int py_put_keys(struct py_writer *w, PyObject *const *keys, Py_ssize_t n);

/* The size and the column of n values that belong to one of several objects. */
int py_put_sized(struct py_writer *w, PyObject *const *items, Py_ssize_t n);

/* n objects of one class, which has no rule in encoder.c, as the contents of a
 * column or (n is 1) of a value, with its tag. May also return OTHER_KIND. */
int py_reduce_put(struct py_writer *w, PyObject *const *items, Py_ssize_t n);

#endif
