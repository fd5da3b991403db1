/* The allocator of one area; see share/heap.h. */
#include "share/heap.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct slot {
    uint64_t filled; /* bytes of it that are backed by memory */
    uint32_t index;
    uint32_t next;          /* in the list of free blocks */
    uint16_t refs, n_given; /* references; of cp_heap_usage() alone */
    uint8_t size_class;
    bool is_lost; /* a forked copy may use it for ever */
};

struct cp_heap {
    struct cp_lock lock;
    struct cp_area *area;
    struct cp_area *first; /* area 0, which has the limit */
    struct slot *slots;
    uint32_t n_slots, n_used;
    size_t cap;
    uint32_t free[CP_BLOCK_CLASSES]; /* by class: the last freed block */
    uint32_t n_blocks[CP_BLOCK_CLASSES];
    uint64_t filled;
    struct cp_borrower *borrowers;
    struct cp_borrower self; /* leases of this process */
    int64_t rest_ns;
    _Atomic int64_t rest_at; /* see cp_heap_rest_at() */
    bool rests;              /* what the control page says */
    int64_t rested_at;       /* when it began to rest for the last time */
    bool keeps;              /* its memory was wanted again soon after a rest */
    unsigned n_looks;        /* since the heap rests; see look_again_at() */
};

int
cp_heap_new(struct cp_area *area, struct cp_heap **out)
{
    *out = NULL;
    struct cp_heap *heap = calloc(1, sizeof(*heap));
    if (heap == NULL || cp_lock_init(&heap->lock) != 0) {
        free(heap);
        return CP_ENOMEM;
    }
    int r = 0;
    if (area->id == 0) {
        cp_area_ref(area);
        heap->first = area;
    } else {
        r = cp_area_open(area->region, 0, &heap->first);
    }
    if (r != 0) {
        cp_lock_fini(&heap->lock);
        free(heap);
        return r;
    }
    cp_area_ref(area);
    heap->area = area;
    heap->self.area = area;
    heap->rest_ns = CP_HEAP_REST;
    atomic_init(&heap->rest_at, CP_NEVER);
    for (unsigned c = 0; c < CP_BLOCK_CLASSES; c++) {
        heap->free[c] = NONE;
    }
    *out = heap;
    return 0;
}

void
cp_heap_free(struct cp_heap *heap)
{
    if (heap != NULL) {
        CP_ASSERT(heap->borrowers == NULL);
        cp_area_unref(heap->area);
        cp_area_unref(heap->first);
        cp_lock_fini(&heap->lock);
        free(heap->slots);
        free(heap);
    }
}

struct cp_region *
cp_heap_region(const struct cp_heap *heap)
{
    return heap->area->region;
}

/* ---- references ---- */

static void
drop(struct cp_heap *heap, uint32_t n)
{
    struct slot *slot = &heap->slots[n];
    CP_ASSERT(slot->refs > 0);
    if (--slot->refs == 0 && !slot->is_lost) {
        slot->next = heap->free[slot->size_class];
        heap->free[slot->size_class] = n;
        heap->n_used--;
        if (slot->filled > 0
            && (heap->rests || cp_heap_rest_at(heap) == CP_NEVER)) {
            /* It was in use when the others were freed. */
            int64_t at = cp_now() + heap->rest_ns;
            atomic_store(&heap->rest_at,
                         cp_clock_min(cp_heap_rest_at(heap), at));
        }
    }
}

static bool
has_bit(const uint64_t *words, uint32_t n)
{
    return (words[n / 64u] >> (n % 64u) & 1) != 0;
}

static void
set_bit(uint64_t *words, uint32_t n, bool to)
{
    uint64_t bit = UINT64_C(1) << (n % 64u);
    words[n / 64u] = to ? words[n / 64u] | bit : words[n / 64u] & ~bit;
}

static void
end_loan(struct cp_heap *heap, struct cp_borrower *b, uint32_t n)
{
    set_bit(b->lent, n, false);
    set_bit(b->sticky, n, false);
    b->n_lent--;
    drop(heap, n);
}

/* Note that the block now takes this much memory. False: that would exceed the
 * limit. */
static bool
fill(struct cp_heap *heap, struct slot *slot, uint64_t bytes)
{
    struct cp_control *all = cp_area_control(heap->first);
    struct cp_control *own = cp_area_control(heap->area);
    if (all == NULL || own == NULL) {
        return false;
    }
    if (bytes > slot->filled) {
        /* The order matters if a worker is killed between the two: its own
         * count is then too high, and the total, from which that count is
         * subtracted at its end, becomes a bit too low, not too high. */
        uint64_t more = bytes - slot->filled;
        (void)atomic_fetch_add(&own->filled, more);
        uint64_t total = atomic_fetch_add(&all->total, more);
        uint64_t limit = atomic_load(&all->limit);
        if (total > limit || more > limit - total) {
            (void)atomic_fetch_sub(&all->total, more);
            (void)atomic_fetch_sub(&own->filled, more);
            return false;
        }
        heap->filled += more;
    } else {
        /* Not below zero, though a worker that lies may have made the total too
         * low: it would count as beyond the limit for ever. */
        uint64_t less = slot->filled - bytes;
        cp_region_empty(heap->area->region, less);
        (void)atomic_fetch_sub(&own->filled, less);
        heap->filled -= less;
    }
    slot->filled = bytes;
    return true;
}

/* Was the memory of this block freed when it was given back? */
static void
note_emptied(struct cp_heap *heap, uint32_t n)
{
    struct cp_control *control = cp_area_control(heap->area);
    uint64_t bit = UINT64_C(1) << (n % 64u);
    if (control != NULL
        && (atomic_load(&control->emptied[n / 64u]) & bit) != 0) {
        (void)atomic_fetch_and(&control->emptied[n / 64u], ~bit);
        (void)fill(heap, &heap->slots[n], 0);
    }
}

/* The bits of the blocks that the borrower has given back; NULL: no memory. */
static _Atomic uint64_t *
given_by(const struct cp_heap *heap, const struct cp_borrower *b)
{
    struct cp_control *control = cp_area_control(b->area);
    return control == NULL         ? NULL
           : b == &heap->self      ? control->own
           : b->area == heap->area ? control->given
                                   : control->returned;
}

/* Take in the blocks that the borrower has given back. A block that it was not
 * lent is ignored. */
static void
collect_from(struct cp_heap *heap, struct cp_borrower *b)
{
    _Atomic uint64_t *words = b->n_lent > 0 ? given_by(heap, b) : NULL;
    uint32_t n_words = (heap->n_slots + 63u) / 64u;
    for (uint32_t w = 0; words != NULL && w < n_words; w++) {
        if (atomic_load_explicit(&words[w], memory_order_relaxed) == 0) {
            continue;
        }
        uint64_t bits = atomic_exchange(&words[w], 0) & b->lent[w];
        bits &= ~b->sticky[w];
        while (bits != 0) {
            uint32_t n = w * 64u + (uint32_t)__builtin_ctzll(bits);
            bits &= bits - 1;
            if (b->area == heap->area) {
                note_emptied(heap, n);
            }
            end_loan(heap, b, n);
        }
    }
}

static void
collect(struct cp_heap *heap)
{
    collect_from(heap, &heap->self);
    for (struct cp_borrower *b = heap->borrowers; b != NULL; b = b->next) {
        collect_from(heap, b);
    }
}

void
cp_heap_meet(struct cp_heap *heap, struct cp_borrower *b, struct cp_area *area)
{
    memset(b, 0, sizeof(*b));
    cp_area_ref(area);
    b->area = area;
    cp_lock_acquire(&heap->lock);
    b->next = heap->borrowers;
    heap->borrowers = b;
    cp_lock_release(&heap->lock);
}

void
cp_heap_forget(struct cp_heap *heap, struct cp_borrower *b)
{
    cp_lock_acquire(&heap->lock);
    collect_from(heap, b);
    for (uint32_t n = 0; n < heap->n_slots && b->n_lent > 0; n++) {
        if (has_bit(b->lent, n)) {
            struct slot *slot = &heap->slots[n];
            if (!slot->is_lost && cp_area_keeps(b->area, (uint16_t)n)) {
                slot->is_lost = true;
                cp_region_lose(heap->area->region, heap->area->id,
                               slot->size_class, slot->index, slot->filled);
            }
            end_loan(heap, b, n);
        }
    }
    struct cp_borrower **at = &heap->borrowers;
    while (*at != b) {
        at = &(*at)->next;
    }
    *at = b->next;
    cp_lock_release(&heap->lock);
    cp_area_unref(b->area);
    b->area = NULL;
}

void
cp_heap_drop(struct cp_heap *heap, uint16_t slot)
{
    if (!cp_region_is_ours(heap->area->region)) {
        return; /* a forked copy has no heap, and its lock may be locked */
    }
    cp_lock_acquire(&heap->lock);
    drop(heap, slot);
    cp_lock_release(&heap->lock);
}

void
cp_heap_lend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b)
{
    cp_lock_acquire(&heap->lock);
    if (has_bit(b->lent, slot)) {
        collect_from(heap, b);
    }
    if (has_bit(b->lent, slot)) {
        set_bit(b->sticky, slot, true);
    } else {
        set_bit(b->lent, slot, true);
        b->n_lent++;
        heap->slots[slot].refs++;
    }
    cp_lock_release(&heap->lock);
}

void
cp_heap_unlend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b)
{
    cp_lock_acquire(&heap->lock);
    if (has_bit(b->lent, slot) && !has_bit(b->sticky, slot)) {
        end_loan(heap, b, slot);
    }
    cp_lock_release(&heap->lock);
}

/* ---- blocks ---- */

static unsigned
class_of(size_t n)
{
    unsigned c = 0;
    while (c < CP_BLOCK_CLASSES && cp_block_size(c) < n) {
        c++;
    }
    return c;
}

/* An unused slot, for a block of that class; or NONE. */
static uint32_t
new_slot(struct cp_heap *heap, unsigned size_class)
{
    struct cp_ref ref = {.index = heap->n_blocks[size_class],
                         .size_class = (uint8_t)size_class};
    if (heap->n_slots == CP_BLOCK_SLOTS || !cp_ref_is_valid(&ref)) {
        return NONE;
    }
    struct slot *slots =
        cp_mem_grow(heap->slots, &heap->cap, heap->n_slots + 1, sizeof(*slots));
    if (slots == NULL) {
        return NONE;
    }
    heap->slots = slots;
    heap->n_blocks[size_class]++;
    heap->slots[heap->n_slots] = (struct slot){
        .index = ref.index, .size_class = ref.size_class, .next = NONE};
    return heap->n_slots++;
}

/* Free the memory of unused blocks, except those of the class `but`: at least
 * this many bytes, or all. Returns how many. */
static uint64_t
shrink(struct cp_heap *heap, unsigned but, uint64_t bytes)
{
    uint64_t freed = 0;
    for (unsigned c = CP_BLOCK_CLASSES; c-- > 0 && freed < bytes;) {
        uint32_t n = c != but ? heap->free[c] : NONE;
        for (; n != NONE && freed < bytes; n = heap->slots[n].next) {
            struct slot *slot = &heap->slots[n];
            if (slot->filled > 0) {
                cp_area_punch(heap->area, c, slot->index);
                freed += slot->filled;
                (void)fill(heap, slot, 0);
            }
        }
    }
    return freed;
}

/* Tell those who give blocks back whether this heap rests. */
static void
set_rests(struct cp_heap *heap, bool rests)
{
    struct cp_control *control =
        heap->rests != rests ? cp_area_control(heap->area) : NULL;
    if (control != NULL) {
        atomic_store(&control->rests, rests ? 1 : 0);
        heap->rests = rests;
    }
}

int64_t
cp_heap_rest_at(const struct cp_heap *heap)
{
    return atomic_load_explicit(&heap->rest_at, memory_order_relaxed);
}

void
cp_heap_set_rest(struct cp_heap *heap, int64_t ns)
{
    heap->rest_ns = ns;
}

/* When to look for blocks that workers give back while the parent's heap rests:
 * nobody tells of them, nor may the worker free their memory, since others may
 * have them. Each time after twice as long as before, so a worker that keeps an
 * array for ever causes few looks. */
#define LOOKS_MAX 14u

static int64_t
look_again_at(struct cp_heap *heap, int64_t now)
{
    const struct cp_borrower *b = heap->borrowers;
    while (b != NULL && (b->n_lent == 0 || b->area == heap->area)) {
        b = b->next;
    }
    if (b == NULL) {
        return CP_NEVER;
    }
    heap->n_looks += heap->n_looks < LOOKS_MAX;
    return now + (heap->rest_ns << heap->n_looks);
}

void
cp_heap_rest(struct cp_heap *heap, int64_t now)
{
    if (cp_heap_rest_at(heap) > now) {
        return;
    }
    cp_lock_acquire(&heap->lock);
    if (cp_heap_rest_at(heap) <= now) {
        /* First, so that a block which is not collected here is freed by
         * whoever gives it back. */
        if (!heap->rests) {
            set_rests(heap, true);
            heap->rested_at = now;
        }
        collect(heap);
        if (shrink(heap, CP_BLOCK_CLASSES, 1) == 0) {
            atomic_store(&heap->rest_at, look_again_at(heap, now));
        }
    }
    cp_lock_release(&heap->lock);
}

/* How many times as long the memory is kept if it was wanted again soon. */
#define KEPT_LONGER 20

/* A block of n bytes is taken: when to rest now. */
static int64_t
rest_after(struct cp_heap *heap, size_t n)
{
    int64_t now = cp_now();
    int64_t longer = KEPT_LONGER * heap->rest_ns;
    if (heap->rests) {
        heap->keeps = now - heap->rested_at < longer;
    }
    int64_t more = heap->rest_ns / 512 * (int64_t)(n >> 20); /* 1 ms a MiB */
    int64_t at = now + (heap->keeps ? longer : heap->rest_ns) + more;
    int64_t before = cp_heap_rest_at(heap);
    return heap->rests || before == CP_NEVER || before < at ? at : before;
}

/* What a block is taken for. */
enum purpose { LARGE, SMALL };

/* A block for n bytes, with one reference; its slot, or NONE. *is_warm: it is
 * backed by enough memory already. */
static uint32_t
take(struct cp_heap *heap, size_t n, enum purpose purpose, bool *is_warm)
{
    unsigned c = class_of(n);
    if (c == CP_BLOCK_CLASSES) {
        return NONE;
    }
    atomic_store(&heap->rest_at, rest_after(heap, n));
    set_rests(heap, false);
    heap->n_looks = 0;
    collect(heap);
    uint32_t found = heap->free[c];
    bool is_new = found == NONE;
    if (is_new && purpose == SMALL && heap->n_blocks[c] >= CP_SMALL_BLOCKS) {
        return NONE;
    }
    if (is_new && (found = new_slot(heap, c)) == NONE) {
        return NONE;
    }
    struct slot *slot = &heap->slots[found];
    *is_warm = slot->filled >= n;
    if (!is_new) {
        heap->free[c] = slot->next;
    }
    heap->n_used++;
    slot->refs = 1;
    if (*is_warm || fill(heap, slot, n)) {
        return found;
    }
    if (purpose == LARGE) {
        shrink(heap, c, n);
        if (fill(heap, slot, n)) {
            return found;
        }
    }
    drop(heap, found);
    return NONE;
}

/* Write the pieces into a block without memory. One call of the kernel takes
 * less time than one for each piece, even with another copy. */
static int
write_pieces(const struct cp_heap *heap, const void *const *pieces,
             size_t count, size_t each, const struct cp_ref *ref)
{
    if (count == 1) {
        return cp_area_write(heap->area, ref, pieces[0]);
    }
    uint8_t *joined = malloc(count * each);
    if (joined == NULL) {
        return CP_ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        memcpy(joined + i * each, pieces[i], each);
    }
    int r = cp_area_write(heap->area, ref, joined);
    free(joined);
    return r;
}

/* Write a zero byte behind the bytes of the block. */
static int
write_end(const struct cp_heap *heap, const struct cp_ref *ref)
{
    struct cp_ref end = *ref;
    end.offset = ref->len;
    end.len = 1;
    return cp_area_write(heap->area, &end, "");
}

/* is_ended: there is a zero byte behind the bytes. */
static int
put(struct cp_heap *heap, const void *const *pieces, size_t count, size_t each,
    bool is_ended, enum purpose purpose, struct cp_ref *ref)
{
    bool is_warm = false;
    size_t n = count * each;
    cp_lock_acquire(&heap->lock);
    uint32_t found = take(heap, n + is_ended, purpose, &is_warm);
    if (found != NONE) {
        *ref = (struct cp_ref){.len = n,
                               .index = heap->slots[found].index,
                               .slot = (uint16_t)found,
                               .size_class = heap->slots[found].size_class};
    }
    cp_lock_release(&heap->lock);
    if (found == NONE) {
        return CP_ENOMEM;
    }
    uint8_t *at =
        is_warm ? cp_area_map(heap->area, ref->size_class, ref->index) : NULL;
    if (at != NULL) {
        for (size_t i = 0; i < count; i++) {
            if (purpose == SMALL) { /* the reader finds it in the cache */
                memcpy(at + i * each, pieces[i], each);
            } else {
                cp_mem_stream(at + i * each, pieces[i], each);
            }
        }
        cp_mem_stream_end();
        if (is_ended) {
            at[n] = 0;
        }
        return 0;
    }
    int r = write_pieces(heap, pieces, count, each, ref);
    r = r == 0 && is_ended ? write_end(heap, ref) : r;
    if (r != 0) {
        cp_area_punch(heap->area, ref->size_class, ref->index);
        cp_lock_acquire(&heap->lock);
        (void)fill(heap, &heap->slots[found], 0);
        drop(heap, found);
        cp_lock_release(&heap->lock);
        return CP_ENOMEM;
    }
    return 0;
}

int
cp_heap_put(struct cp_heap *heap, const void *bytes, size_t n,
            struct cp_ref *ref)
{
    return put(heap, &bytes, 1, n, false, LARGE, ref);
}

int
cp_heap_put_small(struct cp_heap *heap, const void *bytes, size_t n,
                  struct cp_ref *ref)
{
    return put(heap, &bytes, 1, n, false, SMALL, ref);
}

int
cp_heap_put_ended(struct cp_heap *heap, const void *bytes, size_t n,
                  struct cp_ref *ref)
{
    return put(heap, &bytes, 1, n, true, LARGE, ref);
}

int
cp_heap_put_pieces(struct cp_heap *heap, const void *const *pieces,
                   size_t count, size_t each, struct cp_ref *ref)
{
    return put(heap, pieces, count, each, false, LARGE, ref);
}

/* From now on a lease of this process has the caller's reference to the block.
 * Call this with the lock held. */
static void
lend_self(struct cp_heap *heap, uint32_t slot)
{
    set_bit(heap->self.lent, slot, true);
    heap->self.n_lent++;
}

/* Open a lease of a block that this process was lent (lend_self()). If that
 * fails, the loan ends here. is_backed: the block has the memory that is noted.
 * If not, that is put right before the loan ends: a thread that takes the block
 * next would write to memory that is not there. */
static int
open_own(struct cp_heap *heap, const struct cp_ref *ref, bool is_backed,
         struct cp_lease **lease)
{
    int r = cp_lease_open(heap->area, heap->area, ref, lease);
    if (r != 0) {
        if (!is_backed) {
            cp_area_punch(heap->area, ref->size_class, ref->index);
        }
        cp_lock_acquire(&heap->lock);
        if (!is_backed) {
            (void)fill(heap, &heap->slots[ref->slot], 0);
        }
        end_loan(heap, &heap->self, ref->slot);
        cp_lock_release(&heap->lock);
    }
    return r;
}

int
cp_heap_take(struct cp_heap *heap, size_t n, struct cp_lease **lease)
{
    struct cp_ref ref = {.len = n, .flags = CP_REF_OWN};
    bool is_warm = false;
    *lease = NULL;
    cp_lock_acquire(&heap->lock);
    uint32_t found = take(heap, n, LARGE, &is_warm);
    if (found != NONE) {
        ref.index = heap->slots[found].index;
        ref.slot = (uint16_t)found;
        ref.size_class = heap->slots[found].size_class;
        lend_self(heap, found);
    }
    cp_lock_release(&heap->lock);
    if (found == NONE) {
        return CP_ENOMEM;
    }
    int r = open_own(heap, &ref, is_warm, lease);
    if (r == 0 && !is_warm
        && cp_area_fill(heap->area, &ref, (*lease)->at, n) != 0) {
        cp_area_punch(heap->area, ref.size_class, ref.index);
        cp_lock_acquire(&heap->lock);
        (void)fill(heap, &heap->slots[found], 0);
        cp_lock_release(&heap->lock);
        cp_lease_close(*lease);
        *lease = NULL;
        r = CP_ENOMEM;
    }
    return r;
}

int
cp_heap_take_back(struct cp_heap *heap, struct cp_borrower *b,
                  const struct cp_ref *ref, struct cp_lease **lease)
{
    struct cp_ref own = *ref;
    uint32_t n = ref->slot;
    *lease = NULL;
    if (!cp_ref_is_valid(ref)) {
        return CP_EPROTO;
    }
    cp_lock_acquire(&heap->lock);
    collect_from(heap, &heap->self);
    bool is_lent = n < heap->n_slots && has_bit(b->lent, n)
                   && !has_bit(heap->self.lent, n)
                   && heap->slots[n].index == ref->index
                   && heap->slots[n].size_class == ref->size_class
                   && ref->offset + ref->len <= heap->slots[n].filled;
    if (is_lent) {
        heap->slots[n].refs++;
        lend_self(heap, n);
        if (!has_bit(b->sticky, n)) {
            end_loan(heap, b, n);
        }
    }
    cp_lock_release(&heap->lock);
    own.flags = CP_REF_OWN;
    return is_lent ? open_own(heap, &own, true, lease) : CP_EPROTO;
}

void
cp_heap_count(struct cp_heap *heap, struct cp_heap_counts *counts)
{
    cp_lock_acquire(&heap->lock);
    collect(heap);
    counts->filled = heap->filled;
    counts->n_used = heap->n_used;
    counts->n_slots = heap->n_slots;
    cp_lock_release(&heap->lock);
}

/* Count what the borrower has given back, without taking it in. */
static void
count_given(struct cp_heap *heap, const struct cp_borrower *b)
{
    _Atomic uint64_t *words = b->n_lent > 0 ? given_by(heap, b) : NULL;
    for (uint32_t w = 0; words != NULL && w < CP_SLOT_WORDS; w++) {
        uint64_t bits = atomic_load(&words[w]) & b->lent[w] & ~b->sticky[w];
        for (; bits != 0; bits &= bits - 1) {
            heap->slots[w * 64u + (uint32_t)__builtin_ctzll(bits)].n_given++;
        }
    }
}

void
cp_heap_usage(struct cp_heap *heap, struct cp_usage *usage)
{
    struct cp_region *region = heap->area->region;
    uint64_t used = 0;
    *usage = (struct cp_usage){0};
    if (!cp_region_is_ours(region)) {
        return;
    }
    cp_lock_acquire(&heap->lock);
    for (uint32_t n = 0; n < heap->n_slots; n++) {
        heap->slots[n].n_given = 0;
    }
    count_given(heap, &heap->self);
    for (struct cp_borrower *b = heap->borrowers; b != NULL; b = b->next) {
        count_given(heap, b);
    }
    for (uint32_t n = 0; n < heap->n_slots; n++) {
        const struct slot *slot = &heap->slots[n];
        used += slot->refs > slot->n_given || slot->is_lost ? slot->filled : 0;
    }
    cp_lock_release(&heap->lock);
    cp_region_usage(region, used, usage);
}
