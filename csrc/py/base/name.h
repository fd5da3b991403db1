/*
 * Objects that pickle as a name, such as functions of a module: does the name
 * still lead to the object? A module that is reloaded has other objects by the
 * same names, and pickle would find those. [attached]
 */
#ifndef PY_NAME_H
#define PY_NAME_H

#include "base/state.h"

/* The module of this name as it is now: a new reference. NULL: with an
 * exception, or without one if there is no such module. PyImport_GetModule()
 * would wait for a module that another thread is importing, and that thread may
 * wait for the pool. */
PyObject *py_name_module(PyObject *module_name);

/* The object of this name in a module: a new reference. NULL: with an exception,
 * or without one if the module is not there, is no plain module, or has no such
 * name. Runs no Python code. */
PyObject *py_name_direct(PyObject *module_name, PyObject *name);

/* What a qualified name leads to in a module: a new reference, or NULL with an
 * exception. Runs Python code. */
PyObject *py_name_walk(PyObject *module, PyObject *name);

/* Where an object was found. All zero: nothing is known. */
struct py_name {
    PyObject *module_name, *module;
    PyObject *name; /* its qualified name in the module */
    bool plain;     /* the name has no dot, and the module is a plain one */
    /* The versions of sys.modules and of the module's dict at the last time
     * that the name led to the object; see base/dict.h. */
    uint64_t seen_modules, seen_names;
};

/* Find out under which name obj can be found. If there is none, the struct
 * stays all zero. Runs Python code. */
void py_name_find(struct py_name *name, PyObject *obj);

/* Does the name still lead to obj, for which the struct was made? Runs Python
 * code, unless the name is plain. An error counts as no. */
bool py_name_leads_to(struct py_name *name, PyObject *obj);

void py_name_clear(struct py_name *name);

#endif
