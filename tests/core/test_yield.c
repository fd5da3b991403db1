/* Tasks that yield: their values, and the credit that bounds them. */
#include "pool/act.h"
#include "pool/flow.h"
#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/state.h"
#include "pool/watch.h"
#include "cp_test.h"
#include "lone.h"
#include "rig.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* A job of n tasks of this kind, which yield. */
static struct cp_job *
put_yielding(struct rig *rig, uint32_t flags, uint64_t credit, enum op op,
             uint32_t arg, int n)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, flags);
    cp_job_set_credit(job, credit);
    for (int i = 0; i < n; i++) {
        (void)batch_add(&batch, op, arg);
        batch.last->flags |= CP_YIELDS;
    }
    batch_put(&batch, job, true);
    return job;
}

/* The number in the next result, which must be a value of the task. */
static uint64_t
take_value(struct rig *rig, struct cp_job *job, uint64_t *index)
{
    uint64_t value;
    struct cp_result *result = rig_take(rig, job);
    CHECK(result != NULL);
    CHECK_EQ(result->flags, CP_IS_VALUE);
    CHECK_EQ(result->outcome, CP_OK);
    CHECK_EQ(result->len, sizeof(value));
    memcpy(&value, result->body, sizeof(value));
    *index = result->index;
    cp_result_free(result);
    return value;
}

static void
take_values(struct rig *rig, struct cp_job *job, uint64_t from, uint64_t to)
{
    uint64_t index;
    for (uint64_t i = from; i < to; i++) {
        CHECK_EQ(take_value(rig, job, &index), i);
        CHECK_EQ(index, 0);
    }
}

static void
close_job(struct rig *rig, struct cp_job *job)
{
    (void)rig_collect(rig);
    cp_job_close(job);
}

/* Drive until the only worker waits for credit. */
static void
await_waiting(struct rig *rig)
{
    bool waits = false;
    while (!waits) {
        (void)cp_pool_wait(rig->pool, NULL, cp_now() + CP_MS, 0);
        cp_lock_acquire(&rig->pool->lock);
        const struct cp_worker *w = rig->pool->workers;
        waits = w != NULL && cp_worker_waits(w);
        cp_lock_release(&rig->pool->lock);
    }
}

TEST(yield_values_come_in_order)
{
    static const uint64_t credits[] = {1, 2, 3, 64, 100000};
    struct rig rig;
    rig_open(&rig, 1);
    for (size_t i = 0; i < sizeof(credits) / sizeof(credits[0]); i++) {
        struct cp_job *job =
            put_yielding(&rig, 0, credits[i], OP_YIELD, 2000, 1);
        take_values(&rig, job, 0, 2000);
        CHECK(rig_take(&rig, job) == NULL);
        close_job(&rig, job);
    }
    rig_close(&rig);
}

TEST(yield_values_of_ordered_tasks)
{
    struct rig rig;
    uint64_t index;
    rig_open(&rig, 3);
    struct cp_job *job =
        put_yielding(&rig, CP_JOB_ORDERED, 4, OP_YIELD, 10, 20);
    for (uint64_t i = 0; i < 200; i++) {
        CHECK_EQ(take_value(&rig, job, &index), i % 10);
        CHECK_EQ(index, i / 10);
    }
    CHECK(rig_take(&rig, job) == NULL);
    CHECK_EQ(job->taken, 20);
    close_job(&rig, job);
    rig_close(&rig);
}

TEST(yield_tasks_without_values)
{
    struct rig rig;
    rig_open(&rig, 2);
    for (uint32_t flags = 0; flags <= CP_JOB_ORDERED; flags += CP_JOB_ORDERED) {
        struct cp_job *job = put_yielding(&rig, flags, 4, OP_YIELD, 0, 50);
        CHECK(rig_take(&rig, job) == NULL);
        CHECK_EQ(job->taken, 50);
        close_job(&rig, job);
    }
    rig_close(&rig);
}

TEST(yield_waits_for_credit)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 5, OP_YIELD, 1000, 1);
    await_waiting(&rig);
    cp_lock_acquire(&rig.pool->lock);
    CHECK_EQ(cp_flow_find(job, 0)->sent, 5);
    cp_lock_release(&rig.pool->lock);
    take_values(&rig, job, 0, 1000);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}

TEST(yield_that_waits_is_closed_with_its_job)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 5, OP_YIELD, 1000, 1);
    await_waiting(&rig);
    CHECK(cp_job_stop(job, false));
    rig_await_begun(&rig, 1);
    close_job(&rig, job);
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 3), 3);
    rig_close(&rig);
}

TEST(yield_that_runs_is_closed_with_its_job)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 1u << 30, OP_YIELD, 1u << 30, 1);
    take_values(&rig, job, 0, 100);
    CHECK(cp_job_stop(job, false));
    cp_job_drop_results(job);
    close_job(&rig, job);
    /* Somebody has to read what the worker writes, or it would never end. */
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 3), 3);
    rig_await_begun(&rig, 1);
    rig_close(&rig);
}

TEST(yield_without_credit_breaks_the_rules)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 5, OP_YIELD_FREE, 100000, 1);
    (void)rig_wait(&rig, job, CP_NEVER);
    struct cp_result *result = rig_take(&rig, job);
    while (result != NULL && result->outcome == CP_OK) {
        cp_result_free(result);
        result = rig_take(&rig, job);
    }
    rig_check_lost(result, 0, -SIGKILL);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}

TEST(yield_of_a_task_that_yields_none_breaks_the_rules)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_check_lost(rig_call(&rig, OP_YIELD_FREE, 1), 0, -SIGKILL);
    rig_close(&rig);
}

TEST(yield_values_come_before_the_loss)
{
    struct rig rig;
    rig_open(&rig, 1);
    for (uint32_t n = 0; n < 8; n++) {
        struct batch batch = {0};
        struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
        cp_job_set_credit(job, 10);
        cp_job_set_limits(job, 0, 0, n > 0 ? 3 : 0); /* it has yielded */
        (void)batch_add(&batch, OP_YIELD_DIE, n);
        batch.last->flags |= CP_YIELDS;
        batch_put(&batch, job, true);
        take_values(&rig, job, 0, n);
        struct cp_result *result = rig_take(&rig, job);
        CHECK(result != NULL);
        CHECK_EQ(result->item, n);
        rig_check_lost(result, 0, -SIGKILL);
        CHECK(rig_take(&rig, job) == NULL);
        close_job(&rig, job);
    }
    rig_close(&rig);
}

TEST(yield_that_has_yielded_nothing_is_run_again)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, 0);
    cp_job_set_credit(job, 10);
    cp_job_set_limits(job, 0, 0, 2);
    struct order *order = batch_add(&batch, OP_YIELD_DIE, 0);
    order->flags = ORDER_COUNT;
    batch.last->flags |= CP_YIELDS;
    batch_put(&batch, job, true);
    rig_check_lost(rig_take(&rig, job), 0, -SIGKILL);
    CHECK_EQ(atomic_load(&rig.shared->runs[0]), 3);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}

TEST(yield_that_waits_holds_up_no_other_job)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 2, OP_YIELD, 9, 1);
    await_waiting(&rig);
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 3), 3);
    take_values(&rig, job, 0, 9);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}

/* The only worker waits for credit, and somebody waits for the pool: how much
 * credit the task gets, if the time to look has come. given: how often in a row
 * it got some. */
static uint64_t
credit_of_look(struct rig *rig, struct cp_job *job, uint32_t given)
{
    struct cp_pool *pool = rig->pool;
    const struct cp_flow *flow = job->many->flows;
    int64_t at = INT64_MAX;
    cp_lock_acquire(&pool->lock);
    uint64_t before = flow->credit;
    pool->n_waits++;
    pool->look_at = 1; /* long ago */
    pool->n_given = given;
    cp_watch_credit(pool, &at);
    CHECK_EQ(at, pool->look_at);
    uint64_t more = flow->credit - before;
    CHECK_EQ(pool->n_given, more == 0 ? 0 : given + 1);
    CHECK(at <= cp_now() + (more != 0 && given < 6 ? 10 : 50) * CP_MS);
    pool->n_waits--;
    cp_act(pool);
    cp_lock_release(&pool->lock);
    return more;
}

/* A task that has much to yield, which nobody reads, does not keep its worker
 * from other work for long: each time it gets twice as much credit, up to a
 * bound. A read begins anew. */
TEST(yield_that_nobody_reads_goes_on_faster)
{
    static const uint64_t more[] = {10, 20, 40, 80, 160, 320, 640, 640, 640};
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 10, OP_YIELD, 9000, 1);
    for (uint32_t i = 0; i < sizeof(more) / sizeof(more[0]); i++) {
        await_waiting(&rig);
        CHECK_EQ(credit_of_look(&rig, job, i), more[i]);
    }
    await_waiting(&rig);
    take_values(&rig, job, 0, 1);
    CHECK(job->many->is_read);
    CHECK_EQ(credit_of_look(&rig, job, 7), 0);
    CHECK_EQ(credit_of_look(&rig, job, 0), 10);
    take_values(&rig, job, 1, 9000);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}

TEST(yield_that_nobody_reads_ends_with_a_joined_pool)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 2, OP_YIELD, 9, 1);
    await_waiting(&rig);
    cp_pool_close(rig.pool);
    rig_join(&rig);
    CHECK_EQ(atomic_load(&job->end), CP_END_UNREAD);
    take_values(&rig, job, 0, 2);
    CHECK(cp_job_take(job) == NULL);
    rig_await_begun(&rig, 1);
    close_job(&rig, job);
    rig_release(&rig);
}

TEST(yield_of_a_worker_that_retires_goes_on)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 2, OP_YIELD, 500, 1);
    await_waiting(&rig);
    cp_pool_retire(rig.pool, 1, 0);
    take_values(&rig, job, 0, 500);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 3), 3);
    CHECK(atomic_load(&rig.forks) >= 2);
    rig_close(&rig);
}

/* A worker that yields values of a task, takes its claim back against the rules,
 * and dies: the task begins anew, and nothing refers to the dead worker. */
TEST(yield_of_a_worker_that_denies_its_claim)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 2, OP_YIELD, 500, 1);
    await_waiting(&rig);
    cp_lock_acquire(&rig.pool->lock);
    struct cp_worker *w = rig.pool->workers;
    CHECK(cp_worker_is_claimed(w, w->head));
    cp_claim_offer(w->row, w->head);
    CHECK_EQ(cp_proc_kill(&w->proc, SIGKILL), 0);
    cp_lock_release(&rig.pool->lock);
    while (atomic_load(&rig.forks) < 2) {
        (void)rig_wait(&rig, NULL, cp_now() + CP_MS);
    }
    take_values(&rig, job, 0, 2);
    take_values(&rig, job, 0, 500);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}

/* ---- one worker's end ---- */

static void *
wait_for_credit(void *arg)
{
    struct lone *lone = arg;
    int r;
    do {
        r = cp_serve_wait_credit(&lone->s, 1, 5, false);
    } while (r == CP_EINTR);
    CHECK_EQ(r, 1);
    return NULL;
}

static uint64_t
await_wait(struct lone *lone, uint64_t after)
{
    uint64_t waits;
    while ((waits = atomic_load(&lone->w->row->waits)) <= after) {
        cp_test_let_others_run();
    }
    return waits;
}

/* A worker that waits for credit may get CP_CREDIT for an earlier task, of
 * whose end the parent does not know yet. It goes on waiting, and gets the
 * CP_CREDIT for its own task. */
TEST(yield_credit_of_another_task_is_none)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    cp_credit_set(lone.w->row, 0, 5);
    cp_credit_set(lone.w->row, 1, 5);
    pthread_t thread = cp_test_start(wait_for_credit, &lone);
    uint64_t first = await_wait(&lone, 0);
    CHECK(cp_worker_set_credit(lone.w, 0, 6));
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    (void)await_wait(&lone, first);
    CHECK(cp_worker_set_credit(lone.w, 1, 6));
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    (void)cp_test_join(thread);
    CHECK_EQ(atomic_load(&lone.w->row->waits), 0);
    CHECK_EQ(cp_buf_len(&lone.s.in), 0); /* CP_CREDIT frames do not pile up */
    lone_close(&lone);
}

TEST(yield_flushes_where_the_parent_sleeps)
{
    struct lone lone;
    struct cp_frame frame = {.kind = CP_VALUE, .len = 8};
    uint8_t body[8] = {0};
    lone_open(&lone, UINT64_MAX, 5);
    struct cp_row *row = lone.w->row;
    CHECK_EQ(cp_serve_yield(&lone.s, &frame, body), 0);
    atomic_store(&row->sleeps, 1);
    CHECK_EQ(cp_serve_yield(&lone.s, &frame, body), 1);
    CHECK_EQ(atomic_load(&row->sleeps), 0);
    int n = 0;
    while (cp_serve_yield(&lone.s, &frame, body) == 0) {
        n++;
    }
    CHECK(n > 1000); /* little room is left */
    frame.len = CP_RING;
    CHECK_EQ(cp_serve_yield(&lone.s, &frame, body), CP_ETOOBIG);
    lone_close(&lone);
}

/* CP_CREDIT cannot go between a header and its big body. */
TEST(yield_credit_waits_for_a_big_body)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, CP_BIG * 4);
    CHECK_EQ(lone_send(&lone, 0, 10), 0); /* the callable goes first */
    CHECK(lone.w->big != NULL);
    atomic_store(&lone.w->row->waits, 7);
    CHECK(cp_worker_set_credit(lone.w, 0, 6));
    CHECK(lone.w->credit_due);
    CHECK(!cp_worker_set_credit(lone.w, 0, 7)); /* once for each wait */
    while (cp_worker_has_out(lone.w)) {
        CHECK_EQ(cp_worker_flush(lone.w), 0);
        if (cp_serve_next(&lone.s, &frame, &body) == 0) {
            CHECK_EQ(cp_serve_wait(&lone.s), 0);
        }
    }
    CHECK(!lone.w->credit_due);
    lone_close(&lone);
}

/* Only the end of a task makes room for another one: values that are taken do
 * not wake feeders. */
TEST(yield_values_that_are_taken_wake_no_feeder)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = put_yielding(&rig, 0, 8, OP_YIELD, 4, 1);
    cp_job_set_limit(job, 1);
    while (!atomic_load(&job->done)) {
        (void)cp_pool_wait(rig.pool, NULL, cp_now() + CP_MS, 0);
    }
    cp_lock_acquire(&rig.pool->lock);
    rig.pool->feeders++;
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(rig.pool->noted & CP_NOTED_FEEDERS, 0);
        struct cp_result *value = cp_jobs_get_result(job);
        CHECK(value != NULL && (value->flags & CP_IS_VALUE) != 0);
        cp_result_free(value);
    }
    CHECK(rig.pool->noted & CP_NOTED_FEEDERS);
    rig.pool->feeders--;
    cp_lock_release(&rig.pool->lock);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}

/* If values arrive at short intervals, both ends spin for a while before they
 * sleep. */
TEST(yield_fast_values_are_looked_for)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_pool *pool = rig.pool;
    pool->n_cpus = 2;
    struct cp_job *job = put_yielding(&rig, 0, 5, OP_YIELD, 1000, 1);
    await_waiting(&rig);
    cp_lock_acquire(&pool->lock);
    pool->task_ns = pool->value_ns = -1;
    CHECK_EQ(cp_plan_worker_spin_us(pool), 0);
    int64_t now = pool->values_at;
    cp_plan_measure_values(pool, 10, now += 10 * CP_US);
    CHECK_EQ(pool->value_ns, CP_US);
    CHECK_EQ(cp_plan_worker_spin_us(pool), 200);
    cp_plan_measure_values(pool, 1, now += CP_SECOND); /* a break */
    CHECK(pool->value_ns > 20 * CP_US && pool->value_ns < 30 * CP_US);
    CHECK_EQ(cp_plan_worker_spin_us(pool), 0);
    for (int i = 0; i < 8; i++) {
        cp_plan_measure_values(pool, 1, now += CP_US);
    }
    CHECK_EQ(cp_plan_worker_spin_us(pool), 200);
    pool->n_cpus = 1; /* the worker needs the only core */
    CHECK_EQ(cp_plan_worker_spin_us(pool), 0);
    cp_lock_release(&pool->lock);
    take_values(&rig, job, 0, 1000);
    CHECK(rig_take(&rig, job) == NULL);
    close_job(&rig, job);
    rig_close(&rig);
}
