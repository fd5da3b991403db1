/* Spans of a timeline. */
#include "cp_test.h"

#include "base/clock.h"
#include "pool/trace.h"

#include <string.h>

static const uint8_t FUNC[] = "function";

static void
add(struct cp_trace *trace, int64_t began, int64_t ended,
    enum cp_outcome outcome, size_t len)
{
    struct cp_span span = {.began = began,
                           .ended = ended,
                           .items = 2,
                           .worker = 1,
                           .waited = began / 2,
                           .outcome = (uint8_t)outcome};
    cp_trace_task(trace, &span, FUNC, len);
}

TEST(trace_merges_short_tasks)
{
    struct cp_trace *trace = cp_trace_new(CP_SECOND);
    int64_t at = CP_SECOND;
    for (int i = 0; i < 1000; i++) {
        add(trace, at, at + 9 * CP_US, CP_OK, 4);
        at += 10 * CP_US;
    }
    cp_trace_end(trace);
    CHECK_EQ(trace->n, 10);
    CHECK_EQ(trace->n_names, 1);
    CHECK_EQ(trace->spans[0].tasks, 100);
    CHECK_EQ(trace->spans[0].items, 200);
    CHECK_EQ(trace->spans[0].busy, 900 * CP_US);
    CHECK_EQ(trace->spans[0].began, CP_SECOND);
    CHECK_EQ(trace->spans[0].ended, CP_SECOND + 999 * CP_US);
    CHECK_EQ(trace->spans[9].waited, (CP_SECOND + 9990 * CP_US) / 2);
    CHECK_EQ(trace->dropped, 0);
    cp_trace_free(trace);
}

TEST(trace_merges_nothing_else)
{
    struct cp_trace *trace = cp_trace_new(0);
    add(trace, 0, 10, CP_OK, 4);
    add(trace, 10, 20, CP_OK, 5); /* another function */
    add(trace, 20, 30, CP_RAISED, 5);
    add(trace, 30, 40, CP_RAISED, 5);
    add(trace, 50, 60, CP_OK, 5);
    add(trace, 55, 65, CP_OK, 5); /* it overlaps */
    add(trace, 70, 2 * CP_MS, CP_OK, 5);
    cp_trace_end(trace);
    CHECK_EQ(trace->n, 7);
    CHECK_EQ(trace->n_names, 2);
    for (size_t i = 0; i < trace->n; i++) {
        CHECK_EQ(trace->spans[i].tasks, 1);
    }
    cp_trace_free(trace);
    cp_trace_free(NULL);
}

TEST(trace_corrects_times)
{
    struct cp_trace *trace = cp_trace_new(100);
    add(trace, 50, 60, CP_RAISED, 4);
    add(trace, 200, 150, CP_RAISED, 0);
    cp_trace_end(trace);
    CHECK_EQ(trace->spans[0].began, 100);
    CHECK_EQ(trace->spans[0].ended, 100);
    CHECK_EQ(trace->spans[1].began, 200);
    CHECK_EQ(trace->spans[1].ended, 200);
    CHECK_EQ(trace->spans[1].name, CP_NO_NAME);
    cp_trace_free(trace);
}

TEST(trace_has_so_many_names)
{
    struct cp_trace *trace = cp_trace_new(0);
    for (uint32_t i = 0; i < CP_TRACE_NAMES + 5; i++) {
        struct cp_span span = {.began = i, .ended = i, .outcome = CP_RAISED};
        cp_trace_task(trace, &span, (const uint8_t *)&i, sizeof(i));
    }
    cp_trace_end(trace);
    CHECK_EQ(trace->n_names, CP_TRACE_NAMES);
    CHECK_EQ(trace->n, CP_TRACE_NAMES + 5);
    CHECK_EQ(trace->spans[CP_TRACE_NAMES + 4].name, CP_NO_NAME);
    CHECK_EQ(trace->spans[7].name, 7);
    cp_trace_free(trace);
}

TEST(trace_of_a_million_tasks_is_short)
{
    struct cp_trace *trace = cp_trace_new(0);
    int64_t at = 0;
    for (int i = 0; i < 1000000; i++) {
        add(trace, at, at + 8 * CP_US, CP_OK, 4);
        cp_trace_work(trace, CP_WORK_DECODE, 7, at, at + CP_US);
        at += 10 * CP_US;
    }
    cp_trace_end(trace);
    uint64_t tasks = 0, works = 0;
    for (size_t i = 0; i < trace->n; i++) {
        tasks += trace->spans[i].tasks;
    }
    for (size_t i = 0; i < trace->n_work; i++) {
        works += trace->work[i].n[CP_WORK_DECODE];
    }
    CHECK_EQ(tasks, 1000000);
    CHECK_EQ(works, 1000000);
    CHECK(trace->n < 20000);
    CHECK(trace->n_work < 20000);
    CHECK_EQ(trace->dropped, 0);
    cp_trace_free(trace);
}

TEST(trace_of_the_work_of_threads)
{
    struct cp_trace *trace = cp_trace_new(100);
    cp_trace_work(trace, CP_WORK_FEED, 7, 50, 300); /* it began before */
    cp_trace_work(trace, CP_WORK_DECODE, 7, 300, 500);
    cp_trace_work(trace, CP_WORK_CALLBACK, 8, 200, 2 * CP_MS); /* long */
    cp_trace_work(trace, CP_WORK_CALLBACK, 8, 2 * CP_MS, 2 * CP_MS + 10);
    cp_trace_work(trace, CP_WORK_FEED, 7, 400, 600); /* it overlaps */
    cp_trace_end(trace);
    CHECK_EQ(trace->n_lanes, 2);
    CHECK_EQ(trace->n_work, 4);
    const struct cp_work_span *both = &trace->work[1];
    CHECK_EQ(trace->work[0].began, 200);
    CHECK_EQ(trace->work[0].n[CP_WORK_CALLBACK], 1);
    CHECK_EQ(trace->lanes[trace->work[0].lane].thread, 8);
    CHECK_EQ(both->began, 100);
    CHECK_EQ(both->ended, 500);
    CHECK_EQ(both->ns[CP_WORK_FEED], 200);
    CHECK_EQ(both->ns[CP_WORK_DECODE], 200);
    CHECK_EQ(both->n[CP_WORK_FEED] + both->n[CP_WORK_DECODE], 2);
    CHECK_EQ(trace->lanes[both->lane].thread, 7);
    cp_trace_free(trace);
}

TEST(trace_has_so_many_lanes)
{
    struct cp_trace *trace = cp_trace_new(0);
    for (uint32_t i = 0; i < CP_TRACE_LANES + 3; i++) {
        cp_trace_work(trace, CP_WORK_FEED, i, i, i + 1);
    }
    cp_trace_end(trace);
    CHECK_EQ(trace->n_lanes, CP_TRACE_LANES);
    CHECK_EQ(trace->n_work, CP_TRACE_LANES);
    CHECK_EQ(trace->dropped, 3);
    cp_trace_free(trace);
}
