/*
 * Running the callbacks of a job, on the helper thread. [attached]
 */
#ifndef PY_CALLBACK_H
#define PY_CALLBACK_H

#include "job/life.h"

/* Decode the results of the job and call its callback. If the callback raises,
 * its exception becomes the result. */
void py_result_call_back(ResultObject *self);

/* If the job has a result as its teller, call _told() of that result. */
void py_result_told(struct cp_job *job);

#endif
