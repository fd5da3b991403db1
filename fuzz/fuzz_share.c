/*
 * Random operations of a parent and two workers on shared memory, all in this
 * process: blocks are put, lent, opened, given back, moved and taken; heaps rest,
 * workers end, and workers lie about what they give back and send. No data that
 * anybody may still read changes, except what only a liar may read; and at the
 * end nothing is used, and no memory is left.
 */
#include "fuzz.h"

#include "share/parts.h"

#include <stdatomic.h>
#include <sys/stat.h>

#define WORKERS 2u
#define MOST 24u /* bodies and leases each */
#define LARGEST 300000u
#define LIMIT (UINT64_C(4) << 20)

struct worker {
    uint32_t id; /* of its area */
    bool lies;   /* its data count for nothing */
    /* As the worker has them: mappings of its own. */
    struct cp_region *region;
    struct cp_area *first, *own;
    struct cp_heap *heap;
    struct cp_borrower parent;
    /* As the parent has them. */
    struct cp_area *area;
    struct cp_borrower borrower;
};

/* Data that must not change. Side 0 is the parent, the others are workers. */
struct body {
    bool exists;
    unsigned side; /* whose heap */
    struct cp_ref ref;
    uint8_t stamp;
    bool is_ended;   /* a zero byte follows */
    bool is_private; /* several workers may get it, one after the other */
    bool is_sent;
    bool is_answered; /* the worker has answered with the block of the body */
};

struct held {
    struct cp_lease *lease; /* NULL: none */
    unsigned side;          /* who holds it */
    struct worker *of;      /* whose block it is; NULL: the parent's */
    uint32_t id;            /* of that worker's area, then */
    bool is_sent;           /* a block of the parent that a worker got */
    struct body *body;      /* which was sent in it */
    uint8_t stamp;
};

struct world {
    const uint8_t *at, *end;
    struct cp_region *region;
    struct cp_area *first;
    struct cp_heap *heap;
    struct worker workers[WORKERS];
    uint32_t next_id;
    struct body bodies[MOST];
    struct held held[MOST];
    uint8_t stamp;
    bool lied;
};

static unsigned
next(struct world *m)
{
    return m->at < m->end ? *m->at++ : 0;
}

static void
open_worker(struct world *m, struct worker *w)
{
    *w = (struct worker){.id = ++m->next_id};
    FUZZ_CHECK(cp_area_open(m->region, w->id, &w->area) == 0);
    cp_heap_meet(m->heap, &w->borrower, w->area);
    int fd = dup(cp_region_fd(m->region));
    FUZZ_CHECK(cp_region_attach(fd, &w->region) == 0);
    FUZZ_CHECK(cp_area_open(w->region, 0, &w->first) == 0);
    FUZZ_CHECK(cp_area_open(w->region, w->id, &w->own) == 0);
    FUZZ_CHECK(cp_heap_new(w->own, &w->heap) == 0);
    cp_heap_meet(w->heap, &w->parent, w->own);
}

/* ---- data ---- */

static void
fill(uint8_t *at, size_t n, uint8_t stamp)
{
    size_t some = n < 64 ? n : 64;
    memset(at, stamp, some);
    memset(at + n - some, stamp, some);
}

static void
check(const uint8_t *at, size_t n, uint8_t stamp)
{
    FUZZ_CHECK(at[0] == stamp && at[n < 64 ? n - 1 : 63] == stamp
               && at[n - 1] == stamp);
}

static struct cp_heap *
heap_of(struct world *m, unsigned side)
{
    return side == 0 ? m->heap : m->workers[side - 1].heap;
}

static size_t
next_size(struct world *m)
{
    return 1 + (next(m) << 12 | next(m) << 4) % LARGEST;
}

static uint8_t
next_stamp(struct world *m)
{
    m->stamp = (uint8_t)(m->stamp % 255u + 1u); /* never 0: freed memory */
    return m->stamp;
}

/* May the contents of this lease have been changed by a liar? A worker can write
 * to each block of the parent that it was ever sent. */
static bool
is_tainted(const struct world *m, const struct held *h)
{
    return (m->lied && h->of == NULL && h->is_sent)
           || (h->side > 0 && m->workers[h->side - 1].lies)
           || (h->of != NULL && h->of->id == h->id && h->of->lies)
           || (h->of != NULL && h->of->id != h->id && m->lied);
}

static void
check_held(const struct world *m, const struct held *h)
{
    if (h->lease != NULL && !is_tainted(m, h)) {
        check(h->lease->at, h->lease->len, h->stamp);
    }
}

static struct held *
free_place(struct world *m)
{
    for (unsigned i = 0; i < MOST; i++) {
        if (m->held[i].lease == NULL) {
            return &m->held[i];
        }
    }
    return NULL;
}

static void
hold(struct held *h, struct cp_lease *lease, unsigned side, struct worker *of,
     uint8_t stamp)
{
    *h = (struct held){.lease = lease,
                       .side = side,
                       .of = of,
                       .id = of != NULL ? of->id : 0,
                       .stamp = stamp};
}

/* ---- operations ---- */

static void
put(struct world *m)
{
    static uint8_t bytes[LARGEST + 1];
    struct body *body = &m->bodies[next(m) % MOST];
    if (body->exists) {
        return;
    }
    body->side = next(m) % (WORKERS + 1);
    body->stamp = next_stamp(m);
    body->is_private = next(m) % 2 == 0;
    body->is_sent = body->is_answered = false;
    size_t n = next_size(m);
    fill(bytes, n, body->stamp);
    bool is_ended = next(m) % 2 == 0;
    bool is_small = !body->is_private && n < CP_PART_MIN;
    struct cp_heap *heap = heap_of(m, body->side);
    body->exists = (is_ended   ? cp_heap_put_ended(heap, bytes, n, &body->ref)
                    : is_small ? cp_heap_put_small(heap, bytes, n, &body->ref)
                               : cp_heap_put(heap, bytes, n, &body->ref))
                   == 0;
    body->is_ended = is_ended;
}

static void
drop(struct world *m, struct body *body)
{
    if (body->exists) {
        cp_heap_drop(heap_of(m, body->side), body->ref.slot);
        body->exists = false;
    }
}

/* Send the body: the receiver opens it. */
static void
lend(struct world *m)
{
    struct body *body = &m->bodies[next(m) % MOST];
    unsigned to = next(m) % WORKERS;
    struct held *h = free_place(m);
    struct cp_lease *lease;
    struct cp_ref ref = body->ref;
    if (!body->exists || h == NULL || (body->is_sent && !body->is_private)) {
        return;
    }
    if (body->side == 0) {
        struct worker *w = &m->workers[to];
        cp_heap_lend(m->heap, ref.slot, &w->borrower);
        if (next(m) % 4 == 0) { /* recalled */
            cp_heap_unlend(m->heap, ref.slot, &w->borrower);
            return;
        }
        body->is_sent = true;
        ref.flags = body->is_private ? CP_REF_PRIVATE : 0;
        FUZZ_CHECK(cp_lease_open(w->first, w->own, &ref, &lease) == 0);
        hold(h, lease, to + 1, NULL, body->stamp);
        h->is_sent = true;
        h->body = body;
    } else {
        struct worker *w = &m->workers[body->side - 1];
        cp_heap_lend(w->heap, ref.slot, &w->parent);
        FUZZ_CHECK(cp_lease_open(w->area, w->area, &ref, &lease) == 0);
        hold(h, lease, 0, w, body->stamp);
        drop(m, body); /* an answer is sent once */
    }
    check_held(m, h);
}

static void
take(struct world *m)
{
    struct held *h = free_place(m);
    unsigned side = next(m) % (WORKERS + 1);
    struct cp_lease *lease;
    if (h != NULL
        && cp_heap_take(heap_of(m, side), next_size(m), &lease) == 0) {
        hold(h, lease, side, side > 0 ? &m->workers[side - 1] : NULL,
             next_stamp(m));
        fill(lease->at, lease->len, h->stamp);
    }
}

static void
end(struct held *h)
{
    cp_lease_close(h->lease);
    h->lease = NULL;
}

/* A worker answers with the block of a lease. */
static void
move(struct world *m)
{
    struct held *h = &m->held[next(m) % MOST];
    if (h->lease == NULL || h->side == 0) {
        return;
    }
    struct worker *w = &m->workers[h->side - 1];
    struct cp_parts parts = {.heap = w->heap, .moves = true};
    struct cp_buf body = {0};
    struct cp_loan *loan;
    if (cp_parts_move(&parts, h->lease, h->lease->at, h->lease->len) >= 0) {
        bool keeps = next(m) % 4 == 0; /* so it is copied */
        if (!keeps) {
            cp_lease_close(h->lease);
        }
        bool is_own = h->of != NULL;
        if (h->body != NULL && h->body->stamp == h->stamp) {
            /* The task has its answer: nobody reads its body any more, and the
             * memory of the block is freed as that of an answer. */
            h->body->is_answered = true;
        }
        FUZZ_CHECK(cp_parts_settle(&parts, &body) == 0);
        FUZZ_CHECK(cp_parts_seal(&parts, &body) == 0);
        cp_parts_lend(&parts, &w->parent);
        cp_parts_cut(&parts, 0);
        size_t len = cp_buf_len(&body);
        struct cp_lender from = {w->area, w->area, m->heap, &w->borrower};
        int r = cp_loan_open(&from, cp_buf_head(&body), &len, &loan);
        struct held *to = keeps ? free_place(m) : h;
        FUZZ_CHECK(r == 0 || w->lies);
        if (!keeps) {
            h->lease = NULL;
        }
        if (r == 0 && to != NULL) {
            cp_lease_ref(loan->leases[0]);
            hold(to, loan->leases[0], 0, is_own || keeps ? w : NULL, h->stamp);
            to->is_sent = to->of == NULL;
            if (w->lies && to->of == NULL) {
                to->of = w; /* what it sent counts for nothing */
                to->id = w->id;
            }
            check_held(m, to);
        }
        if (r == 0) {
            cp_loan_close(loan);
        }
    }
    cp_parts_fini(&parts);
    cp_buf_fini(&body);
}

/* All leases that the worker holds end with it. */
static void
end_worker(struct world *m, unsigned side)
{
    struct worker *w = &m->workers[side - 1];
    for (unsigned i = 0; i < MOST; i++) {
        if (m->held[i].lease != NULL && m->held[i].side == side) {
            end(&m->held[i]);
        }
        if (m->bodies[i].side == side) {
            drop(m, &m->bodies[i]);
        }
    }
    cp_heap_forget(w->heap, &w->parent);
    cp_heap_free(w->heap);
    cp_area_unref(w->own);
    cp_area_unref(w->first);
    cp_region_unref(w->region);
    cp_heap_forget(m->heap, &w->borrower);
    cp_area_retire(w->area);
    cp_area_unref(w->area);
}

static void
rest(struct cp_heap *heap)
{
    int64_t at = cp_heap_rest_at(heap);
    while (at != CP_NEVER && cp_heap_rest_at(heap) == at) {
        cp_heap_rest(heap, at);
    }
}

/* Claim anything in the control page, and send any reference. */
static void
lie(struct world *m)
{
    struct worker *w = &m->workers[next(m) % WORKERS];
    struct cp_control *control = cp_area_control(w->own);
    struct cp_lease *lease;
    struct cp_ref ref = {0};
    w->lies = m->lied = true;
    unsigned slot = next(m), what = next(m);
    uint64_t bit = UINT64_C(1) << (slot % 64u);
    _Atomic uint64_t *words[] = {control->given, control->returned,
                                 control->own, control->emptied,
                                 control->kept_returned};
    if (what % 8 < 5) {
        (void)atomic_fetch_or(&words[what % 8][slot / 64u], bit);
        return;
    }
    uint8_t *to = (uint8_t *)&ref;
    for (size_t i = 0; i < sizeof(ref); i++) {
        to[i] = (uint8_t)next(m);
    }
    ref.len %= LARGEST;
    if (what % 8 == 5) {
        ref.flags &= CP_REF_PRIVATE;
        if (cp_lease_open(w->area, w->area, &ref, &lease) == 0) {
            if (ref.len > 0) { /* there is memory, or it is made */
                lease->at[0]++;
                lease->at[ref.len - 1]++;
            }
            cp_lease_close(lease);
        }
    } else if (cp_heap_take_back(m->heap, &w->borrower, &ref, &lease) == 0) {
        cp_lease_close(lease);
    }
}

static void
operate(struct world *m)
{
    switch (next(m) % 12) {
        case 0:
        case 1: put(m); break;
        case 2:
        case 3: lend(m); break;
        case 4: drop(m, &m->bodies[next(m) % MOST]); break;
        case 5:
        case 6: {
            struct held *h = &m->held[next(m) % MOST];
            check_held(m, h);
            end(h);
            break;
        }
        case 7: take(m); break;
        case 8: move(m); break;
        case 9: rest(heap_of(m, next(m) % (WORKERS + 1))); break;
        case 10: {
            unsigned side = 1 + next(m) % WORKERS;
            if (next(m) % 4 == 0) {
                end_worker(m, side);
                open_worker(m, &m->workers[side - 1]);
            }
            break;
        }
        default: lie(m); break;
    }
}

/* No body that the parent may still send has changed, nor anything else that can
 * be trusted. */
static void
check_all(struct world *m)
{
    for (unsigned i = 0; i < MOST; i++) {
        const struct body *body = &m->bodies[i];
        check_held(m, &m->held[i]);
        if (body->exists && body->side == 0 && !body->is_answered
            && !(body->is_sent && m->lied)) {
            const uint8_t *at =
                cp_area_map(m->first, body->ref.size_class, body->ref.index);
            FUZZ_CHECK(at != NULL);
            check(at, (size_t)body->ref.len, body->stamp);
            FUZZ_CHECK(!body->is_ended || at[body->ref.len] == 0);
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world m = {.at = data, .end = data + size};
    struct cp_heap_counts counts;
    struct stat st;
    if (size > 400) {
        return 0;
    }
    FUZZ_CHECK(cp_region_open(LIMIT, &m.region) == 0);
    FUZZ_CHECK(cp_area_open(m.region, 0, &m.first) == 0);
    FUZZ_CHECK(cp_heap_new(m.first, &m.heap) == 0);
    for (unsigned i = 0; i < WORKERS; i++) {
        open_worker(&m, &m.workers[i]);
    }
    while (m.at < m.end) {
        operate(&m);
    }
    check_all(&m);
    for (unsigned i = 0; i < MOST; i++) {
        if (m.held[i].side > 0 || m.held[i].of == NULL) {
            end(&m.held[i]);
        }
        drop(&m, &m.bodies[i]);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        end_worker(&m, i + 1);
    }
    check_all(&m); /* results outlive their workers */
    for (unsigned i = 0; i < MOST; i++) {
        end(&m.held[i]);
    }
    cp_heap_count(m.heap, &counts);
    FUZZ_CHECK(counts.n_used == 0 || m.lied);
    rest(m.heap);
    FUZZ_CHECK(m.lied
               || (fstat(cp_region_fd(m.region), &st) == 0
                   && st.st_blocks * 512 <= 4096 * (m.next_id + 1)
                   && atomic_load(&cp_area_control(m.first)->total) == 0));
    cp_heap_free(m.heap);
    cp_area_unref(m.first);
    cp_region_close(m.region);
    cp_region_unref(m.region);
    return 0;
}
