/*
 * Imports by the pool's own threads, in pickle: of the modules of classes and
 * functions. Python makes a thread wait for a module that another thread is
 * importing. That other thread may be waiting for the pool, since a program may
 * use a pool while its module is imported. So a thread of the pool takes the
 * module as it is: what is pickled by name is usually there. Only if that
 * fails, the thread tries again, and then waits for the import, but not for
 * ever.
 */
#ifndef PY_IMPORTS_H
#define PY_IMPORTS_H

#include "base/state.h"

/* _import(name, ...): builtins.__import__ for threads of the pool that run
 * within importing.run(). [attached] */
PyObject *py_imports_import(PyObject *module, PyObject *args, PyObject *kwds);

/* _import_without_waiting(bool): set whether the calling thread belongs to the
 * pool. */
PyObject *py_imports_set(PyObject *module, PyObject *arg);

/* Pickling or unpickling begins. */
void py_imports_begin(void);

/* It has failed, with an exception. True: it may succeed with complete modules;
 * the exception is cleared, and the caller has to try again. */
bool py_imports_try_again(void);

/* The second try has ended. */
void py_imports_end(void);

#endif
