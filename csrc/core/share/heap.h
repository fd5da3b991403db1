/*
 * The allocator of one area: which blocks its owner uses, and who else has them.
 *
 * All bookkeeping is private memory of the owner. A block has one reference for
 * the body that it is part of, and one for each borrower that it is lent to;
 * without references it is free. The block that was freed last is used again
 * first, so its memory is warm, and already mapped on both sides.
 *
 * The first data of a block are written by pwrite(): that costs half as much as
 * page faults do, and returns an error code if memory is out.
 */
#ifndef CP_HEAP_H
#define CP_HEAP_H

#include "share/region.h"

/* To whom blocks are lent: from the parent's heap to a worker, or from a
 * worker's heap to its only borrower, the parent. Guarded by the heap's
 * lock. */
struct cp_borrower {
    struct cp_borrower *next;
    struct cp_area
        *area; /* a reference; blocks are given back in its control page */
    uint32_t n_lent;
    uint64_t lent[CP_SLOT_WORDS];
    uint64_t
        sticky[CP_SLOT_WORDS]; /* lent twice: only its end gives them back */
};

struct cp_heap;

/* 0 or CP_ENOMEM. */
int cp_heap_new(struct cp_area *area, struct cp_heap **heap);
void cp_heap_free(struct cp_heap *heap); /* NULL is fine */

/* From now on b can be lent blocks, until it is forgotten: then nobody else has
 * what it was lent, except forked copies of it. [any] */
void cp_heap_meet(struct cp_heap *heap, struct cp_borrower *b,
                  struct cp_area *area);
void cp_heap_forget(struct cp_heap *heap, struct cp_borrower *b);

/* Take a block, copy these bytes into it, and return one reference. 0, or
 * CP_ENOMEM: the limit is reached, or there is no memory, or no unused slot.
 * [any] */
int cp_heap_put(struct cp_heap *heap, const void *bytes, size_t n,
                struct cp_ref *ref);

/* Drop the reference of cp_heap_put(). [any] */
void cp_heap_drop(struct cp_heap *heap, uint16_t slot);

/* Lend a block to which the caller has a reference; and take it back from a
 * borrower that has not seen it. [any] */
void cp_heap_lend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b);
void cp_heap_unlend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b);

/* Bytes of memory that free and used blocks of this heap take, and blocks in use. [any] */
struct cp_heap_counts {
    uint64_t filled;
    uint32_t n_used, n_slots;
};
void cp_heap_count(struct cp_heap *heap, struct cp_heap_counts *counts);

#endif
