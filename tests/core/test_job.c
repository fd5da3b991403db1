/* Jobs, tasks and results: the queue and the inbox. */
#include "pool/job.h"
#include "cp_test.h"

#include <stdlib.h>
#include <string.h>

static struct cp_job *
open_job(uint32_t flags)
{
    struct cp_job *job = cp_job_alloc(NULL, NULL, flags, NULL);
    CHECK(job != NULL);
    CHECK_EQ(job->refs, 1);
    CHECK_EQ(job->many->avg_ns, -1);
    return job;
}

static void
close_job(struct cp_job *job)
{
    job->refs--;
    cp_job_free(job);
}

static struct cp_task *
task(uint64_t index)
{
    struct cp_task *new = cp_task_new(index, 3, 10);
    CHECK(new != NULL &&new->len == 10 && new->flags == 3);
    return new;
}

static void
put(struct cp_job *job, uint64_t index)
{
    struct cp_result *result = cp_result_new(index, CP_OK, 5);
    CHECK(result != NULL && result->len == 5);
    CHECK_EQ(cp_job_inbox_put(job, result), 0);
}

static void
check_get(struct cp_job *job, uint64_t index)
{
    CHECK(cp_job_has_result(job));
    struct cp_result *result = cp_job_inbox_get(job);
    CHECK(result != NULL && result->next == NULL);
    CHECK_EQ(result->index, index);
    cp_result_free(result);
}

static void
check_dequeue(struct cp_job *job, uint64_t index)
{
    struct cp_task *first = cp_job_dequeue(job);
    CHECK(first != NULL && first->next == NULL);
    CHECK_EQ(first->index, index);
    cp_task_free(first);
}

TEST(job_absurd_sizes_are_refused)
{
    CHECK(cp_task_new(0, 0, SIZE_MAX) == NULL);
    CHECK(cp_result_new(0, CP_OK, SIZE_MAX - 3) == NULL);
    cp_task_free(NULL);
    cp_result_free(NULL);
    cp_result_free_list(NULL);
}

/* A task takes over the memory of a large body, unless most of it is unused. */
TEST(job_task_takes_a_large_body_over)
{
    for (size_t len = CP_BIG - 1; len <= CP_BIG; len++) {
        for (size_t cap = len; cap <= 4 * len; cap += 3 * len) {
            struct cp_buf buf = {0};
            CHECK_EQ(cp_buf_reserve(&buf, cap), 0);
            memset(cp_buf_tail(&buf), 'x', len);
            cp_buf_add(&buf, len);
            const uint8_t *memory = buf.data;
            struct cp_task *task = cp_task_new_take(7, 3, &buf);
            CHECK(task != NULL);
            CHECK_EQ(cp_buf_len(&buf), 0);
            CHECK_EQ(task->index, 7);
            CHECK_EQ(task->flags, 3);
            CHECK_EQ(task->len, len);
            CHECK_EQ(task->body == memory, len == CP_BIG && cap == len);
            CHECK_EQ(task->body[0], 'x');
            CHECK_EQ(task->body[len - 1], 'x');
            cp_task_free(task);
            cp_buf_fini(&buf);
        }
    }
}

TEST(job_queue_keeps_order_with_both_ends)
{
    struct cp_job *job = open_job(0);
    CHECK(cp_job_dequeue(job) == NULL);
    cp_job_queue_first(job, task(2));
    cp_job_queue_last(job, task(3));
    cp_job_queue_first(job, task(1));
    cp_job_queue_last(job, task(4));
    CHECK_EQ(job->queued, 4);
    for (uint64_t i = 1; i <= 4; i++) {
        check_dequeue(job, i);
    }
    CHECK(cp_job_dequeue(job) == NULL);
    CHECK_EQ(job->queued, 0);
    cp_job_queue_last(job, task(9));
    check_dequeue(job, 9);
    close_job(job);
}

TEST(job_inbox_returns_results_in_order_of_arrival)
{
    struct cp_job *job = open_job(0);
    CHECK(!cp_job_has_result(job));
    CHECK(cp_job_inbox_get(job) == NULL);
    put(job, 5);
    put(job, 2);
    check_get(job, 5);
    put(job, 7);
    check_get(job, 2);
    check_get(job, 7);
    CHECK(!cp_job_has_result(job));
    CHECK_EQ(job->taken, 3);
    close_job(job);
}

TEST(job_inbox_returns_all_results_at_once)
{
    struct cp_job *job = open_job(0);
    CHECK(cp_job_inbox_get_all(job) == NULL);
    for (uint64_t i = 0; i < 3; i++) {
        put(job, 2 - i);
    }
    struct cp_result *list = cp_job_inbox_get_all(job);
    CHECK_EQ(list->index, 2);
    CHECK_EQ(list->next->index, 1);
    CHECK_EQ(list->next->next->index, 0);
    CHECK(list->next->next->next == NULL);
    CHECK_EQ(job->taken, 3);
    CHECK(!cp_job_has_result(job));
    cp_result_free_list(list);
    put(job, 0);
    put(job, 1);
    close_job(job); /* frees the results that nobody took */
}

TEST(job_ordered_inbox_waits_for_the_next)
{
    struct cp_job *job = open_job(CP_JOB_ORDERED);
    CHECK(!cp_job_has_result(job));
    put(job, 2);
    put(job, 1);
    CHECK(!cp_job_has_result(job));
    CHECK(cp_job_inbox_get(job) == NULL);
    put(job, 0);
    check_get(job, 0);
    check_get(job, 1);
    check_get(job, 2);
    CHECK(!cp_job_has_result(job));
    put(job, 100); /* frees the results that nobody took */
    close_job(job);
}

/* Any order of arrival within a distance, while results are taken. */
TEST(job_ordered_inbox_sorts_results)
{
    enum { N = 5000, FAR = N / 8 + 4 };
    struct cp_job *job = open_job(CP_JOB_ORDERED);
    static bool there[N + FAR];
    uint64_t seed = 4, taken = 0;
    while (taken < N) {
        /* The distance grows, so that the ring must grow, wherever its start is. */
        uint64_t at = taken + cp_test_random(&seed) % (4 + taken / 8);
        if (!there[at]) {
            there[at] = true;
            put(job, at);
        }
        CHECK_EQ(cp_job_has_result(job), there[taken]);
        if (there[taken] && cp_test_random(&seed) % 4 == 0) {
            check_get(job, taken);
            taken++;
        }
    }
    CHECK_EQ(job->taken, taken);
    CHECK(job->many->order_cap >= FAR / 2 && job->many->order_cap < 2 * FAR);
    close_job(job);
}

TEST(job_ordered_inbox_refuses_absurd_places)
{
    struct cp_job *job = open_job(CP_JOB_ORDERED);
    struct cp_result *result = cp_result_new(UINT64_MAX / 2, CP_OK, 0);
    CHECK_EQ(cp_job_inbox_put(job, result), CP_ENOMEM);
    cp_result_free(result);
    put(job, 0);
    check_get(job, 0);
    close_job(job);
}

TEST(job_average_follows)
{
    int64_t avg = -1;
    cp_avg_follow(&avg, 1000);
    CHECK_EQ(avg, 1000);
    for (int i = 0; i < 100; i++) {
        cp_avg_follow(&avg, 80000);
    }
    CHECK(avg > 79000 && avg <= 80000);
    for (int i = 0; i < 200; i++) {
        cp_avg_follow(&avg, 0);
    }
    CHECK(avg >= 0 && avg < 100);
}
