/*
 * Strings and bytes, one or a column of them; see value/writer.h and
 * value/reader.h for what the functions return. [attached]
 */
#ifndef PY_TEXT_H
#define PY_TEXT_H

#include "value/reader.h"
#include "value/writer.h"

/* tag: the tag of the first value (py_kind_of()). Putting a column may also
 * return OTHER_KIND. */
int py_text_put(struct py_writer *w, PyObject *obj, int tag);
int py_text_put_column(struct py_writer *w, PyObject *const *items,
                       Py_ssize_t n, int tag);

/* A column of KEYS: strings each of which is sent once in a body. Or
 * OTHER_KIND. */
int py_text_put_keys(struct py_writer *w, PyObject *const *items, Py_ssize_t n);
int py_text_get_keys(struct py_reader *in, size_t n, PyObject **slots);

int py_text_get(struct py_reader *in, unsigned tag, PyObject **obj);

/* The name of a module, or a name in a module. */
int py_text_get_name(struct py_reader *in, unsigned tag, PyObject **str);

/* n values into every stride-th slot. */
int py_text_get_column(struct py_reader *in, unsigned tag, size_t n,
                       PyObject **slots, size_t stride);

/* A bytearray; and a value that is a part of the body. */
int py_text_get_bytearray(struct py_reader *in, PyObject **obj);
int py_text_get_part(struct py_reader *in, PyObject **obj);

#endif
