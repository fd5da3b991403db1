/* Cancelling jobs, and jobs that end with their first failure. */
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <signal.h>
#include <unistd.h>

/* A job whose one task has begun and waits at the gate. */
static struct cp_job *
begun_job(struct rig *rig, uint32_t flags, enum op op, int more)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, flags);
    (void)batch_add(&batch, op, 0);
    for (int i = 0; i < more; i++) {
        batch_add(&batch, OP_ECHO, 0)->flags |= ORDER_COUNT;
    }
    batch_put(&batch, job, true);
    (void)rig_wait(rig, NULL, cp_now()); /* flush deferred output */
    rig_await_begun(rig, 1);
    return job;
}

static void
check_cancelled(struct cp_job *job)
{
    CHECK(atomic_load(&job->done));
    CHECK_EQ(atomic_load(&job->end), CP_END_CANCELLED);
    CHECK(cp_job_take(job) == NULL);
    cp_job_close(job);
}

/* Running tasks are killed, waiting tasks are withdrawn, and another job loses
 * nothing. */
TEST(cancel_kills_what_runs_and_nothing_else)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = begun_job(&rig, 0, OP_BUSY, 50);
    struct cp_job *other = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 20);
    CHECK(cp_job_stop(job, true));
    CHECK(!cp_job_stop(job, true));
    check_cancelled(job);
    rig_finish(&rig, other, 20);
    CHECK_EQ(rig.forks, 2);
    for (int i = 1; i <= 50; i++) {
        CHECK_EQ(rig.shared->runs[i], 0);
    }
    rig_close(&rig);
}

TEST(cancel_without_killing)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = begun_job(&rig, 0, OP_GATE, 3);
    CHECK(cp_job_stop(job, false));
    check_cancelled(job);
    rig_let_through(&rig, 1);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 9), 9);
    CHECK_EQ(rig.forks, 1);
    rig_close(&rig);
}

/* A job of one long frame, which is written at once, whatever the worker does. */
static struct cp_job *
put_long(struct rig *rig, enum op op)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, CP_JOB_SINGLE);
    (void)batch_add_long(&batch, op, 0, 8192);
    batch_put(&batch, job, true);
    return job;
}

/* The answer is in the ring: the task has finished, and its worker runs a task
 * of another job. The tasks of this callable are known to be short, so the
 * worker is sent more than one: it has two to read, and answers the first
 * without writing to the pipe. */
TEST(cancel_of_a_task_that_is_through)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    rig.func->avg_ns = 0;
    struct cp_job *first = put_long(&rig, OP_GATE);
    rig_await_begun(&rig, 1);
    /* However slow this thread is, the worker must not count as stuck. */
    atomic_store(&rig.pool->workers->row->since, cp_now() + 3600 * CP_SECOND);
    struct cp_job *job = put_long(&rig, OP_QUIET);
    struct cp_job *last = put_long(&rig, OP_GATE);
    rig_let_through(&rig, 1);
    rig_await_begun(&rig, 1);
    struct cp_worker *w = rig.pool->workers;
    cp_lock_acquire(&rig.pool->lock);
    CHECK(cp_worker_recv(w) >= 0); /* the first answer is in the pipe */
    CHECK_EQ(w->in_flight, 2);
    cp_lock_release(&rig.pool->lock);
    CHECK(!cp_job_stop(job, true));
    CHECK_EQ(atomic_load(&job->end), CP_END_NONE);
    rig_finish(&rig, first, 1);
    rig_finish(&rig, job, 1);
    rig_let_through(&rig, 1);
    rig_finish(&rig, last, 1);
    CHECK_EQ(rig.forks, 1);
    rig_close(&rig);
}

/* The callbacks of the job are run, and a thread that waits goes on. */
TEST(cancel_of_a_job_with_callbacks)
{
    struct rig rig;
    struct cp_job *called;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = begun_job(&rig, CP_JOB_CALLS, OP_BUSY, 0);
    CHECK(cp_job_stop(job, true));
    CHECK_EQ(cp_pool_next(rig.pool, CP_DO_CALLS, &called), CP_WAIT_CALL);
    CHECK(called == job);
    CHECK(!cp_job_stop(job, true));
    cp_job_called(called);
    cp_job_close(called);
    check_cancelled(job);
    rig_close(&rig);
}

/* The pool ends before the callbacks were run: waiters do not wait for them. */
TEST(cancel_of_a_job_with_callbacks_and_the_end)
{
    struct rig rig;
    struct cp_job *called;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = begun_job(&rig, CP_JOB_CALLS, OP_BUSY, 0);
    CHECK(cp_job_stop(job, true));
    CHECK(!atomic_load(&job->done));
    cp_pool_end(rig.pool);
    CHECK(atomic_load(&job->done));
    CHECK_EQ(cp_pool_next(rig.pool, CP_DO_CALLS, &called), CP_WAIT_CALL);
    cp_job_called(called);
    cp_job_close(called);
    check_cancelled(job);
    rig_close(&rig);
}

TEST(cancel_is_too_late)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 3);
    for (int i = 0; i < 3; i++) {
        cp_result_free(rig_take(&rig, job));
    }
    CHECK(!cp_job_stop(job, true));
    rig_close_job(&rig, job);
    rig_close(&rig);
}

static void
put_result(struct cp_job *job, uint64_t index, enum cp_outcome outcome)
{
    cp_job_put_result_take(job, cp_result_new(index, outcome, 0));
}

static void
check_next(struct cp_job *job, uint64_t index, enum cp_outcome outcome)
{
    struct cp_result *result = cp_job_take(job);
    CHECK(result != NULL);
    CHECK_EQ(result->index, index);
    CHECK_EQ(result->outcome, outcome);
    cp_result_free(result);
}

/* The failure comes right after the results that are there, even if results
 * before it are missing. */
TEST(cancel_by_the_first_failure)
{
    struct rig rig;
    rig_open(&rig, 1);
    for (int ordered = 0; ordered < 2; ordered++) {
        struct cp_job *job = rig_job(&rig, ordered ? CP_JOB_ORDERED : 0);
        cp_job_set_fail_fast(job);
        put_result(job, 0, CP_OK);
        put_result(job, 1, CP_OK);
        put_result(job, 9, CP_OK);
        CHECK(!atomic_load(&job->done));
        put_result(job, 5, CP_RAISED);
        CHECK(atomic_load(&job->done));
        CHECK_EQ(atomic_load(&job->end), CP_END_FAILED);
        put_result(job, 2, CP_OK); /* too late */
        check_next(job, 0, CP_OK);
        check_next(job, 1, CP_OK);
        if (!ordered) {
            check_next(job, 9, CP_OK);
        }
        check_next(job, 5, CP_RAISED);
        CHECK(cp_job_take(job) == NULL);
        cp_job_close(job);
    }
    rig_close(&rig);
}

TEST(cancel_by_the_first_failure_of_a_worker)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    cp_job_set_fail_fast(job);
    (void)batch_add(&batch, OP_RAISE, 0);
    for (int i = 0; i < 200; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    batch_put(&batch, job, false);
    struct cp_result *result = rig_take(&rig, job);
    CHECK_EQ(result->outcome, CP_RAISED);
    cp_result_free(result);
    CHECK(cp_job_take(job) == NULL);
    CHECK_EQ(cp_job_wants(job), 0);
    cp_job_close(job);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 9), 9);
    rig_close(&rig);
}

/* Two threads cancel and complete the job at the same time: there is one
 * outcome for each task. */
TEST(cancel_races_with_the_end)
{
    struct rig rig;
    int stopped = 0, ended = 0;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    for (int i = 0; i < 2000; i++) {
        struct cp_job *job = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
        for (volatile int pause = 0; pause < i % 50 * 20; pause = pause + 1) {
        }
        if (cp_job_stop(job, i % 20 == 0)) {
            stopped++;
            check_cancelled(job);
        } else {
            ended++;
            cp_result_free(rig_take(&rig, job));
            rig_close_job(&rig, job);
        }
        rig_fill(&rig);
        (void)rig_collect(&rig);
    }
    CHECK_EQ(stopped + ended, 2000);
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}
