/*
 * Imports by the pool's own threads, for pickle: of the modules of classes and
 * functions. Python makes a thread wait for a module that another thread is
 * importing. That thread may be waiting for the pool: a program may use a pool
 * while its module is imported. So a thread of the pool takes the module as it is:
 * what is pickled by name is usually there. Only if that fails, it tries again, and
 * waits, but not for ever.
 */
#ifndef PY_IMPORTS_H
#define PY_IMPORTS_H

#include "base/state.h"

/* _import(name, ...): builtins.__import__ for threads of the pool, which run below
 * importing.run(). [attached] */
PyObject *py_imports_import(PyObject *module, PyObject *args, PyObject *kwds);

/* _import_without_waiting(bool): is the calling thread one of the pool? */
PyObject *py_imports_set(PyObject *module, PyObject *arg);

/* Pickling or unpickling begins. */
void py_imports_begin(void);

/* It has failed, with an exception: true if it may do better with complete modules;
 * then there is no exception, and it is to be tried again. */
bool py_imports_try_again(void);

/* It was tried again. */
void py_imports_end(void);

#endif
