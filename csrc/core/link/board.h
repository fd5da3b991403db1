/*
 * The board: shared memory between the parent and its workers, one row for each
 * worker. The rows of forked workers lie side by side in slabs, since each mapping
 * makes every later fork slower. A slab is hidden from forks, except that each
 * worker gets its own row. No row is used twice: a process that a dead worker
 * has left behind may still have it. A worker that is started by exec has a row
 * in a file of its own.
 *
 * Claims. The parent offers each task that it sends in a claim word of the row.
 * The worker claims the task by compare-and-swap before it runs the task; the
 * parent recalls a task by compare-and-swap on the same word. Exactly one of
 * them wins. A claim word holds the task's sequence number, so a reused word is
 * never mistaken for the old task (no ABA problem). When a worker dies, only a
 * task that it had claimed is lost.
 *
 * The result ring. Small results are batched here and written to the pipe in
 * one system call. The parent can read the ring too: results of finished tasks
 * survive the death of the worker, and the parent need not wait for the flush.
 * Offsets count bytes of the result stream and only grow:
 * flushed <= committed <= flushed + CP_RING. A large body bypasses the ring, and
 * counts in both.
 *
 * Values of a task that yields (CP_YIELDS). The worker puts each value into the
 * ring at once. It flushes the ring only if the parent has said that it sleeps
 * (`sleeps`); a parent that is awake reads the ring, the last time before it
 * goes to sleep. The credit of a task is how many values it may yield in total;
 * the parent raises it as values are taken. A worker without credit sets
 * `waits`, checks the credit once more, and blocks on its task pipe. The
 * parent, after it has raised the credit, checks `waits` and sends CP_CREDIT if
 * the worker waits.
 *
 * The struct says who writes which field. The parent treats a row as untrusted
 * input and validates every number before use.
 */
#ifndef CP_BOARD_H
#define CP_BOARD_H

#include "base/base.h"
#include "base/lock.h"

#include <stdatomic.h>
#include <sys/uio.h> // struct iovec

#define CP_WINDOW 256u /* most tasks in flight to a worker; a power of two */
#define CP_RING CP_KIB(64) /* size of the result ring; a power of two */
#define CP_STACK CP_KIB(8) /* most bytes of a stack as text */

/* In place of a credit: the task has to end, since nobody takes its values. */
#define CP_CREDIT_CLOSED UINT64_MAX

/* What the worker reports of a task besides the answer; see cp_serve_note(). */
struct cp_times {
    _Atomic int64_t began, ended; /* in ns */
    _Atomic uint32_t failed;      /* with CP_CAUGHT: how many items */
};

struct cp_row {
    /* Written by the worker, read by the parent. */
    _Alignas(CP_CACHE_LINE) _Atomic uint64_t committed; /* end of the ring */
    _Atomic uint64_t flushed; /* start of the ring: written to the pipe */
    _Atomic uint64_t running; /* 1 + seq of the current task; 0: none */
    _Atomic uint64_t got;     /* bytes of tasks received, total */
    _Atomic int64_t since;    /* start time of the current task, in ns */
    _Atomic int64_t ready;    /* time of HELLO, in ns; 0: not yet */
    _Atomic int64_t work;     /* how long all tasks took, in ns */
    _Atomic uint32_t item;    /* index of the item that runs, from 0 */
    _Atomic uint64_t
        waits; /* the number of this wait for credit; 0: it does not wait */
    /* Only with a memory_limit, in bytes: the memory that the worker has shared
     * with the parent since the fork; and its own memory before the current
     * item. */
    _Atomic uint64_t memory_shared, memory_before;
    _Atomic uint32_t
        opens; /* it can open the parent's files; set before HELLO */
    /* Written by the parent, read by the worker. */
    _Alignas(CP_CACHE_LINE) _Atomic uint64_t sent; /* bytes of tasks, total */
    /* 1 + seq of the task that has to stop; 0: none. The worker clears it when
     * it raises in the task. If stop_since is not CP_NEVER, only the item that
     * began then (`since`) has to stop. */
    _Atomic uint64_t stop;
    _Atomic int64_t stop_since;
    _Atomic uint64_t memory_limit; /* see cp_pool_set_memory_limit(); 0: none */
    _Atomic uint32_t spin_us;   /* how long to spin on sent before blocking */
    _Atomic uint32_t is_traced; /* the times of every task are wanted */
    /* How often the worker was asked for its stack. And whether its process was
     * stopped by a signal at that time, so that it has to stop again once it
     * has given the stack. */
    _Atomic uint32_t stack_asked, stack_stops;
    /* 1 + seq of the task, and the start time of its item, that is killed as
     * soon as its stack has arrived: the item must not go on until then. 0:
     * none. */
    _Atomic uint64_t held;
    _Atomic int64_t held_since;
    _Atomic int32_t parent; /* its pid */
    _Atomic uint32_t
        sleeps; /* the parent sleeps: flush values; the worker clears it */
    /* Written by both, by compare-and-swap. */
    _Alignas(CP_CACHE_LINE) _Atomic uint64_t claim[CP_WINDOW];
    _Alignas(CP_CACHE_LINE) uint8_t ring[CP_RING]; /* written by the worker */
    /* By seq; written by the worker, valid while the task is in flight. */
    struct cp_times times[CP_WINDOW];
    /* Written by the worker: whether it can give its stack when asked; which
     * request the stack below answers; the length of the stack, which is
     * text. */
    _Atomic uint32_t tells_stack, stack_given, stack_len;
    uint8_t stack[CP_STACK];
    /* By seq, for tasks that yield; written by the parent: how many values, in
     * total. */
    _Atomic uint64_t credit[CP_WINDOW];
};

/* Shared by all workers of a pool. */
struct cp_common {
    _Atomic uint32_t failures; /* failed initializers; any worker writes */
    uint32_t format;           /* this and the next two: checked by attach */
    uint64_t magic, row_size;
};

/* Version of the board and the frames. Raise it with every change of either. */
#define CP_FORMAT 13u

/* Map a zeroed struct, shared with forked children. 0 or a system error. Closing
 * NULL is fine. */
int cp_common_open(struct cp_common **common);
void cp_common_close(struct cp_common *common);

/*
 * For workers started by exec: share maps memory that has a descriptor *fd (to be
 * inherited by the child; close-on-exec until then), attach maps it in the child.
 * 0 or a system error; attach returns CP_EPROTO if the parent is another build.
 */
int cp_common_share(struct cp_common **common, int *fd);
int cp_common_attach(struct cp_common **common, int fd);
int cp_row_share(struct cp_row **row, int *fd);
int cp_row_attach(struct cp_row **row, int fd);

/* A worker's initializer failed. True for the first worker that calls this: only
 * that one reports the error. */
bool cp_common_claim_failure(struct cp_common *common);

/* Several rows in one mapping. */
struct cp_slab;

/* Where a pool's next rows come from. */
struct cp_rows {
    struct cp_lock lock;
    struct cp_slab *slab; /* with a reference; NULL: there is none yet */
    uint32_t n_used;      /* rows of the slab that were given out */
};

int cp_rows_init(struct cp_rows *rows);

/* Rows that were given out stay valid. */
void cp_rows_fini(struct cp_rows *rows);

/* A zeroed row, hidden from forks where MADV_DONTFORK exists, and the slab that it
 * is in. 0 or a system error. [any] */
int cp_row_open(struct cp_rows *rows, struct cp_row **row,
                struct cp_slab **slab);

/* Close the row, which has no slab if it was shared or attached; NULL is fine.
 * is_over: no worker uses it any more, so its memory is freed at once, and not only
 * with the slab. [any] */
void cp_row_close(struct cp_row *row, struct cp_slab *slab, bool is_over);

/* Let processes forked from now on have this row, or not. 0 or a system error: the
 * row is as hidden as before. [any] */
int cp_row_show(struct cp_row *row);
void cp_row_hide(struct cp_row *row);

/* Parent: offer task seq, before sending it. */
void cp_claim_offer(struct cp_row *row, uint64_t seq);

/* Worker: claim task seq, before running it. False: it was recalled. */
bool cp_claim_take(struct cp_row *row, uint64_t seq);

/* Parent: take task seq back. False: the worker has claimed it. */
bool cp_claim_recall(struct cp_row *row, uint64_t seq);

/* Parent: has the worker claimed task seq? */
bool cp_claim_is_taken(const struct cp_row *row, uint64_t seq);

/* Parent: copy the stack that the worker gave for the latest request to `to`.
 * Returns its length, at most CP_STACK; or -1 if it has not arrived yet, or is
 * just being overwritten. */
int cp_stack_get(const struct cp_row *row, uint8_t *to);

/* Parent: set how many values task seq may yield in total. Only grows. */
void cp_credit_set(struct cp_row *row, uint64_t seq, uint64_t credit);

/* Worker: how many values task seq may yield in total. */
static inline uint64_t
cp_credit_get(const struct cp_row *row, uint64_t seq)
{
    return atomic_load_explicit(&row->credit[seq & (CP_WINDOW - 1)],
                                memory_order_acquire);
}

/* Worker: how many bytes fit into the ring now. */
size_t cp_ring_room(const struct cp_row *row);

/* Worker: append at most cp_ring_room() bytes, and commit them. */
void cp_ring_put(struct cp_row *row, const struct iovec *parts, int n_parts);

/*
 * Parent: copy up to cap committed bytes from stream offset `from` to dst. Returns
 * how many. 0: there are none, or the bytes at `from` are flushed already (read the
 * pipe), or the worker's numbers are invalid.
 */
size_t cp_ring_peek(const struct cp_row *row, uint64_t from, uint8_t *dst,
                    size_t cap);

#endif
