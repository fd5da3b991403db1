/*
 * Functions that the two files that decode values call of each other: decoder.c
 * makes values and containers, and rebuild.c all other objects. See
 * value/reader.h for what the functions return. [attached]
 */
#ifndef PY_DECODE_H
#define PY_DECODE_H

#include "value/reader.h"

/* One value, with its tag; a column of n values, with its tag, into every
 * stride-th slot. */
int py_get_value(struct py_reader *in, PyObject **obj);
int py_get_column(struct py_reader *in, size_t n, PyObject **slots,
                  size_t stride);

/* n rows of `arity` items each, sent as one column of n for each item: into
 * `arity` slots for each row. */
int py_get_rows(struct py_reader *in, size_t n, size_t arity, PyObject **slots);

/* Allocate n slots that are NULL, or NULL with MemoryError; and release the
 * slots and their contents. */
PyObject **py_get_slots(size_t n);
void py_get_release(PyObject **slots, size_t n);

/* A tuple of n values, which move into it. */
PyObject *py_get_tuple_of(PyObject **values, size_t n);

/* The same as a list. Make it after the values, since from then on
 * gc.get_objects() can find it. */
PyObject *py_get_list_of(PyObject **values, size_t n);

/* The contents of an OBJECT: n objects into every stride-th slot. */
int py_rebuild_get(struct py_reader *in, size_t n, PyObject **slots,
                   size_t stride);

/* The same for the contents of a STANDARD. */
int py_rebuild_get_standard(struct py_reader *in, size_t n, PyObject **slots,
                            size_t stride);

/* The same for the contents of a SHARED. */
int py_rebuild_get_shared(struct py_reader *in, PyObject **obj);

#endif
