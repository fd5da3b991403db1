/*
 * The parent's end receives arbitrary bytes, cut anywhere, through the pipe,
 * the ring, or both. It must not crash, must not accept frames that a worker
 * may not send, and must give the same result on every way.
 */
#include "link/worker.h"
#include "pool/job.h"
#include "fuzz.h"

enum way { PIPE, RING, BOTH };

static struct fuzz_log *the_log; /* global: callbacks have no user pointer */
static struct cp_job the_job;

static void
log_frame(unsigned kind, uint64_t index, int64_t ns, struct cp_result *result)
{
    uint64_t head[4] = {kind, index, (uint64_t)ns,
                        result != NULL ? (uint64_t)result->outcome : 0};
    fuzz_log_add(the_log, head, sizeof(head));
    if (result != NULL) {
        fuzz_log_add(the_log, result->body, result->len);
    }
    cp_result_free(result);
}

static void
on_hello(struct cp_worker *w)
{
    FUZZ_CHECK(w->hello);
    log_frame(CP_HELLO, 0, 0, NULL);
}

static void
on_result(struct cp_worker *w, uint64_t seq, struct cp_task *task,
          struct cp_result *result, int64_t ns)
{
    /* Only claimed tasks have results. */
    FUZZ_CHECK(task->job == &the_job && result->index == task->index);
    FUZZ_CHECK(seq == task->index && cp_worker_is_claimed(w, seq));
    log_frame(CP_RESULT, task->index, ns, result);
    cp_task_free(task);
}

static void
on_init_error(struct cp_worker *w, struct cp_result *result)
{
    FUZZ_CHECK(!w->hello && w->exiting);
    log_frame(CP_INIT_ERROR, 0, 0, result);
}

static void
on_leave(struct cp_worker *w)
{
    FUZZ_CHECK(w->hello && w->exiting);
    log_frame(CP_LEAVE, 0, 0, NULL);
}

static void
on_func_sent(struct cp_worker *w, struct cp_func *func)
{
    (void)w;
    (void)func;
}

static const struct cp_worker_ops ops = {
    .on_hello = on_hello,
    .on_result = on_result,
    .on_init_error = on_init_error,
    .on_leave = on_leave,
    .on_func_sent = on_func_sent,
};

/* A worker with some tasks in flight, some of which are claimed. If there is only
 * one task, it is big and unwritten. */
static struct cp_worker *
prepare(const struct fuzz_input *in, struct cp_func *func)
{
    struct cp_worker *w;
    struct cp_rows rows;
    FUZZ_CHECK(cp_rows_init(&rows) == 0);
    FUZZ_CHECK(cp_worker_new(UINT64_MAX, &rows, -1, &w) == 0);
    cp_rows_fini(&rows);
    w->ops = &ops;
    w->hello = in->n_tasks == 1; /* only a ready worker accepts a big task */
    for (unsigned i = 0; i < in->n_tasks; i++) {
        struct cp_task *task =
            cp_task_new(i, 0, in->n_tasks == 1 ? CP_BIG : 10);
        FUZZ_CHECK(task != NULL);
        memset(task->body, 0, task->len);
        task->job = &the_job;
        FUZZ_CHECK(cp_worker_send_task(w, func, task) == 1);
        if ((in->bits >> i & 1) != 0) {
            FUZZ_CHECK(cp_claim_take(w->row, i));
        }
    }
    return w;
}

static void
release(struct cp_worker *w)
{
    for (unsigned i = 0; i < CP_WINDOW; i++) {
        cp_task_free(w->window[i]);
    }
    cp_worker_close_tx(w);
    cp_worker_unref(w);
}

static int
recv_all(struct cp_worker *w)
{
    int r;
    do {
        r = cp_worker_recv(w);
    } while (r == 1);
    return r;
}

/* Put n bytes into the ring; on some values of dice the parent reads the ring. */
static int
through_ring(struct cp_worker *w, const uint8_t *bytes, size_t n, unsigned dice)
{
    struct iovec part = {(void *)(uintptr_t)bytes, n};
    cp_ring_put(w->row, &part, 1);
    if (dice % 2 == 0) {
        (void)cp_worker_recv_ring(w);
        if (w->bad) {
            return CP_EPROTO;
        }
    }
    return 0;
}

static int
flush_ring(struct cp_worker *w, const uint8_t *stream)
{
    uint64_t from = atomic_load(&w->row->flushed);
    uint64_t to = atomic_load(&w->row->committed);
    fuzz_write(w->child_tx, stream + from, (size_t)(to - from));
    atomic_store(&w->row->flushed, to);
    return recv_all(w);
}

static struct fuzz_log
run(const struct fuzz_input *in, uint64_t cut, enum way way)
{
    struct cp_func *func = calloc(1, sizeof(*func));
    FUZZ_CHECK(func != NULL);
    struct cp_worker *w = prepare(in, func);
    struct fuzz_log log = {.hash = 14695981039346656037u};
    the_log = &log;
    size_t at = 0;
    while (at < in->len && log.end == 0) {
        size_t n = fuzz_cut(&cut, in->len - at);
        unsigned dice = (unsigned)(cut >> 50);
        if (way == PIPE) {
            fuzz_write(w->child_tx, in->stream + at, n);
            log.end = recv_all(w);
        } else {
            log.end = through_ring(w, in->stream + at, n, dice);
            if (log.end == 0 && way == BOTH && dice % 3 == 0) {
                log.end = flush_ring(w, in->stream);
            }
        }
        at += n;
    }
    if (log.end == 0) { /* as after the death of the worker */
        log.end = recv_all(w);
    }
    if (log.end == 0) {
        (void)cp_worker_recv_ring(w);
        log.end = w->bad ? CP_EPROTO : 0;
    }
    release(w);
    free(func);
    return log;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in;
    if (!fuzz_take(&in, data, size, true)) {
        return 0;
    }
    struct fuzz_log whole = run(&in, 0, PIPE);
    for (int way = PIPE; way <= BOTH; way++) {
        struct fuzz_log cut = run(&in, in.cut, (enum way)way);
        FUZZ_CHECK(cut.hash == whole.hash && cut.n == whole.n);
        FUZZ_CHECK((cut.end < 0) == (whole.end < 0));
    }
    free(in.stream);
    return 0;
}
