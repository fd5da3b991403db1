/*
 * Record, then act: the one place that does what follows from a change.
 *
 * Every public entry takes the lock, changes the state by functions that only
 * record, calls cp_act() and releases the lock with cp_unlock(). What cp_act()
 * cannot do at once is left to a thread that acts while no other thread is in a
 * call; see docs/pending.md.
 */
#ifndef CP_POOL_ACT_H
#define CP_POOL_ACT_H

#include "pool/state.h"

void cp_act_now(struct cp_pool *pool);

/* Do what is due until nothing is, then wake everybody who was noted. The lock is
 * held and stays held. */
static inline void
cp_act(struct cp_pool *pool)
{
    if ((pool->due | pool->noted) != 0 || pool->kills_due
        || atomic_load_explicit(&pool->has_unused, memory_order_relaxed)
        || cp_pool_has_limits(pool)) {
        cp_act_now(pool);
    }
}

#endif
