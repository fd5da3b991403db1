/* The rows of the board: claims and the result ring; see link/board.h. */
#include "link/board.h"

#include "os/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS) && defined(MAP_ANON)
#    define MAP_ANONYMOUS MAP_ANON
#endif

#define MAGIC UINT64_C(0x64616f62706f6f63)

enum claim { OFFERED = 1, TAKEN = 2, RECALLED = 3 };

_Static_assert((CP_WINDOW & (CP_WINDOW - 1)) == 0, "masked with a seq");
_Static_assert((CP_RING & (CP_RING - 1)) == 0, "masked with an offset");
_Static_assert(sizeof(struct cp_row) % CP_CACHE_LINE == 0,
               "rows do not share cache lines");

static uint64_t
claim_word(uint64_t seq, enum claim state)
{
    return seq << 2 | (uint64_t)state;
}

static _Atomic uint64_t *
claim_slot(struct cp_row *row, uint64_t seq)
{
    return &row->claim[seq & (CP_WINDOW - 1)];
}

static int
map_fd(size_t size, int fd, void **out)
{
    struct stat st;
    *out = NULL;
    if (fstat(fd, &st) != 0) {
        return CP_ERRNO(errno);
    }
    if (st.st_size != (off_t)size) {
        return CP_EPROTO;
    }
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *out = p != MAP_FAILED ? p : NULL;
    return p != MAP_FAILED ? 0 : CP_ERRNO(errno);
}

/* Open and map an anonymous shared-memory file. */
static int
map_memory_file(size_t size, int *fd, void **out)
{
    *out = NULL;
    int r = cp_fd_memory(size, fd);
    if (r == 0) {
        r = map_fd(size, *fd, out);
        if (r != 0) {
            cp_fd_close(fd);
        }
    }
    return r;
}

/* Map memory that is shared with processes forked from now on. */
#ifdef MAP_ANONYMOUS
static int
map_shared(size_t size, void **out)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *out = p != MAP_FAILED ? p : NULL;
    return p != MAP_FAILED ? 0 : CP_ERRNO(errno);
}
#else
static int
map_shared(size_t size, void **out)
{
    int fd;
    int r = map_memory_file(size, &fd, out);
    cp_fd_close(&fd);
    return r;
}
#endif

int
cp_common_share(struct cp_common **common, int *fd)
{
    void *p;
    int r = map_memory_file(sizeof(**common), fd, &p);
    *common = p;
    if (*common != NULL) {
        (*common)->magic = MAGIC;
        (*common)->format = CP_FORMAT;
        (*common)->row_size = sizeof(struct cp_row);
    }
    return r;
}

int
cp_common_attach(struct cp_common **common, int fd)
{
    void *p;
    int r = map_fd(sizeof(**common), fd, &p);
    *common = p;
    if (*common != NULL
        && ((*common)->magic != MAGIC || (*common)->format != CP_FORMAT
            || (*common)->row_size != sizeof(struct cp_row))) {
        cp_common_close(*common);
        *common = NULL;
        return CP_EPROTO;
    }
    return r;
}

int
cp_row_share(struct cp_row **row, int *fd)
{
    void *p;
    int r = map_memory_file(sizeof(**row), fd, &p);
    *row = p;
    return r;
}

int
cp_row_attach(struct cp_row **row, int fd)
{
    void *p;
    int r = map_fd(sizeof(**row), fd, &p);
    *row = p;
    return r;
}

int
cp_common_open(struct cp_common **common)
{
    void *p;
    int r = map_shared(sizeof(**common), &p);
    *common = p;
    return r;
}

void
cp_common_close(struct cp_common *common)
{
    if (common != NULL) {
        (void)munmap(common, sizeof(*common));
    }
}

bool
cp_common_claim_failure(struct cp_common *common)
{
    return atomic_fetch_add(&common->failures, 1) == 0;
}

/* ---- slabs ---- */

#define SLAB_ROWS 16u

struct cp_slab {
    _Atomic uint32_t refs; /* of its rows, and of the pool */
    uint8_t *at;
};

/* Each row begins on a page of its own. */
static size_t
row_room(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (sizeof(struct cp_row) + page - 1) / page * page;
}

static void
hide(void *at, size_t size)
{
#ifdef MADV_DONTFORK
    (void)madvise(at, size, MADV_DONTFORK);
#else
    (void)at;
    (void)size;
#endif
}

static int
new_slab(struct cp_slab **out)
{
    size_t size = SLAB_ROWS * row_room();
    struct cp_slab *slab = calloc(1, sizeof(*slab));
    void *at = NULL;
    int r = slab != NULL ? map_shared(size, &at) : CP_ENOMEM;
    *out = NULL;
    if (r != 0) {
        free(slab);
        return r;
    }
    hide(at, size);
    atomic_init(&slab->refs, 1);
    slab->at = at;
    *out = slab;
    return 0;
}

static void
unref(struct cp_slab *slab)
{
    if (slab != NULL && atomic_fetch_sub(&slab->refs, 1) == 1) {
        (void)munmap(slab->at, SLAB_ROWS * row_room());
        free(slab);
    }
}

int
cp_rows_init(struct cp_rows *rows)
{
    rows->slab = NULL;
    rows->n_used = 0;
    return cp_lock_init(&rows->lock);
}

void
cp_rows_fini(struct cp_rows *rows)
{
    unref(rows->slab);
    cp_lock_fini(&rows->lock);
}

int
cp_row_open(struct cp_rows *rows, struct cp_row **row, struct cp_slab **slab)
{
    *row = NULL;
    *slab = NULL;
    int r = 0;
    cp_lock_acquire(&rows->lock);
    if (rows->slab == NULL || rows->n_used == SLAB_ROWS) {
        struct cp_slab *next;
        r = new_slab(&next);
        if (r == 0) {
            unref(rows->slab);
            rows->slab = next;
            rows->n_used = 0;
        }
    }
    if (r == 0) {
        *slab = rows->slab;
        (void)atomic_fetch_add(&rows->slab->refs, 1);
        *row = (struct cp_row *)(rows->slab->at + rows->n_used++ * row_room());
    }
    cp_lock_release(&rows->lock);
    return r;
}

void
cp_row_close(struct cp_row *row, struct cp_slab *slab, bool is_over)
{
    if (row == NULL) {
        return;
    }
    if (slab == NULL) {
        (void)munmap(row, sizeof(*row));
        return;
    }
#ifdef MADV_REMOVE
    if (is_over) {
        (void)madvise(row, row_room(), MADV_REMOVE);
    }
#else
    (void)is_over;
#endif
    unref(slab);
}

int
cp_row_show(struct cp_row *row)
{
#ifdef MADV_DOFORK
    if (madvise(row, row_room(), MADV_DOFORK) != 0) {
        return CP_ERRNO(errno);
    }
#else
    (void)row;
#endif
    return 0;
}

void
cp_row_hide(struct cp_row *row)
{
    hide(row, row_room());
}

/* ---- claims, the ring ---- */

void
cp_claim_offer(struct cp_row *row, uint64_t seq)
{
    atomic_store_explicit(claim_slot(row, seq), claim_word(seq, OFFERED),
                          memory_order_release);
}

static bool
claim_swap(struct cp_row *row, uint64_t seq, enum claim to)
{
    uint64_t expected = claim_word(seq, OFFERED);
    return atomic_compare_exchange_strong(claim_slot(row, seq), &expected,
                                          claim_word(seq, to));
}

bool
cp_claim_take(struct cp_row *row, uint64_t seq)
{
    return claim_swap(row, seq, TAKEN);
}

bool
cp_claim_recall(struct cp_row *row, uint64_t seq)
{
    return claim_swap(row, seq, RECALLED);
}

bool
cp_claim_is_taken(const struct cp_row *row, uint64_t seq)
{
    return atomic_load(&row->claim[seq & (CP_WINDOW - 1)])
           == claim_word(seq, TAKEN);
}

int
cp_stack_get(const struct cp_row *row, uint8_t *to)
{
    uint32_t asked = atomic_load(&row->stack_asked);
    if (atomic_load(&row->stack_given) != asked) {
        return -1;
    }
    uint32_t len = atomic_load(&row->stack_len);
    len = len < CP_STACK ? len : CP_STACK;
    memcpy(to, row->stack, len);
    return atomic_load(&row->stack_given) == asked
                   && atomic_load(&row->stack_asked) == asked
               ? (int)len
               : -1;
}

void
cp_credit_set(struct cp_row *row, uint64_t seq, uint64_t credit)
{
    atomic_store(&row->credit[seq & (CP_WINDOW - 1)], credit);
}

size_t
cp_ring_room(const struct cp_row *row)
{
    uint64_t used = atomic_load_explicit(&row->committed, memory_order_relaxed)
                    - atomic_load_explicit(&row->flushed, memory_order_relaxed);
    return CP_RING - (size_t)used;
}

void
cp_ring_put(struct cp_row *row, const struct iovec *parts, int n_parts)
{
    uint64_t at = atomic_load_explicit(&row->committed, memory_order_relaxed);
    /* A reader that sees the bytes written below also sees the value of flushed
     * that made room for them. */
    atomic_thread_fence(memory_order_release);
    for (int i = 0; i < n_parts; i++) {
        const uint8_t *p = parts[i].iov_base;
        size_t left = parts[i].iov_len;
        while (left > 0) {
            size_t place = (size_t)(at & (CP_RING - 1));
            size_t n = CP_RING - place < left ? CP_RING - place : left;
            memcpy(row->ring + place, p, n);
            p += n;
            at += n;
            left -= n;
        }
    }
    atomic_store_explicit(&row->committed, at, memory_order_release);
}

size_t
cp_ring_peek(const struct cp_row *row, uint64_t from, uint8_t *dst, size_t cap)
{
    uint64_t flushed =
        atomic_load_explicit(&row->flushed, memory_order_acquire);
    uint64_t end = atomic_load_explicit(&row->committed, memory_order_acquire);
    if (from < flushed || end <= from || end - from > CP_RING) {
        return 0;
    }
    size_t n = (size_t)(end - from) < cap ? (size_t)(end - from) : cap;
    size_t place = (size_t)(from & (CP_RING - 1));
    size_t first = CP_RING - place < n ? CP_RING - place : n;
    memcpy(dst, row->ring + place, first);
    memcpy(dst + first, row->ring, n - first);
    /* If the worker has flushed in the meantime, it may have overwritten bytes
     * while they were being copied: discard the copy. */
    atomic_thread_fence(memory_order_acquire);
    flushed = atomic_load_explicit(&row->flushed, memory_order_relaxed);
    return from < flushed ? 0 : n;
}
