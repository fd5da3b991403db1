/*
 * Calls that are not encoded yet. If many calls are queued that workers cannot
 * take soon, their encoded bytes would fill the memory, where the stdlib's pool
 * only holds references. So beyond some megabytes (cp_pool_has_room()) a call
 * is kept: its callable, arguments and keywords (or the source of a map) stay
 * in a list of the engine, in the order of submission. A thread of the pool
 * encodes them once the workers have taken what was queued, and ends with the
 * last one. While any call is kept, later calls are kept as well, so that calls
 * keep their order.
 *
 * If the pool cannot start that thread, the thread of the call encodes them
 * all. [attached]
 */
#ifndef PY_KEPT_H
#define PY_KEPT_H

#include "job/life.h"

/* Should the call that this thread is about to submit be kept? Never on the
 * thread that encodes kept calls, whose code may wait for the new call. */
bool py_kept_wanted(EngineObject *engine);

/* Keep the call. kwds NULL: it has none. With func and args NULL, too, it is a
 * map, whose source is set and runs no code. 0, or -1 with an exception, and
 * then the job is cancelled. */
int py_kept_add(EngineObject *engine, ResultObject *result, PyObject *func,
                PyObject *args, PyObject *kwds);

/* Something to be done once the calls that are kept now are encoded. */
struct py_kept_end {
    struct py_kept_end *next;
    uint64_t at; /* after how many calls of the engine */
    void (*run)(struct py_kept_end *end);
};

/* True: end->run() will be called, on another thread. False: no call is
 * kept. */
bool py_kept_defer(EngineObject *engine, struct py_kept_end *end);

/* Is this the thread that encodes kept calls? */
bool py_kept_is_caller(EngineObject *engine);

/* feed_calls(): encode kept calls until there are none left. The body of the
 * thread. */
PyObject *py_kept_feed(PyObject *engine, PyObject *ignored);

#endif
