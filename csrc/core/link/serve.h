/*
 * The worker's end: receive tasks, send results.
 *
 * Used in the worker process, by the one thread that runs tasks. Results of
 * short tasks are batched in the ring of the row. The ring is flushed before
 * the worker blocks, when the ring is half full, and when its oldest result
 * has waited too long.
 */
#ifndef CP_SERVE_H
#define CP_SERVE_H

#include "link/board.h"
#include "base/buf.h"
#include "link/wire.h"
#include "share/parts.h"

struct cp_worker;

/* How many spins in a row were in vain, and how many of the next waits skip the
 * spin. */
struct cp_spins {
    uint32_t misses, rest;
};

struct cp_serve {
    int rx, tx; /* stay open until the process exits */
    struct cp_row *row;
    struct cp_buf in;
    size_t used;    /* size of the frame that next returned last */
    size_t scanned; /* how many bytes of `in` were searched for CP_CREDIT */
    uint64_t waits; /* how often it has waited for credit */
    struct cp_spins spins, credit_spins; /* for input; for credit */
    int64_t oldest;    /* when the oldest result in the ring was put */
    uint64_t got;      /* bytes of tasks received, total */
    int64_t memory_at; /* when to measure this process's memory again */
    bool is_wide;      /* tx was widened */
    bool is_short;     /* the last task was */
    /* The shared memory for large data; all NULL where there is none. */
    struct cp_area *parents_area, *area;
    struct cp_heap *heap;
    struct cp_borrower parent; /* the parent, to whom this worker lends */
    int look_ms; /* cp_serve_wait() returns after this time; 0: never */
};

/* Allocate a buffer that is large enough for any frame that is not big. 0 or
 * CP_ENOMEM. */
int cp_serve_alloc(struct cp_serve *s);
/* Then use the child's ends of w. */
void cp_serve_open(struct cp_serve *s, const struct cp_worker *w);
/* Both. */
int cp_serve_init(struct cp_serve *s, const struct cp_worker *w);
void cp_serve_fini(struct cp_serve *s);

/*
 * Get the next frame. 1: *body is valid until the next call of next or wait; a
 * task has been claimed and must be run (recalled tasks are skipped). 0: no
 * complete frame, call cp_serve_wait(). CP_EPROTO: an invalid frame.
 */
int cp_serve_next(struct cp_serve *s, struct cp_frame *frame,
                  const uint8_t **body);

/* Flush, then block until there is input. 0; CP_EINTR (also after look_ms, if
 * that is set, and when the heap rests); CP_ECLOSED if the parent closed the task
 * pipe (or died); or another negative code. */
int cp_serve_wait(struct cp_serve *s);

/* Before HELLO: say whether this process may open files of the parent. */
void cp_serve_look(struct cp_serve *s);

/* Open the parts of a task that has the flag CP_PARTS; *len shrinks by the
 * references to them. 0, CP_EPROTO or CP_ENOMEM. */
int cp_serve_loan(struct cp_serve *s, const uint8_t *body, uint64_t *len,
                  struct cp_loan **loan);

/* Lend the parent the parts of a body that is about to be sent with this frame.
 * The list of parts is empty afterwards. 0 or CP_ENOMEM. */
int cp_serve_lend(struct cp_serve *s, struct cp_frame *frame,
                  struct cp_buf *body);

/* Publish in the row that a task starts now. */
void cp_serve_begin(struct cp_serve *s, uint64_t seq, int64_t now);

/* Publish which item of the running task begins now. */
static inline void
cp_serve_item(struct cp_row *row, uint32_t item)
{
    atomic_store_explicit(&row->item, item, memory_order_relaxed);
}

/* Publish that the current item began at this time. */
static inline void
cp_serve_since(struct cp_row *row, int64_t now)
{
    atomic_store_explicit(&row->since, now, memory_order_relaxed);
}

/* Before an item, in a worker with a memory_limit: publish the memory of this
 * process, unless that was done less than a millisecond ago. Returns whether
 * the memory is over the limit. now: the time in ns. */
bool cp_serve_is_over_memory(struct cp_serve *s, int64_t now);

/* Before the answer to task seq: record when the task began and ended, and how
 * many of its items failed while the others went on. The parent takes the time
 * of a long task from here, and that of a short one from the answer. */
void cp_serve_note(struct cp_row *row, uint64_t seq, int64_t began,
                   int64_t ended, uint32_t failed);

/* Has the parent asked the item that runs now to stop? True once for each
 * request: the worker then has to act on it, and the parent asks no more. */
bool cp_serve_take_stop(struct cp_row *row);

/*
 * Put the answer to the running task (or HELLO, or INIT_ERROR) into the ring. 0;
 * 1 if the caller should call cp_serve_flush(); or CP_ETOOBIG: use cp_serve_send().
 * now: the time in ns. Never blocks.
 */
int cp_serve_put(struct cp_serve *s, const struct cp_frame *frame,
                 const uint8_t *body, int64_t now);

/*
 * Put a value of the running task into the ring (CP_VALUE). Returns as
 * cp_serve_put(); 1 if the parent sleeps, or little room is left.
 */
int cp_serve_yield(struct cp_serve *s, const struct cp_frame *frame,
                   const uint8_t *body);

/*
 * Wait until the running task may yield another value; `yielded`: how many it
 * has yielded so far. May block. timed: the time of its item starts anew after
 * the wait. 1: it may. 0: it has to end, since nobody takes its values.
 * CP_EINTR; CP_ECLOSED: the parent is gone; or another negative code.
 */
int cp_serve_wait_credit(struct cp_serve *s, uint64_t seq, uint64_t yielded,
                         bool timed);

/* Write the contents of the ring to the pipe. May block. 0 or negative. */
int cp_serve_flush(struct cp_serve *s);

/* Flush, then write a frame directly to the pipe. May block. 0 or negative. */
int cp_serve_send(struct cp_serve *s, const struct cp_frame *frame,
                  const uint8_t *body);

#endif
