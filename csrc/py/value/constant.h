/*
 * None, False and True, one or a column of them; see value/writer.h and
 * value/reader.h for what the functions return. [attached]
 */
#ifndef PY_CONSTANT_H
#define PY_CONSTANT_H

#include "value/reader.h"
#include "value/writer.h"

int py_constant_put(struct py_writer *w, PyObject *obj);
int py_constant_get(unsigned tag, PyObject **obj);

/* A column; putting one may also return OTHER_KIND. Getting one fills every
 * stride-th slot. */
int py_constant_put_column(struct py_writer *w, PyObject *const *items,
                           Py_ssize_t n);
int py_constant_get_column(struct py_reader *in, size_t n, PyObject **slots,
                           size_t stride);

#endif
