/* Feeding jobs bit by bit: by the waiting thread, or by a feeder thread. */
#include "pool/plan.h"
#include "cp_test.h"
#include "rig.h"

#include <pthread.h>

TEST(feed_by_the_waiting_thread)
{
    enum { N = 3000 };
    struct rig rig;
    struct batch batch = {0};
    uint64_t most = 0;
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (uint64_t i = 0; i < N;) {
        struct cp_result *result = cp_job_take(job);
        if (result != NULL) {
            rig_check_echo(result);
            CHECK_EQ(result->index, i);
            cp_result_free(result);
            i++;
            continue;
        }
        int r = cp_pool_wait(rig.pool, job, CP_NEVER, CP_CAN_FEED);
        if (r == CP_WAIT_FEED) {
            uint64_t n = cp_job_wants(job);
            CHECK(n > 0);
            most = n > most ? n : most;
            while (n-- > 0 && batch.n < N) {
                (void)batch_add(&batch, OP_ECHO, 0);
            }
            batch_put(&batch, job, batch.n == N);
        } else {
            CHECK_EQ(r, CP_WAIT_READY);
        }
    }
    CHECK(most < N / 2); /* only as many as are useful, not all */
    rig_close_job(&rig, job);
    rig_close(&rig);
}

struct feeder {
    struct cp_job *job;
    bool cut;       /* out: the feeder was told to end the input */
    uint64_t n;     /* tasks to put */
    uint64_t limit; /* most results not taken; 0: no limit */
    uint32_t phase; /* tasks alternate between quick and slow after this many */
};

static void *
feed(void *arg)
{
    struct feeder *feeder = arg;
    struct batch batch = {0};
    uint64_t n;
    int r;
    while ((r = cp_job_wait_wants(feeder->job, &n)) > 0) {
        while (n-- > 0 && batch.n < feeder->n) {
            bool slow = feeder->phase > 0 && batch.n / feeder->phase % 2 == 1;
            batch_add(&batch, OP_ECHO, 0)->ns = slow ? 100 * 1000 * 1000 : 0;
        }
        batch_put(&batch, feeder->job, batch.n == feeder->n);
    }
    if (r != 0) {
        CHECK_EQ(r, CP_ECLOSED);
        feeder->cut = true;
        cp_job_put_farewell_take(feeder->job,
                                 cp_result_new(batch.n, CP_RAISED, 0));
    }
    return NULL;
}

TEST(feed_by_a_thread)
{
    struct rig rig;
    rig_open(&rig, 2);
    struct feeder feeder = {.job = rig_job(&rig, CP_JOB_ORDERED), .n = 5000};
    pthread_t thread = cp_test_start(feed, &feeder);
    rig_finish(&rig, feeder.job, feeder.n);
    (void)cp_test_join(thread);
    rig_close(&rig);
}

static void *
wait_until_wanted(void *job)
{
    uint64_t n;
    CHECK_EQ(cp_job_wait_wants(job, &n), 1);
    CHECK(n > 0);
    return NULL;
}

/* All tasks were handed out because they seemed quick. They are slow, so that no
 * more tasks are wanted until most of them are done. */
TEST(feed_is_wanted_once_slow_tasks_are_done)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, false);
    cp_result_free(rig_take(&rig, job));
    for (uint32_t i = 0; i < CP_WINDOW; i++) {
        batch_add(&batch, i == 1 ? OP_GATE : OP_ECHO, 0)->ns = 1000000000;
    }
    batch_put(&batch, job, false);
    rig_await_begun(&rig, 1);
    cp_result_free(rig_take(&rig, job)); /* the first slow result */
    CHECK_EQ(cp_job_wants(job), 0);
    pthread_t thread = cp_test_start(wait_until_wanted, job);
    for (bool waits = false; !waits; cp_test_let_others_run()) {
        cp_lock_acquire(&rig.pool->lock);
        waits = rig.pool->feeders == 1;
        cp_lock_release(&rig.pool->lock);
    }
    rig_let_through(&rig, 1);
    for (uint32_t i = 1; i < CP_WINDOW; i++) {
        cp_result_free(rig_take(&rig, job));
    }
    (void)cp_test_join(thread);
    cp_job_put_take(job, NULL, true);
    cp_job_close(job);
    rig_close(&rig);
}

/* The same on a large scale: the windows shrink and grow in turns. */
TEST(feed_goes_on_when_tasks_get_slow)
{
    struct rig rig;
    rig_open(&rig, 2);
    struct feeder feeder = {
        .job = rig_job(&rig, CP_JOB_ORDERED), .n = 6000, .phase = 300};
    pthread_t thread = cp_test_start(feed, &feeder);
    rig_finish(&rig, feeder.job, feeder.n);
    (void)cp_test_join(thread);
    rig_close(&rig);
}

/* The sizes of its tasks depend on results: few before the first ones, even if
 * all seem quick. */
TEST(feed_of_a_paced_job_follows_its_results)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    cp_lock_acquire(&rig.pool->lock);
    cp_plan_measure(job, 1000, 1);
    cp_lock_release(&rig.pool->lock);
    CHECK(cp_job_wants(job) > 100);
    cp_job_set_paced(job);
    for (uint64_t arrived = 0; arrived < 12; arrived += 4) {
        CHECK_EQ(cp_job_wants(job), 4 + arrived);
        for (int i = 0; i < 4; i++) {
            (void)batch_add(&batch, OP_ECHO, 0);
        }
        batch_put(&batch, job, false);
        CHECK_EQ(cp_job_wants(job), arrived);
        for (int i = 0; i < 4; i++) {
            cp_result_free(rig_take(&rig, job));
        }
    }
    cp_job_put_take(job, NULL, true);
    cp_job_close(job);
    rig_close(&rig);
}

/* A slow reader is not flooded: the number of tasks put and not taken is limited,
 * in a closed pool as well. */
static void
keep_to_the_limit(bool close)
{
    struct rig rig;
    rig_open(&rig, 2);
    struct feeder feeder = {
        .job = rig_job(&rig, CP_JOB_ORDERED), .n = 500, .limit = 5};
    cp_job_set_limit(feeder.job, feeder.limit);
    pthread_t thread = cp_test_start(feed, &feeder);
    if (close) {
        cp_pool_close(rig.pool);
    }
    for (uint64_t i = 0; i < feeder.n; i++) {
        struct cp_result *result = rig_take(&rig, feeder.job);
        rig_check_echo(result);
        cp_result_free(result);
        cp_lock_acquire(&rig.pool->lock);
        CHECK(feeder.job->put - feeder.job->taken <= feeder.limit);
        cp_lock_release(&rig.pool->lock);
    }
    (void)cp_test_join(thread);
    rig_close_job(&rig, feeder.job);
    rig_close(&rig);
}

TEST(feed_keeps_to_the_limit)
{
    keep_to_the_limit(false);
    keep_to_the_limit(true);
}

/* The limit bounds the results not taken. It does not bound the tasks in flight,
 * which are few while tasks are slow. */
TEST(feed_slow_tasks_fill_the_limit_as_well)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct feeder feeder = {.job = rig_job(&rig, CP_JOB_ORDERED), .n = 500};
    cp_job_set_limit(feeder.job, 9);
    cp_lock_acquire(&rig.pool->lock);
    cp_plan_measure(feeder.job, 1000000000, 1);
    cp_lock_release(&rig.pool->lock);
    pthread_t thread = cp_test_start(feed, &feeder);
    struct cp_job *other = rig_job(&rig, CP_JOB_ORDERED);
    while (cp_job_arrived(feeder.job, NULL) < 9) {
        CHECK_EQ(cp_pool_wait(rig.pool, other, cp_now() + CP_MS, 0),
                 CP_WAIT_TIMEOUT);
    }
    cp_job_put_take(other, NULL, true);
    cp_job_close(other);
    cp_job_cancel(feeder.job);
    (void)cp_test_join(thread);
    cp_job_close(feeder.job);
    rig_close(&rig);
}

/* Nobody takes results any more, and a thread joins the closed pool: the input
 * ends, and the farewell result reports that. */
TEST(feed_limit_does_not_block_the_end_of_a_pool)
{
    struct rig rig;
    rig_open(&rig, 2);
    struct feeder feeder = {
        .job = rig_job(&rig, CP_JOB_ORDERED), .n = 500, .limit = 5};
    cp_job_set_limit(feeder.job, feeder.limit);
    pthread_t thread = cp_test_start(feed, &feeder);
    cp_pool_close(rig.pool);
    rig_join(&rig);
    (void)cp_test_join(thread);
    CHECK(feeder.cut);
    for (uint64_t i = 0; i <= 5; i++) {
        struct cp_result *result = rig_take(&rig, feeder.job);
        CHECK_EQ(result->outcome, i < 5 ? CP_OK : CP_RAISED);
        cp_result_free(result);
    }
    rig_close_job(&rig, feeder.job);
    rig_release(&rig);
}

static void *
join_rig(void *rig)
{
    rig_join(rig);
    return NULL;
}

/* The last task is done, and the limit is reached, while a thread is joining
 * already. A thread that waits for a job has no such effect. */
TEST(feed_is_cut_when_the_last_task_is_done)
{
    struct rig rig;
    struct batch batch = {0};
    uint64_t n;
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, 0);
    cp_job_set_limit(job, 2);
    (void)batch_add(&batch, OP_ECHO, 0);
    (void)batch_add(&batch, OP_GATE, 0);
    batch_put(&batch, job, false);
    cp_pool_close(rig.pool);
    CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
    rig_await_begun(&rig, 1);
    CHECK_EQ(cp_job_wants(job), 0);
    pthread_t thread = cp_test_start(join_rig, &rig);
    for (bool waits = false; !waits; cp_test_let_others_run()) {
        cp_lock_acquire(&rig.pool->lock);
        waits = rig.pool->joiners == 1;
        CHECK(!cp_plan_is_deadlocked(job));
        cp_lock_release(&rig.pool->lock);
    }
    rig_let_through(&rig, 1);
    CHECK_EQ(cp_job_wait_wants(job, &n), CP_ECLOSED);
    CHECK_EQ(n, 0);
    cp_job_put_take(job, NULL, true);
    (void)cp_test_join(thread);
    cp_job_close(job);
    rig_release(&rig);
}

/* A farewell is the last result, even if tasks still run when it is put. */
TEST(feed_farewell_comes_last)
{
    for (uint32_t flags = 0; flags <= CP_JOB_ORDERED; flags += CP_JOB_ORDERED) {
        struct rig rig;
        struct batch batch = {0};
        rig_open(&rig, 1);
        struct cp_job *job = rig_job(&rig, flags);
        (void)batch_add(&batch, OP_GATE, 0);
        (void)batch_add(&batch, OP_ECHO, 0);
        batch_put(&batch, job, false);
        rig_await_begun(&rig, 1);
        cp_job_put_farewell_take(job, cp_result_new(2, CP_RAISED, 0));
        cp_job_put_farewell_take(job, cp_result_new(2, CP_RAISED, 0)); /* no */
        CHECK_EQ(cp_job_wants(job), 0);
        rig_let_through(&rig, 1);
        for (uint64_t i = 0; i < 3; i++) {
            struct cp_result *result = rig_take(&rig, job);
            CHECK_EQ(result->index, i);
            CHECK_EQ(result->outcome, i == 2 ? CP_RAISED : CP_OK);
            cp_result_free(result);
        }
        rig_close_job(&rig, job);
        job = rig_job(&rig, flags); /* with nothing else to wait for */
        cp_job_put_farewell_take(job, cp_result_new(0, CP_RAISED, 0));
        cp_result_free(rig_take(&rig, job));
        rig_close_job(&rig, job);
        rig_close(&rig);
    }
}

/* A thread waits, runs the event loop and sleeps, since nothing is in flight. Then
 * the feeder has news for it. */
static struct cp_result *
take_while_feeding(struct rig *rig, struct cp_job *job, int what)
{
    struct rig_taker taker = {rig, job};
    pthread_t thread = cp_test_start(rig_take_one, &taker);
    rig_await_asleep(rig);
    if (what == 0) {
        cp_job_put_take(job, NULL, true);
    } else {
        cp_job_put_result_take(job, cp_result_new(0, CP_RAISED, 0));
    }
    return cp_test_join(thread);
}

TEST(feed_end_wakes_the_driver)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    CHECK(take_while_feeding(&rig, job, 0) == NULL);
    cp_job_close(job);
    rig_close(&rig);
}

TEST(feed_result_wakes_the_driver)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    struct cp_result *result = take_while_feeding(&rig, job, 1);
    CHECK(result != NULL && result->outcome == CP_RAISED);
    cp_result_free(result);
    cp_job_put_take(job, NULL, true);
    cp_job_close(job);
    rig_close(&rig);
}

static void *
wait_wants(void *arg)
{
    uint64_t n;
    CHECK_EQ(cp_job_wait_wants(arg, &n), 0);
    return NULL;
}

static void *
wait_room(void *pool)
{
    cp_pool_wait_room(pool);
    return NULL;
}

/* Calls are encoded again once workers have taken what was queued, or the pool ends. */
TEST(feed_room_for_calls_comes_back)
{
    for (int ends = 0; ends < 2; ends++) {
        struct rig rig;
        struct batch batch = {0};
        rig_open(&rig, 1);
        struct cp_job *gate = rig_put_job(&rig, CP_JOB_SINGLE, OP_GATE, 1);
        rig_await_begun(&rig, 1);
        CHECK(cp_pool_has_room(rig.pool));
        struct cp_job *job = rig_job(&rig, 0);
        for (int i = 0; i < 5; i++) {
            (void)batch_add(&batch, OP_ECHO, 0);
            batch.last->held = 2u << 20;
        }
        batch_put(&batch, job, true);
        CHECK(!cp_pool_has_room(rig.pool));
        pthread_t thread = cp_test_start(wait_room, rig.pool);
        for (bool waits = false; !waits; cp_test_let_others_run()) {
            cp_lock_acquire(&rig.pool->lock);
            waits = rig.pool->callers == 1;
            cp_lock_release(&rig.pool->lock);
        }
        if (ends == 1) {
            cp_pool_end(rig.pool);
        } else {
            rig_let_through(&rig, 1);
            rig_take_echoes(&rig, gate, 1);
            rig_take_echoes(&rig, job, 5);
        }
        (void)cp_test_join(thread);
        CHECK(cp_pool_has_room(rig.pool));
        CHECK_EQ(atomic_load(&rig.pool->held), 0);
        cp_job_close(gate);
        cp_job_close(job);
        rig_close(&rig);
    }
}

/* Nobody will read results: another thread than the feeder ends the input. */
TEST(feed_input_ended_by_another_thread)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, 0);
    cp_job_set_limit(job, 1);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, false);
    cp_job_ref(job);
    pthread_t thread = cp_test_start(wait_wants, job); /* it is at its limit */
    for (bool waits = false; !waits; cp_test_let_others_run()) {
        cp_lock_acquire(&rig.pool->lock);
        waits = rig.pool->feeders == 1;
        cp_lock_release(&rig.pool->lock);
    }
    cp_job_put_take(job, NULL, true);
    (void)cp_test_join(thread);
    cp_job_close(job);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

TEST(feed_ends_with_the_pool)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, 0);
    for (int i = 0; i < 500; i++) {
        (void)batch_add(&batch, OP_GATE, 0);
    }
    batch_put(&batch, job, false);
    pthread_t thread =
        cp_test_start(wait_wants, job); /* nothing is wanted now */
    rig_await_begun(&rig, 1);
    cp_pool_end(rig.pool);
    (void)cp_test_join(thread);
    CHECK_EQ(cp_job_wants(job), 0);
    cp_job_close(job);
    rig_close(&rig);
}
