/*
 * Spinning before sleeping. Waking a thread on another core takes tens of
 * microseconds, looking at a shared cache line takes a tenth of one. So a
 * thread that waits for short tasks spins for a while first, but only while
 * there is a core for each thread that works or spins, and while spinning has
 * paid lately: an idle or a busy machine pays nothing.
 */
#ifndef CP_POOL_SPIN_H
#define CP_POOL_SPIN_H

#include "pool/state.h"

/* Spin for results for a few microseconds, if that pays. The lock is held, and
 * released meanwhile. True: some results have arrived and were handled. */
bool cp_spin(struct cp_pool *pool, int64_t deadline);

/* How many CPUs this process may use, at least 1. [any] */
uint32_t cp_spin_count_cpus(void);

#endif
