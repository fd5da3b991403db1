/*
 * Bodies whose large parts lie in shared memory: the list of these parts.
 *
 * The sender has a struct cp_parts while it encodes, and as long as it keeps
 * the body. The body ends with references to the parts and their number
 * (cp_parts_seal()), and the frame has the flag CP_PARTS. The receiver turns
 * the references into leases (cp_loan_open()), and its decoder holds those
 * leases of which it makes views.
 */
#ifndef CP_PARTS_H
#define CP_PARTS_H

#include "base/buf.h"
#include "share/heap.h"
#include "share/loan.h"
#include "share/sealed.h"

/* Parts of this many bytes or more are worth a block; see ADR 14 for how that was
 * measured. */
#define CP_PART_MIN CP_KIB(128)
/* A body has no more parts than this. */
#define CP_PARTS_MAX 1024u
/* A small part is copied from its block when it arrives, so that the block is
 * free again soon. From this many bytes on that takes less time than the copies
 * on the way through the pipes; and a body has few of them. */
#define CP_SMALL_MIN CP_KIB(4)
#define CP_SMALL_PARTS 8u

struct cp_func;
struct cp_pool;

struct cp_parts {
    struct cp_heap *heap; /* where the parts are stored; NULL: nowhere */
    /* Store the parts in this file instead, which is written once for all
     * workers (share/sealed.h); or NULL. */
    struct cp_sealed *sealed;
    /* Store nothing, but compare the parts with those of this file; or NULL. */
    struct cp_sealed *like;
    uint64_t n_like;
    bool differs;
    /* The shared objects that the body refers to, each once (link/func.h). They
     * have to belong to `pool`. */
    struct cp_pool *pool;
    struct cp_func **uses;
    uint32_t n_uses;
    size_t cap_uses;
    struct cp_ref *refs;
    /* By part: the lease whose block is sent in place of a copy, or NULL. All
     * are NULL if the list is. */
    struct cp_lease **leases;
    uint32_t n;
    size_t cap;
    uint64_t bytes;  /* of all parts */
    bool is_private; /* several receivers may get them: map them privately */
    bool moves;      /* blocks may be sent in place of copies: an answer */
};

/* Copy the bytes into a block. Returns the number of the part; negative: the
 * bytes have to go into the body itself. */
int64_t cp_parts_add(struct cp_parts *parts, const void *bytes, size_t n);

/* The same for a small part, of CP_SMALL_MIN bytes or more, that the receiver
 * copies. Only stored in the heap, and not if the body may be sent twice. */
int64_t cp_parts_add_small(struct cp_parts *parts, const void *bytes, size_t n);

/* The same as cp_parts_add(), but the bytes may be copied later, by
 * cp_sealed_write(): only for a body with a sealed file. */
int64_t cp_parts_add_later(struct cp_parts *parts, const void *bytes, size_t n);

/* The same, with a zero byte behind the bytes. Only stored in the heap. */
int64_t cp_parts_add_ended(struct cp_parts *parts, const void *bytes, size_t n);

/* The same as cp_parts_add() for `count` pieces of `each` bytes, which become one part. Only
 * stored in the heap. */
int64_t cp_parts_add_pieces(struct cp_parts *parts, const void *const *pieces,
                            size_t count, size_t each);

/* The n bytes at `at` belong to this lease: send its block in place of a copy, if
 * cp_parts_settle() finds that nobody else has the lease by then. Not if they
 * are less than half of it. Returns as cp_parts_add(), which is to be called
 * instead if this fails. */
int64_t cp_parts_move(struct cp_parts *parts, struct cp_lease *lease,
                      const void *at, size_t n);

/* Everything that the task has dropped is dropped: copy those parts of which the
 * program still has the lease. 0 or CP_ENOMEM. */
int cp_parts_settle(struct cp_parts *parts, struct cp_buf *body);

/* Is there any place where parts can be stored? */
static inline bool
cp_parts_are_open(const struct cp_parts *parts)
{
    return parts->heap != NULL || parts->sealed != NULL || parts->like != NULL;
}

/* How many parts there are, wherever they are stored. Forget all but the first n,
 * but keep the uses. */
uint64_t cp_parts_count(const struct cp_parts *parts);
void cp_parts_back(struct cp_parts *parts, uint64_t n);

/* The same for blocks, which are given back. Most bodies have none. */
void cp_parts_drop(struct cp_parts *parts, uint32_t n);
static inline void
cp_parts_cut(struct cp_parts *parts, uint32_t n)
{
    if (parts->n > n) {
        cp_parts_drop(parts, n);
    }
}

/* Append the references to the body: 0 or CP_ENOMEM. */
int cp_parts_seal(const struct cp_parts *parts, struct cp_buf *body);

/* The body is being sent to b; or b has not seen it after all. */
void cp_parts_lend(const struct cp_parts *parts, struct cp_borrower *b);
void cp_parts_unlend(const struct cp_parts *parts, struct cp_borrower *b);

/* Drop the references of the body, and free the memory of the list. All uses
 * must have ended before; see link/func.h. */
void cp_parts_fini(struct cp_parts *parts);

/* Where the blocks of a body are that this process gets. */
struct cp_lender {
    struct cp_area *area, *teller; /* see cp_lease_open() */
    /* For blocks that come back: this process's heap, and the borrower that
     * sends the body; or NULL: none may come back. */
    struct cp_heap *heap;
    struct cp_borrower *borrower;
};

/* Open the leases of a body of *len bytes; *len shrinks by the references. On
 * failure all blocks are given back: CP_EPROTO, CP_ENOMEM or CP_ECLOSED. */
int cp_loan_open(const struct cp_lender *from, const uint8_t *body, size_t *len,
                 struct cp_loan **loan);

#endif
