/*
 * The parent's side of one worker: receiving. Bytes come from the pipe, or
 * from the ring ahead of the pipe; frames are checked, and matched with the
 * tasks in the window. The pool's lock is held.
 */
#include "link/worker.h"

#include "os/fd.h"

#include <string.h>

#define GULP CP_KIB(64)
#define GULPS 4

/* Has the worker begun the task with this seq, and not answered? */
static bool
is_awaited(const struct cp_worker *w, uint64_t seq)
{
    if (seq < w->head || seq >= w->tail
        || w->window[seq & (CP_WINDOW - 1)] == NULL
        || !cp_claim_is_taken(w->row, seq)) {
        return false;
    }
    /* Not before all of the task has gone out. */
    return w->big == NULL || w->big_func != NULL || seq != w->tail - 1;
}

/* Does the worker have any business to send this frame? Asked of the header
 * already: else we would wait for the body of a wrong one, and take the right
 * ones for it. */
static bool
may_come(const struct cp_worker *w, const struct cp_frame *frame)
{
    if (frame->kind == CP_HELLO || frame->kind == CP_INIT_ERROR) {
        return !w->hello; /* or a task could end every job of the pool */
    }
    return is_awaited(w, frame->seq);
}

static struct cp_task *
take_from_window(struct cp_worker *w, uint64_t seq)
{
    struct cp_task **place = &w->window[seq & (CP_WINDOW - 1)];
    struct cp_task *task = *place;
    *place = NULL;
    w->in_flight--;
    while (w->head < w->tail && w->window[w->head & (CP_WINDOW - 1)] == NULL) {
        w->head++;
    }
    return task;
}

static void
on_frame(struct cp_worker *w, const struct cp_frame *frame,
         struct cp_result *result)
{
    if (frame->kind == CP_HELLO) {
        w->hello = true;
        w->ops->on_hello(w);
        return;
    }
    if (frame->kind == CP_INIT_ERROR) {
        w->exiting = true;
        w->ops->on_init_error(w, result);
        return;
    }
    struct cp_task *task = take_from_window(w, frame->seq);
    result->index = task->index;
    result->items = task->items;
    if (result->outcome != CP_NOMEM) {
        result->outcome = frame->kind == CP_RESULT ? CP_OK : CP_RAISED;
    }
    if ((frame->flags & CP_LAST) != 0) {
        w->exiting = true;
    }
    w->ops->on_result(w, task, result, frame->arg);
}

/* Where the body of this frame goes, or NULL. An absurd length fails here, and
 * memory is only touched as bytes come in. A body for which there is no memory
 * is dropped as it comes, for its task alone is to fail of that. */
static struct cp_result *
new_result(const struct cp_frame *frame)
{
    struct cp_result *result = cp_result_new(0, CP_OK, (size_t)frame->len);
    return result != NULL ? result : cp_result_new(0, CP_NOMEM, 0);
}

/* Parse what stands in `in`: 0 or a negative code. */
static int
parse(struct cp_worker *w)
{
    for (;;) {
        if (w->part != NULL) {
            size_t missing = (size_t)w->part_frame.len - w->part_got;
            size_t n =
                cp_buf_len(&w->in) < missing ? cp_buf_len(&w->in) : missing;
            if (w->part->outcome != CP_NOMEM) {
                memcpy(w->part->body + w->part_got, cp_buf_head(&w->in), n);
            }
            cp_buf_consume(&w->in, n);
            w->part_got += n;
            if (w->part_got < w->part_frame.len) {
                return 0;
            }
            struct cp_result *result = w->part;
            w->part = NULL;
            /* Still? The worker can write to the claims as it likes. */
            if (!may_come(w, &w->part_frame)) {
                cp_result_free(result);
                return CP_EPROTO;
            }
            on_frame(w, &w->part_frame, result);
            continue;
        }
        struct cp_frame frame;
        int r =
            cp_wire_get(cp_buf_head(&w->in), cp_buf_len(&w->in), true, &frame);
        if (r <= 0) {
            return r;
        }
        if (!may_come(w, &frame)) {
            return CP_EPROTO;
        }
        cp_buf_consume(&w->in, CP_HEADER);
        struct cp_result *result = NULL;
        if (frame.kind != CP_HELLO) {
            result = new_result(&frame);
            if (result == NULL) {
                return CP_ENOMEM;
            }
        }
        if (result != NULL && frame.len > 0) {
            w->part = result;
            w->part_frame = frame;
            w->part_got = 0;
            continue;
        }
        on_frame(w, &frame, result);
    }
}

/* Bytes of the stream that the ring has already given us, among the next n
 * of the pipe. */
static size_t
seen_already(const struct cp_worker *w, size_t n)
{
    uint64_t ahead = w->seen_bytes - w->read_bytes;
    return ahead < n ? (size_t)ahead : n;
}

/* One read: bytes read, 0 for nothing now, negative for an error or the end. */
static ssize_t
gulp(struct cp_worker *w)
{
    bool direct = w->part != NULL && w->part->outcome != CP_NOMEM
                  && cp_buf_len(&w->in) == 0
                  && w->part->len - w->part_got >= GULP
                  && w->seen_bytes == w->read_bytes;
    if (direct) {
        ssize_t n = cp_fd_read(w->rx, w->part->body + w->part_got,
                               w->part->len - w->part_got);
        if (n > 0) {
            w->part_got += (size_t)n;
            w->read_bytes += (uint64_t)n;
            w->seen_bytes = w->read_bytes;
        }
        return n;
    }
    int r = cp_buf_reserve(&w->in, GULP);
    if (r != 0) {
        return r;
    }
    ssize_t n = cp_fd_read(w->rx, cp_buf_tail(&w->in), GULP);
    if (n > 0) {
        size_t skip = seen_already(w, (size_t)n);
        uint8_t *at = cp_buf_tail(&w->in);
        memmove(at, at + skip, (size_t)n - skip);
        cp_buf_add(&w->in, (size_t)n - skip);
        w->read_bytes += (uint64_t)n;
        if (w->seen_bytes < w->read_bytes) {
            w->seen_bytes = w->read_bytes;
        }
    }
    return n;
}

int
cp_worker_recv(struct cp_worker *w)
{
    for (int i = 0; i < GULPS; i++) {
        ssize_t n = gulp(w);
        if (n <= 0) {
            return n == CP_EINTR ? 1 : (int)n;
        }
        int r = parse(w);
        if (r != 0) {
            return r;
        }
        if ((size_t)n < GULP) {
            /* Less than was asked for: the pipe is empty, as far as it goes;
             * the poller tells of more. */
            return 0;
        }
    }
    return 1;
}

bool
cp_worker_recv_ring(struct cp_worker *w)
{
    if (w->bad || cp_buf_reserve(&w->in, CP_RING) != 0) {
        return false;
    }
    size_t n =
        cp_ring_peek(w->row, w->seen_bytes, cp_buf_tail(&w->in), CP_RING);
    if (n == 0) {
        return false;
    }
    cp_buf_add(&w->in, n);
    w->seen_bytes += n;
    if (parse(w) != 0) {
        w->bad = true;
    }
    return true;
}
