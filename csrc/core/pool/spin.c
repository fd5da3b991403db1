/* Spinning before sleeping; see pool/spin.h. */
#include "pool/spin.h"

#include "pool/plan.h"
#include "pool/watch.h"

#include <sched.h>
#include <unistd.h>

/* How long to spin: longer than it takes to wake a worker and run the task. */
#define LOOK (50 * CP_US)
/* After this many spins in vain, this many waits skip the spin. */
#define MISSES 3u
#define REST 64u
/* The same for values: a worker that sleeps until it may yield more has to wake
 * up first, and one wait is for many values. */
#define LOOK_VALUES (200 * CP_US)
#define REST_VALUES 16u

uint32_t
cp_spin_count_cpus(void)
{
#ifdef CPU_COUNT
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return (uint32_t)CPU_COUNT(&set);
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

/* Read what workers have written to their pipes. Frames that were read from the
 * ring arrive there as well, and some arrive that were never seen in the ring.
 * Values stay only in the ring until it is nearly full. True if anything
 * arrived. */
static bool
catch_up(struct cp_pool *pool)
{
    bool any = false;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        uint64_t flushed =
            atomic_load_explicit(&w->row->flushed, memory_order_acquire);
        if (w->in_flight > 0 && !w->eof && w->read_bytes < flushed) {
            uint64_t before = w->read_bytes;
            cp_watch_receive(pool, w);
            any = any || w->read_bytes != before;
        }
    }
    return any;
}

/* Take references to the busy workers, so that they are not freed while the
 * lock is released. */
static uint32_t
hold_busy(struct cp_pool *pool, struct cp_worker **held)
{
    uint32_t n = 0;
    for (struct cp_worker *w = pool->workers; w != NULL && n < CP_WATCHED;
         w = w->next) {
        if (w->in_flight > 0 && !w->eof) {
            cp_worker_ref(w);
            held[n++] = w;
        }
    }
    return n;
}

static bool
look(struct cp_worker *const *held, const uint64_t *seen, uint32_t n,
     int64_t until)
{
    do {
        for (uint32_t round = 0; round < 32; round++) {
            for (uint32_t i = 0; i < n; i++) {
                if (atomic_load_explicit(&held[i]->row->committed,
                                         memory_order_acquire)
                    > seen[i]) {
                    return true;
                }
            }
            cp_relax();
        }
    } while (cp_now() < until);
    return false;
}

bool
cp_spin(struct cp_pool *pool, int64_t deadline)
{
    if (pool->standby_drives || !cp_plan_spin_pays(pool)
        || cp_now() >= pool->poll_at) {
        return false;
    }
    if (catch_up(pool)) {
        return true; /* the caller may be waiting for one of these */
    }
    if (pool->spin_rest > 0) {
        pool->spin_rest--;
        return false;
    }
    struct cp_worker *held[CP_WATCHED];
    uint64_t seen[CP_WATCHED];
    uint32_t n = hold_busy(pool, held);
    for (uint32_t i = 0; i < n; i++) {
        seen[i] = held[i]->seen_bytes;
    }
    bool for_values = cp_plan_values_come(pool);
    int64_t until = cp_now() + (for_values ? LOOK_VALUES : LOOK);
    pool->asleep = true; /* cp_act() notifies the eventfd then */
    cp_lock_release(&pool->lock);
    bool found = look(held, seen, n, cp_clock_min(deadline, until));
    cp_lock_acquire(&pool->lock);
    pool->asleep = false;
    for (uint32_t i = 0; i < n; i++) {
        cp_worker_unref(held[i]);
    }
    pool->spin_misses = found ? 0 : pool->spin_misses + 1;
    if (pool->spin_misses >= MISSES) {
        pool->spin_misses = 0;
        pool->spin_rest = for_values ? REST_VALUES : REST;
    }
    return found && cp_watch_harvest(pool);
}
