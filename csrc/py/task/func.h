/*
 * Giving a job its callable. A callable that pickles as a name is pickled once for
 * several jobs in a row; any other is encoded as items are (value/body.h), once
 * for each job. But if pulling items runs code, which may change the state of the
 * callable, it is encoded for each task. [attached]
 */
#ifndef PY_FUNC_H
#define PY_FUNC_H

#include "task/input.h"

/* Give the job of the input its callable. A callable that cannot be pickled is
 * the failure of each task (in->func_error). 0, or -1 with MemoryError or an
 * interrupt. Runs Python code. */
int py_func_set(struct py_input *in, PyObject *func);

/* Does the job have this callable already, and would pickle still find it by
 * the same name? Then another call of it can be a task of the same job. */
bool py_func_is_same(const struct py_input *in, PyObject *func);

/* Encode the callable again. If it differs from the job's now, append the
 * beginning of a body to out: 1, and the task needs PY_OWN_FUNC. 0 if it is the
 * same; or -1 with an exception. Runs Python code. */
int py_func_put_changed(const struct py_input *in, struct cp_buf *out);

/* What is known of the results of the job's callable. */
enum py_results py_func_results(const struct py_input *in);

/* Results of the job have arrived. If its callable is still the one that was
 * pickled last, remember for the next job whether they share objects. */
void py_func_note_results(const struct py_input *in);

#endif
