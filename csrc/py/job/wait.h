/*
 * Waiting for a job. The thread that waits runs the core's event loop, starts
 * missing workers, and decodes what arrives. [attached; detached while it
 * waits]
 */
#ifndef PY_WAIT_H
#define PY_WAIT_H

#include "job/life.h"

/* Wait until the job is settled (a Result) or has a result (a Stream), or until
 * the deadline: 1, 0, or -1 with an exception of a signal handler. */
int py_result_wait(ResultObject *self, int64_t deadline);

/* Wait for results of a job of calls, or until one call has ended, as
 * cp_job_wait_call(). 1, 0, or -1 with an exception of a signal handler. */
int py_result_wait_call(ResultObject *self, const struct cp_call *call,
                        int64_t deadline);

/* Wait for a job that only the caller knows, and feed it meanwhile if it is
 * blocking. Returns the value, or NULL with an exception. If the exception is
 * not the failure of a task, the job is cancelled. */
PyObject *py_result_await(ResultObject *self);

/* Feed a job for which its caller waits: as py_feed() with n = 0. */
int py_result_feed(ResultObject *self);

#endif
