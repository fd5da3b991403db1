/*
 * The parent's end of one worker process: its pipes, its row of the board, and
 * the window of tasks in flight.
 *
 * Guarded by the lock of the pool that owns the worker, except refs and proc
 * (proc has a lock of its own). Nothing here blocks. What happens to a result
 * is up to the pool: see struct cp_worker_ops.
 */
#ifndef CP_WORKER_H
#define CP_WORKER_H

#include "base/buf.h"
#include "link/board.h"
#include "link/task.h"
#include "link/wire.h"
#include "os/proc.h"

#include <signal.h>

struct cp_pool;
struct cp_worker;

/* The signal that tells a worker to stop the running task
 * (cp_serve_take_stop()) or to give its stack. By default it is ignored, so it
 * does no harm where nobody handles it. */
#define CP_STOP_SIGNAL SIGURG

/* The pool's handlers. Called with the pool's lock held. */
struct cp_worker_ops {
    void (*on_hello)(struct cp_worker *w);
    /* The task has left the window. The callee owns task and result. */
    void (*on_result)(struct cp_worker *w, uint64_t seq, struct cp_task *task,
                      struct cp_result *result, int64_t ns);
    /* A task, which stays in the window, has yielded a value. The callee owns
     * the value. 0, or CP_EPROTO: the task had no credit. */
    int (*on_value)(struct cp_worker *w, uint64_t seq, struct cp_task *task,
                    struct cp_result *value);
    /* The initializer failed. The callee owns the result. */
    void (*on_init_error)(struct cp_worker *w, struct cp_result *result);
    /* The worker takes no more tasks: recall those that it has not claimed. */
    void (*on_leave)(struct cp_worker *w);
    /* A big callable is written, or never will be: drop the reference to it. */
    void (*on_func_sent)(struct cp_worker *w, struct cp_func *func);
};

struct cp_worker {
    _Atomic uint32_t refs;
    pid_t owner;    /* the process that made this struct; constant */
    uint64_t id;    /* unique within the pool */
    uint32_t index; /* its successor gets the same; set by the binding */
    struct cp_pool *pool;
    const struct cp_worker_ops *ops;
    struct cp_worker *next; /* in the pool's list */
    struct cp_proc proc;
    struct cp_row *row;
    struct cp_slab *slab;     /* that the row is in, if the child is forked */
    struct cp_common *common; /* the pool's; set by the binding */
    int tx, rx;               /* parent's ends: tasks, results */
    int child_rx, child_tx;   /* child's ends; -1 in the parent */
    int child_life;           /* the pool's life line; -1 in the parent */
    bool life_is_own;         /* see cp_proc_open_life(); set by the pool */
    int child_row;    /* descriptor of the row, if the child starts by exec */
    int share;        /* descriptor of the pool's shared memory, or -1 */
    uint32_t area_id; /* of the worker's part of that memory */

    int64_t started_at;
    bool got_sigterm; /* SIGTERM was sent: not ready when the pool ended */
    bool hello;       /* the worker has run its initializer */
    bool exiting;     /* the worker said that it exits: send no more tasks */
    int64_t exiting_since; /* when its last result came; 0: not yet */
    _Atomic bool overdue;  /* exiting for too long: no longer counted [any] */
    bool doomed;           /* the pool kills it: send no more tasks */
    bool kill_due;         /* not killed yet: see cp_watch_kill_due() */
    uint64_t doom_seq;     /* 1 + seq of the task that it is killed for */
    int64_t doom_since;    /* when that task's item began; see doom() */
    enum cp_reason doom_reason;
    uint64_t doom_bytes; /* with CP_TOOK_MEMORY: its memory */
    uint64_t stop_seq; /* 1 + seq of the task that was asked to stop; 0: none */
    uint64_t asked_seq; /* the last task asked to, even if its grace is over */
    int64_t kill_at;    /* when to kill the worker if the task goes on */
    /* When to ask the task again, unless cp_worker_has_heard(); and how long
     * that is after it was last asked. */
    int64_t ask_at, ask_after;
    enum cp_reason stop_reason;
    bool stop_is_look;     /* so far it was only asked for its stack */
    int64_t look_since;    /* when the item began whose stack is wanted */
    bool was_asked_stack;  /* its stack, at any time */
    _Atomic bool retiring; /* it ends after its current task [any] */
    bool bad;        /* the worker violated the protocol: ignore its frames */
    bool eof;        /* the worker closed its result pipe, or exited */
    bool tx_closed;  /* see cp_worker_close_tx() */
    uint64_t budget; /* how many more tasks it may be sent */

    struct cp_task *window[CP_WINDOW]; /* by seq; NULL: done or recalled */
    uint64_t head, tail; /* seq of the oldest task in flight; the next seq */
    uint32_t in_flight;  /* tasks in the window */
    uint32_t n_yield;    /* of these, tasks with CP_YIELDS */
    uint64_t told;       /* the number of the last wait answered by CP_CREDIT */
    bool credit_due;     /* CP_CREDIT is still to be sent */
    bool end_due;        /* tell it to end once its tasks that yield are done */
    int64_t ahead_ns;    /* expected run time of the tasks in flight, total */
    uint64_t seen_got;   /* row->got when the pool last looked */
    int64_t active_at;   /* when the worker last read or answered, or was sent
                            something while idle */
    bool flush_deferred; /* idle; the event loop will flush its tasks */
    bool flush_due;      /* has output that cp_act() writes at its end */
    bool takes_part;     /* gets tasks in this round of handing out */
    bool had_pinned;     /* the last task it was given is for it alone */

    struct cp_buf out;  /* headers and small bodies, to be written */
    const uint8_t *big; /* a big body to be written after out, not copied */
    size_t big_left;    /* bytes of big */
    /* The callable of which big is the body, or NULL. After
     * cp_worker_close_tx(), the callable that was not written. */
    struct cp_task *big_task; /* the recalled task of which big is the body */
    struct cp_func *big_func;
    bool is_wide;     /* tx was widened */
    bool wants_out;   /* the poller watches tx */
    bool watches_end; /* the poller watches the sentinel of proc */
    /* Shared memory for large data: the worker's area; the parent's area and
     * its allocator, which lends to the worker. All NULL if there is no such
     * memory. */
    struct cp_area *area, *parents_area;
    struct cp_heap *heap;
    struct cp_borrower borrower;
    uint64_t lent_bytes, got_bytes; /* sent and received through it */
    uint8_t *has_func;   /* by slot: HAS_NONE, HAS_IT or HAS_OLD (worker.c) */
    bool forget_due;     /* CP_FORGET is still to be sent */
    uint32_t has_func_n; /* size of has_func */

    struct cp_buf in; /* received, not parsed yet */
    /* Offsets in the result stream: the end of what was read from the pipe, and
     * the end of all that was received. The second one is ahead while bytes
     * were read from the ring only. */
    uint64_t read_bytes, seen_bytes;
    struct cp_result *part; /* a body of which bytes are missing, or NULL; if
                               CP_NOMEM, its bytes are discarded */
    struct cp_frame part_frame;
    size_t part_got; /* bytes of part */
};

/*
 * Make the pipes and the row, before the fork. 0 and *out with one reference,
 * or a negative code. budget: how many tasks the worker may run, UINT64_MAX for
 * no limit. rows: where the row comes from; NULL: the child is started by exec and
 * calls cp_worker_attach(). life: the read end of the pool's life line, always
 * consumed.
 */
int cp_worker_new(uint64_t budget, struct cp_rows *rows, int life,
                  struct cp_worker **out);

/* Before the worker starts: give it the area with this id, a part of the pool's
 * shared memory for large data. 0, or a negative code: it has no area then. */
int cp_worker_share(struct cp_worker *w, struct cp_area *parents,
                    struct cp_heap *heap, uint32_t area_id);

/* The process has ended: take back what it was lent, and free the memory of its
 * area. */
void cp_worker_unshare(struct cp_worker *w);

/* The descriptors that a worker started by exec inherits. */
struct cp_worker_ends {
    int rx, tx, life; /* the child's ends of the pipes */
    int row, common;  /* shared memory, to be mapped */
    int share;        /* the same, for large data; or -1 */
    uint32_t area_id; /* the worker's part of it */
};

/* In a child started by exec: map the shared memory, and die with the parent.
 * Consumes the ends. CP_EPROTO: the parent is another build. */
int cp_worker_attach(uint64_t budget, const struct cp_worker_ends *ends,
                     struct cp_worker **out);

void cp_worker_ref(struct cp_worker *w); /* [any] */
/* NULL is fine. In a forked copy this frees nothing: the descriptors and the row
 * are closed there already, and their numbers and addresses may be reused. [any] */
void cp_worker_unref(struct cp_worker *w);

/* In the parent, right before the fork, which lets the child have the row; then
 * cp_worker_started() has to follow. 0 or a system error. */
int cp_worker_before_fork(struct cp_worker *w);

/* In the parent, after the fork: close the child's ends. pid < 0: the fork failed,
 * close everything. */
void cp_worker_started(struct cp_worker *w, pid_t pid);

/* The same for the child of a fork server; see cp_proc_started_by_server(). */
void cp_worker_started_by_server(struct cp_worker *w, pid_t pid, int status_fd);

/* In the child, first thing after the fork: close the descriptors of all pools
 * except this worker's own ends, and die with the parent. */
void cp_worker_in_child(struct cp_worker *w);

/* May a task be sent now? */
bool cp_worker_accepts(const struct cp_worker *w);

/* Is the task small, or the worker ready and idle? A big task cannot be
 * recalled, so it must not be stuck in the pipe of a busy worker. */
bool cp_worker_takes(const struct cp_worker *w, const struct cp_task *task);

/*
 * Send a task of the callable func, and func first if the worker lacks it. 1:
 * sent; the window owns the task. 0: not now, because a big callable has to be
 * flushed first, or because the task is big and the worker is not idle or not
 * ready. CP_ENOMEM: nothing was changed.
 */
int cp_worker_send_task(struct cp_worker *w, struct cp_func *func,
                        struct cp_task *task);

/* Set how many values the next task may yield at first. Call this before a task
 * with CP_YIELDS is sent. */
void cp_worker_begin_credit(struct cp_worker *w, uint64_t credit);

/* Set how many values the task with this seq may yield in total, or
 * CP_CREDIT_CLOSED. True: the worker waits for credit, so its output has to be
 * flushed. */
bool cp_worker_set_credit(struct cp_worker *w, uint64_t seq, uint64_t credit);

/* Does w wait until its task may yield more values? */
static inline bool
cp_worker_waits(const struct cp_worker *w)
{
    return atomic_load_explicit(&w->row->waits, memory_order_acquire) != 0;
}

/* The task that w runs if it is one that yields, or NULL. */
const struct cp_task *cp_worker_yielding(const struct cp_worker *w);

/* The callable in this slot was freed: tell the worker, if it has the callable. */
void cp_worker_forget(struct cp_worker *w, uint32_t slot);

/* Is there unwritten output? */
bool cp_worker_has_out(const struct cp_worker *w);

/* Are there bytes to write? Output can also be a frame that is due and for which
 * there was no memory. */
bool cp_worker_has_bytes(const struct cp_worker *w);

/* Write as much output as the pipe takes. 0, or negative if the pipe is broken. */
int cp_worker_flush(struct cp_worker *w);

/* Read and handle frames, some 256 KiB at most. 1: there may be more. 0: the pipe
 * is empty. CP_ECLOSED: end-of-file. CP_EPROTO: the worker violated the protocol. */
int cp_worker_recv(struct cp_worker *w);

/* Read and handle frames that are in the ring, and not in the pipe yet. Returns
 * whether there were any. Sets w->bad on CP_EPROTO. */
bool cp_worker_recv_ring(struct cp_worker *w);

/* What cp_worker_recall() takes back besides small tasks that other workers may
 * run. BIG: a task whose body is still being written, at the cost of a copy of
 * the body. PINNED: tasks that only this worker may run. */
#define CP_RECALL_BIG 0x1u
#define CP_RECALL_PINNED 0x2u
#define CP_RECALL_ALL (CP_RECALL_BIG | CP_RECALL_PINNED)

/* Take back up to *n tasks that the worker has not claimed, newest first.
 * Returns them as a list, and sets *n to their number. which: CP_RECALL_ flags.
 * job: only tasks of this job; NULL: of any job. */
struct cp_task *cp_worker_recall(struct cp_worker *w, uint32_t *n,
                                 unsigned which, const struct cp_job *job);

/* The task that the worker claimed last, if it has not answered it, and its
 * *seq; or NULL. */
struct cp_task *cp_worker_claimed(const struct cp_worker *w, uint64_t *seq);

/* Take back the task with this seq. NULL: the worker has claimed it, or its
 * body is being written and there is no memory for a copy. */
struct cp_task *cp_worker_recall_one(struct cp_worker *w, uint64_t seq);

/* Has the worker claimed the task with this seq, to run it? */
bool cp_worker_is_claimed(const struct cp_worker *w, uint64_t seq);

/* The task that the worker says it runs, its *seq, and *since when its current
 * item has run (now, if it waits for credit); or NULL. */
struct cp_task *cp_worker_running(const struct cp_worker *w, uint64_t *seq,
                                  int64_t *since);

/* Is the worker ready for tasks? Its row may tell before its HELLO is read. */
static inline bool
cp_worker_is_ready(const struct cp_worker *w)
{
    return w->hello || atomic_load(&w->row->ready) != 0;
}

/* Has the worker raised in the task that was asked to stop? */
static inline bool
cp_worker_has_heard(const struct cp_worker *w)
{
    return atomic_load(&w->row->stop) == 0;
}

/* Ask the worker for its stack, which cp_stack_get() finds soon after. A worker
 * that is stopped in a task, or before its hello, is continued for that, and
 * stops itself again once it has given the stack: wait for that. One that is
 * stopped while it is idle, or is not set up for this, is not asked. One that
 * handles the signal in another way, or cannot be interrupted, gives no
 * stack. */
void cp_worker_ask_stack(struct cp_worker *w);

/* Close the task pipe, and drop unwritten output. The worker runs the tasks that
 * it has received, then exits. */
void cp_worker_close_tx(struct cp_worker *w);

/* Close all descriptors except a sentinel that was lent, and drop the reference to a
 * big callable that was not written. Idempotent. */
void cp_worker_close(struct cp_worker *w);

#endif
