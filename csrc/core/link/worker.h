/*
 * The parent's side of one worker: its pipes, its row of the board, and the
 * window of tasks that are under way to it.
 *
 * Guarded by the lock of the pool that owns it, but for proc, which has a lock
 * of its own, and refs. It knows jobs as where tasks come from; what becomes of
 * a result is the pool's business (struct cp_worker_ops). It never blocks.
 */
#ifndef CP_WORKER_H
#define CP_WORKER_H

#include "link/board.h"
#include "base/buf.h"
#include "link/task.h"
#include "link/wire.h"
#include "os/proc.h"

struct cp_pool;
struct cp_worker;

/* Called with the pool's lock held. */
struct cp_worker_ops {
    void (*on_hello)(struct cp_worker *w);
    /* The task has left the window; both are the callee's. */
    void (*on_result)(struct cp_worker *w, struct cp_task *task,
                      struct cp_result *result, int64_t ns);
    /* The initializer failed; the result is the callee's. */
    void (*on_init_error)(struct cp_worker *w, struct cp_result *result);
    /* A big callable is out, or will not go out: its reference is dropped. */
    void (*on_func_sent)(struct cp_worker *w, struct cp_func *func);
};

struct cp_worker {
    _Atomic uint32_t refs;
    pid_t owner; /* who made it; never changes */
    uint64_t id; /* unique within the pool */
    struct cp_pool *pool;
    const struct cp_worker_ops *ops;
    struct cp_worker *next; /* in the pool's list */
    struct cp_proc proc;
    struct cp_row *row;
    struct cp_common *common; /* the pool's; the binding sets it */
    int tx, rx, life;         /* the parent's ends: tasks, results, life line */
    int child_rx, child_tx, child_life; /* the child's; -1 in the parent */
    int child_row; /* the row's descriptor, where the child starts by exec */

    bool hello;      /* it has run its initializer */
    bool exiting;    /* it ends after what it runs now: nothing more to it */
    int64_t exiting_since; /* when that was through; 0: not yet */
    _Atomic bool
        overdue;     /* long ago, and it lives on: it counts no more [any] */
    bool bad;        /* it broke the protocol: nothing it sends counts */
    bool eof;        /* it closed its pipe, by ending or otherwise */
    bool tx_closed;       /* the task pipe was closed: it ends when it is through */
    uint64_t budget; /* tasks that may still be sent to it */

    struct cp_task *window[CP_WINDOW]; /* by seq; NULL: finished, recalled */
    uint64_t head, tail; /* seq of the oldest unfinished, of the next */
    uint32_t in_flight;  /* tasks in the window */
    bool flush_deferred; /* was idle, and its tasks are for the driver to write out */

    struct cp_buf out;  /* headers and small bodies, to be written */
    const uint8_t *big; /* a body that follows out, not copied */
    size_t big_left;
    struct cp_func *big_func; /* its owner, where it is a callable's; after
                                 cp_worker_close_tx() what did not go out */
    bool wants_out;           /* the poller watches tx */
    uint8_t *has_func;        /* by slot */
    uint32_t has_func_n;

    struct cp_buf in;    /* results, not parsed yet */
    uint64_t read_bytes; /* of the result stream, read from the pipe */
    uint64_t seen_bytes; /* of it, put into `in`; more where the ring
                                 was read ahead of the pipe */
    struct cp_result
        *part; /* a body that is coming in; CP_NOMEM: it is dropped */
    struct cp_frame part_frame;
    size_t part_got;
};

/*
 * Make the pipes and the row. 0 and *out with one reference, or a negative code.
 * Before the fork. budget: tasks it may run, UINT64_MAX for no limit. execs: the
 * child will be another program, which is given its ends and attaches.
 */
int cp_worker_new(uint64_t budget, bool execs, struct cp_worker **out);

/* What a worker that starts by exec is given: its ends, and shared memory. */
struct cp_worker_ends {
    int rx, tx, life, row, common;
    int proc; /* keeps the sentinel quiet while open; -1 where not needed */
};

/* In such a child: take over the ends, map what is shared, and tie our life to the
 * parent's. The ends are consumed. CP_EPROTO: the parent is another build. */
int cp_worker_attach(uint64_t budget, const struct cp_worker_ends *ends,
                     struct cp_worker **out);

void cp_worker_ref(struct cp_worker *w); /* [any] */
/* [any] NULL is fine. In a forked copy it frees nothing: the descriptors and the
 * row are closed there, and what has their numbers and place is not ours. */
void cp_worker_unref(struct cp_worker *w);

/* In the parent, after the fork: close the child's ends. Without a fork
 * (pid < 0) everything is closed. 0 or a system error, and then the child
 * is to be killed. */
int cp_worker_started(struct cp_worker *w, pid_t pid);

/* The same where a fork server made it; status_fd as for cp_proc_started_by_server(). */
void cp_worker_started_by_server(struct cp_worker *w, pid_t pid, int status_fd);

/* In the child: close everything of every pool but our own three ends, and
 * tie our life to the parent's. First thing after the fork. */
void cp_worker_in_child(struct cp_worker *w);

/* May a task be sent now? (Not whether the window has room.) */
bool cp_worker_accepts(const struct cp_worker *w);

/* Send a task of the callable func, after func where the worker lacks it. Consumes the task
 * where it returns 1. 0: not now, the callable has to go out first, or the
 * body is big and the worker not idle, or not started: a big task cannot be
 * recalled. CP_ENOMEM: nothing was changed. */
int cp_worker_send_task(struct cp_worker *w, struct cp_func *func,
                        struct cp_task *task);

/* A slot of the callables' table is free: tell the worker if it knows it. */
void cp_worker_forget(struct cp_worker *w, uint32_t slot);

/* Are there bytes to write? */
bool cp_worker_has_out(const struct cp_worker *w);

/* Write what can be written. 0, or negative where the pipe is broken. */
int cp_worker_flush(struct cp_worker *w);

/* Read what there is, at most some 256 KiB. 1: there may be more, 0: no more
 * now, CP_ECLOSED: end-of-file, CP_EPROTO: it sent nonsense. */
int cp_worker_recv(struct cp_worker *w);

/* Read results that stand in the ring and not in the pipe. True where there
 * were any. CP_EPROTO shows as w->bad. */
bool cp_worker_recv_ring(struct cp_worker *w);

/* Take back the newest n tasks that it has not begun, newest first: the list
 * and how many in *n. */
struct cp_task *cp_worker_recall(struct cp_worker *w, uint32_t *n);

/* Has the worker begun the task with this seq? */
bool cp_worker_is_claimed(const struct cp_worker *w, uint64_t seq);

/* Close the task pipe: the worker ends when it has run what it has. What is
 * not written yet is dropped. */
void cp_worker_close_tx(struct cp_worker *w);

/* Close all descriptors but the sentinel, and release a big callable that did
 * not go out. Idempotent. */
void cp_worker_close(struct cp_worker *w);

#endif
