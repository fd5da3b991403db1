/*
 * Giving a job its callable. The callable is pickled once per job; and only
 * once for several jobs in a row, where it pickles as a name. But where pulling
 * items runs code, which may change its state, it is pickled for each task.
 * [attached]
 */
#ifndef PY_FUNC_H
#define PY_FUNC_H

#include "task/input.h"

/* Give the job of the input its callable. A callable that cannot be pickled is
 * the failure of each task (in->func_error). 0, or -1 with MemoryError or an
 * interrupt. Runs Python code. */
int py_func_set(struct py_input *in, PyObject *func);

/* Does the job have this callable already, and would pickle find it by the same name
 * again? Then another call of it can be a task of the same job. */
bool py_func_is_same(const struct py_input *in, PyObject *func);

/* Pickle the callable again, and append a body's beginning to out, if it is
 * another than the job's now: 1, and the task is PY_OWN_FUNC; 0 if it is the
 * same; or -1 with an exception. Runs Python code. */
int py_func_put_changed(const struct py_input *in, struct cp_buf *out);

/* What is known of the results of the job's callable. */
enum py_results py_func_results(const struct py_input *in);

/* Results of the job have come. If its callable is still the last one, what
 * they were is known for the next job. */
void py_func_note_results(const struct py_input *in);

#endif
