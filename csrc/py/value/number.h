/*
 * Ints and floats, one or a column of them; see value/writer.h and
 * value/reader.h for what the functions return. [attached]
 */
#ifndef PY_NUMBER_H
#define PY_NUMBER_H

#include "value/reader.h"
#include "value/writer.h"

int py_number_put_int(struct py_writer *w, PyObject *obj);
int py_number_put_float(struct py_writer *w, PyObject *obj);

/* An int with the tag TAG_INT, whose size varies. */
int py_number_get_wide(struct py_reader *in, PyObject **obj);

/* Does the int fit into 16 bytes, unsigned? */
bool py_number_is_of_16_bytes(PyObject *obj);

/* Putting a column may also return OTHER_KIND. */
int py_number_put_ints(struct py_writer *w, PyObject *const *items,
                       Py_ssize_t n);
int py_number_put_floats(struct py_writer *w, PyObject *const *items,
                         Py_ssize_t n);

/* n ints of one width, or n floats, into every stride-th slot. */
int py_number_get_column(struct py_reader *in, unsigned tag, size_t n,
                         PyObject **slots, size_t stride);

#endif
