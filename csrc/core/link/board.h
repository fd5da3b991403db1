/*
 * The board: one row for each worker, in memory that parent and worker share
 * from before the fork. Each row is a mapping of its own, so that a pool can
 * grow, and so that a later worker does not inherit it.
 *
 * Claims. A task that is sent to a worker is offered in the row. Before the
 * worker runs it, it takes the claim by compare-and-swap; the parent takes
 * the task back in the same way. Exactly one of them wins. A claim word holds
 * the task's sequence number, so a word that was used again is never taken for
 * the old task. Only the task that a dead worker had taken is lost.
 *
 * The out ring. Small results are gathered here before they are written to
 * the pipe in one go. Since the parent sees the ring, results of finished tasks
 * survive the death of the worker, and reach a parent that does not want
 * to wait until the worker flushes. Offsets count the bytes of the result stream
 * from its start and only grow: flushed <= committed <= flushed + size.
 * Bytes that never stood in the ring (large bodies) are counted in both.
 *
 * Who writes what stands at each field. The parent treats the row as input
 * from outside: every number is checked before it is used.
 */
#ifndef CP_BOARD_H
#define CP_BOARD_H

#include "base/base.h"

#include <stdatomic.h>
#include <sys/uio.h> // struct iovec

#define CP_WINDOW 256u /* tasks under way to one worker; a power of two */
#define CP_RING CP_KIB(64)

struct cp_row {
    /* The worker writes, the parent reads. */
    _Alignas(CP_CACHE_LINE) _Atomic uint64_t committed; /* whole frames */
    _Atomic uint64_t flushed; /* of them, written to the pipe */
    _Atomic uint64_t running; /* 1 + seq of the task that runs; 0: none */
    _Atomic int64_t since;    /* when it began, in ns */
    /* The parent writes, the worker reads. */
    _Alignas(CP_CACHE_LINE) _Atomic uint64_t sent; /* bytes sent so far */
    _Atomic uint32_t spin_us; /* how long to look at sent before sleeping */
    /* Both, by compare-and-swap. */
    _Alignas(CP_CACHE_LINE) _Atomic uint64_t claim[CP_WINDOW];
    _Alignas(CP_CACHE_LINE) uint8_t ring[CP_RING]; /* the worker writes */
};

/* Shared by all workers of a pool. */
struct cp_common {
    _Atomic uint32_t failures; /* of initializers; any worker writes */
    uint32_t format;           /* of a shared one: who attaches checks them */
    uint64_t magic, row_size;
};

/* To be raised with each change of the board, the frames or their meaning. */
#define CP_FORMAT 1u

/* Map a zeroed one into *common; 0, or a system error. NULL may be closed. */
int cp_common_open(struct cp_common **common);
void cp_common_close(struct cp_common *common);

/*
 * The same two, for a worker that starts by exec: the memory has a descriptor,
 * close-on-exec, to be handed over, and is mapped by attaching. 0 or a system
 * error; attaching also CP_EPROTO where another build made it.
 */
int cp_common_share(struct cp_common **common, int *fd);
int cp_common_attach(struct cp_common **common, int fd);
int cp_row_share(struct cp_row **row, int *fd);
int cp_row_attach(struct cp_row **row, int fd);

/* A worker's initializer failed: is it the first? One is told so. */
bool cp_common_claim_failure(struct cp_common *common);

/* Map a zeroed row into *row. 0, or a system error. [any] */
int cp_row_open(struct cp_row **row);

/* Unmap; NULL is fine. [any] */
void cp_row_close(struct cp_row *row);

/* Keep the row out of processes forked from now on, where the system has a way
 * (madvise()). [any] */
void cp_row_hide(struct cp_row *row);

/* The parent, before it sends task seq. */
void cp_claim_offer(struct cp_row *row, uint64_t seq);

/* The worker, before it runs task seq: is it still ours? */
bool cp_claim_take(struct cp_row *row, uint64_t seq);

/* The parent: take task seq back. False where the worker has taken it. */
bool cp_claim_recall(struct cp_row *row, uint64_t seq);

/* The parent: has the worker taken task seq? */
bool cp_claim_is_taken(const struct cp_row *row, uint64_t seq);

/* The worker: how much fits into the ring now. */
size_t cp_ring_room(const struct cp_row *row);

/* The worker: append n bytes, n <= cp_ring_room(), and commit them. */
void cp_ring_put(struct cp_row *row, const struct iovec *parts, int n_parts);

/*
 * The parent: copy at most cap committed bytes that start at stream offset
 * `from` to dst. Returns how many, 0 where there are none, or where those at
 * `from` are in the pipe, or where the worker's numbers make no sense.
 */
size_t cp_ring_peek(const struct cp_row *row, uint64_t from, uint8_t *dst,
                    size_t cap);

#endif
