/*
 * The exception for a result that is not a value: of a failed task, or of a job
 * that ended early. [attached]
 *
 * Each function returns a new reference; or NULL with an exception if the
 * failure itself could not be made.
 */
#ifndef PY_FAILURE_H
#define PY_FAILURE_H

#include "job/life.h"

/* For a result that is not CP_OK. */
PyObject *py_failure_of_result(ResultObject *self, struct cp_result *result);

/* In a chunk some of whose items raised (PY_CAUGHT), replace the placeholders
 * by the exceptions. 0, or -1 with an exception. */
int py_failure_release(ResultObject *self, struct cp_result *result,
                       PyObject **values, Py_ssize_t n);

/* Why the pool is broken, or None. */
PyObject *py_failure_of_pool(EngineObject *engine);

/* For a job that ended early. */
PyObject *py_failure_of_end(ResultObject *self);

/* For a job that was never given a task. */
PyObject *py_failure_of_no_task(ResultObject *self);

/* The failure that a map or an iterator of results raises for exc. It is exc
 * itself, unless exc is a StopIteration: the caller would take that for the end
 * of an iterator. Steals exc. */
PyObject *py_failure_raisable_take(ResultObject *self, PyObject *exc);

#endif
