/*
 * Tasks submitted one by one while the driver sleeps: which threads and workers
 * they wake.
 *
 * The test itself plays the driver, and claims to sleep. If the time at which a
 * worker began matters, the test sets that time too.
 */
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <poll.h>

struct burst {
    struct rig rig;
    struct cp_job *job;
    struct batch batch;
    struct cp_worker *busy, *idle;
    uint64_t taken;
};

static void
submit(struct burst *b)
{
    (void)batch_add(&b->batch, OP_ECHO, 0);
    batch_put(&b->batch, b->job, false);
}

/* Take a result as the driver. */
static void
take(struct burst *b)
{
    b->rig.pool->asleep = false;
    struct cp_result *result = rig_take(&b->rig, b->job);
    rig_check_echo(result);
    cp_result_free(result);
    b->taken++;
}

/* Two workers. One has begun a task of a job whose tasks are short. */
static void
open_burst(struct burst *b)
{
    *b = (struct burst){0};
    rig_open(&b->rig, 2);
    rig_await_started(&b->rig);
    b->job = rig_job(&b->rig, 0);
    submit(b);
    take(b);
    (void)batch_add(&b->batch, OP_GATE, 0);
    batch_put(&b->batch, b->job, false);
    rig_await_begun(&b->rig, 1);
    struct cp_pool *pool = b->rig.pool;
    b->busy = pool->workers;
    b->idle = b->busy->next;
    if (b->busy->in_flight == 0) {
        b->idle = b->busy;
        b->busy = b->busy->next;
    }
    CHECK_EQ(b->busy->in_flight, 1);
    CHECK_EQ(b->idle->in_flight, 0);
    while (atomic_load(&b->idle->row->got) < atomic_load(&b->idle->row->sent)) {
        cp_test_let_others_run(); /* a worker that has not read gets nothing */
    }
    atomic_store(&b->busy->row->since, cp_now() + 3600 * CP_SECOND);
}

/* The driver sleeps; recent tasks took task_ns. */
static void
sleeps(struct burst *b, bool ticking, int64_t task_ns)
{
    b->rig.pool->asleep = true;
    b->rig.pool->tick_ns = ticking ? 2 * CP_MS : CP_NEVER;
    b->rig.pool->task_ns = task_ns;
    b->rig.pool->woken = 1000;
}

static bool
is_woken(struct burst *b)
{
    struct pollfd fd = {.fd = b->rig.pool->wake.fds[0], .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void
close_burst(struct burst *b)
{
    cp_job_put_take(b->job, NULL, true);
    rig_let_through(&b->rig, 1);
    while (b->taken < b->batch.n) {
        take(b);
    }
    CHECK(rig_take(&b->rig, b->job) == NULL);
    cp_job_close(b->job);
    rig_close(&b->rig);
}

TEST(burst_flush_for_an_idle_worker_is_left_to_a_ticking_driver)
{
    struct burst b;
    open_burst(&b);
    sleeps(&b, true, CP_US);
    uint64_t sent = atomic_load(&b.idle->row->sent);
    submit(&b);
    CHECK_EQ(b.idle->in_flight, 1);
    CHECK(b.idle->flush_deferred);
    CHECK_EQ(atomic_load(&b.idle->row->sent), sent);
    submit(&b);
    submit(&b);
    CHECK_EQ(atomic_load(&b.idle->row->sent), sent);
    CHECK(!is_woken(&b));
    take(&b);
    CHECK(!b.idle->flush_deferred);
    close_burst(&b);
}

TEST(burst_many_tasks_are_flushed_at_once)
{
    struct burst b;
    open_burst(&b);
    sleeps(&b, true, CP_US);
    for (int i = 0; i < 1000 && (i == 0 || b.idle->flush_deferred); i++) {
        submit(&b);
    }
    CHECK(!b.idle->flush_deferred);
    close_burst(&b);
}

/* Reasons why the driver may not flush soon. Each of them is enough. */
enum hindrance {
    AWAKE,
    NO_TICK,
    LONG_TASKS,
    UNKNOWN,
    STUCK,
    LEFT,
    STARTING,
    FIRST,
    HINDRANCES
};

TEST(burst_flush_for_an_idle_worker_is_not_left_to_a_late_driver)
{
    for (int what = 0; what < HINDRANCES; what++) {
        struct burst b;
        open_burst(&b);
        sleeps(&b, what != NO_TICK,
               what == LONG_TASKS ? CP_MS
               : what == UNKNOWN  ? -1
                                  : CP_US);
        if (what == AWAKE) {
            b.rig.pool->asleep = false;
        } else if (what == STUCK) {
            atomic_store(&b.busy->row->since, cp_now() - CP_SECOND);
        } else if (what == LEFT) {
            b.busy->flush_deferred = true;
        } else if (what == STARTING) {
            b.busy->hello = false;
        } else if (what == FIRST) {
            b.rig.pool->woken = 0;
        }
        uint64_t sent = atomic_load(&b.idle->row->sent);
        submit(&b);
        CHECK_EQ(b.idle->in_flight, 1);
        CHECK(!b.idle->flush_deferred);
        CHECK(atomic_load(&b.idle->row->sent) > sent);
        CHECK(!is_woken(&b));
        b.busy->hello = true;
        close_burst(&b);
    }
}

/* Submitting wakes the driver only if it sleeps for longer than it should
 * now. */
TEST(burst_driver_without_a_tick_is_woken_by_a_second_task)
{
    struct burst b;
    open_burst(&b);
    sleeps(&b, false, CP_US);
    submit(&b);
    CHECK(!is_woken(&b));
    submit(&b);
    CHECK(is_woken(&b));
    close_burst(&b);
}

/* The driver ticks while results arrive, and for one tick more. */
TEST(burst_driver_ticks_while_results_arrive)
{
    struct burst b;
    open_burst(&b);
    submit(&b);
    take(&b);
    CHECK(b.rig.pool->stirred);
    CHECK_EQ(cp_pool_wait(b.rig.pool, b.job, cp_now() + 20 * CP_MS, 0),
             CP_WAIT_TIMEOUT);
    CHECK(!b.rig.pool->stirred);
    CHECK(b.rig.pool->tick_ns == CP_NEVER);
    close_burst(&b);
}
