/*
 * Giving a job its callable. The callable is pickled once per job; and only
 * once for several jobs in a row, where it pickles as a name. [attached]
 */
#ifndef PY_FUNC_H
#define PY_FUNC_H

#include "task/input.h"

/* Give the job of the input its callable. A callable that cannot be pickled is
 * the failure of each task (in->func_error). 0, or -1 with MemoryError or an
 * interrupt. Runs Python code. */
int py_func_set(struct py_input *in, PyObject *func);

#endif
