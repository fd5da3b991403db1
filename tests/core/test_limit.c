/* Time limits and retries. */
#include "pool/plan.h"
#include "pool/state.h"
#include "pool/watch.h"
#include "cp_test.h"
#include "rig.h"

#include <signal.h>

#define LIMIT (20 * CP_MS)

static struct cp_job *
limited_job(struct rig *rig, uint32_t flags, int64_t grace, uint32_t retries)
{
    struct cp_job *job = rig_job(rig, flags);
    cp_job_set_limits(job, LIMIT, grace, retries);
    return job;
}

static void
check_timed_out(struct cp_result *result, uint64_t index, int exitcode)
{
    CHECK_EQ(result->reason, CP_TIMED_OUT);
    CHECK(result->amount >= LIMIT);
    rig_check_lost(result, index, exitcode);
}

static void
check_unlimited(struct rig *rig)
{
    CHECK_EQ(rig->pool->n_limited, 0);
    CHECK_EQ(rig->pool->n_stopping, 0);
}

/* A task is not ended before its limit, and nothing else is lost. */
TEST(limit_ends_a_task)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    rig_await_started(&rig);
    struct cp_job *job = limited_job(&rig, CP_JOB_ORDERED, 0, 0);
    for (int i = 0; i < 100; i++) {
        (void)batch_add(&batch, i == 40 ? OP_BUSY : OP_ECHO, 0);
    }
    struct cp_job *other = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 100);
    int64_t began = cp_now();
    batch_put(&batch, job, true);
    rig_take_echoes(&rig, job, 40);
    check_timed_out(rig_take(&rig, job), 40, -SIGKILL);
    CHECK(cp_now() - began >= LIMIT);
    rig_take_echoes(&rig, job, 59);
    rig_close_job(&rig, job);
    rig_finish(&rig, other, 100);
    check_unlimited(&rig);
    rig_close(&rig);
}

/* No thread is in a call of the pool. */
TEST(limit_is_seen_by_the_standby)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    rig_await_asleep(&rig);
    struct cp_job *job = limited_job(&rig, CP_JOB_SINGLE, 0, 0);
    (void)batch_add(&batch, OP_BUSY, 0);
    batch_put(&batch, job, true);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    check_timed_out(cp_job_take(job), 0, -SIGKILL);
    cp_job_close(job);
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

/* A stopped worker is killed like any other. */
TEST(limit_ends_a_stopped_worker)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = limited_job(&rig, CP_JOB_SINGLE, 0, 0);
    (void)batch_add(&batch, OP_BUSY, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    CHECK_EQ(kill(rig.last_pid, SIGSTOP), 0);
    check_timed_out(rig_take(&rig, job), 0, -SIGKILL);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

TEST(limit_gives_time_to_stop)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = limited_job(&rig, CP_JOB_ORDERED, CP_SECOND * 60, 0);
    (void)batch_add(&batch, OP_STOPS, 0);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    check_timed_out(rig_take(&rig, job), 0, CP_NO_EXIT);
    rig_take_echoes(&rig, job, 1);
    rig_close_job(&rig, job);
    CHECK_EQ(rig.forks, 1);
    check_unlimited(&rig);
    rig_close(&rig);
}

TEST(limit_ends_a_task_that_does_not_stop)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = limited_job(&rig, CP_JOB_SINGLE, LIMIT, 0);
    (void)batch_add(&batch, OP_BUSY, 0);
    batch_put(&batch, job, true);
    check_timed_out(rig_take(&rig, job), 0, -SIGKILL);
    rig_close_job(&rig, job);
    check_unlimited(&rig);
    rig_close(&rig);
}

/* The job is cancelled, and its task is given time to stop. */
TEST(limit_of_a_cancelled_task)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    cp_job_set_limits(job, 0, CP_SECOND * 60, 0);
    (void)batch_add(&batch, OP_STOPS, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    CHECK(cp_job_stop(job, true));
    cp_job_close(job);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 5), 5);
    CHECK_EQ(rig.forks, 1);
    check_unlimited(&rig);
    rig_close(&rig);
}

/* The first signal comes just before the task makes a system call that blocks:
 * only another one interrupts that call. */
TEST(limit_asks_again_until_it_is_heard)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = limited_job(&rig, CP_JOB_ORDERED, CP_SECOND * 60, 0);
    (void)batch_add(&batch, OP_STOPS_DEAF, 0);
    (void)batch_add(&batch, OP_ECHO, 0);
    (void)batch_add(&batch, OP_STOPS_DEAF, 0);
    batch_put(&batch, job, true);
    check_timed_out(rig_take(&rig, job), 0, CP_NO_EXIT);
    rig_take_echoes(&rig, job, 1);
    check_timed_out(rig_take(&rig, job), 2, CP_NO_EXIT);
    rig_close_job(&rig, job);
    CHECK_EQ(rig.forks, 1);
    check_unlimited(&rig);
    rig_close(&rig);
}

/* The same when the job is cancelled, and no thread is in a call of the pool. */
TEST(limit_is_asked_for_again_by_the_standby)
{
    struct rig rig;
    struct batch batch = {0};
    uint32_t n_stopping = 1;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    rig_await_asleep(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    cp_job_set_limits(job, 0, CP_SECOND * 60, 0);
    (void)batch_add(&batch, OP_STOPS_DEAF, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    CHECK(cp_job_stop(job, true));
    while (n_stopping > 0) {
        cp_test_let_others_run();
        cp_lock_acquire(&rig.pool->lock);
        n_stopping = rig.pool->n_stopping;
        cp_lock_release(&rig.pool->lock);
    }
    cp_job_close(job);
    cp_pool_stop_standby(rig.pool);
    CHECK_EQ(rig.forks, 1);
    rig_close(&rig);
}

/* Less often each time; and once the worker has raised, the pool sleeps until
 * the grace is over. */
TEST(limit_asks_again_at_growing_intervals)
{
    static const int64_t intervals[] = {40, 80, 160, 320, 500, 500, 500};
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    cp_job_set_limits(job, 0, CP_SECOND * 60, 0);
    (void)batch_add(&batch, OP_BUSY, 0);
    batch_put(&batch, job, true);
    (void)rig_wait(&rig, NULL, cp_now()); /* flush deferred output */
    rig_await_begun(&rig, 1);
    struct cp_worker *w = rig.pool->workers;
    int64_t began = cp_now();
    CHECK(cp_job_stop(job, true));
    cp_job_close(job);
    cp_lock_acquire(&rig.pool->lock);
    int64_t at = w->ask_at;
    CHECK(at >= began + 20 * CP_MS && at <= cp_now() + 20 * CP_MS);
    CHECK(w->kill_at >= began + CP_SECOND * 60);
    for (size_t i = 0; i < sizeof(intervals) / sizeof(intervals[0]); i++) {
        cp_watch_limits(rig.pool, at - 1);
        CHECK_EQ(w->ask_at, at);
        CHECK_EQ(cp_plan_limit_at(rig.pool, at - 1), at);
        cp_watch_limits(rig.pool, at);
        CHECK_EQ(w->ask_at, at + intervals[i] * CP_MS);
        at = w->ask_at;
    }
    atomic_store(&w->row->stop, 0); /* as the worker does when it raises */
    CHECK_EQ(cp_plan_limit_at(rig.pool, at), w->kill_at);
    cp_watch_limits(rig.pool, at);
    CHECK_EQ(w->ask_at, at);
    cp_watch_limits(rig.pool, w->kill_at);
    CHECK(w->kill_due);
    cp_lock_release(&rig.pool->lock);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 5), 5);
    CHECK_EQ(rig.forks, 2);
    check_unlimited(&rig);
    rig_close(&rig);
}

/* The task stops just when its grace is over and its worker is to be killed. */
TEST(limit_of_a_task_that_stops_too_late)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = limited_job(&rig, CP_JOB_SINGLE, LIMIT, 0);
    (void)batch_add(&batch, OP_STOPS_LATE, 0);
    batch_put(&batch, job, true);
    (void)rig_wait(&rig, NULL, cp_now()); /* flush deferred output */
    rig_await_begun(&rig, 1);
    struct cp_worker *w = rig.pool->workers;
    cp_lock_acquire(&rig.pool->lock);
    cp_watch_limits(rig.pool, cp_now() + 2 * LIMIT);
    CHECK_EQ(w->stop_seq, 1);
    cp_lock_release(&rig.pool->lock);
    rig_await_begun(&rig, 1); /* it knows that it has to stop */
    cp_lock_acquire(&rig.pool->lock);
    cp_watch_limits(rig.pool, w->kill_at);
    CHECK(w->kill_due);
    cp_lock_release(&rig.pool->lock);
    rig_let_through(&rig, 1);
    while (atomic_load(&w->row->running) != 0) {
        cp_test_let_others_run();
    }
    check_timed_out(rig_take(&rig, job), 0, CP_NO_EXIT);
    rig_close_job(&rig, job);
    check_unlimited(&rig);
    rig_close(&rig);
}

/* The job has ended, but its task goes on. The time limit still applies, or the
 * worker would be lost for good. */
static void
check_left_behind(uint32_t flags)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = limited_job(&rig, flags, 0, 0);
    (void)batch_add(&batch, OP_BUSY, 0);
    batch_put(&batch, job, true);
    (void)rig_wait(&rig, NULL, cp_now()); /* flush deferred output */
    rig_await_begun(&rig, 1);
    CHECK(cp_job_stop(job, false));
    CHECK_EQ(rig.pool->n_limited, 1);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 5), 5);
    CHECK_EQ(rig.forks, 2);
    if ((flags & CP_JOB_CALLS) != 0) {
        struct cp_job *called;
        CHECK_EQ(cp_pool_next(rig.pool, CP_DO_CALLS, &called), CP_WAIT_CALL);
        cp_job_called(called);
        cp_job_close(called);
    }
    cp_job_close(job);
    check_unlimited(&rig);
    rig_close(&rig);
}

TEST(limit_outlives_the_job)
{
    check_left_behind(CP_JOB_SINGLE);
    check_left_behind(CP_JOB_SINGLE | CP_JOB_CALLS);
}

/* How often the only task of a job was run, and how the job ended. */
static void
check_retries(enum op op, uint32_t retries, uint32_t runs)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    cp_job_set_limits(job, 0, 0, retries);
    batch_add(&batch, op, SIGKILL)->flags |= ORDER_COUNT;
    batch_put(&batch, job, true);
    struct cp_result *result = rig_take(&rig, job);
    CHECK_EQ(result->outcome, op == OP_DIE ? CP_LOST : CP_RAISED);
    cp_result_free(result);
    CHECK_EQ(rig.shared->runs[0], runs);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

TEST(limit_of_retries)
{
    check_retries(OP_DIE, 0, 1);
    check_retries(OP_DIE, 3, 4);
    check_retries(OP_AGAIN, 0, 1);
    check_retries(OP_AGAIN, 3, 4);
    check_retries(OP_RAISE, 3, 1);
}

TEST(limit_and_retries)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = limited_job(&rig, CP_JOB_SINGLE, 0, 2);
    batch_add(&batch, OP_BUSY, 0)->flags |= ORDER_COUNT;
    batch_put(&batch, job, true);
    check_timed_out(rig_take(&rig, job), 0, -SIGKILL);
    CHECK_EQ(rig.shared->runs[0], 3);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* Quick tasks under a limit that is about as long as they are: each is a result or is
 * lost, never both. */
TEST(limit_races_with_the_end)
{
    enum { N = 300 };
    struct rig rig;
    struct batch batch = {0};
    int lost = 0;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    cp_job_set_limits(job, 1 * CP_US, 0, 0);
    for (int i = 0; i < N; i++) {
        batch_add(&batch, OP_ECHO, 0)->flags |= ORDER_COUNT;
    }
    batch_put(&batch, job, true);
    for (int i = 0; i < N; i++) {
        struct cp_result *result = rig_take(&rig, job);
        CHECK_EQ(result->index, i);
        lost += result->outcome == CP_LOST;
        CHECK(result->outcome == CP_OK || result->reason == CP_TIMED_OUT);
        /* A task may be killed between its begin and its first step. */
        CHECK(rig.shared->runs[i] == 1
              || (rig.shared->runs[i] == 0 && result->outcome == CP_LOST));
        cp_result_free(result);
    }
    CHECK(lost < N);
    rig_close_job(&rig, job);
    check_unlimited(&rig);
    rig_close(&rig);
}

#ifndef CP_PORTABLE
#    define MEMORY (32u << 20)

/* Only the item that takes the memory is lost. */
TEST(limit_of_memory)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_set_memory_limit(rig.pool, MEMORY), 0);
    CHECK_EQ(cp_pool_memory_limit(rig.pool), MEMORY);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (int i = 0; i < 20; i++) {
        (void)batch_add(&batch, i == 5 ? OP_TAKE : OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    rig_take_echoes(&rig, job, 5);
    struct cp_result *lost = rig_take(&rig, job);
    CHECK_EQ(lost->reason, CP_TOOK_MEMORY);
    CHECK(lost->amount > (int64_t)MEMORY);
    rig_check_lost(lost, 5, -SIGKILL);
    rig_take_echoes(&rig, job, 14);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* No thread is in a call of the pool. */
TEST(limit_of_memory_is_seen_by_the_standby)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_set_memory_limit(rig.pool, MEMORY), 0);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    rig_await_asleep(&rig);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_SINGLE, OP_TAKE, 1);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    struct cp_result *lost = cp_job_take(job);
    CHECK_EQ(lost->reason, CP_TOOK_MEMORY);
    rig_check_lost(lost, 0, -SIGKILL);
    cp_job_close(job);
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

/* An item is not to blame if it takes little memory in a worker that is full
 * already. */
TEST(limit_of_memory_spares_who_took_little)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_worker *w = rig.pool->workers;
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1);
    (void)rig_wait(&rig, NULL, cp_now()); /* flush deferred output */
    rig_await_begun(&rig, 1);
    CHECK_EQ(cp_pool_set_memory_limit(rig.pool, 1), 0);
    cp_lock_acquire(&rig.pool->lock);
    atomic_store(&w->row->memory_before, UINT64_MAX / 2);
    cp_watch_limits(rig.pool, cp_now() + CP_SECOND);
    CHECK(!w->doomed);
    atomic_store(&w->row->memory_before, 0);
    atomic_store(&w->row->memory_shared, UINT64_MAX);
    cp_watch_limits(rig.pool, cp_now() + 2 * CP_SECOND);
    CHECK(!w->doomed);
    cp_lock_release(&rig.pool->lock);
    rig_let_through(&rig, 1);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}
#endif
