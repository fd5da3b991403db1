/*
 * Futures of the standard library's class (concurrent.futures.Future), as the calls of
 * an executor return them. They are made here, since their own __init__ takes longer
 * than all else that a call costs: the attributes are the same ones, but for the
 * condition, which is a ConditionObject.
 *
 * The condition is the lock of the future, as the standard library's is, and knows the
 * call that the future stands for. Its methods, and how it waits, are in
 * job/condition.h; here is what a call's end does. [attached]
 */
#ifndef PY_FUTURE_H
#define PY_FUTURE_H

#include "base/state.h"

#include "core/pool/pool.h"

typedef struct py_condition {
    PyObject_HEAD
    struct py_state *state;
    struct py_lane
        *lane;        /* strong; NULL: the call has ended, or there is none */
    PyObject *future; /* strong, as long as lane is */
    /* In the lane's list of calls, or of ended calls with callbacks; guarded by the
     * lane's critical section. */
    struct py_condition *next, *prev;
    struct cp_call call;
    _Atomic unsigned long owner; /* the thread that has the lock; or 0 */
    unsigned depth;              /* how often it has it; the owner's */
    _Atomic unsigned waiting;    /* threads that wait for the lock */
    char is_running;             /* the future is known to run; the owner's */
} ConditionObject;

/* Import the class, once: 0, or -1 with an exception. */
int py_futures_begin(struct py_state *state);
void py_futures_end(struct py_state *state);

/* A new pending future and its condition, which has no lane yet: a new reference to the
 * condition, whose future is set; or NULL with an exception. */
ConditionObject *py_future_new(struct py_state *state);

/* Take the lock, as often as wanted by one thread, and release it. */
void py_condition_acquire(ConditionObject *self);
void py_condition_release(ConditionObject *self);

/* Has this thread the lock? */
static inline bool
py_condition_has(ConditionObject *self)
{
    return atomic_load(&self->owner) == PyThread_get_thread_ident();
}

/* Has any thread such a lock, perhaps this one? */
bool py_condition_any_held(struct py_state *state);

/* How often this thread has the lock; then it has it no more; and again. */
unsigned py_condition_release_all(ConditionObject *self);
void py_condition_acquire_again(ConditionObject *self, unsigned depth);

/* The call has ended: the future has the value, or raises it. NULL: the call was
 * withdrawn, which only a future can be that was cancelled. What somebody else has made
 * of the future meanwhile stays. 1: there are callbacks to be run; 0: there are none; -1
 * with an exception that the program's code raised. */
int py_future_end(ConditionObject *self, PyObject *value, bool is_value);

/* Was the future cancelled? */
bool py_future_is_cancelled(ConditionObject *self);

/* A worker has begun the call. */
void py_future_set_running(ConditionObject *self);

/* Run the callbacks of a future that has ended, as its own methods do: 0, or -1 with an
 * exception. */
int py_future_call_back(ConditionObject *self, PyObject *future);

#endif
