/*
 * From bytes to a settled result. Results arrive as bytes, and are decoded by
 * the thread that asks for them, or by the helper if there are callbacks. When
 * all have been decoded the result object is settled: its value and success
 * never change again. [attached]
 */
#ifndef PY_SETTLE_H
#define PY_SETTLE_H

#include "job/life.h"

/* ---- one result of the core ---- */

/* The value of a result that is CP_OK: a new reference, or NULL with an
 * exception. */
PyObject *py_result_value(ResultObject *self, struct cp_result *r);

/* The value of a result, or its failure, and which of the two it is. For a map
 * the value is None, and the values are in the list. An exception while
 * decoding is the failure. NULL with an exception that a signal handler raised
 * meanwhile: the result is unchanged, and the caller keeps it to decode it
 * again. */
PyObject *py_result_decode_one(ResultObject *self, struct cp_result *r,
                               bool *is_value);

/* Does the failure count as a value, because the call asks for the exceptions
 * of its items? */
bool py_result_returns(const ResultObject *self, const struct cp_result *r);

/* Free a result that was taken from the job. */
void py_result_free(ResultObject *self, struct cp_result *r);

/* ---- the result object ---- */

/* Decode the results that have arrived, and settle the object if the job is
 * done: 1 if it is settled, 0 if not, -1 with an exception of a signal handler.
 * If a result cannot be decoded, that is the job's failure. A job with
 * callbacks that is not done is left alone: 0. */
int py_result_absorb(ResultObject *self);

/* Decode the results that have arrived, also of a job with callbacks. 1: the
 * job is done, and this was the last of it; 0: perhaps not; or -1
 * with an exception: either an interrupt, and then the caller has to call
 * again; or that of py_engine_check(), if the code of a value has forked and
 * this is the copy. */
int py_result_decode(ResultObject *self);

/* All results are decoded. If the job ended early and has no failure yet, make
 * the reason for its end the failure. */
void py_result_finish(ResultObject *self);

/* The value so far as a new reference, or NULL. *success: whether it is a
 * value, not the failure. */
PyObject *py_result_peek(ResultObject *self, char *success);

/* Make value and success final: as they are, or a failure with exc, if exc is
 * not NULL. Steals exc. False: they were final before, and nothing changes. */
bool py_result_settle_take(ResultObject *self, PyObject *exc);

/* The outcome of a settled object: the value as a new reference, or NULL with
 * the failure raised. Since the program sees the outcome, it will not be
 * reported as unretrieved. */
PyObject *py_result_outcome(ResultObject *self);

/* Note that the program has seen the outcome. */
static inline void
py_result_set_retrieved(ResultObject *self)
{
    atomic_store_explicit(&self->retrieved, 1, memory_order_relaxed);
}

#endif
