/* Pools that grow while work waits, and shrink when workers are idle. */
#include "pool/plan.h"
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

static void
open_elastic(struct rig *rig, uint32_t n, uint32_t least, uint32_t most,
             int64_t idle_ns)
{
    rig_open(rig, n);
    rig->is_elastic = true;
    cp_pool_set_elastic(rig->pool, least, most, idle_ns);
    rig_await_started(rig);
}

static void
drive_until_forked(struct rig *rig, int forks)
{
    while (rig->forks < forks) {
        (void)rig_wait(rig, NULL, cp_now() + CP_MS);
    }
}

TEST(elastic_grows_while_work_waits)
{
    struct rig rig;
    open_elastic(&rig, 1, 1, 3, 0);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 5);
    drive_until_forked(&rig, 3);
    while (cp_plan_at_work(rig.pool) < 3 || rig.pool->queued != 2) {
        (void)rig_wait(&rig, NULL, cp_now() + CP_MS);
    }
    rig_await_begun(&rig, 3);
    (void)rig_wait(&rig, NULL, cp_now() + 10 * CP_MS);
    CHECK_EQ(rig.forks, 3);
    rig_let_through(&rig, 5);
    rig_finish(&rig, job, 5);
    CHECK_EQ(cp_pool_target(rig.pool), 3);
    rig_close(&rig);
}

/* No thread is in a call of the pool, except the one that starts workers. */
TEST(elastic_work_is_seen_by_the_standby)
{
    struct rig rig;
    open_elastic(&rig, 1, 1, 2, 0);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    rig_await_asleep(&rig);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 2), *none;
    CHECK_EQ(cp_pool_next(rig.pool, CP_DO_STARTS, &none), CP_WAIT_WORKERS);
    rig_fill(&rig);
    rig_await_begun(&rig, 2);
    rig_let_through(&rig, 2);
    rig_finish(&rig, job, 2);
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

TEST(elastic_ends_idle_workers)
{
    struct rig rig;
    open_elastic(&rig, 3, 1, 3, CP_MS);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_SINGLE, OP_GATE, 1);
    while (rig.pool->n_workers > 1) {
        (void)rig_wait(&rig, NULL, cp_now() + CP_MS);
    }
    CHECK_EQ(cp_pool_target(rig.pool), 1);
    rig_await_begun(&rig, 1);
    rig_let_through(&rig, 1);
    rig_finish(&rig, job, 1);
    (void)rig_wait(&rig, NULL, cp_now() + 10 * CP_MS);
    CHECK_EQ(rig.pool->n_workers, 1);
    rig_close(&rig);
}

TEST(elastic_idle_workers_are_seen_by_the_standby)
{
    struct rig rig;
    open_elastic(&rig, 2, 1, 2, 50 * CP_MS);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    struct cp_counts counts = {0};
    do {
        cp_test_let_others_run();
        cp_pool_count(rig.pool, &counts);
    } while (counts.workers > 1);
    CHECK_EQ(cp_pool_target(rig.pool), 1);
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

/* A worker that dies is replaced; the tasks that it gives back are run. */
TEST(elastic_replaces_workers_that_die)
{
    struct rig rig;
    open_elastic(&rig, 2, 2, 4, CP_MS);
    rig_check_lost(rig_call(&rig, OP_DIE, 9), 0, -9);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 50), 50);
    drive_until_forked(&rig, 3);
    rig_close(&rig);
}

static struct cp_job *
put_for(struct rig *rig, uint16_t pin, const uint16_t *places, int n)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, 0);
    CHECK_EQ(cp_job_set_place(job, pin, 0), 0);
    if (places != NULL) {
        CHECK_EQ(cp_job_set_places(job, places, (size_t)n), 0);
    }
    for (int i = 0; i < n; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    return job;
}

/* A task for a missing worker is a reason to start that worker, even if others
 * are idle. */
TEST(elastic_starts_the_worker_of_a_task)
{
    struct rig rig;
    open_elastic(&rig, 1, 1, 8, 0);
    CHECK_EQ(cp_pool_next_unplaced(rig.pool, 0), UINT32_MAX);
    struct cp_job *job = put_for(&rig, 6, NULL, 2);
    CHECK_EQ(cp_pool_next_unplaced(rig.pool, 0), 5);
    CHECK_EQ(cp_pool_next_unplaced(rig.pool, 5), 5);
    CHECK_EQ(cp_pool_next_unplaced(rig.pool, 6), UINT32_MAX);
    drive_until_forked(&rig, 2);
    rig_finish(&rig, job, 2);
    (void)rig_wait(&rig, NULL, cp_now() + 5 * CP_MS);
    CHECK_EQ(cp_pool_next_unplaced(rig.pool, 0), UINT32_MAX);
    CHECK_EQ(rig.forks, 2);
    rig_close(&rig);
}

/* One job has tasks for several of the workers. */
TEST(elastic_tasks_of_a_job_have_places)
{
    static const uint16_t places[] = {0, 3, 5};
    struct rig rig;
    open_elastic(&rig, 1, 1, 8, 0);
    struct cp_job *job = put_for(&rig, CP_PIN_EACH, places, 3);
    CHECK_EQ(cp_pool_next_unplaced(rig.pool, 0), 3);
    CHECK_EQ(cp_pool_next_unplaced(rig.pool, 4), 5);
    cp_pool_set_indexes(rig.pool, 4);
    struct cp_result *lost = cp_job_take(job);
    CHECK(lost != NULL && lost->reason == CP_NO_WORKER && lost->worker == 5);
    cp_result_free(lost);
    rig_take_echoes(&rig, job, 2);
    CHECK_EQ(rig.forks, 2);
    rig_close_job(&rig, job);
    rig_close(&rig);
}
