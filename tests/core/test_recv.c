/* What the parent's end accepts from a worker, and what it refuses. */
#include "os/fd.h"
#include "cp_test.h"
#include "lone.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- any order of events ---- */

/* Answers that were put and not received yet, oldest first. */
static struct {
    uint64_t index;
    size_t len;
} expected[4 * CP_WINDOW];
static size_t expected_first, expected_n;

static void
expect(uint64_t index, size_t len)
{
    size_t at = (expected_first + expected_n++) % (4 * CP_WINDOW);
    expected[at].index = index;
    expected[at].len = len;
}

static void
check_expected(const struct cp_result *result)
{
    CHECK(expected_n > 0);
    CHECK_EQ(result->index, expected[expected_first].index);
    CHECK_EQ(result->len, expected[expected_first].len);
    cp_test_check_pattern(result->body, result->len, result->index);
    expected_first = (expected_first + 1) % (4 * CP_WINDOW);
    expected_n--;
}

/* Answer a task, past the ring if the answer does not fit or big is set. */
static void
answer(struct lone *lone, uint64_t seq, uint64_t index, size_t len, bool big)
{
    expect(index, len);
    if (!big && lone_answer(lone, seq, len, index) != CP_ETOOBIG) {
        return;
    }
    static uint8_t body[1 << 16];
    struct cp_frame frame = {.kind = CP_RESULT, .seq = seq, .len = len};
    cp_test_pattern(body, len, index);
    CHECK_EQ(cp_serve_send(&lone->s, &frame, body), 0);
}

static void
send_some(struct lone *lone, uint64_t *index, uint64_t *seed)
{
    for (uint32_t n = cp_test_random(seed) % 20; n > 0; n--) {
        size_t len = cp_test_random(seed) % 50;
        if (cp_worker_accepts(lone->w)) {
            CHECK_EQ(lone_send(lone, (*index)++, len), 1);
        }
    }
    CHECK_EQ(cp_worker_flush(lone->w), 0);
}

static void
work_some(struct lone *lone, uint64_t *seed)
{
    for (uint32_t n = cp_test_random(seed) % 20; n > 0; n--) {
        struct cp_frame frame;
        const uint8_t *body;
        /* Both ends of the test know the task of a seq. */
        if (cp_serve_next(&lone->s, &frame, &body) != 1) {
            struct pollfd pfd = {lone->w->child_rx, POLLIN, 0};
            if (poll(&pfd, 1, 0) == 0) {
                return;
            }
            CHECK_EQ(cp_serve_wait(&lone->s), 0);
        } else if (frame.kind == CP_TASK) {
            size_t len = cp_test_random(seed) % 8 == 0
                             ? cp_test_random(seed) % 50000
                             : cp_test_random(seed) % 200;
            uint64_t index =
                lone->w->window[frame.seq & (CP_WINDOW - 1)]->index;
            answer(lone, frame.seq, index, len, cp_test_random(seed) % 16 == 0);
        }
    }
}

/* Send, answer, flush, read, harvest the ring and recall, in any order: every
 * answer arrives once, complete, and in order. */
TEST(recv_any_order_of_events)
{
    struct lone lone;
    uint64_t seed = 6, index = 0;
    lone_open(&lone, UINT64_MAX, 5);
    lone.on_result = check_expected;
    /* The worker's end must never block: there is only one thread. */
    CHECK(fcntl(lone.w->child_tx, F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
    for (int i = 0; i < 20000; i++) {
        switch (cp_test_random(&seed) % 6) {
            case 0: send_some(&lone, &index, &seed); break;
            case 1:
                if (atomic_load(&lone.w->row->flushed) - lone.w->read_bytes
                    < 20000) {
                    work_some(&lone, &seed);
                }
                break;
            case 2: (void)lone_recall(&lone, cp_test_random(&seed) % 10); break;
            case 3:
                if (atomic_load(&lone.w->row->flushed) - lone.w->read_bytes
                    < 20000) {
                    CHECK_EQ(cp_serve_flush(&lone.s), 0);
                }
                break;
            case 4: (void)cp_worker_recv_ring(lone.w); break;
            default: CHECK(cp_worker_recv(lone.w) >= 0); break;
        }
        CHECK(!lone.w->bad);
    }
    while (cp_worker_recv(lone.w) == 1) {
    }
    (void)cp_worker_recv_ring(lone.w);
    CHECK_EQ(expected_n, 0);
    CHECK(lone.results > 1000);
    CHECK(lone.w->head > 4 * CP_WINDOW);
    lone_close(&lone);
}

/* ---- big ones ---- */

#define BIG_LEN ((size_t)5 * 1000 * 1000)

static void *
send_big(void *arg)
{
    struct lone *lone = arg;
    uint8_t *body = malloc(BIG_LEN);
    CHECK(body != NULL);
    cp_test_pattern(body, BIG_LEN, 77);
    struct cp_frame frame = {.kind = CP_RESULT, .seq = 1, .len = BIG_LEN};
    CHECK_EQ(cp_serve_put(&lone->s, &frame, body, 0), CP_ETOOBIG);
    CHECK_EQ(cp_serve_send(&lone->s, &frame, body), 0);
    free(body);
    return NULL;
}

TEST(recv_big_result_comes_in_pieces)
{
    struct lone lone;
    struct cp_frame frame;
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(lone_send(&lone, 0, 0), 1);
    CHECK_EQ(lone_send(&lone, 1, 0), 1);
    lone_next_task(&lone, &frame);
    lone_next_task(&lone, &frame);
    (void)lone_answer(&lone, 0, 100, 5); /* flushed before the big one */
    pthread_t thread = cp_test_start(send_big, &lone);
    struct pollfd pfd = {lone.w->rx, POLLIN, 0};
    while (lone.results < 2) {
        CHECK_EQ(poll(&pfd, 1, -1), 1);
        CHECK(cp_worker_recv(lone.w) >= 0);
    }
    (void)cp_test_join(thread);
    CHECK_EQ(lone.last->len, BIG_LEN);
    cp_test_check_pattern(lone.last->body, BIG_LEN, 77);
    /* The body went straight into the result. */
    CHECK(lone.w->in.cap < BIG_LEN / 4);
    CHECK_EQ(atomic_load(&lone.w->row->committed),
             atomic_load(&lone.w->row->flushed));
    lone_close(&lone);
}

/* ---- what no worker may send ---- */

/* Send three tasks; the worker begins the first one. */
static void
open_begun(struct lone *lone)
{
    struct cp_frame frame;
    lone_open(lone, UINT64_MAX, 5);
    for (uint64_t i = 0; i < 3; i++) {
        CHECK_EQ(lone_send(lone, i, 10), 1);
    }
    lone_next_task(lone, &frame);
}

/* The frame follows a good answer: the frame is refused, the answer is not. */
static void
check_refused(struct cp_frame frame)
{
    struct lone lone;
    open_begun(&lone);
    struct cp_frame good = {.kind = CP_RESULT, .seq = 0};
    lone_write(&lone, &good, CP_HEADER);
    lone_write(&lone, &frame, CP_HEADER);
    CHECK(cp_worker_recv(lone.w) < -1);
    CHECK_EQ(lone.results, 1);
    CHECK_EQ(lone.last_index, 0);
    CHECK_EQ(lone.init_errors, 0);
    lone_close(&lone);
}

TEST(recv_refuses_answers_to_unclaimed_tasks)
{
    check_refused((struct cp_frame){.kind = CP_RESULT, .seq = 0}); /* twice */
    check_refused(
        (struct cp_frame){.kind = CP_RESULT, .seq = 1}); /* unclaimed */
    check_refused((struct cp_frame){.kind = CP_ERROR, .seq = 2});
    check_refused(
        (struct cp_frame){.kind = CP_RESULT, .seq = 3}); /* not sent */
    check_refused((struct cp_frame){.kind = CP_RESULT, .seq = CP_WINDOW});
    check_refused((struct cp_frame){.kind = CP_RESULT, .seq = UINT64_MAX});
}

TEST(recv_refuses_kinds_that_only_go_down)
{
    check_refused((struct cp_frame){.kind = 0});
    check_refused((struct cp_frame){.kind = CP_TASK});
    check_refused((struct cp_frame){.kind = CP_FUNC});
    check_refused((struct cp_frame){.kind = UINT16_MAX});
}

TEST(recv_refuses_absurd_lengths)
{
    check_refused((struct cp_frame){.kind = CP_RESULT, .len = UINT64_MAX});
    check_refused(
        (struct cp_frame){.kind = CP_RESULT, .len = CP_FRAME_MAX + 1});
    check_refused((struct cp_frame){.kind = CP_HELLO, .len = 1});
}

TEST(recv_refuses_a_second_start)
{
    struct lone lone;
    struct cp_frame hello = {.kind = CP_HELLO};
    lone_open(&lone, UINT64_MAX, 5);
    lone_write(&lone, &hello, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    lone_write(&lone, &hello, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    CHECK_EQ(lone.hellos, 1);
    lone_close(&lone);

    /* Otherwise one rogue task could end all jobs of the pool. */
    struct cp_frame error = {.kind = CP_INIT_ERROR};
    lone_open(&lone, UINT64_MAX, 5);
    lone_write(&lone, &hello, CP_HEADER);
    lone_write(&lone, &error, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    CHECK_EQ(lone.init_errors, 0);
    lone_close(&lone);
}

/* A worker leaves once, and not before it was ready. */
TEST(recv_refuses_to_let_a_worker_leave_twice)
{
    struct lone lone;
    struct cp_frame hello = {.kind = CP_HELLO}, leave = {.kind = CP_LEAVE};
    lone_open(&lone, UINT64_MAX, 5);
    lone_write(&lone, &hello, CP_HEADER);
    lone_write(&lone, &leave, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.leaves, 1);
    CHECK(!cp_worker_accepts(lone.w));
    lone_write(&lone, &leave, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    CHECK_EQ(lone.leaves, 1);
    lone_close(&lone);

    lone_open(&lone, UINT64_MAX, 5);
    lone_write(&lone, &leave, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    CHECK_EQ(lone.leaves, 0);
    lone_close(&lone);
}

TEST(recv_refuses_an_answer_to_an_unsent_task)
{
    struct lone lone;
    struct cp_frame answer = {.kind = CP_RESULT};
    lone_open(&lone, UINT64_MAX, 5);
    lone_start(&lone);
    CHECK_EQ(lone_send(&lone, 0, 1000 * 1000), 1);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK(cp_worker_has_out(lone.w));
    CHECK(cp_claim_take(lone.w->row, 0)); /* a lie */
    lone_write(&lone, &answer, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    CHECK_EQ(lone.results, 0);
    lone_close(&lone);
}

TEST(recv_refuses_lies_in_the_ring)
{
    static const uint64_t lies[] = {
        1,           CP_HEADER,  1000,           CP_RING,
        CP_RING + 1, UINT64_MAX, UINT64_MAX / 2, CP_RING * 2};
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct lone lone;
        open_begun(&lone);
        memset(lone.w->row->ring, 0xee, CP_RING);
        atomic_store(&lone.w->row->committed, lies[i]);
        (void)cp_worker_recv_ring(lone.w);
        atomic_store(&lone.w->row->flushed, lies[i] / 2);
        (void)cp_worker_recv_ring(lone.w);
        CHECK_EQ(lone.results, 0);
        bool shown = lies[i] >= CP_HEADER && lies[i] <= CP_RING;
        CHECK_EQ(lone.w->bad, shown);
        lone_close(&lone);
    }
}

/* A worker withdraws its claim in the middle of an answer, so that the task goes
 * to another worker. */
TEST(recv_refuses_lies_in_the_claims)
{
    struct lone lone;
    struct cp_frame answer = {.kind = CP_RESULT, .len = 4};
    open_begun(&lone);
    lone_write(&lone, &answer, CP_HEADER);
    lone_write(&lone, "ab", 2);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    cp_claim_offer(lone.w->row, 0);
    CHECK_EQ(lone_recall(&lone, 10), 3);
    lone_write(&lone, "cd", 2);
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    CHECK_EQ(lone.results, 0);
    lone_close(&lone);
}

/* A wrong header is refused at once: the valid answer that follows is not read
 * as its body. */
TEST(recv_refuses_by_the_header)
{
    struct lone lone;
    struct cp_frame wrong = {.kind = CP_RESULT, .seq = 1, .len = 1000 * 1000};
    open_begun(&lone);
    lone_write(&lone, &wrong, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    lone_close(&lone);
}

/* Rubbish is refused or incomplete, and never an answer. */
TEST(recv_survives_rubbish)
{
    uint64_t seed = 8;
    for (int i = 0; i < 300; i++) {
        struct lone lone;
        uint8_t bytes[200];
        open_begun(&lone);
        for (size_t k = 0; k < sizeof(bytes); k++) {
            bytes[k] = cp_test_random(&seed) % 4 == 0
                           ? (uint8_t)cp_test_random(&seed)
                           : 0;
        }
        lone_write(&lone, bytes, sizeof(bytes));
        (void)cp_worker_recv(lone.w);
        CHECK_EQ(lone.results, 0);
        lone_close(&lone);
    }
}
