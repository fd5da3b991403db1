/*
 * Calls that are not encoded yet. Queued tasks that workers cannot take soon would fill
 * the memory with encoded bytes, where the stdlib's pool only holds references. So
 * beyond some megabytes (cp_pool_has_room()) a call is kept: its callable, arguments and
 * keywords (or the source of a map), in a list of the engine, in the order of submission. A thread of the pool
 * encodes them when the workers have taken what was queued, and ends with the last one.
 * While any call is kept, later calls are kept as well: calls keep their order.
 *
 * Where the pool has no thread for it, the thread of the call encodes them all.
 * [attached]
 */
#ifndef PY_KEPT_H
#define PY_KEPT_H

#include "job/life.h"

/* Is the call that this thread is about to submit to be kept? Not on the thread that
 * encodes them, whose code may wait for it. */
bool py_kept_wanted(EngineObject *engine);

/* Keep the call, or, where func, args and kwds are NULL, a map whose source is set and
 * runs no code: 0, or -1 with an exception, and then the job is cancelled. */
int py_kept_add(EngineObject *engine, ResultObject *result, PyObject *func,
                PyObject *args, PyObject *kwds);

/* feed_calls(): encode calls that are kept until there are none: the body of the
 * thread. */
PyObject *py_kept_feed(PyObject *engine, PyObject *ignored);

#endif
