/*
 * The allocator of one area: which blocks its owner uses, and who else has them.
 *
 * All of it is private memory of the owner. A block has one reference for the body
 * that it is part of, and one for each borrower that it is lent to; it is free when
 * there is none. Freed blocks are used again in the order of a stack, so that their
 * memory is warm, and mapped on both sides already.
 *
 * The first data of a block are written by pwrite(): that costs half of what page
 * faults do, and where memory is out it fails with a code.
 */
#ifndef CP_HEAP_H
#define CP_HEAP_H

#include "share/region.h"

/* Who is lent blocks, and where it gives them back: the parent to a worker, or (one
 * borrower alone) a worker to the parent. Guarded by the heap's lock. */
struct cp_borrower {
    struct cp_borrower *next;
    struct cp_area *area; /* a reference; in its control page */
    uint32_t n_lent;
    uint64_t lent[CP_SLOT_WORDS];
    uint64_t
        sticky[CP_SLOT_WORDS]; /* lent twice: only its end gives them back */
};

struct cp_heap;

/* 0 or CP_ENOMEM. */
int cp_heap_new(struct cp_area *area, struct cp_heap **heap);
void cp_heap_free(struct cp_heap *heap); /* NULL is fine */

/* From now on b can be lent blocks, until it is forgotten: nobody else has what it was
 * lent, except copies of it. [any] */
void cp_heap_meet(struct cp_heap *heap, struct cp_borrower *b,
                  struct cp_area *area);
void cp_heap_forget(struct cp_heap *heap, struct cp_borrower *b);

/* Take a block with a copy of these bytes, with one reference. 0, or CP_ENOMEM: the
 * limit is reached, or memory or names of blocks are out. [any] */
int cp_heap_put(struct cp_heap *heap, const void *bytes, size_t n,
                struct cp_ref *ref);

/* Drop the reference of cp_heap_put(). [any] */
void cp_heap_drop(struct cp_heap *heap, uint16_t slot);

/* Lend a block, to which there is a reference; and take it back from a borrower that has
 * not seen it. [any] */
void cp_heap_lend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b);
void cp_heap_unlend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b);

/* Bytes of memory that free and used blocks of this heap take, and blocks in use. [any] */
struct cp_heap_counts {
    uint64_t filled;
    uint32_t n_used, n_slots;
};
void cp_heap_count(struct cp_heap *heap, struct cp_heap_counts *counts);

#endif
