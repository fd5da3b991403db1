/* The parent's end of one worker: sending, recalling, receiving. */
#include "os/fd.h"
#include "cp_test.h"
#include "lone.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

TEST(worker_without_a_fork_leaks_nothing)
{
    struct cp_worker *w;
    struct cp_rows rows;
    int before = cp_test_descriptors();
    CHECK_EQ(cp_rows_init(&rows), 0);
    CHECK_EQ(cp_worker_new(UINT64_MAX, &rows, -1, &w), 0);
    cp_worker_started(w, -1);
    CHECK_EQ(cp_test_descriptors(), before);
    cp_worker_close(w);
    cp_worker_ref(w);
    cp_worker_unref(w);
    cp_worker_unref(w);
    cp_worker_unref(NULL);
    cp_rows_fini(&rows);
}

TEST(worker_lack_of_descriptors_leaks_nothing)
{
    struct rlimit old;
    struct cp_rows rows;
    int before = cp_test_descriptors();
    CHECK_EQ(cp_rows_init(&rows), 0);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    int lowest = dup(0);
    (void)close(lowest);
    int failed = 0;
    for (int spare = 0;; spare++) {
        struct cp_worker *w;
        struct rlimit low = {(rlim_t)(lowest + spare), old.rlim_max};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
        int r = cp_worker_new(1, &rows, -1, &w);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
        if (r == 0) {
            cp_worker_unref(w);
            break;
        }
        CHECK_EQ(r, CP_ERRNO(EMFILE));
        CHECK(w == NULL);
        CHECK_EQ(cp_test_descriptors(), before);
        failed++;
    }
    CHECK_EQ(failed, 4);
    cp_rows_fini(&rows);
}

TEST(worker_task_goes_down_and_result_comes_up)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 50);
    CHECK(!cp_worker_has_out(lone.w));
    CHECK_EQ(lone_send(&lone, 41, 100), 1);
    CHECK(cp_worker_has_out(lone.w));
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK(!cp_worker_has_out(lone.w));
    CHECK_EQ(atomic_load(&lone.w->row->sent), 50 + 100 + 2 * CP_HEADER);

    lone_next(&lone, &frame, &body);
    CHECK_EQ(frame.kind, CP_FUNC);
    CHECK_EQ(frame.flags, CP_KEEP);
    CHECK_EQ(frame.arg, 3);
    CHECK_EQ(frame.len, 50);
    cp_test_check_pattern(body, 50, 999);
    CHECK(!cp_worker_is_claimed(lone.w, 0));
    lone_next(&lone, &frame, &body);
    CHECK_EQ(frame.kind, CP_TASK);
    CHECK_EQ(frame.flags, 0x1234);
    CHECK_EQ(frame.arg, 3);
    CHECK_EQ(frame.seq, 0);
    cp_test_check_pattern(body, 100, 41);
    CHECK(cp_worker_is_claimed(lone.w, 0));

    CHECK_EQ(lone_answer(&lone, 0, 30, 7), 0);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.results, 0);
    CHECK_EQ(cp_serve_flush(&lone.s), 0);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.results, 1);
    CHECK_EQ(lone.last_index, 41);
    CHECK_EQ(lone.last_ns, 10);
    CHECK_EQ(lone.last->outcome, CP_OK);
    CHECK_EQ(lone.last->len, 30);
    cp_test_check_pattern(lone.last->body, 30, 7);
    CHECK_EQ(lone.w->in_flight, 0);
    lone_close(&lone);
}

TEST(worker_callable_is_sent_once)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 50);
    cp_worker_forget(lone.w, 3); /* never sent: nothing to forget */
    cp_worker_forget(lone.w, 1000);
    CHECK(!cp_worker_has_out(lone.w));
    CHECK_EQ(lone_send(&lone, 0, 0), 1);
    CHECK_EQ(lone_send(&lone, 1, 0), 1);
    cp_worker_forget(lone.w, 3);
    cp_worker_forget(lone.w, 3);
    CHECK_EQ(lone_send(&lone, 2, 0), 1);
    static const int kinds[] = {CP_FUNC,   CP_TASK, CP_TASK,
                                CP_FORGET, CP_FUNC, CP_TASK};
    for (int i = 0; i < 6; i++) {
        lone_next(&lone, &frame, &body);
        CHECK_EQ(frame.kind, kinds[i]);
        CHECK_EQ(frame.arg, 3);
    }
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 0);
    lone_close(&lone);
}

TEST(worker_budget_is_kept)
{
    struct lone lone;
    lone_open(&lone, 2, 5);
    CHECK(cp_worker_accepts(lone.w));
    CHECK_EQ(lone_send(&lone, 0, 0), 1);
    CHECK_EQ(lone_send(&lone, 1, 0), 1);
    CHECK(!cp_worker_accepts(lone.w));
    uint32_t n = 1;
    struct cp_task *task = cp_worker_recall(lone.w, &n, false, NULL);
    CHECK_EQ(n, 1);
    CHECK_EQ(task->index, 1);
    cp_task_free(task);
    CHECK(cp_worker_accepts(lone.w));
    CHECK_EQ(lone_send(&lone, 2, 0), 1);
    CHECK(!cp_worker_accepts(lone.w));
    lone_close(&lone);
}

TEST(worker_window_is_limited)
{
    struct lone lone;
    struct cp_frame frame;
    lone_open(&lone, UINT64_MAX, 5);
    for (uint64_t i = 0; i < CP_WINDOW; i++) {
        CHECK(cp_worker_accepts(lone.w));
        CHECK_EQ(lone_send(&lone, i, 0), 1);
    }
    CHECK(!cp_worker_accepts(lone.w));
    CHECK_EQ(lone.w->in_flight, CP_WINDOW);
    lone_next_task(&lone, &frame);
    (void)lone_answer(&lone, frame.seq, 0, 0);
    CHECK(cp_worker_recv_ring(lone.w));
    CHECK(cp_worker_accepts(lone.w));
    CHECK_EQ(lone_send(&lone, 0, 0), 1);
    CHECK(!cp_worker_accepts(lone.w));
    lone_close(&lone);
}

TEST(worker_accepts_a_limited_amount_per_write)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    int n = 0;
    while (cp_worker_accepts(lone.w)) {
        CHECK_EQ(lone_send(&lone, 0, CP_BIG - 1), 1);
        n++;
    }
    CHECK(n >= 2 && n <= 3);
    lone_close(&lone);
}

/* Move a frame of any size down: fill the pipe, empty the pipe, repeat. */
static void
pump(struct lone *lone, struct cp_frame *frame, const uint8_t **body)
{
    for (;;) {
        CHECK_EQ(cp_worker_flush(lone->w), 0);
        int r = cp_serve_next(&lone->s, frame, body);
        CHECK(r >= 0);
        if (r == 1) {
            return;
        }
        CHECK_EQ(cp_serve_wait(&lone->s), 0);
    }
}

TEST(worker_big_task_is_sent_without_a_copy)
{
    enum { LEN = 5 * 1000 * 1000 };
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 5);
    lone_start(&lone);
    CHECK_EQ(lone_send(&lone, 6, LEN), 1);
    CHECK(lone.w->big == lone.w->window[0]->body);
    CHECK(cp_buf_len(&lone.w->out) < 1000);
    CHECK(!cp_worker_accepts(lone.w));
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK(cp_worker_has_out(lone.w)); /* the pipe is full */
    uint32_t n = 5;
    CHECK(cp_worker_recall(lone.w, &n, false, NULL) == NULL);
    CHECK_EQ(n, 0);
    pump(&lone, &frame, &body);
    CHECK_EQ(frame.kind, CP_FUNC);
    pump(&lone, &frame, &body);
    CHECK_EQ(frame.len, LEN);
    cp_test_check_pattern(body, LEN, 6);
    CHECK(cp_worker_accepts(lone.w));
    /* Small tasks may follow, but not another big one, which would block. */
    CHECK_EQ(lone_send(&lone, 7, 10), 1);
    CHECK_EQ(lone_send(&lone, 8, CP_BIG), 0);
    CHECK_EQ(lone.w->in_flight, 2);
    /* The worker frees the memory of the frame afterwards. */
    lone_next_task(&lone, &frame);
    CHECK_EQ(lone_send(&lone, 9, 10), 1);
    lone_next_task(&lone, &frame);
    CHECK(lone.s.in.cap < LEN / 4);
    lone_close(&lone);
}

/* A worker that never starts would keep the task for ever. */
TEST(worker_big_task_goes_only_to_a_started_worker)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(lone_send(&lone, 0, CP_BIG), 0);
    CHECK_EQ(lone_send(&lone, 1, CP_BIG - 1), 1);
    uint32_t n = 1;
    struct cp_task *task = cp_worker_recall(lone.w, &n, false, NULL);
    CHECK_EQ(n, 1);
    cp_task_free(task);
    lone_start(&lone);
    CHECK_EQ(lone_send(&lone, 0, CP_BIG), 1);
    lone_close(&lone);
}

TEST(worker_big_callable_is_sent_first_and_alone)
{
    enum { LEN = 3 * 1000 * 1000 };
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, LEN);
    CHECK_EQ(lone_send(&lone, 0, 10), 0);
    CHECK_EQ(lone.func->refs, 2);
    CHECK(!cp_worker_accepts(lone.w));
    CHECK_EQ(lone.w->in_flight, 0);
    pump(&lone, &frame, &body);
    CHECK_EQ(frame.kind, CP_FUNC);
    cp_test_check_pattern(body, LEN, 999);
    CHECK_EQ(lone.funcs_sent, 1);
    CHECK_EQ(lone.func->refs, 1);
    CHECK_EQ(lone_send(&lone, 1, 10), 1);
    pump(&lone, &frame, &body);
    CHECK_EQ(frame.kind, CP_TASK);
    lone_close(&lone);
}

TEST(worker_big_callable_is_released_if_not_sent)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 1000 * 1000);
    CHECK_EQ(lone_send(&lone, 0, 10), 0);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK_EQ(lone.func->refs, 2);
    cp_worker_close_tx(lone.w);
    CHECK(!cp_worker_has_out(lone.w));
    CHECK_EQ(lone.func->refs,
             2); /* the callable may turn out to have killed the worker */
    cp_worker_close(lone.w);
    CHECK_EQ(lone.func->refs, 1);
    lone_close(&lone);
}

TEST(worker_recall_takes_the_newest_unbegun_tasks)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 5);
    for (uint64_t i = 0; i < 6; i++) {
        CHECK_EQ(lone_send(&lone, i, 10), 1);
    }
    lone_next_task(&lone, &frame); /* 0 has begun */
    uint32_t n = 2;
    struct cp_task *list = cp_worker_recall(lone.w, &n, false, NULL);
    CHECK_EQ(n, 2);
    CHECK_EQ(list->index, 5);
    CHECK_EQ(list->next->index, 4);
    CHECK(list->next->next == NULL);
    cp_task_free(list->next);
    cp_task_free(list);
    CHECK_EQ(lone.w->in_flight, 4);
    /* The worker keeps the tasks in between. */
    lone_next_task(&lone, &frame);
    CHECK_EQ(frame.seq, 1);
    n = 100;
    list = cp_worker_recall(lone.w, &n, false, NULL);
    CHECK_EQ(n, 2);
    CHECK_EQ(list->index, 3);
    CHECK_EQ(list->next->index, 2);
    cp_task_free(list->next);
    cp_task_free(list);
    CHECK_EQ(lone_send(&lone, 6, 10), 1);
    /* Recalled tasks were sent already: the worker skips them. */
    lone_next(&lone, &frame, &body);
    CHECK_EQ(frame.seq, 6);
    cp_test_check_pattern(body, 10, 6);
    n = 100;
    CHECK(cp_worker_recall(lone.w, &n, false, NULL) == NULL);
    CHECK_EQ(n, 0);
    lone_close(&lone);
}

/* Each result arrives once, whether from the ring or from the pipe, or first
 * through the ring and later through the pipe. */
TEST(worker_harvest_runs_ahead_of_the_pipe)
{
    struct lone lone;
    struct cp_frame frame;
    lone_open(&lone, UINT64_MAX, 5);
    for (uint64_t i = 0; i < 4; i++) {
        CHECK_EQ(lone_send(&lone, i, 0), 1);
    }
    for (uint64_t i = 0; i < 4; i++) {
        lone_next_task(&lone, &frame);
        (void)lone_answer(&lone, i, 1000, i);
        if (i == 1) {
            CHECK(cp_worker_recv_ring(lone.w));
            CHECK(!cp_worker_recv_ring(lone.w));
            CHECK_EQ(lone.results, 2);
        }
    }
    CHECK_EQ(cp_serve_flush(&lone.s), 0);
    CHECK(!cp_worker_recv_ring(lone.w)); /* the rest is in the pipe */
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.results, 4);
    CHECK_EQ(lone.last_index, 3);
    cp_test_check_pattern(lone.last->body, 1000, 3);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.results, 4);
    lone_close(&lone);
}

/* A worker died in the middle of a write: the first part of the frame is in the
 * pipe, not counted as flushed, and the rest is in the ring. */
TEST(worker_harvest_completes_a_frame_from_the_pipe)
{
    struct lone lone;
    struct cp_frame frame;
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(lone_send(&lone, 0, 0), 1);
    CHECK_EQ(lone_send(&lone, 1, 0), 1);
    lone_next_task(&lone, &frame);
    lone_next_task(&lone, &frame);
    (void)lone_answer(&lone, 0, 500, 20);
    (void)lone_answer(&lone, 1, 500, 21);
    lone_write(&lone, lone.w->row->ring, 600);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.results, 1);
    CHECK(cp_worker_recv_ring(lone.w));
    CHECK_EQ(lone.results, 2);
    cp_test_check_pattern(lone.last->body, 500, 21);
    lone_close(&lone);
}

TEST(worker_last_task_closes_the_window)
{
    struct lone lone;
    struct cp_frame frame;
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(lone_send(&lone, 0, 0), 1);
    lone_next_task(&lone, &frame);
    struct cp_frame last = {.kind = CP_ERROR, .flags = CP_LAST};
    CHECK_EQ(cp_serve_put(&lone.s, &last, NULL, 0), 1);
    CHECK(cp_worker_recv_ring(lone.w));
    CHECK_EQ(lone.results, 1);
    CHECK_EQ(lone.last->outcome, CP_RAISED);
    CHECK_EQ(lone.last->len, 0);
    CHECK(lone.w->exiting && !cp_worker_accepts(lone.w));
    lone_close(&lone);
}

TEST(worker_end_of_file_ends_the_worker)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 5);
    CHECK_EQ(lone_send(&lone, 0, 10), 1);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK_EQ(lone_send(&lone, 1, 10), 1); /* not written: dropped */
    cp_worker_close_tx(lone.w);
    CHECK(!cp_worker_accepts(lone.w));
    cp_worker_forget(lone.w, 3);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    lone_next_task(&lone, &frame);
    CHECK_EQ(cp_serve_next(&lone.s, &frame, &body), 0);
    CHECK_EQ(cp_serve_wait(&lone.s), CP_ECLOSED);
    lone_close(&lone);
}

TEST(worker_that_stops_reading_fails_the_flush)
{
    struct lone lone;
    lone_open(&lone, UINT64_MAX, 5);
    cp_fd_close(&lone.w->child_rx);
    CHECK_EQ(lone_send(&lone, 0, 10), 1);
    CHECK_EQ(cp_worker_flush(lone.w), CP_ECLOSED);
    lone_close(&lone);
}

TEST(worker_hello_and_init_error)
{
    struct lone lone;
    struct cp_frame hello = {.kind = CP_HELLO};
    lone_open(&lone, UINT64_MAX, 5);
    lone_write(&lone, &hello, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.hellos, 1);
    CHECK(lone.w->hello);
    cp_fd_close(&lone.w->child_tx);
    CHECK_EQ(cp_worker_recv(lone.w), CP_ECLOSED);
    lone_close(&lone);

    struct cp_frame error = {.kind = CP_INIT_ERROR, .len = 4};
    lone_open(&lone, UINT64_MAX, 5);
    lone_write(&lone, &error, CP_HEADER);
    lone_write(&lone, "oops", 4);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.init_errors, 1);
    CHECK_BYTES(lone.last->body, "oops", 4);
    CHECK(!lone.w->hello && !cp_worker_accepts(lone.w));
    lone_close(&lone);
}

/* A worker that starts by exec, up to its descriptors. */
static struct cp_worker_ends
open_ends(struct cp_worker **w, struct cp_common **common, int *life)
{
    struct cp_worker_ends ends;
    int fds[2];
    CHECK_EQ(cp_fd_pipe(fds), 0);
    *life = fds[1];
    CHECK_EQ(cp_common_share(common, &ends.common), 0);
    CHECK_EQ(cp_worker_new(5, NULL, fds[0], w), 0);
    ends.rx = (*w)->child_rx;
    ends.tx = (*w)->child_tx;
    ends.life = (*w)->child_life;
    ends.row = (*w)->child_row;
    return ends;
}

/* Attach in a child that inherits nothing else. */
static int
attach(const struct cp_worker_ends *ends, struct cp_worker **w)
{
    int keep[] = {ends->rx, ends->tx, ends->life, ends->row, ends->common};
    cp_fd_in_child(keep, 5);
    return cp_worker_attach(5, ends, w);
}

TEST(worker_attached_is_tied_and_shares_its_row)
{
    struct cp_worker *w;
    struct cp_common *common;
    int life;
    struct cp_worker_ends ends = open_ends(&w, &common, &life);
    cp_claim_offer(w->row, 1);
    int pid = cp_test_fork();
    if (pid == 0) {
        struct cp_worker *mine;
        struct cp_serve serve;
        CHECK_EQ(attach(&ends, &mine), 0);
        CHECK_EQ(mine->budget, 5);
        CHECK(cp_common_claim_failure(mine->common));
        CHECK(cp_claim_take(mine->row, 1));
        CHECK_EQ(cp_serve_init(&serve, mine), 0);
        CHECK_EQ(write(mine->child_tx, "x", 1), 1);
        for (;;) {
            (void)pause();
        }
    }
    cp_worker_started(w, pid);
    CHECK_EQ(w->child_row, -1);
    struct pollfd pfd = {w->rx, POLLIN, 0};
    CHECK_EQ(poll(&pfd, 1, -1), 1);
    char byte = 0;
    CHECK_EQ(cp_fd_read(w->rx, &byte, 1), 1);
    CHECK_EQ(byte, 'x');
    CHECK(!cp_claim_recall(w->row, 1));
    CHECK(!cp_common_claim_failure(common));
    int code = 0;
    CHECK_EQ(cp_proc_poll(&w->proc, NULL), 0);
    cp_worker_close(w); /* it is tied to the life line only */
    CHECK_EQ(cp_proc_wait(&w->proc, cp_now() + CP_MS, NULL), 0);
    cp_fd_close(&life);
    CHECK_EQ(cp_proc_wait(&w->proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, -SIGKILL);
    cp_worker_unref(w);
    cp_common_close(common);
    cp_fd_close(&ends.common);
}

TEST(worker_of_another_build_is_refused)
{
    struct cp_worker *w;
    struct cp_common *common;
    int life;
    struct cp_worker_ends ends = open_ends(&w, &common, &life);
    common->format++;
    int pid = cp_test_fork();
    if (pid == 0) {
        struct cp_worker *mine = w;
        CHECK_EQ(attach(&ends, &mine), CP_EPROTO);
        CHECK(mine == NULL);
        _exit(6);
    }
    CHECK_EQ(cp_test_reap(pid), 6);
    cp_worker_started(w, -1);
    cp_worker_unref(w);
    cp_fd_close(&life);
    cp_common_close(common);
    cp_fd_close(&ends.common);
}

TEST(worker_attached_too_late_ends_at_once)
{
    struct cp_worker *w;
    struct cp_common *common;
    int life;
    struct cp_worker_ends ends = open_ends(&w, &common, &life);
    cp_fd_close(&life); /* as the parent's end would */
    int pid = cp_test_fork();
    if (pid == 0) {
        struct cp_worker *mine;
        (void)attach(&ends, &mine);
        _exit(20);
    }
    CHECK_EQ(cp_test_reap(pid), 1);
    cp_worker_unref(w);
    cp_common_close(common);
    cp_fd_close(&ends.common);
}

TEST(worker_served_passes_its_descriptors_on)
{
    struct cp_worker *w;
    struct cp_common *common;
    int life;
    struct cp_worker_ends ends = open_ends(&w, &common, &life);
    int status[2], code = 0;
    int64_t told = 9;
    CHECK_EQ(cp_fd_pipe(status), 0);
    cp_worker_started_by_server(w, getpid(), status[0]);
    CHECK(w->child_rx < 0 && w->child_tx < 0 && w->child_life < 0);
    CHECK(w->child_row < 0);
    CHECK_EQ(cp_proc_poll(&w->proc, &code), 0);
    CHECK_EQ(write(status[1], &told, sizeof(told)), sizeof(told));
    CHECK_EQ(cp_proc_poll(&w->proc, &code), 1);
    CHECK_EQ(code, 9);
    cp_fd_close(&status[1]);
    cp_fd_close(&life);
    cp_worker_unref(w);
    cp_common_close(common);
    cp_fd_close(&ends.common);
}
