/* The worker's side of the pipes; see link/serve.h. One thread of the worker. */
#include "link/serve.h"

#include "base/clock.h"
#include "os/fd.h"
#include "link/worker.h"

#include <string.h>

#define GULP CP_KIB(64)
/* More than a small frame that has come in part, and a gulp. */
#define KEEP_IN CP_KIB(256)
/* A task that took this long has made the parent wait; tell it at once. */
#define SLOW (50 * CP_US)
/* No result waits in the ring for longer, while tasks are being finished. */
#define LINGER (200 * CP_US)

int
cp_serve_init(struct cp_serve *s, const struct cp_worker *w)
{
    memset(s, 0, sizeof(*s));
    s->rx = w->child_rx;
    s->tx = w->child_tx;
    s->row = w->row;
    return cp_buf_reserve(&s->in, KEEP_IN);
}

void
cp_serve_fini(struct cp_serve *s)
{
    cp_buf_fini(&s->in);
}

int
cp_serve_next(struct cp_serve *s, struct cp_frame *frame, const uint8_t **body)
{
    for (;;) {
        cp_buf_consume(&s->in, s->used);
        s->used = 0;
        int r =
            cp_wire_get(cp_buf_head(&s->in), cp_buf_len(&s->in), false, frame);
        if (r <= 0 || cp_buf_len(&s->in) - CP_HEADER < frame->len) {
            return r < 0 ? r : 0;
        }
        s->used = CP_HEADER + (size_t)frame->len;
        *body = cp_buf_head(&s->in) + CP_HEADER;
        if (frame->kind != CP_TASK || cp_claim_take(s->row, frame->seq)) {
            return 1;
        }
    }
}

/* How many bytes to ask for: the rest of a large frame that has begun, or a gulp. */
static size_t
missing(const struct cp_serve *s)
{
    struct cp_frame frame;
    size_t have = cp_buf_len(&s->in);
    if (cp_wire_get(cp_buf_head(&s->in), have, false, &frame) == 1
        && frame.len > GULP && frame.len + CP_HEADER > have) {
        return (size_t)frame.len + CP_HEADER - have;
    }
    return GULP;
}

/* Look for more before sleeping, if the parent thinks that it is worth it. */
static void
spin(const struct cp_serve *s)
{
    uint32_t us = atomic_load_explicit(&s->row->spin_us, memory_order_relaxed);
    if (us == 0) {
        return;
    }
    int64_t until = cp_now() + us * CP_US;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&s->row->sent, memory_order_acquire)
                != s->got) {
                return;
            }
            cp_relax();
        }
    } while (cp_now() < until);
}

int
cp_serve_wait(struct cp_serve *s)
{
    int r = cp_serve_flush(s);
    if (r != 0) {
        return r;
    }
    if (cp_buf_len(&s->in) == 0) {
        cp_buf_reset(&s->in, KEEP_IN);
    }
    size_t n = missing(s);
    r = cp_buf_reserve(&s->in, n);
    if (r != 0) {
        return r;
    }
    spin(s);
    ssize_t got = cp_fd_read(s->rx, cp_buf_tail(&s->in), n);
    if (got < 0) {
        return (int)got;
    }
    cp_buf_add(&s->in, (size_t)got);
    s->got += (uint64_t)got;
    return 0;
}

void
cp_serve_begin(struct cp_serve *s, uint64_t seq, int64_t now)
{
    atomic_store_explicit(&s->row->since, now, memory_order_relaxed);
    atomic_store_explicit(&s->row->running, seq + 1, memory_order_relaxed);
}

int
cp_serve_put(struct cp_serve *s, const struct cp_frame *frame,
             const uint8_t *body, int64_t now)
{
    size_t room = cp_ring_room(s->row);
    if (frame->len + CP_HEADER > room) {
        return CP_ETOOBIG;
    }
    if (room == CP_RING) {
        s->oldest = now;
    }
    struct iovec parts[2] = {
        {(void *)(uintptr_t)frame, CP_HEADER},
        {(void *)(uintptr_t)body, (size_t)frame->len},
    };
    atomic_store_explicit(&s->row->running, 0, memory_order_relaxed);
    cp_ring_put(s->row, parts, 2);
    bool due = frame->kind != CP_RESULT || frame->arg >= SLOW
               || now - s->oldest >= LINGER || room < CP_RING / 2;
    return due ? 1 : 0;
}

/* Write all of it, however often it takes. */
static int
write_all(struct cp_serve *s, struct iovec *parts, int n_parts, bool count)
{
    while (n_parts > 0) {
        ssize_t n = cp_fd_writev(s->tx, parts, n_parts);
        if (n == CP_EINTR) {
            continue;
        }
        if (n < 0) {
            return (int)n;
        }
        if (count) {
            (void)atomic_fetch_add(&s->row->flushed, (uint64_t)n);
        }
        size_t left = (size_t)n;
        while (n_parts > 0 && left >= parts->iov_len) {
            left -= parts->iov_len;
            parts++;
            n_parts--;
        }
        if (n_parts > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + left;
            parts->iov_len -= left;
        }
    }
    return 0;
}

int
cp_serve_flush(struct cp_serve *s)
{
    uint64_t from =
        atomic_load_explicit(&s->row->flushed, memory_order_relaxed);
    size_t n = CP_RING - cp_ring_room(s->row);
    if (n == 0) {
        return 0;
    }
    size_t place = (size_t)(from & (CP_RING - 1));
    size_t first = CP_RING - place < n ? CP_RING - place : n;
    struct iovec parts[2] = {{s->row->ring + place, first},
                             {s->row->ring, n - first}};
    return write_all(s, parts, n > first ? 2 : 1, true);
}

int
cp_serve_send(struct cp_serve *s, const struct cp_frame *frame,
              const uint8_t *body)
{
    int r = cp_serve_flush(s);
    if (r != 0) {
        return r;
    }
    struct iovec parts[2] = {
        {(void *)(uintptr_t)frame, CP_HEADER},
        {(void *)(uintptr_t)body, (size_t)frame->len},
    };
    r = write_all(s, parts, frame->len > 0 ? 2 : 1, false);
    if (r == 0) {
        uint64_t n = CP_HEADER + frame->len;
        atomic_store_explicit(&s->row->running, 0, memory_order_relaxed);
        /* Both at once would be better: between the two the parent sees
         * more flushed than committed, and looks into the pipe. */
        (void)atomic_fetch_add(&s->row->flushed, n);
        (void)atomic_fetch_add(&s->row->committed, n);
    }
    return r;
}
