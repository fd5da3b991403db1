/* The worker's end of the pipes and the row; see link/serve.h. */
#include "link/serve.h"

#include "base/clock.h"
#include "os/fd.h"
#include "link/worker.h"

#include <string.h>
#include <unistd.h>

#define READ_SIZE CP_KIB(64)
/* Enough for an incomplete small frame and one read. */
#define IN_SIZE CP_KIB(256)
/* A task up to this takes less time than waking a thread. */
#define SHORT_TASK (20 * CP_US)
/* Flush at once after a task this long: the parent is waiting by now. */
#define SLOW_TASK (50 * CP_US)
/* Flush at the end of a task if a result has been in the ring for longer. */
#define MAX_DELAY (200 * CP_US)
/* After this many spins in vain, this many waits skip the spin. */
#define MISSES 3u
#define REST 16u

static void
close_share(struct cp_serve *s)
{
    if (s->heap != NULL) {
        cp_heap_forget(s->heap, &s->parent);
        cp_heap_free(s->heap);
    }
    cp_area_unref(s->area);
    cp_area_unref(s->parents_area);
    s->area = s->parents_area = NULL;
    s->heap = NULL;
}

/* Open this process's view of the shared memory. A forked worker cannot use the
 * struct that it inherited: that one is the parent's. Without shared memory,
 * everything goes through the pipes. */
static void
open_share(struct cp_serve *s, const struct cp_worker *w)
{
    struct cp_region *region;
    if (w->share < 0 || cp_region_attach(w->share, &region) != 0) {
        return;
    }
    int r = cp_area_open(region, 0, &s->parents_area);
    r = r == 0 ? cp_area_open(region, w->area_id, &s->area) : r;
    r = r == 0 ? cp_heap_new(s->area, &s->heap) : r;
    if (r == 0) {
        cp_heap_meet(s->heap, &s->parent, s->area);
    } else {
        close_share(s);
    }
    cp_region_unref(region);
}

int
cp_serve_alloc(struct cp_serve *s)
{
    memset(s, 0, sizeof(*s));
    return cp_buf_reserve(&s->in, IN_SIZE);
}

void
cp_serve_open(struct cp_serve *s, const struct cp_worker *w)
{
    s->rx = w->child_rx;
    s->tx = w->child_tx;
    s->row = w->row;
    open_share(s, w);
}

int
cp_serve_init(struct cp_serve *s, const struct cp_worker *w)
{
    int r = cp_serve_alloc(s);
    if (r == 0) {
        cp_serve_open(s, w);
    }
    return r;
}

void
cp_serve_fini(struct cp_serve *s)
{
    cp_buf_fini(&s->in);
    close_share(s);
}

void
cp_serve_look(struct cp_serve *s)
{
    int32_t parent = atomic_load(&s->row->parent);
    bool opens = parent > 0 && cp_sealed_may_open(parent);
    atomic_store(&s->row->opens, opens ? 1 : 0);
}

int
cp_serve_loan(struct cp_serve *s, const uint8_t *body, uint64_t *len,
              struct cp_loan **loan)
{
    size_t left = (size_t)*len;
    *loan = NULL;
    if (s->area == NULL) {
        return CP_EPROTO;
    }
    struct cp_lender from = {.area = s->parents_area, .teller = s->area};
    int r = cp_loan_open(&from, body, &left, loan);
    *len = left;
    return r;
}

int
cp_serve_lend(struct cp_serve *s, struct cp_frame *frame, struct cp_buf *body)
{
    struct cp_parts *parts = body->parts;
    int r = cp_parts_settle(parts, body);
    r = r == 0 ? cp_parts_seal(parts, body) : r;
    if (r == 0) {
        frame->flags |= CP_PARTS;
        cp_parts_lend(parts, &s->parent);
        cp_parts_cut(parts, 0);
    }
    return r;
}

int
cp_serve_next(struct cp_serve *s, struct cp_frame *frame, const uint8_t **body)
{
    for (;;) {
        cp_buf_consume(&s->in, s->used);
        s->scanned -= s->used < s->scanned ? s->used : s->scanned;
        s->used = 0;
        int r =
            cp_wire_get(cp_buf_head(&s->in), cp_buf_len(&s->in), false, frame);
        if (r <= 0 || cp_buf_len(&s->in) - CP_HEADER < frame->len) {
            return r < 0 ? r : 0;
        }
        s->used = CP_HEADER + (size_t)frame->len;
        *body = cp_buf_head(&s->in) + CP_HEADER;
        if (frame->kind == CP_TASK ? cp_claim_take(s->row, frame->seq)
                                   : frame->kind != CP_CREDIT) {
            return 1;
        }
    }
}

/* Size of the next read: the rest of an incomplete large frame, or READ_SIZE. */
static size_t
bytes_to_read(const struct cp_serve *s)
{
    struct cp_frame frame;
    size_t have = cp_buf_len(&s->in);
    if (cp_wire_get(cp_buf_head(&s->in), have, false, &frame) == 1
        && frame.len > READ_SIZE && frame.len + CP_HEADER > have) {
        return (size_t)frame.len + CP_HEADER - have;
    }
    return READ_SIZE;
}

/* Spin until there is input. True if there is. */
static bool
look_for_input(const struct cp_serve *s, int64_t until)
{
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&s->row->sent, memory_order_acquire)
                != s->got) {
                return true;
            }
            cp_relax();
        }
    } while (cp_now() < until);
    return false;
}

/* Should this wait spin, for as long as the parent asks for? Not after several
 * spins in vain. */
static bool
may_spin(struct cp_spins *spins, uint32_t us)
{
    if (us == 0 || spins->rest > 0) {
        spins->rest -= us > 0 ? 1 : 0;
        return false;
    }
    return true;
}

static void
count_spin(struct cp_spins *spins, bool found)
{
    spins->misses = found ? 0 : spins->misses + 1;
    spins->rest = spins->misses >= MISSES ? REST : 0;
}

static uint32_t
spin_us(const struct cp_serve *s)
{
    return atomic_load_explicit(&s->row->spin_us, memory_order_relaxed);
}

/* Spin for the next task, for as long as the parent asks for (spin_us). After a
 * short task always: waking this worker takes the parent longer than such a
 * task. */
static void
spin_for_input(struct cp_serve *s)
{
    uint32_t us = spin_us(s);
    if (us > 0 && s->is_short) {
        (void)look_for_input(s, cp_now() + us * CP_US);
    } else if (may_spin(&s->spins, us)) {
        count_spin(&s->spins, look_for_input(s, cp_now() + us * CP_US));
    }
}

/* Block until the pipe has n bytes or less. 0, or negative. */
static int
read_input(struct cp_serve *s, size_t n)
{
    int r = cp_buf_reserve(&s->in, n);
    if (r != 0) {
        return r;
    }
    ssize_t got = cp_fd_read(s->rx, cp_buf_tail(&s->in), n);
    if (got < 0) {
        return (int)got;
    }
    cp_buf_add(&s->in, (size_t)got);
    s->got += (uint64_t)got;
    atomic_store_explicit(&s->row->got, s->got, memory_order_relaxed);
    return 0;
}

/* How many ms to wait for input until there is something else to do; -1: for
 * ever. */
static int
wait_ms(const struct cp_serve *s)
{
    int64_t least = s->look_ms > 0 ? s->look_ms : INT_MAX;
    int64_t at = s->heap != NULL ? cp_heap_rest_at(s->heap) : CP_NEVER;
    if (at != CP_NEVER) {
        int64_t left = (at - cp_now()) / CP_MS + 1;
        least = cp_clock_min(least, left > 0 ? left : 0);
    }
    return least < INT_MAX ? (int)least : -1;
}

/* Free unused shared memory, if that is due: also in a worker that always has
 * tasks. */
static void
rest(const struct cp_serve *s)
{
    if (s->heap != NULL && cp_heap_rest_at(s->heap) != CP_NEVER) {
        cp_heap_rest(s->heap, cp_now());
    }
}

int
cp_serve_wait(struct cp_serve *s)
{
    int r = cp_serve_flush(s);
    if (r != 0) {
        return r;
    }
    if (cp_buf_len(&s->in) == 0) {
        cp_buf_reset(&s->in, IN_SIZE);
    }
    spin_for_input(s);
    int ms = wait_ms(s);
    /* The parent counts what it has written after it has written it: the worker
     * may have read more than that already. */
    bool has_input =
        ms < 0
        || atomic_load_explicit(&s->row->sent, memory_order_relaxed) > s->got
        || cp_fd_wait_readable(s->rx, ms) > 0;
    rest(s);
    if (!has_input) {
        return CP_EINTR;
    }
    return read_input(s, bytes_to_read(s));
}

/* ---- values ---- */

/* Remove CP_CREDIT frames from the input behind the running task: they would
 * pile up during a long task. */
static void
drop_credits(struct cp_serve *s)
{
    size_t at = s->scanned > s->used ? s->scanned : s->used;
    struct cp_frame frame;
    while (at <= cp_buf_len(&s->in)
           && cp_wire_get(cp_buf_head(&s->in) + at, cp_buf_len(&s->in) - at,
                          false, &frame)
                  == 1) {
        size_t left = cp_buf_len(&s->in) - at - CP_HEADER;
        if (frame.kind == CP_CREDIT) {
            uint8_t *place = cp_buf_head(&s->in) + at;
            memmove(place, place + CP_HEADER, left);
            cp_buf_cut(&s->in, CP_HEADER);
        } else if (left < frame.len) {
            break;
        } else {
            at += CP_HEADER + (size_t)frame.len;
        }
    }
    s->scanned = at;
}

/* Spin for credit for as long as for a task. */
static void
spin_for_credit(struct cp_serve *s, uint64_t seq, uint64_t yielded)
{
    uint32_t us = spin_us(s);
    if (!may_spin(&s->credit_spins, us)) {
        return;
    }
    int64_t until = cp_now() + us * CP_US;
    while (cp_credit_get(s->row, seq) <= yielded && cp_now() < until) {
        cp_relax();
    }
    count_spin(&s->credit_spins, cp_credit_get(s->row, seq) > yielded);
}

/* 1: there is credit; 0: the task has to end; CP_ETOOBIG: neither. */
static int
look_for_credit(const struct cp_row *row, uint64_t seq, uint64_t yielded)
{
    uint64_t credit = atomic_load(&row->credit[seq & (CP_WINDOW - 1)]);
    return credit == CP_CREDIT_CLOSED ? 0 : credit > yielded ? 1 : CP_ETOOBIG;
}

int
cp_serve_wait_credit(struct cp_serve *s, uint64_t seq, uint64_t yielded,
                     bool timed)
{
    struct cp_row *row = s->row;
    spin_for_credit(s, seq, yielded);
    int r = look_for_credit(row, seq, yielded);
    if (r >= 0) {
        return r;
    }
    if (timed) {
        cp_serve_since(row, cp_now());
    }
    atomic_store(&row->waits, ++s->waits);
    r = cp_serve_flush(s);
    while (r == 0 && (r = look_for_credit(row, seq, yielded)) == CP_ETOOBIG) {
        r = read_input(s, READ_SIZE);
        drop_credits(s);
        /* The CP_CREDIT may have been for an earlier task: wait again, under a
         * new number. */
        atomic_store(&row->waits, ++s->waits);
    }
    if (timed) {
        cp_serve_since(row, cp_now());
    }
    atomic_store(&row->waits, 0);
    return r == CP_ECLOSED && look_for_credit(row, seq, yielded) == 0 ? 0 : r;
}

void
cp_serve_begin(struct cp_serve *s, uint64_t seq, int64_t now)
{
    atomic_store_explicit(&s->row->since, now, memory_order_relaxed);
    cp_serve_item(s->row, 0);
    /* A reader that sees the number of this task also sees the time of this
     * task, or a later one. */
    atomic_store_explicit(&s->row->running, seq + 1, memory_order_release);
}

void
cp_serve_note(struct cp_row *row, uint64_t seq, int64_t began, int64_t ended,
              uint32_t failed)
{
    int64_t work = atomic_load_explicit(&row->work, memory_order_relaxed);
    atomic_store_explicit(&row->work, work + (ended - began),
                          memory_order_relaxed);
    if (failed == 0 && ended - began < UINT32_MAX
        && atomic_load_explicit(&row->is_traced, memory_order_relaxed) == 0) {
        return;
    }
    struct cp_times *times = &row->times[seq & (CP_WINDOW - 1)];
    atomic_store_explicit(&times->began, began, memory_order_relaxed);
    atomic_store_explicit(&times->ended, ended, memory_order_relaxed);
    atomic_store_explicit(&times->failed, failed, memory_order_relaxed);
}

bool
cp_serve_is_over_memory(struct cp_serve *s, int64_t now)
{
    struct cp_row *row = s->row;
    uint64_t all, own;
    uint64_t limit =
        atomic_load_explicit(&row->memory_limit, memory_order_relaxed);
    if (limit == 0) {
        return false;
    }
    if (now >= s->memory_at && cp_proc_memory(getpid(), &all) == 0) {
        uint64_t shared = atomic_load(&row->memory_shared);
        own = all > shared ? all - shared : 0;
        atomic_store(&row->memory_before, own);
        s->memory_at = now + CP_MS;
    }
    return atomic_load(&row->memory_before) > limit;
}

bool
cp_serve_take_stop(struct cp_row *row)
{
    uint64_t stop = atomic_load(&row->stop);
    int64_t since = atomic_load(&row->stop_since);
    /* The parent makes no other request before this item has ended. */
    return stop != 0 && stop == atomic_load(&row->running)
           && (since == CP_NEVER || since == atomic_load(&row->since))
           && atomic_compare_exchange_strong(&row->stop, &stop, 0);
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
    if (frame->kind == CP_HELLO) {
        atomic_store_explicit(&s->row->ready, now, memory_order_relaxed);
    }
    cp_ring_put(s->row, parts, 2);
    s->is_short = frame->kind == CP_RESULT && frame->arg <= SHORT_TASK;
    bool due = frame->kind != CP_RESULT || frame->arg >= SLOW_TASK
               || now - s->oldest >= MAX_DELAY || room < CP_RING / 2;
    return due ? 1 : 0;
}

int
cp_serve_yield(struct cp_serve *s, const struct cp_frame *frame,
               const uint8_t *body)
{
    struct cp_row *row = s->row;
    size_t room = cp_ring_room(row);
    if (frame->len + CP_HEADER > room) {
        return CP_ETOOBIG;
    }
    struct iovec parts[2] = {
        {(void *)(uintptr_t)frame, CP_HEADER},
        {(void *)(uintptr_t)body, (size_t)frame->len},
    };
    cp_ring_put(row, parts, 2);
    /* Either the parent sees the value before it sleeps, or this side sees that
     * the parent sleeps. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&row->sleeps, memory_order_relaxed) != 0) {
        atomic_store_explicit(&row->sleeps, 0, memory_order_relaxed);
        return 1;
    }
    return room < CP_RING / 4 ? 1 : 0;
}

/* Write everything, in as many calls as it takes. count: advance flushed. */
static int
write_all(struct cp_serve *s, struct iovec *parts, int n_parts, bool count)
{
    while (n_parts > 0) {
        ssize_t n = cp_fd_writev_to_parent(s->tx, parts, n_parts);
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
    if (frame->len >= CP_WIDE && !s->is_wide) {
        cp_fd_widen(s->tx);
        s->is_wide = true;
    }
    struct iovec parts[2] = {
        {(void *)(uintptr_t)frame, CP_HEADER},
        {(void *)(uintptr_t)body, (size_t)frame->len},
    };
    r = write_all(s, parts, frame->len > 0 ? 2 : 1, false);
    if (r == 0) {
        uint64_t n = CP_HEADER + frame->len;
        if (frame->kind != CP_VALUE) {
            atomic_store_explicit(&s->row->running, 0, memory_order_relaxed);
        }
        /* Advance flushed first. In between, the parent sees flushed >
         * committed, which only makes it read the pipe. */
        (void)atomic_fetch_add(&s->row->flushed, n);
        (void)atomic_fetch_add(&s->row->committed, n);
    }
    return r;
}
