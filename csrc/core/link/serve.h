/*
 * The worker's side: tasks come in, results go out.
 *
 * Lives in the worker process and is used by the one thread that runs tasks.
 * Results of short tasks are gathered in the row's ring and written together;
 * the ring is flushed before the worker would block, when it is half full, and
 * when the oldest result in it has waited for long enough.
 */
#ifndef CP_SERVE_H
#define CP_SERVE_H

#include "link/board.h"
#include "base/buf.h"
#include "link/wire.h"

struct cp_worker;

struct cp_serve {
    int rx, tx; /* closed with the process */
    struct cp_row *row;
    struct cp_buf in;
    size_t used;    /* bytes of the frame that was handed out last */
    int64_t oldest; /* when the oldest result in the ring was put */
    uint64_t got;   /* bytes of the task stream so far */
};

/* Take over the child's ends of w: 0 or CP_ENOMEM. What it then has is enough to
 * read whatever is not big. */
int cp_serve_init(struct cp_serve *s, const struct cp_worker *w);
void cp_serve_fini(struct cp_serve *s);

/*
 * The next frame that is to be acted on: 1, with *body valid until the next
 * call of next or wait. A task is claimed by that: it is ours to run. 0: nothing
 * has come; cp_serve_wait(). CP_EPROTO: nonsense came.
 */
int cp_serve_next(struct cp_serve *s, struct cp_frame *frame,
                  const uint8_t **body);

/* Flush, then block until something comes: 0, CP_EINTR, CP_ECLOSED where the
 * pool wants us to end (or is gone), or a negative code. */
int cp_serve_wait(struct cp_serve *s);

/* A task begins now; what the parent sees of it. */
void cp_serve_begin(struct cp_serve *s, uint64_t seq, int64_t now);

/*
 * Put an answer to the running task (or HELLO, or INIT_ERROR) into the ring:
 * 0, or 1 where cp_serve_flush() is due, or CP_ETOOBIG where it does not
 * fit: cp_serve_send() it then. now: the time, in ns. Never blocks.
 */
int cp_serve_put(struct cp_serve *s, const struct cp_frame *frame,
                 const uint8_t *body, int64_t now);

/* Write the ring's bytes to the pipe; may block. 0, or negative. */
int cp_serve_flush(struct cp_serve *s);

/* Flush, then write this frame past the ring; may block. 0, or negative. */
int cp_serve_send(struct cp_serve *s, const struct cp_frame *frame,
                  const uint8_t *body);

#endif
