/* The allocator of one area; see share/heap.h. */
#include "share/heap.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct slot {
    uint64_t filled; /* bytes of it that are backed by memory */
    uint32_t index;
    uint32_t next; /* in the list of free blocks */
    uint16_t refs;
    uint8_t size_class;
    bool is_lost; /* a forked copy may use it for ever */
};

struct cp_heap {
    struct cp_lock lock;
    struct cp_area *area;
    struct cp_area *first; /* area 0, which has the limit */
    struct slot *slots;
    uint32_t n_slots, cap, n_used;
    uint32_t free[CP_BLOCK_CLASSES]; /* by class: the last freed block */
    uint32_t n_blocks[CP_BLOCK_CLASSES];
    uint64_t filled;
    struct cp_borrower *borrowers;
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
        r = cp_area_open(area->region, 0, false, &heap->first);
    }
    if (r != 0) {
        cp_lock_fini(&heap->lock);
        free(heap);
        return r;
    }
    cp_area_ref(area);
    heap->area = area;
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

/* Take in the blocks that the borrower has given back. A block that it was not
 * lent is ignored. */
static void
collect_from(struct cp_heap *heap, struct cp_borrower *b)
{
    struct cp_control *control = cp_area_control(b->area);
    if (b->n_lent == 0 || control == NULL) {
        return;
    }
    _Atomic uint64_t *words =
        b->area == heap->area ? control->given : control->returned;
    for (uint32_t w = 0; w < CP_SLOT_WORDS; w++) {
        if (atomic_load_explicit(&words[w], memory_order_relaxed) == 0) {
            continue;
        }
        uint64_t bits = atomic_exchange(&words[w], 0) & b->lent[w];
        bits &= ~b->sticky[w];
        while (bits != 0) {
            uint32_t n = w * 64u + (uint32_t)__builtin_ctzll(bits);
            bits &= bits - 1;
            end_loan(heap, b, n);
        }
    }
}

static void
collect(struct cp_heap *heap)
{
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
    if (heap->n_slots == heap->cap) {
        uint32_t cap = heap->cap > 0 ? 2 * heap->cap : 16;
        struct slot *slots = realloc(heap->slots, cap * sizeof(*slots));
        if (slots == NULL) {
            return NONE;
        }
        heap->slots = slots;
        heap->cap = cap;
    }
    heap->n_blocks[size_class]++;
    heap->slots[heap->n_slots] = (struct slot){
        .index = ref.index, .size_class = ref.size_class, .next = NONE};
    return heap->n_slots++;
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
        uint64_t less = slot->filled - bytes;
        (void)atomic_fetch_sub(&all->total, less);
        (void)atomic_fetch_sub(&own->filled, less);
        heap->filled -= less;
    }
    slot->filled = bytes;
    return true;
}

/* Free the memory of unused blocks, except those of the class `but`: at least
 * this many bytes, or all. */
static void
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
}

/* A block for n bytes, with one reference; its slot, or NONE. *is_warm: it is
 * backed by enough memory already. */
static uint32_t
take(struct cp_heap *heap, size_t n, bool *is_warm)
{
    unsigned c = class_of(n);
    if (c == CP_BLOCK_CLASSES) {
        return NONE;
    }
    collect(heap);
    uint32_t found = heap->free[c];
    bool is_new = found == NONE;
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
    if (!*is_warm && !fill(heap, slot, n)) {
        shrink(heap, c, n);
        if (!fill(heap, slot, n)) {
            drop(heap, found);
            return NONE;
        }
    }
    return found;
}

int
cp_heap_put(struct cp_heap *heap, const void *bytes, size_t n,
            struct cp_ref *ref)
{
    bool is_warm = false;
    cp_lock_acquire(&heap->lock);
    uint32_t found = take(heap, n, &is_warm);
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
        memcpy(at, bytes, n);
        return 0;
    }
    int r = cp_area_write(heap->area, ref, bytes);
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
