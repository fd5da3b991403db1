/*
 * Shared memory for large data: one file without a name (memfd) for each pool,
 * and which process has mapped which part of it.
 *
 * Areas. The file is sparse, sealed, and much larger than any memory. It is cut
 * into areas: area 0 belongs to the parent, and each worker has one of its own.
 * Only the owner of an area puts data into it; the other side reads, and changes
 * what it was given. An area is cut into classes of blocks of 64 KiB, 128 KiB and
 * so on, each class at a fixed place. So a block is named by its class and its
 * number, and any such name is within the file: nobody can make the reader touch
 * memory that is not there.
 *
 * Leases. The receiver of a block holds a lease. While it lives, the block is
 * the receiver's: it can be read and written at lease->at. When the lease is
 * closed, a bit in the control page of the worker's area tells the owner that
 * the block can be used again. No lock is shared between processes.
 *
 * Forks. A fork must not make two processes share the data of one. So before
 * any fork (pthread_atfork), each leased block that the program uses is mapped
 * once more, at the same address, as a private copy-on-write mapping. Such a
 * block is never given back, since nobody knows how long the forked copy uses
 * it: its owner makes a new one. All other mappings are excluded from the copy.
 * Once this has used up a fourth of the memory, receivers stop keeping leases
 * (cp_region_may_keep()).
 *
 * Ends. When a worker has died, or the pool has ended, the memory of all blocks
 * that are not leased is freed. A lease stays valid for as long as it is held,
 * whatever has become of the pool; the last one closes the file.
 */
#ifndef CP_REGION_H
#define CP_REGION_H

#include "base/base.h"
#include "base/lock.h"
#include "share/sheet.h"

#include <stdatomic.h>
#include <sys/types.h>

#define CP_BLOCK_BITS 16u    /* the smallest block has 2 ** 16 bytes */
#define CP_BLOCK_CLASSES 18u /* the largest one 2 ** 33 */
#define CP_BLOCK_SLOTS 4096u /* blocks of an area */
#define CP_SLOT_WORDS (CP_BLOCK_SLOTS / 64u)
#define CP_AREAS (1u << 20)

/* A block, and which bytes of it are used: what travels in place of the bytes. */
struct cp_ref {
    uint64_t len;
    uint64_t offset; /* of the first byte in the block */
    uint32_t index;  /* of the block in its class */
    uint16_t slot;   /* of the block in its area: the bit that gives it back */
    uint8_t size_class; /* 0: blocks of 64 KiB, and so on */
    uint8_t flags;
};

_Static_assert(sizeof(struct cp_ref) == 24, "a reference has no padding");

/* Other receivers get the same block: map it privately. */
#define CP_REF_PRIVATE 0x1u
/* The block is not one of the sender's area: the receiver has lent it, and gets
 * it back with these bytes. */
#define CP_REF_BACK 0x2u
/* There is no block: the bytes are in the body. */
#define CP_REF_INLINE 0x4u
/* Not in a body: the owner of the area uses the block itself. */
#define CP_REF_OWN 0x8u

/* Blocks that a worker uses itself, and that it has forked: as many are noted. */
#define CP_FORKED_MAX 128u

/* The first page of an area. */
struct cp_control {
    /* Blocks of this area that were given back. In a worker's area, the parent
     * sets these bits. */
    _Atomic uint64_t given[CP_SLOT_WORDS];
    /* Blocks of the parent's area that this area's owner has given back. */
    _Atomic uint64_t returned[CP_SLOT_WORDS];
    /* Those of the returned blocks that were leased during a fork. */
    _Atomic uint64_t kept_returned[CP_SLOT_WORDS];
    /* Blocks of this area that its owner used itself, and has given back. */
    _Atomic uint64_t own[CP_SLOT_WORDS];
    /* Those of the blocks in `given` and `own` whose memory was freed before, as
     * `rests` was set: by the owner, when nobody takes blocks (share/heap.h). */
    _Atomic uint64_t emptied[CP_SLOT_WORDS];
    _Atomic uint32_t rests;
    /* Blocks of this area that its owner, a worker, used itself during a fork:
     * the class, and the index in the lower 32 bits. How many there are may
     * exceed CP_FORKED_MAX: the others are not noted. */
    _Atomic uint64_t forked[CP_FORKED_MAX];
    _Atomic uint32_t n_forked;
    _Atomic uint64_t filled; /* bytes of memory that blocks of this area take */
    /* Only in the parent's area. */
    _Atomic uint64_t
        kept; /* total of the bytes that were leased during a fork */
    _Atomic uint64_t total; /* the bytes of all areas */
    _Atomic uint64_t limit; /* and how many there may be */
};

/* One pool's shared memory, as one process sees it. */
struct cp_region;

/* Open a region of a new file. 0, or a negative code: the system has no such
 * files, or no descriptor is left. limit: how many bytes of memory may be
 * used. */
int cp_region_open(uint64_t limit, struct cp_region **region);

/* The region of a file that was inherited: takes over the descriptor. */
int cp_region_attach(int fd, struct cp_region **region);

/* Its descriptor, for a child to inherit; -1 if it is closed. */
int cp_region_fd(const struct cp_region *region);

/* No process stores anything in the region any more: free the memory of all
 * blocks that are not leased. The descriptor is closed with the last lease.
 * Idempotent. */
void cp_region_close(struct cp_region *region);

/* Is this the process that opened or attached the region, and not a forked copy
 * of it? [any] */
bool cp_region_is_ours(const struct cp_region *region);

void cp_region_ref(struct cp_region *region);   /* [any] */
void cp_region_unref(struct cp_region *region); /* NULL is fine [any] */

/* A block will never be used again, since a forked process may use len bytes of
 * it. [any] */
void cp_region_lose(struct cp_region *region, uint32_t area_id,
                    unsigned size_class, uint32_t index, uint64_t len);

/* May leases be kept? Otherwise receivers should copy what they get, since
 * forks have taken too many blocks. [any] */
bool cp_region_may_keep(const struct cp_region *region);

/* Count bytes that lie outside of the areas towards the limit. False: they
 * would exceed it. The second function takes them off the count. [any] */
bool cp_region_take(struct cp_region *region, uint64_t bytes);
void cp_region_give(struct cp_region *region, uint64_t bytes);

/* Blocks take so many bytes less: take them off the count. [any] */
void cp_region_empty(struct cp_region *region, uint64_t bytes);

/* Bytes of memory: all, and those of them that are in use. */
struct cp_usage {
    uint64_t total, used;
};

/* All: what the file takes by the kernel's count, and what lies outside of the
 * areas. In use: what lies outside; blocks that this process leases, or has leased
 * during a fork; and `used_first`, which the owner of area 0 counts there, as long
 * as the region is open. Blocks that a worker has not sent are not known to be in
 * use. [any] */
void cp_region_usage(struct cp_region *region, uint64_t used_first,
                     struct cp_usage *usage);

struct cp_area {
    _Atomic uint32_t refs;
    struct cp_region *region;
    uint32_t id;
    struct cp_lock lock;        /* guards what is mapped */
    struct cp_control *control; /* mapped when it is needed first */
    _Atomic bool is_retired;    /* its owner has ended [any] */
    struct cp_extents {
        uint8_t **at; /* where they are mapped; NULL: not yet */
        size_t n;
    } extents[CP_BLOCK_CLASSES];
};

/* Open this area. This takes no memory of the file, and maps nothing: a mapping
 * makes each fork slower. */
int cp_area_open(struct cp_region *region, uint32_t id, struct cp_area **area);
void cp_area_ref(struct cp_area *area);   /* [any] */
void cp_area_unref(struct cp_area *area); /* NULL is fine [any] */

/* The owner, a worker, has ended: free the memory of all blocks that are not
 * leased. Leased blocks still count as used, until their leases are closed.
 * [any] */
void cp_area_retire(struct cp_area *area);

/* Might a process that was forked from this area's owner have a copy of this
 * block of the parent's area? [any] */
bool cp_area_keeps(struct cp_area *area, uint16_t slot);

/* The control page, mapped by the first call; NULL: no memory. [any] */
struct cp_control *cp_area_control(struct cp_area *area);

/* Where the block is mapped; NULL: no memory. [any] */
uint8_t *cp_area_map(struct cp_area *area, unsigned size_class, uint32_t index);

/* Write the bytes of the reference to the block without mapping it. 0, or a system error. [any] */
int cp_area_write(struct cp_area *area, const struct cp_ref *ref,
                  const void *bytes);

/* Make sure that the first n bytes of the mapped block are backed by memory. 0,
 * or a negative code: there is none. [any] */
int cp_area_fill(struct cp_area *area, const struct cp_ref *ref, uint8_t *at,
                 size_t n);

/* Free the memory of a block that nobody uses. [any] */
void cp_area_punch(struct cp_area *area, unsigned size_class, uint32_t index);

/* The size of the blocks of a class, and how many there can be. */
static inline uint64_t
cp_block_size(unsigned size_class)
{
    return UINT64_C(1) << (CP_BLOCK_BITS + size_class);
}

/* Does it name a possible block, and do its bytes fit into that block? */
bool cp_ref_is_valid(const struct cp_ref *ref);

/* A lease: a block that this process was given, or that it uses itself. */
struct cp_lease {
    uint8_t *at; /* the bytes of the reference */
    size_t len;
    size_t offset; /* of these bytes in the block */
    _Atomic uint32_t refs;
    struct cp_lease *next, *prev; /* of all leases of the process */
    struct cp_sheet *
        sheet; /* set if the lease is of a part of this sheet, not of a block */
    struct cp_area *area;
    struct cp_area
        *teller; /* the area in whose control page it is given back */
    uint16_t slot;
    uint8_t size_class;
    uint32_t index;
    _Atomic bool
        is_shown;    /* the program uses the block: forked copies get it too */
    bool has_own;    /* it has a mapping of its own */
    bool was_forked; /* a forked process may have it too: never give it back */
    bool is_own;     /* a block of this process's own area */
    /* Guarded by whoever encodes: it is a part of a body (share/parts.h); and
     * that body was sent, so the block is somebody else's now. */
    bool is_part, is_moved;
    /* Guarded likewise: the block was lent when the body was sent. So somebody
     * may read it when this lease ends. */
    bool is_lent;
};

/* A lease of this block. teller: the worker's area, where the block is given back.
 * CP_EPROTO: there is no such block; CP_ECLOSED: the region is closed; or another
 * negative code. Without memory (CP_ENOMEM) the block is given back, unless it is
 * CP_REF_OWN: that is the caller's to do. [any] */
int cp_lease_open(struct cp_area *area, struct cp_area *teller,
                  const struct cp_ref *ref, struct cp_lease **lease);

/* A lease of a part of the sheet. 0 or CP_ENOMEM. [any] */
int cp_lease_on(struct cp_sheet *sheet, uint64_t offset, size_t len,
                struct cp_lease **lease);

/* May the program keep the lease? Otherwise it should copy the data. [any] */
bool cp_lease_may_keep(const struct cp_lease *lease);

/* May the block itself be sent in place of a copy? Not if others may read what
 * this process writes, or the block is mapped privately. [any] */
bool cp_lease_may_move(const struct cp_lease *lease);

/* Does the caller have the only reference? Then nobody gets another one. [any] */
bool cp_lease_is_alone(const struct cp_lease *lease);

void cp_lease_ref(struct cp_lease *lease); /* [any] */

/* From now on the program uses the block: a forked process gets a copy of it.
 * Before, a forked process has no such mapping. [any] */
void cp_lease_show(struct cp_lease *lease);

/* The program does not use the block any more, as the caller has the only
 * reference: a fork that happens from now on copies no part of it. False: a fork
 * has copied it already. [any] */
bool cp_lease_hide(struct cp_lease *lease);

/* Drop a reference, and with the last one give the block back; NULL is fine. [any] */
void cp_lease_close(struct cp_lease *lease);

#endif
