/* The arguments of a method that takes at most one. [attached] */
#ifndef PY_ARGUMENT_H
#define PY_ARGUMENT_H

#include "base/state.h"

/* Parse METH_FASTCALL | METH_KEYWORDS arguments: at most one, of this name, by
 * position or by keyword. *argument: borrowed, or NULL if it is not given. 0,
 * or -1 with TypeError. PyArg_ParseTupleAndKeywords() takes longer than many a
 * method. */
int py_argument_parse(PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames, const char *name, PyObject **argument);

#endif
