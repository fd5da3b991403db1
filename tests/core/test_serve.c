/* The worker's end of the pipes. */
#include "base/clock.h"
#include "os/fd.h"
#include "cp_test.h"
#include "lone.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Write raw bytes into the task pipe. */
static void
push(struct lone *lone, const void *bytes, size_t n)
{
    CHECK_EQ(write(lone->w->tx, bytes, n), (int64_t)n);
}

static void
push_frame(struct lone *lone, struct cp_frame frame, const void *body)
{
    push(lone, &frame, CP_HEADER);
    push(lone, body, (size_t)frame.len);
}

TEST(serve_frames_may_arrive_byte_by_byte)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    uint8_t bytes[2 * (CP_HEADER + 3)];
    for (int i = 0; i < 2; i++) {
        struct cp_frame func = {.kind = CP_FUNC, .len = 3, .arg = (uint32_t)i};
        memcpy(bytes + i * (CP_HEADER + 3), &func, CP_HEADER);
        memcpy(bytes + i * (CP_HEADER + 3) + CP_HEADER, "abc", 3);
    }
    lone_open(&lone, UINT64_MAX, 5);
    uint32_t seen = 0;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 0);
        push(&lone, bytes + i, 1);
        CHECK_EQ(cp_serve_wait(&lone.s), 0);
        if ((i + 1) % (CP_HEADER + 3) == 0) {
            CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 1);
            CHECK_EQ(frame.arg, seen++);
            CHECK_BYTES(body, "abc", 3);
        }
    }
    CHECK_EQ(seen, 2);
    lone_close(&lone);
}

TEST(serve_a_worker_may_look_up_while_it_waits)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    lone.s.look_ms = 1;
    CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    push_frame(&lone, (struct cp_frame){.kind = CP_FUNC, .len = 4}, "wxyz");
    CHECK_EQ(cp_serve_wait(&lone.s), 0);
    /* Also while the parent has not yet counted what it has written. */
    CHECK(atomic_load(&lone.w->row->sent) < lone.s.got);
    struct cp_frame frame;
    const uint8_t *body;
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 1);
    CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    lone_close(&lone);
}

TEST(serve_many_frames_may_arrive_at_once)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 5);
    for (uint32_t i = 0; i < 500; i++) {
        push_frame(&lone,
                   (struct cp_frame){.kind = CP_FUNC, .len = 4, .arg = i},
                   "wxyz");
    }
    CHECK_EQ(cp_serve_wait(&lone.s), 0);
    for (uint32_t i = 0; i < 500; i++) {
        CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 1);
        CHECK_EQ(frame.arg, i);
        CHECK_BYTES(body, "wxyz", 4);
    }
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 0);
    lone_close(&lone);
}

TEST(serve_runs_only_claimed_tasks)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 5);
    for (uint64_t seq = 0; seq < 4; seq++) {
        push_frame(&lone, (struct cp_frame){.kind = CP_TASK, .seq = seq}, "");
    }
    cp_claim_offer(lone.w->row, 0);
    cp_claim_offer(lone.w->row, 1);
    cp_claim_offer(lone.w->row, 3);
    CHECK(cp_claim_recall(lone.w->row, 1));
    CHECK_EQ(cp_serve_wait(&lone.s), 0);
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 1);
    CHECK_EQ(frame.seq, 0);
    CHECK(!cp_claim_is_taken(lone.w->row, 3)); /* one at a time */
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 1);
    CHECK_EQ(frame.seq, 3);
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 0);
    lone_close(&lone);
}

/* A request names a task, and may name an item of it; it is taken once. */
TEST(serve_takes_a_request_to_stop_once)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    struct cp_row *row = lone.w->row;
    CHECK(!cp_serve_take_stop(row)); /* nothing runs, and nobody asks */
    cp_serve_begin(&lone.s, 7, 100);
    CHECK(!cp_serve_take_stop(row));
    atomic_store(&row->stop_since, 99); /* another item */
    atomic_store(&row->stop, 8);
    CHECK(!cp_serve_take_stop(row));
    atomic_store(&row->stop_since, CP_NEVER);
    atomic_store(&row->stop, 7); /* another task */
    CHECK(!cp_serve_take_stop(row));
    CHECK(!cp_worker_has_heard(lone.w));
    atomic_store(&row->stop, 8);
    CHECK(cp_serve_take_stop(row));
    CHECK(cp_worker_has_heard(lone.w));
    CHECK(!cp_serve_take_stop(row));
    atomic_store(&row->stop_since, 100);
    atomic_store(&row->stop, 8);
    CHECK(cp_serve_take_stop(row));
    CHECK(!cp_serve_take_stop(row));
    lone_close(&lone);
}

TEST(serve_refuses_nonsense)
{
    static const uint16_t kinds[] = {0, CP_RESULT, CP_HELLO, 77};
    for (int i = 0; i < 4; i++) {
        struct lone lone;
        struct cp_frame frame;
        const uint8_t *body;
        lone_open(&lone, UINT64_MAX, 5);
        push_frame(&lone, (struct cp_frame){.kind = CP_FUNC}, "");
        push_frame(&lone, (struct cp_frame){.kind = kinds[i]}, "");
        CHECK_EQ(cp_serve_wait(&lone.s), 0);
        CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 1);
        CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), CP_EPROTO);
        lone_close(&lone);
    }
}

TEST(serve_lack_of_memory_is_an_error)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 5);
    push_frame(&lone, (struct cp_frame){.kind = CP_TASK}, "");
    struct cp_frame absurd = {.kind = CP_FUNC, .len = CP_FRAME_MAX};
    push(&lone, &absurd, CP_HEADER);
    cp_claim_offer(lone.w->row, 0);
    CHECK_EQ(cp_serve_wait(&lone.s), 0);
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 1);
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 0);
    CHECK_EQ(cp_serve_wait(&lone.s), CP_ENOMEM);
    lone_close(&lone);
}

TEST(serve_end_of_file_is_the_end)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    struct cp_frame half = {.kind = CP_FUNC, .len = 100};
    push(&lone, &half, CP_HEADER);
    cp_fd_close(&lone.w->tx);
    CHECK_EQ(cp_serve_wait(&lone.s), 0);
    CHECK_EQ(cp_serve_wait(&lone.s), CP_ECLOSED);
    lone_close(&lone);
}

TEST(serve_results_without_a_reader_are_an_error)
{
    struct lone lone;
    struct cp_frame frame = {.kind = CP_RESULT};
    lone_open(&lone, UINT64_MAX, 5);
    cp_fd_close(&lone.w->rx);
    CHECK_EQ(cp_serve_send(&lone.s, &frame, NULL), CP_ECLOSED);
    CHECK_EQ(lone_answer(&lone, 0, 10, 0), 0);
    CHECK_EQ(cp_serve_flush(&lone.s), CP_ECLOSED);
    CHECK_EQ(cp_serve_wait(&lone.s), CP_ECLOSED);
    lone_close(&lone);
}

static int
put(struct lone *lone, uint16_t kind, uint32_t ns, size_t len, int64_t now)
{
    static uint8_t body[CP_RING];
    struct cp_frame frame = {.kind = kind, .arg = ns, .len = len};
    return cp_serve_put(&lone->s, &frame, body, now);
}

static void
drain(struct lone *lone)
{
    static uint8_t bytes[CP_RING];
    CHECK_EQ(cp_serve_flush(&lone->s), 0);
    while (cp_fd_read(lone->w->rx, bytes, sizeof(bytes)) > 0) {
    }
}

TEST(serve_reports_when_a_flush_is_due)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(put(&lone, CP_RESULT, 0, 10, 0), 0);
    CHECK_EQ(put(&lone, CP_RESULT, 0, 10, 100 * CP_US), 0);
    CHECK_EQ(put(&lone, CP_RESULT, 0, 10, 300 * CP_US),
             1); /* the first waits */
    drain(&lone);
    CHECK_EQ(put(&lone, CP_RESULT, 0, 10, 400 * CP_US), 0);
    CHECK_EQ(put(&lone, CP_RESULT, 1000 * 1000, 10, 400 * CP_US), 1); /* slow */
    drain(&lone);
    CHECK_EQ(put(&lone, CP_ERROR, 0, 10, 500 * CP_US), 1);
    CHECK_EQ(put(&lone, CP_HELLO, 0, 0, 500 * CP_US), 1);
    drain(&lone);
    int n = 1;
    while (put(&lone, CP_RESULT, 0, 1000, 600 * CP_US) == 0) {
        n++;
    }
    CHECK(n > 20 && n < 50); /* half full */
    lone_close(&lone);
}

TEST(serve_put_refuses_frames_that_do_not_fit)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(put(&lone, CP_RESULT, 0, CP_RING - CP_HEADER + 1, 0), CP_ETOOBIG);
    CHECK_EQ(cp_ring_room(lone.w->row), CP_RING);
    CHECK_EQ(put(&lone, CP_RESULT, 0, CP_RING - CP_HEADER, 0), 0);
    CHECK_EQ(cp_ring_room(lone.w->row), 0);
    CHECK_EQ(put(&lone, CP_RESULT, 0, 0, 0), CP_ETOOBIG);
    drain(&lone);
    CHECK_EQ(cp_ring_room(lone.w->row), CP_RING);
    /* And again, from the middle of the ring. */
    CHECK_EQ(put(&lone, CP_RESULT, 0, 1000, 0), 0);
    drain(&lone);
    CHECK_EQ(put(&lone, CP_RESULT, 0, CP_RING - CP_HEADER, 0), 0);
    drain(&lone);
    lone_close(&lone);
}

TEST(serve_shows_the_running_task)
{
    struct lone lone;
    struct cp_frame frame = {.kind = CP_RESULT, .seq = 4};
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(atomic_load(&lone.w->row->running), 0);
    cp_serve_begin(&lone.s, 4, 12345);
    CHECK_EQ(atomic_load(&lone.w->row->running), 5);
    CHECK_EQ(atomic_load(&lone.w->row->since), 12345);
    CHECK_EQ(cp_serve_put(&lone.s, &frame, NULL, 0), 0);
    CHECK_EQ(atomic_load(&lone.w->row->running), 0);
    cp_serve_begin(&lone.s, 5, 12345);
    CHECK_EQ(cp_serve_send(&lone.s, &frame, NULL), 0);
    CHECK_EQ(atomic_load(&lone.w->row->running), 0);
    lone_close(&lone);
}

/* The worker never sleeps with unflushed results. */
TEST(serve_flushes_before_it_waits)
{
    struct lone lone;
    uint8_t bytes[1000];
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(put(&lone, CP_RESULT, 0, 10, 0), 0);
    push_frame(&lone, (struct cp_frame){.kind = CP_FUNC}, "");
    CHECK_EQ(cp_serve_wait(&lone.s), 0);
    CHECK_EQ(cp_fd_read(lone.w->rx, bytes, sizeof(bytes)), CP_HEADER + 10);
    lone_close(&lone);
}

/* The parent may ask for spins that find nothing each time. */
TEST(serve_skips_spins_after_some_in_vain)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    lone.s.look_ms = 1;
    CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    CHECK_EQ(lone.s.spins.misses, 0); /* not asked for */
    atomic_store(&lone.w->row->spin_us, 1);
    while (lone.s.spins.rest == 0) {
        CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    }
    uint32_t misses = lone.s.spins.misses;
    CHECK(misses > 1);
    while (lone.s.spins.rest > 0) {
        CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    }
    CHECK_EQ(lone.s.spins.misses, misses); /* these waits did not spin */
    push_frame(&lone, (struct cp_frame){.kind = CP_FUNC}, "");
    atomic_store(&lone.w->row->sent, lone.s.got + CP_HEADER);
    CHECK_EQ(cp_serve_wait(&lone.s), 0);
    CHECK_EQ(lone.s.spins.misses, 0);
    /* After a short task each wait spins, and none is counted. */
    CHECK_EQ(put(&lone, CP_RESULT, 0, 10, 0), 0);
    for (uint32_t i = 0; i <= 2 * misses; i++) {
        CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    }
    CHECK_EQ(lone.s.spins.misses, 0);
    CHECK_EQ(put(&lone, CP_RESULT, 30000, 10, 0), 0); /* 30 us */
    CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    CHECK_EQ(lone.s.spins.misses, 1);
    lone_close(&lone);
}
