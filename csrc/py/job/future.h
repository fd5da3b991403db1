/*
 * Futures of the standard library's class (concurrent.futures.Future), which
 * the calls of an executor return. They are made here, since their own __init__
 * takes longer than everything else in a call. They have the same attributes,
 * except that the condition is a ConditionObject.
 *
 * The condition is the lock of the future, as in the standard library, and
 * knows the future's call. Its methods, and its way of waiting, are in
 * job/condition.h; this file has what happens when the call ends. [attached]
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
    /* In the lane's list of calls, or in that of ended calls with callbacks;
     * guarded by the lane's critical section. */
    struct py_condition *next, *prev;
    struct cp_call call;
    _Atomic unsigned long owner; /* the thread that has the lock; or 0 */
    unsigned depth;              /* how often it has it; the owner's */
    _Atomic unsigned waiting;    /* threads that wait for the lock */
    _Atomic unsigned long
        decoder;     /* the thread that rebuilds its value; or 0 */
    char is_running; /* the future is known to run; the owner's */
    char was_locked; /* the program has acquired the lock; the owner's */
} ConditionObject;

/* Import the class, once: 0, or -1 with an exception. */
int py_futures_begin(struct py_state *state);
void py_futures_end(struct py_state *state);

/* A new pending future and its condition, which has no lane yet. Returns a new
 * reference to the condition, whose `future` is set; or NULL with an
 * exception. */
ConditionObject *py_future_new(struct py_state *state);

/* Acquire and release the lock, which is reentrant. */
void py_condition_acquire(ConditionObject *self);
void py_condition_release(ConditionObject *self);

/* Acquire the lock for a moment, in which no other lock of this kind is taken and
 * no code of the program runs; but not if any thread has it. Release it again. */
bool py_condition_try(ConditionObject *self);
void py_condition_untry(ConditionObject *self);

/* Does this thread hold the lock? */
static inline bool
py_condition_has(ConditionObject *self)
{
    return atomic_load(&self->owner) == PyThread_get_thread_ident();
}

/* Does any thread, perhaps this one, hold such a lock? */
bool py_condition_any_held(struct py_state *state);

/* Release the lock completely, and return how often this thread had acquired
 * it; and acquire it that often again. */
unsigned py_condition_release_all(ConditionObject *self);
void py_condition_acquire_again(ConditionObject *self, unsigned depth);

/* The call has ended: make value the result of the future, or the exception
 * that it raises. NULL: the call was withdrawn, which happens only if the
 * future was cancelled. If other code has set an outcome meanwhile, that one
 * stays. 1: there are callbacks to run; 0: there are none; -1 with an exception
 * that the program's code raised. */
int py_future_end(ConditionObject *self, PyObject *value, bool is_value);

/* The lock is held, and the program has never taken it: make value the result. 0,
 * or -1 with an exception. */
int py_future_finish(ConditionObject *self, PyObject *value);

/* Was the future cancelled? */
bool py_future_is_cancelled(ConditionObject *self);

/* A worker has begun the call. */
void py_future_set_running(ConditionObject *self);

/* Run the callbacks of a future that has ended, as its own methods do: 0, or -1 with an
 * exception. */
int py_future_call_back(ConditionObject *self, PyObject *future);

#endif
