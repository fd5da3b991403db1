/* The whole pool at work: jobs, results and callables. */
#include "cp_test.h"
#include "rig.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
add_many(struct batch *batch, enum op op, int n)
{
    for (int i = 0; i < n; i++) {
        (void)batch_add(batch, op, 0);
    }
}

TEST(pool_without_workers)
{
    struct rig rig;
    rig_open(&rig, 0);
    CHECK_EQ(cp_pool_wait(rig.pool, NULL, CP_NEVER, 0), CP_WAIT_READY);
    rig_close(&rig);
}

TEST(pool_unused)
{
    struct rig rig;
    rig_open(&rig, 3);
    CHECK(cp_pool_is_ours(rig.pool));
    rig_close(&rig);
}

TEST(pool_results_in_order)
{
    struct rig rig;
    struct batch batch = {0};
    uint64_t seed = 11;
    rig_open(&rig, 3);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (int i = 0; i < 2000; i++) {
        (void)batch_add_long(&batch, OP_ECHO, 0, cp_test_random(&seed) % 3000);
    }
    batch_put(&batch, job, true);
    rig_finish(&rig, job, 2000);
    CHECK_EQ(rig.forks, 3);
    rig_close(&rig);
}

TEST(pool_results_as_they_arrive)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 3);
    struct cp_job *job = rig_job(&rig, 0);
    for (int i = 0; i < 20; i++) { /* put bit by bit */
        add_many(&batch, OP_ECHO, 50);
        batch_put(&batch, job, i == 19);
    }
    rig_finish(&rig, job, 1000);
    rig_close(&rig);
}

TEST(pool_results_all_at_once)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, 0);
    add_many(&batch, OP_ECHO, 500);
    batch_put(&batch, job, true);
    uint64_t seen = 0, sum = 0;
    while (seen < 500) {
        CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
        struct cp_result *all = cp_job_take_all(job);
        CHECK(all != NULL);
        CHECK(cp_job_take_all(job) == NULL); /* one thread at a time decodes */
        CHECK_EQ(cp_pool_wait(rig.pool, job, 0, 0), CP_WAIT_TIMEOUT);
        /* Take five results, give the others back. */
        struct cp_result *rest = all;
        for (int i = 0; i < 5 && rest != NULL; i++) {
            struct cp_result *next = rest->next;
            rig_check_echo(rest);
            sum += rest->index;
            seen++;
            cp_result_free(rest);
            rest = next;
        }
        cp_job_decoded(job, rest);
    }
    CHECK_EQ(sum, 499 * 500 / 2);
    CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
    CHECK(cp_job_take_all(job) == NULL);
    CHECK_EQ(job->taken, 500);
    cp_job_close(job);
    rig_close(&rig);
}

TEST(pool_many_jobs_at_once)
{
    enum { N = 400 };
    struct rig rig;
    static struct cp_job *jobs[N];
    struct cp_counts counts;
    rig_open(&rig, 3);
    for (int i = 0; i < N; i++) {
        struct batch batch = {0};
        jobs[i] = rig_job(&rig, i % 2 == 0 ? CP_JOB_SINGLE : CP_JOB_ORDERED);
        add_many(&batch, OP_ECHO, i % 2 == 0 ? 1 : 3);
        batch_put(&batch, jobs[i], true);
    }
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.workers, 3);
    CHECK_EQ(counts.pending, N); /* no thread has run the event loop yet */
    CHECK(counts.queued > 0 && counts.queued < 2 * N);
    for (int i = N - 1; i >= 0; i--) {
        rig_finish(&rig, jobs[i], i % 2 == 0 ? 1 : 3);
    }
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.pending, 0);
    CHECK_EQ(rig_collect(&rig), N); /* each job once */
    CHECK_EQ(rig_collect(&rig), 0);
    rig_close(&rig);
}

TEST(pool_job_without_tasks_is_done)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    CHECK_EQ(cp_pool_wait(rig.pool, job, 0, 0), CP_WAIT_TIMEOUT);
    cp_job_put_take(job, NULL, true);
    CHECK_EQ(cp_pool_wait(rig.pool, job, CP_NEVER, 0), CP_WAIT_READY);
    rig_finish(&rig, job, 0);
    rig_close(&rig);
}

TEST(pool_wait_has_a_deadline)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, 0);
    (void)batch_add(&batch, OP_GATE, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    int64_t deadline = cp_now() + 2 * CP_MS;
    CHECK_EQ(rig_wait(&rig, job, deadline), CP_WAIT_TIMEOUT);
    CHECK(cp_now() >= deadline);
    CHECK_EQ(rig_wait(&rig, job, 0), CP_WAIT_TIMEOUT);
    rig_let_through(&rig, 1);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

TEST(pool_raised_exception_is_a_result)
{
    struct rig rig;
    struct batch batch = {0};
    uint64_t failed = 77;
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    (void)batch_add_long(&batch, OP_RAISE, 0, 100);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    for (uint64_t i = 0; i < 3; i++) {
        struct cp_result *result = rig_take(&rig, job);
        CHECK_EQ(result->index, i);
        CHECK_EQ(result->outcome, i == 1 ? CP_RAISED : CP_OK);
        CHECK_EQ(result->len, ORDER_LEN + (i == 1 ? 100 : 0));
        cp_result_free(result);
    }
    CHECK_EQ(cp_job_arrived(job, &failed), 3);
    CHECK_EQ(failed, 1);
    CHECK_EQ(cp_job_arrived(job, NULL), 3);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

TEST(pool_closed_job_still_runs)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, 0);
    for (int i = 0; i < 50; i++) {
        batch_add(&batch, OP_ECHO, 0)->flags = ORDER_COUNT;
    }
    batch_put(&batch, job, true);
    cp_job_close(job);
    cp_pool_close(rig.pool);
    rig_join(&rig);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(rig.shared->runs[i], 1);
    }
    CHECK_EQ(rig_collect(&rig), 1);
    rig_release(&rig);
}

TEST(pool_result_without_a_worker)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, false);
    struct cp_result *result = cp_result_new(1, CP_RAISED, 0);
    cp_job_put_result_take(job, result);
    batch.n++;
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    for (uint64_t i = 0; i < 3; i++) {
        result = rig_take(&rig, job);
        CHECK_EQ(result->index, i);
        CHECK_EQ(result->outcome, i == 1 ? CP_RAISED : CP_OK);
        cp_result_free(result);
    }
    rig_close_job(&rig, job);
    rig_close(&rig);
}

TEST(pool_big_bodies_both_ways)
{
    enum { N = 8, LEN = 3 * 1000 * 1000 };
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 3);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (int i = 0; i < N; i++) {
        (void)batch_add_long(&batch, OP_ECHO, 0, i % 2 == 0 ? LEN : 10);
    }
    batch_put(&batch, job, true);
    rig_finish(&rig, job, N);

    struct cp_result *result = rig_call(&rig, OP_BIG, 2 * LEN);
    CHECK_EQ(result->len, 2 * LEN);
    cp_test_check_pattern(result->body, 2 * LEN, 0);
    cp_result_free(result);
    rig_close(&rig);
}

/* All sizes around the limits of the ring, of the pipe, and of bodies that are
 * sent without a copy. */
TEST(pool_bodies_of_all_sizes)
{
    static const size_t borders[] = {4096, CP_BIG, CP_RING, 2 * CP_RING};
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (size_t i = 0; i < 4; i++) {
        for (size_t len = borders[i] - 60; len < borders[i] + 60; len += 4) {
            (void)batch_add_long(&batch, OP_ECHO, 0, len - ORDER_LEN);
        }
    }
    batch_put(&batch, job, true);
    rig_finish(&rig, job, batch.n);
    rig_close(&rig);
}

static void
check_call_func(struct rig *rig, const void *bytes, size_t len, uint16_t flags)
{
    struct cp_func *old = rig->func;
    rig->func = cp_func_open(rig->pool, bytes, len, flags);
    CHECK(rig->func != NULL);
    struct cp_result *result = rig_call(rig, OP_FUNC, 0);
    CHECK_EQ(result->len, len);
    CHECK_BYTES(result->body, bytes, len);
    cp_result_free(result);
    (void)rig_collect(rig); /* the jobs hold the callable too */
    cp_func_close(rig->pool, rig->func);
    rig->func = old;
}

TEST(pool_big_callables)
{
    enum { LEN = 2 * 1000 * 1000 };
    struct rig rig;
    uint8_t *bytes = malloc(LEN);
    CHECK(bytes != NULL);
    cp_test_pattern(bytes, LEN, 5);
    rig_open(&rig, 2);
    check_call_func(&rig, bytes, LEN, 0);
    check_call_func(&rig, bytes, CP_BIG, 0);
    check_call_func(&rig, bytes, CP_BIG - 1, CP_KEEP);
    check_call_func(&rig, "", 0, 0);
    free(bytes);
    rig_close(&rig);
}

TEST(pool_callables_are_found_again)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_func *a = cp_func_open(rig.pool, "one", 3, CP_KEEP);
    struct cp_func *b = cp_func_open(rig.pool, "one", 3, CP_KEEP);
    struct cp_func *c = cp_func_open(rig.pool, "one", 3, 0);
    struct cp_func *d = cp_func_open(rig.pool, "two", 3, CP_KEEP);
    CHECK(a == b && a != c && a != d && c != d);
    CHECK(a->slot != c->slot && a->slot != d->slot);
    cp_func_close(rig.pool, a);
    cp_func_close(rig.pool, b);
    cp_func_close(rig.pool, c);
    cp_func_close(rig.pool, d);
    /* Many callables: the table of known ones is limited. */
    for (int i = 0; i < 1000; i++) {
        a = cp_func_open(rig.pool, &i, sizeof(i), CP_KEEP);
        b = cp_func_open(rig.pool, &i, sizeof(i), CP_KEEP);
        CHECK(a == b);
        cp_func_close(rig.pool, a);
        cp_func_close(rig.pool, b);
    }
    rig_close(&rig);
}

TEST(pool_workers_forget_callables)
{
    struct rig rig;
    uint32_t kept;
    rig_open(&rig, 1);
    for (uint32_t i = 0; i < 300;
         i++) { /* more callables than the worker has slots */
        char bytes[600];
        memset(bytes, (int)(i % 251), sizeof(bytes));
        check_call_func(&rig, bytes, sizeof(bytes), 0);
    }
    struct cp_result *result = rig_call(&rig, OP_SLOTS, 0);
    memcpy(&kept, result->body, sizeof(kept));
    CHECK_EQ(kept, 1); /* the callable of this call */
    cp_result_free(result);
    rig_close(&rig);
}

TEST(pool_job_can_be_opened_without_a_callable)
{
    struct rig rig;
    struct batch batch = {0};
    struct cp_job *job;
    rig_open(&rig, 1);
    CHECK_EQ(cp_job_open(rig.pool, NULL, 0, NULL, &job), 0);
    CHECK(cp_job_wants(job) > 0);
    cp_job_set_func(job, rig.func);
    add_many(&batch, OP_ECHO, 3);
    batch_put(&batch, job, true);
    CHECK_EQ(cp_job_wants(job), 0);
    rig_finish(&rig, job, 3);
    rig_close(&rig);
}

static void
note_job(struct cp_job *job, void *arg)
{
    *(uint64_t *)arg = *(uint64_t *)arg * 10 + job->id;
}

TEST(pool_lists_its_jobs)
{
    struct rig rig;
    uint64_t seen = 0;
    rig_open(&rig, 1);
    struct cp_job *a = rig_job(&rig, 0), *b = rig_job(&rig, 0),
                  *c = rig_job(&rig, 0);
    CHECK(a->id < b->id && b->id < c->id && a->user == &rig);
    cp_job_put_take(b, NULL, true);
    cp_pool_each_job(rig.pool, note_job, &seen);
    CHECK_EQ(seen, a->id * 10 + c->id);
    cp_job_put_take(a, NULL, true);
    cp_job_put_take(c, NULL, true);
    cp_job_close(a);
    cp_job_close(b);
    cp_job_close(c);
    rig_close(&rig);
}

/* A worker with a budget of three tasks gets no fourth one, and is replaced. */
TEST(pool_budget_of_workers)
{
    enum { N = 31 };
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 0);
    rig.budget = 3;
    rig.target = 2;
    cp_pool_set_target(rig.pool, 2);
    rig_fill(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    add_many(&batch, OP_PID, N);
    batch_put(&batch, job, true);
    int pids[N] = {0}, runs[N] = {0};
    for (int i = 0; i < N; i++) {
        struct cp_result *result = rig_take(&rig, job);
        int pid, k = 0;
        CHECK_EQ(result->outcome, CP_OK);
        memcpy(&pid, result->body, sizeof(pid));
        cp_result_free(result);
        while (pids[k] != 0 && pids[k] != pid) {
            k++;
        }
        pids[k] = pid;
        runs[k]++;
        CHECK(runs[k] <= 3);
    }
    CHECK(rig_take(&rig, job) == NULL);
    CHECK(rig.forks >= (N + 2) / 3);
    cp_job_close(job);
    rig_close(&rig);
}
