/*
 * Waiting for a job, and decoding what comes back. [attached; waiting detaches]
 */
#ifndef PY_SETTLE_H
#define PY_SETTLE_H

#include "base/state.h"

/* Decode what has arrived, and settle the object if that was all: 1 where it
 * is settled, 0 where not, -1 with an exception of a signal handler. What cannot
 * be decoded is the job's failure. */
int py_result_absorb(ResultObject *self);

/* The value so far, or NULL, and whether it is none of a failure. A new
 * reference. */
PyObject *py_result_peek(ResultObject *self, char *success);

/* Value and success are final from now on, unless they were before: as they are,
 * or a failure with exc, which is stolen, where that is not NULL. False: they
 * were. */
bool py_result_settle_take(ResultObject *self, PyObject *exc);

/* Wait until the job is settled (a Result) or has a result (a Stream), or
 * until the deadline: 1, 0, or -1 with an exception of a signal handler. Replaces
 * workers meanwhile. */
int py_result_wait(ResultObject *self, int64_t deadline);

/* The thread of a call that waits for it: the same, for ever, and a blocking job
 * is fed meanwhile. */
int py_result_wait_and_feed(ResultObject *self);

/* The helper: decode the value, run the callbacks. An exception of theirs
 * becomes the result. */
void py_result_call(ResultObject *self);

/* The job is done: let go of what only a pending one needs. */
void py_result_release(ResultObject *self);

/* The exception for a result that is no value; a new reference, or NULL with
 * an exception set. */
PyObject *py_result_error(ResultObject *self, struct cp_result *r);

/* The value of a result with one; a new reference, or NULL with an exception. */
PyObject *py_result_value(ResultObject *self, struct cp_result *r);

/* Free a result that was taken. */
void py_result_free(ResultObject *self, struct cp_result *r);

#endif
