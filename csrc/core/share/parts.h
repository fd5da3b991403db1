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
    uint32_t n_uses, cap_uses;
    struct cp_ref *refs;
    uint32_t n, cap;
    uint64_t bytes;  /* of all parts */
    bool is_private; /* several receivers may get them: map them privately */
};

/* Copy the bytes into a block. Returns the number of the part; negative: the
 * bytes have to go into the body itself. */
int64_t cp_parts_add(struct cp_parts *parts, const void *bytes, size_t n);

/* Is there any place where parts can be stored? */
static inline bool
cp_parts_are_open(const struct cp_parts *parts)
{
    return parts->heap != NULL || parts->sealed != NULL || parts->like != NULL;
}

/* Begin anew: forget all parts, wherever they are stored, but keep the uses. */
void cp_parts_reset(struct cp_parts *parts);

/* Forget all parts but the first n, and give their blocks back. Most bodies have none. */
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

/* Open the leases of a body of *len bytes; *len shrinks by the references. On
 * failure all blocks are given back: CP_EPROTO, CP_ENOMEM or CP_ECLOSED. */
int cp_loan_open(struct cp_area *area, struct cp_area *teller,
                 const uint8_t *body, size_t *len, struct cp_loan **loan);

#endif
