/*
 * Classes, functions and other objects that are sent as a module and a name in
 * it. See value/writer.h and value/reader.h for what the functions return.
 * Run Python code. [attached]
 */
#ifndef PY_NAMED_H
#define PY_NAMED_H

#include "value/reader.h"
#include "value/writer.h"

/* Write obj by its own name (name NULL), or by this one, if that leads to
 * obj. */
int py_named_put(struct py_writer *w, PyObject *obj, PyObject *name);

int py_named_get(struct py_reader *in, PyObject **obj);

#endif
