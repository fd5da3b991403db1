/*
 * Mutex and condition variable: thin wrappers of pthreads. [any]
 *
 * A thread that holds a lock neither blocks nor runs code of the user. Lock
 * order: the pool's lock first, then at most one of the leaf locks (a
 * process's, a poller's, the descriptor table's). Shared memory has three
 * locks, taken in this order: a heap's, an area's, and the lock of the list of
 * all leases, which a fork holds. Deadlines are on the monotonic clock.
 */
#ifndef CP_LOCK_H
#define CP_LOCK_H

#include "base/base.h"
#include "base/clock.h"

#include <errno.h>
#include <pthread.h>

struct cp_lock {
    pthread_mutex_t mutex;
};

struct cp_cond {
    pthread_cond_t cond;
};

static inline int
cp_lock_init(struct cp_lock *lock)
{
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
    /* A holder is done sooner than a thread falls asleep and wakes up. */
    lock->mutex = (pthread_mutex_t)PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
    return 0;
#else
    int e = pthread_mutex_init(&lock->mutex, NULL);
    return e == 0 ? 0 : CP_ERRNO(e);
#endif
}

static inline void
cp_lock_fini(struct cp_lock *lock)
{
    (void)pthread_mutex_destroy(&lock->mutex);
}

static inline void
cp_lock_acquire(struct cp_lock *lock)
{
    (void)pthread_mutex_lock(&lock->mutex);
}

static inline void
cp_lock_release(struct cp_lock *lock)
{
    (void)pthread_mutex_unlock(&lock->mutex);
}

static inline int
cp_cond_init(struct cp_cond *cond)
{
    pthread_condattr_t attr;
    int e = pthread_condattr_init(&attr);
    if (e != 0) {
        return CP_ERRNO(e);
    }
#ifndef __APPLE__
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
#endif
    e = pthread_cond_init(&cond->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    return e == 0 ? 0 : CP_ERRNO(e);
}

static inline void
cp_cond_fini(struct cp_cond *cond)
{
    (void)pthread_cond_destroy(&cond->cond);
}

static inline void
cp_cond_signal(struct cp_cond *cond)
{
    (void)pthread_cond_signal(&cond->cond);
}

static inline void
cp_cond_broadcast(struct cp_cond *cond)
{
    (void)pthread_cond_broadcast(&cond->cond);
}

/* Wait until signalled or until the deadline (CP_NEVER: no deadline). Spurious
 * wake-ups happen, as with any condition variable. */
static inline void
cp_cond_wait(struct cp_cond *cond, struct cp_lock *lock, int64_t deadline)
{
    if (deadline == CP_NEVER) {
        (void)pthread_cond_wait(&cond->cond, &lock->mutex);
        return;
    }
#ifdef __APPLE__
    int64_t left = deadline - cp_now();
    if (left < 0) {
        left = 0;
    }
    struct timespec ts = {(time_t)(left / CP_SECOND), (long)(left % CP_SECOND)};
    (void)pthread_cond_timedwait_relative_np(&cond->cond, &lock->mutex, &ts);
#else
    struct timespec ts = {(time_t)(deadline / CP_SECOND),
                          (long)(deadline % CP_SECOND)};
    (void)pthread_cond_timedwait(&cond->cond, &lock->mutex, &ts);
#endif
}

#endif
