/* Callbacks, and tasks queued behind a slow task. */
#include "pool/plan.h"
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- callbacks ---- */

struct helper {
    struct rig *rig;
    struct cp_job *waits_for; /* wait until its driver sleeps before the call */
    _Atomic int calls, idles;
};

/* Run "callbacks", replace workers and collect ended jobs, until the end. */
static void *
help(void *arg)
{
    struct helper *helper = arg;
    struct cp_job *job;
    for (;;) {
        switch (
            cp_pool_next(helper->rig->pool, CP_DO_CALLS | CP_DO_STARTS, &job)) {
            case CP_WAIT_CALL:
                if (job == helper->waits_for) {
                    rig_await_asleep(helper->rig);
                }
                CHECK(!atomic_load(&job->done));
                (void)atomic_fetch_add(&helper->calls, 1);
                cp_job_called(job);
                cp_job_close(job);
                break;
            case CP_WAIT_WORKERS: rig_fill(helper->rig); break;
            case CP_WAIT_IDLE:
                (void)rig_collect(helper->rig);
                (void)atomic_fetch_add(&helper->idles, 1);
                break;
            case CP_WAIT_ENDED: return NULL;
            default: CHECK(false);
        }
    }
}

TEST(flow_job_is_done_after_its_callbacks)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, CP_JOB_CALLS);
    struct helper helper = {.rig = &rig, .waits_for = job};
    (void)batch_add(&batch, OP_ECHO, 0);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    pthread_t thread = cp_test_start(help, &helper);
    CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
    CHECK_EQ(atomic_load(&helper.calls), 1);
    CHECK(atomic_load(&job->done));
    rig_finish(&rig, job, 2);
    cp_pool_end(rig.pool);
    (void)cp_test_join(thread);
    rig_join(&rig);
    rig_release(&rig);
}

TEST(flow_callbacks_of_many_jobs)
{
    enum { N = 200 };
    static struct cp_job *jobs[N];
    struct rig rig;
    struct helper helper = {.rig = &rig};
    rig_open(&rig, 2);
    pthread_t thread = cp_test_start(help, &helper);
    for (int i = 0; i < N; i++) {
        struct batch batch = {0};
        jobs[i] = rig_job(&rig, CP_JOB_CALLS | CP_JOB_SINGLE);
        (void)batch_add(&batch, OP_ECHO, 0);
        batch_put(&batch, jobs[i], true);
    }
    for (int i = 0; i < N; i++) {
        CHECK_EQ(rig_wait(&rig, jobs[i], CP_NEVER), CP_WAIT_READY);
        rig_finish(&rig, jobs[i], 1);
    }
    CHECK_EQ(atomic_load(&helper.calls), N);
    while (atomic_load(&helper.idles) == 0) {
        cp_test_let_others_run(); /* until the ended jobs are collected */
    }
    cp_pool_close(rig.pool);
    rig_join(&rig);
    (void)cp_test_join(thread);
    rig_release(&rig);
}

/* Two tasks run when their job ends early. Their later answers do not run the
 * callbacks again. */
TEST(flow_callbacks_run_once)
{
    struct rig rig;
    struct batch batch = {0};
    struct cp_job *called;
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, CP_JOB_CALLS);
    (void)batch_add(&batch, OP_GATE, 0);
    (void)batch_add(&batch, OP_GATE, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 2);
    cp_pool_break_take(rig.pool, NULL);
    CHECK_EQ(atomic_load(&job->end), CP_END_BROKEN);
    CHECK(!atomic_load(&job->done));
    rig_let_through(&rig, 2);
    while (cp_job_arrived(job, NULL) < 2) {
        CHECK_EQ(cp_pool_wait(rig.pool, job, cp_now() + CP_MS, 0),
                 CP_WAIT_TIMEOUT);
    }
    CHECK_EQ(cp_pool_next(rig.pool, CP_DO_CALLS | CP_DO_STARTS, &called),
             CP_WAIT_CALL);
    CHECK(called == job);
    cp_job_called(job);
    cp_job_close(job);
    CHECK_EQ(cp_pool_next(rig.pool, CP_DO_CALLS | CP_DO_STARTS, &called),
             CP_WAIT_IDLE);
    CHECK_EQ(rig_collect(&rig), 1);
    CHECK(rig_take(&rig, job) == NULL);
    cp_job_close(job);
    rig_close(&rig);
}

/* The results have arrived, the callbacks still run, and the pool is terminated:
 * waiting threads go on and get the results. */
TEST(flow_end_while_callbacks_run)
{
    struct rig rig;
    struct batch batch = {0};
    struct cp_job *called;
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_CALLS);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    while (cp_job_arrived(job, NULL) == 0) {
        (void)cp_pool_wait(rig.pool, job, cp_now() + CP_MS, 0);
    }
    CHECK_EQ(cp_pool_next(rig.pool, CP_DO_CALLS | CP_DO_STARTS, &called),
             CP_WAIT_CALL);
    cp_pool_end(rig.pool);
    CHECK_EQ(cp_pool_wait(rig.pool, job, CP_NEVER, 0), CP_WAIT_READY);
    rig_finish(&rig, job, 1);
    cp_job_called(called);
    cp_job_called(called); /* nothing more happens */
    CHECK_EQ(rig_collect(&rig), 1);
    cp_job_close(called);
    rig_join(&rig);
    rig_release(&rig);
}

/* ---- behind a slow task ---- */

/* Wait until all workers have answered: one whose tasks another worker has run, on
 * a busy machine, counts as stuck until then. */
static void
await_answers(struct rig *rig)
{
    bool is_awaited = true;
    while (is_awaited) {
        (void)rig_wait(rig, NULL, cp_now() + CP_MS);
        cp_lock_acquire(&rig->pool->lock);
        is_awaited = false;
        for (struct cp_worker *w = rig->pool->workers; w != NULL; w = w->next) {
            is_awaited = is_awaited || cp_plan_is_awaited(w);
        }
        cp_lock_release(&rig->pool->lock);
    }
}

/* Each worker has half of the tasks, and the first task is slow. The tasks behind it
 * go to the other worker, and each of them runs once. */
TEST(flow_slow_task_delays_no_other_task)
{
    enum { N = 100 };
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    rig_await_started(&rig);
    struct cp_job *job = rig_quick_job(&rig, &batch, 0, 4);
    await_answers(&rig);
    for (int i = 0; i < N; i++) {
        batch_add(&batch, i == 0 ? OP_GATE : OP_ECHO, 0)->flags = ORDER_COUNT;
    }
    batch_put(&batch, job, true);
    cp_lock_acquire(&rig.pool->lock);
    CHECK_EQ(rig.pool->workers->in_flight, N / 2);
    CHECK_EQ(rig.pool->workers->next->in_flight, N / 2);
    cp_lock_release(&rig.pool->lock);
    rig_await_begun(&rig, 1);
    rig_take_echoes(&rig, job, N - 1);
    rig_let_through(&rig, 1);
    rig_take_echoes(&rig, job, 1);
    CHECK(rig_take(&rig, job) == NULL);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(rig.shared->runs[4 + i], 1);
    }
    cp_job_close(job);
    rig_close(&rig);
}

/* Workers get tasks before they have started. One of them never starts: the other
 * worker runs its tasks too. */
TEST(flow_worker_that_never_starts_delays_no_task)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 0);
    rig.start = START_WAITS;
    (void)rig_fork(&rig);
    (void)rig_fork(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (int i = 0; i < 20; i++) {
        batch_add(&batch, OP_ECHO, 0)->flags = ORDER_COUNT;
    }
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 2); /* the initializers have begun */
    cp_lock_acquire(&rig.pool->lock);
    CHECK_EQ(rig.pool->workers->in_flight, 1);
    CHECK_EQ(rig.pool->workers->next->in_flight, 1);
    cp_lock_release(&rig.pool->lock);
    rig_let_through(&rig, 1);
    rig_finish(&rig, job, 20);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(rig.shared->runs[i], 1);
    }
    rig_close(&rig);
}

TEST(flow_long_tasks_are_sent_one_at_a_time)
{
    struct rig rig;
    struct batch batch = {0};
    struct cp_counts counts;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, 0);
    batch_add(&batch, OP_ECHO, 0)->ns = 1000 * 1000 * 1000;
    batch_put(&batch, job, false);
    rig_take_echoes(&rig, job, 1);
    for (int i = 0; i < 10; i++) {
        (void)batch_add(&batch, OP_GATE, 0);
    }
    batch_put(&batch, job, true);
    do { /* a worker that has not run for a while gets its task later */
        CHECK_EQ(rig_wait(&rig, job, cp_now() + CP_MS), CP_WAIT_TIMEOUT);
        cp_pool_count(rig.pool, &counts);
    } while (counts.queued > 8);
    rig_await_begun(&rig, 2);
    CHECK_EQ(rig_wait(&rig, job, cp_now() + CP_MS), CP_WAIT_TIMEOUT);
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.queued, 8);
    rig_let_through(&rig, 10);
    rig_take_echoes(&rig, job, 10);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* Answers are in the ring of a worker that has begun a slow task. */
TEST(flow_answers_before_a_slow_task_are_seen)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_quick_job(&rig, &batch, 0, 4);
    for (int i = 0; i < 6; i++) {
        (void)batch_add(&batch, i < 5 ? OP_QUIET : OP_GATE, 0);
    }
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    rig_take_echoes(&rig, job, 5);
    rig_let_through(&rig, 1);
    rig_take_echoes(&rig, job, 1);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* The same while the other worker answers all the time: it has got the first three
 * of these tasks, and gets all that follow. */
TEST(flow_answers_before_a_slow_task_are_seen_in_traffic)
{
    static const enum op ops[] = {OP_ECHO,  OP_ECHO,  OP_ECHO,
                                  OP_QUIET, OP_QUIET, OP_GATE};
    struct rig rig;
    struct batch batch = {0}, traffic = {0};
    rig_open(&rig, 2);
    rig_await_started(&rig);
    struct cp_job *job = rig_quick_job(&rig, &batch, 0, 4);
    struct cp_job *other = rig_job(&rig, 0);
    for (int i = 0; i < 6; i++) {
        (void)batch_add(&batch, ops[i], 0);
    }
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    while (cp_job_arrived(job, NULL) < 4 + 5) {
        (void)batch_add(&traffic, OP_ECHO, 0);
        batch_put(&traffic, other, false);
        rig_take_echoes(&rig, other, 1);
    }
    cp_job_put_take(other, NULL, true);
    cp_job_close(other);
    rig_let_through(&rig, 1);
    rig_take_echoes(&rig, job, 6);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* The driver sleeps without a tick, until another thread hands out tasks of which
 * the last one is slow. */
TEST(flow_answers_are_seen_although_the_driver_slept)
{
    struct rig rig;
    struct batch one = {0}, batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_quick_job(&rig, &batch, 0, 4);
    struct cp_job *slow = rig_job(&rig, 0);
    (void)batch_add(&one, OP_GATE, 0);
    batch_put(&one, slow, true);
    rig_await_begun(&rig, 1);
    for (int64_t end = cp_now() + 2 * CP_MS; cp_now() < end;) {
        /* until the worker counts as stuck */
    }
    (void)rig_fork(&rig);
    struct rig_taker taker = {&rig, slow};
    pthread_t thread = cp_test_start(rig_take_one, &taker);
    rig_await_asleep(&rig);
    for (int i = 0; i < 6; i++) {
        (void)batch_add(&batch, i < 5 ? OP_QUIET : OP_GATE, 0);
    }
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    while (cp_job_arrived(job, NULL) < 4 + 5) {
        cp_test_let_others_run(); /* without running the event loop */
    }
    rig_let_through(&rig, 2);
    struct cp_result *result = cp_test_join(thread);
    rig_check_echo(result);
    cp_result_free(result);
    rig_take_echoes(&rig, job, 6);
    rig_close_job(&rig, job);
    rig_close_job(&rig, slow);
    rig_close(&rig);
}
