/*
 * The allocator of one area: which blocks its owner uses, and who else has them.
 *
 * All bookkeeping is private memory of the owner. A block has one reference for
 * the body that it is part of, one for each borrower that it is lent to, and one
 * for a lease of the owner itself (cp_heap_take(), cp_heap_take_back());
 * without references it is free. The block that was freed last is used again
 * first, so its memory is warm, and already mapped on both sides.
 *
 * The first data of a block are written by pwrite(): that costs half as much as
 * page faults do, and returns an error code if memory is out.
 */
#ifndef CP_HEAP_H
#define CP_HEAP_H

#include "base/clock.h"
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

/* A slot stays with blocks of its size. So small parts must not take all slots:
 * no more than for the tasks of two workers that are sent as many as they may
 * be. */
#define CP_SMALL_BLOCKS (CP_BLOCK_SLOTS / 8u)

/* 0 or CP_ENOMEM. */
int cp_heap_new(struct cp_area *area, struct cp_heap **heap);
void cp_heap_free(struct cp_heap *heap); /* NULL is fine */

struct cp_region *cp_heap_region(const struct cp_heap *heap);

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

/* The same for few bytes, of which there may be many: they never take memory from
 * other blocks, nor more than CP_SMALL_BLOCKS slots for blocks of their size.
 * [any] */
int cp_heap_put_small(struct cp_heap *heap, const void *bytes, size_t n,
                      struct cp_ref *ref);

/* The same as cp_heap_put(), and there is a zero byte behind these bytes. [any] */
int cp_heap_put_ended(struct cp_heap *heap, const void *bytes, size_t n,
                      struct cp_ref *ref);

/* The same as cp_heap_put() for `count` pieces of `each` bytes, which lie one behind the other
 * in the block. [any] */
int cp_heap_put_pieces(struct cp_heap *heap, const void *const *pieces,
                       size_t count, size_t each, struct cp_ref *ref);

/* Take a block of n bytes for this process itself: a lease of it, whose bytes
 * have any contents. 0, or a negative code as cp_heap_put(). [any] */
int cp_heap_take(struct cp_heap *heap, size_t n, struct cp_lease **lease);

/* A block that b was lent is this process's own again: a lease of the bytes of
 * ref. CP_EPROTO: b was not lent it; or another negative code. [any] */
int cp_heap_take_back(struct cp_heap *heap, struct cp_borrower *b,
                      const struct cp_ref *ref, struct cp_lease **lease);

/* Drop the reference of cp_heap_put(). [any] */
void cp_heap_drop(struct cp_heap *heap, uint16_t slot);

/* Lend a block to which the caller has a reference; and take it back from a
 * borrower that has not seen it. [any] */
void cp_heap_lend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b);
void cp_heap_unlend(struct cp_heap *heap, uint16_t slot, struct cp_borrower *b);

/*
 * Rest. Memory of unused blocks is kept, to be used again, until no block has
 * been taken for CP_HEAP_REST, and for a millisecond more for each MiB of the
 * last ones: the next block of that size may just be on its way. If a block is
 * taken within 20 times CP_HEAP_REST after that, the memory is kept for so long
 * the next time: tasks may take seconds. cp_heap_rest() frees the memory. From
 * there on until the next block is taken the heap rests: a block that the program
 * gives back is freed at once (cp_lease_close()), since nobody else will look. Only
 * blocks of the parent's heap that workers have are looked for again, less and
 * less often.
 */
#define CP_HEAP_REST (CP_SECOND / 2)

/* When cp_heap_rest() is due; CP_NEVER: since the last call no block was taken,
 * none with memory was found to be unused, and no worker has one of another
 * process. [any] */
int64_t cp_heap_rest_at(const struct cp_heap *heap);

/* If it is due now, free the memory of one unused block, which may take a
 * millisecond. It stays due as long as there may be more. [any] */
void cp_heap_rest(struct cp_heap *heap, int64_t now);

/* Rest after this time, not after CP_HEAP_REST; before a block is taken. */
void cp_heap_set_rest(struct cp_heap *heap, int64_t ns);

/* Bytes of memory that free and used blocks of this heap take, and blocks in use. [any] */
struct cp_heap_counts {
    uint64_t filled;
    uint32_t n_used, n_slots;
};
void cp_heap_count(struct cp_heap *heap, struct cp_heap_counts *counts);

/* The usage of the whole region, for the heap of area 0: see cp_region_usage(). Only
 * looks. Zeros in a forked copy. [any] */
void cp_heap_usage(struct cp_heap *heap, struct cp_usage *usage);

#endif
