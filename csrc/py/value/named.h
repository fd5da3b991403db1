/*
 * Classes, functions and other objects that are sent as a module and a name in
 * it. See value/writer.h and value/reader.h for what the functions return.
 * Run Python code. [attached]
 */
#ifndef PY_NAMED_H
#define PY_NAMED_H

#include "value/reader.h"
#include "value/writer.h"

/* Where a class was found last. All zero: it was not looked for yet. */
struct py_class_name {
    PyObject *module_name, *name; /* strings; or NULL */
};

/* Write obj by this name, or by its own if name is NULL, provided that the name
 * leads to obj. */
int py_named_put(struct py_writer *w, PyObject *obj, PyObject *name);

/* The same for a class, by its own name. *known was made for the present
 * version of the class: if that name still leads to the class, the attributes
 * of the class are not read again. */
int py_named_put_class(struct py_writer *w, PyTypeObject *cls,
                       struct py_class_name *known);

/* Forget where the class was found. */
void py_named_forget(struct py_class_name *known);

int py_named_get(struct py_reader *in, PyObject **obj);

/* The object of this name in the module, which is imported if necessary: a new
 * reference, or NULL with pickle's exception. */
PyObject *py_named_find(struct py_state *state, PyObject *module_name,
                        PyObject *name);

#endif
