/* A lone worker; see lone.h. */
#include "lone.h"

#include "cp_test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct lone *the; /* callbacks get no pointer to the test's struct */

static void
on_hello(struct cp_worker *w)
{
    CHECK(w == the->w);
    the->hellos++;
}

static void
keep(struct cp_result *result)
{
    cp_result_free(the->last);
    the->last = result;
}

static void
on_result(struct cp_worker *w, uint64_t seq, struct cp_task *task,
          struct cp_result *result, int64_t ns)
{
    CHECK(w == the->w && task->job == the->job);
    CHECK_EQ(result->index, task->index);
    CHECK(seq < w->tail);
    the->results++;
    the->last_index = task->index;
    the->last_ns = ns;
    if (the->on_result != NULL) {
        the->on_result(result);
    }
    keep(result);
    cp_task_free(task);
}

static void
on_leave(struct cp_worker *w)
{
    CHECK(w == the->w && w->exiting);
    the->leaves++;
}

static void
on_init_error(struct cp_worker *w, struct cp_result *result)
{
    CHECK(w == the->w);
    the->init_errors++;
    keep(result);
}

static void
on_func_sent(struct cp_worker *w, struct cp_func *func)
{
    CHECK(w == the->w && func == the->func);
    the->funcs_sent++;
    func->refs--;
}

static const struct cp_worker_ops ops = {
    .on_hello = on_hello,
    .on_result = on_result,
    .on_init_error = on_init_error,
    .on_leave = on_leave,
    .on_func_sent = on_func_sent,
};

void
lone_open(struct lone *lone, uint64_t budget, size_t func_len)
{
    memset(lone, 0, sizeof(*lone));
    the = lone;
    CHECK_EQ(cp_rows_init(&lone->rows), 0);
    CHECK_EQ(cp_worker_new(budget, &lone->rows, -1, &lone->w), 0);
    lone->w->ops = &ops;
    CHECK_EQ(cp_serve_init(&lone->s, lone->w), 0);
    lone->func = malloc(sizeof(*lone->func) + func_len);
    CHECK(lone->func != NULL);
    *lone->func = (struct cp_func){
        .refs = 1, .slot = 3, .flags = CP_KEEP, .avg_ns = -1, .len = func_len};
    cp_test_pattern(lone->func->bytes, func_len, 999);
    lone->job = cp_job_alloc(NULL, lone->func, 0, NULL);
    CHECK(lone->job != NULL);
}

void
lone_close(struct lone *lone)
{
    for (size_t i = 0; i < CP_WINDOW; i++) {
        cp_task_free(lone->w->window[i]);
    }
    cp_worker_close_tx(lone->w);
    cp_worker_unref(lone->w);
    cp_rows_fini(&lone->rows);
    cp_serve_fini(&lone->s);
    cp_result_free(lone->last);
    lone->job->refs = 0;
    cp_job_free(lone->job);
    CHECK_EQ(lone->func->refs, 1);
    free(lone->func);
}

uint32_t
lone_recall(struct lone *lone, uint32_t n)
{
    struct cp_task *task = cp_worker_recall(lone->w, &n, 0, NULL);
    while (task != NULL) {
        struct cp_task *next = task->next;
        cp_task_free(task);
        task = next;
    }
    return n;
}

int
lone_send(struct lone *lone, uint64_t index, size_t len)
{
    struct cp_task *task = cp_task_new(index, 0x1234, len);
    CHECK(task != NULL);
    task->job = lone->job;
    cp_test_pattern(task->body, len, index);
    int r = cp_worker_send_task(lone->w, lone->func, task);
    if (r != 1) {
        cp_task_free(task);
    }
    return r;
}

void
lone_next(struct lone *lone, struct cp_frame *frame, const uint8_t **body)
{
    for (;;) {
        int r = cp_serve_next(&lone->s, frame, body);
        CHECK(r >= 0);
        if (r == 1) {
            return;
        }
        CHECK_EQ(cp_worker_flush(lone->w), 0);
        CHECK_EQ(cp_serve_wait(&lone->s), 0);
    }
}

void
lone_next_task(struct lone *lone, struct cp_frame *frame)
{
    const uint8_t *body;
    do {
        lone_next(lone, frame, &body);
    } while (frame->kind == CP_FUNC);
    CHECK_EQ(frame->kind, CP_TASK);
}

int
lone_answer(struct lone *lone, uint64_t seq, size_t len, uint64_t seed)
{
    struct cp_frame frame = {
        .kind = CP_RESULT, .seq = seq, .len = len, .arg = 10};
    uint8_t *body = malloc(len + 1);
    CHECK(body != NULL);
    cp_test_pattern(body, len, seed);
    int r = cp_serve_put(&lone->s, &frame, body, 0);
    free(body);
    return r;
}

void
lone_write(struct lone *lone, const void *bytes, size_t n)
{
    CHECK_EQ(write(lone->w->child_tx, bytes, n), (int64_t)n);
}

void
lone_start(struct lone *lone)
{
    struct cp_frame hello = {.kind = CP_HELLO};
    lone_write(lone, &hello, CP_HEADER);
    CHECK_EQ(cp_worker_recv(lone->w), 0);
    CHECK(lone->w->hello);
}
