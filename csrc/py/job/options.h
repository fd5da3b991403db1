/*
 * What a call may ask for beyond the standard library's parameters. [attached]
 */
#ifndef PY_OPTIONS_H
#define PY_OPTIONS_H

#include "job/life.h"

/* Exceptions of items are returned in place of their results. */
#define PY_RETURN_EXCEPTIONS 0x1
/* The first item that fails ends the call. */
#define PY_FAIL_FAST 0x2
/* The callable is a failures.Retrying. */
#define PY_RETRY_ON 0x4

/* Set the options of a result whose job has no tasks yet. options: None, or a
 * tuple of flags, time limit and grace in ns (0: none), and retries
 * (cpool/_engine/options.py). 0, or -1 with an exception. */
int py_options_set(ResultObject *self, PyObject *options);

/* Result._set_workers(indexes): the options say that each task is for a worker
 * of its own; this is the list of the indexes of these workers. */
PyObject *py_options_set_workers(PyObject *result, PyObject *indexes);

/* Result._set_options(options): py_options_set() as a method. */
PyObject *py_options_method(PyObject *result, PyObject *options);

#endif
