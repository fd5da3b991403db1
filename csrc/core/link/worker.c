/*
 * The parent's side of one worker: life and sending. Receiving is in
 * link/worker_recv.c. The pool's lock is held, but in new, ref and unref.
 */
#include "link/worker.h"

#include "os/fd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Room for many small frames between two system calls. */
#define OUT_LIMIT CP_KIB(64)

static int
open_pipes(struct cp_worker *w)
{
    int down[2], up[2], life[2];
    int r = cp_fd_pipe(down);
    if (r != 0) {
        return r;
    }
    w->child_rx = down[0];
    w->tx = down[1];
    r = cp_fd_pipe(up);
    if (r != 0) {
        return r;
    }
    w->rx = up[0];
    w->child_tx = up[1];
    r = cp_fd_pipe(life);
    if (r != 0) {
        return r;
    }
    w->child_life = life[0];
    w->life = life[1];
    r = cp_fd_set_nonblock(w->tx);
    return r != 0 ? r : cp_fd_set_nonblock(w->rx);
}

static struct cp_worker *
alloc_worker(uint64_t budget)
{
    struct cp_worker *w = calloc(1, sizeof(*w));
    if (w != NULL) {
        w->tx = w->rx = w->life = -1;
        w->child_rx = w->child_tx = w->child_life = w->child_row = -1;
        w->budget = budget;
        w->owner = getpid();
        atomic_init(&w->refs, 1);
    }
    return w;
}

int
cp_worker_new(uint64_t budget, bool execs, struct cp_worker **out)
{
    *out = NULL;
    struct cp_worker *w = alloc_worker(budget);
    if (w == NULL) {
        return CP_ENOMEM;
    }
    int r = cp_proc_init(&w->proc);
    if (r != 0) {
        free(w);
        return r;
    }
    r = execs ? cp_row_share(&w->row, &w->child_row) : cp_row_open(&w->row);
    if (r == 0) {
        r = open_pipes(w);
    }
    if (r != 0) {
        cp_worker_unref(w);
        return r;
    }
    *out = w;
    return 0;
}

void
cp_worker_ref(struct cp_worker *w)
{
    (void)atomic_fetch_add(&w->refs, 1);
}

void
cp_worker_unref(struct cp_worker *w)
{
    if (w == NULL || atomic_fetch_sub(&w->refs, 1) != 1
        || w->owner != getpid()) {
        return;
    }
    cp_worker_close(w);
    cp_proc_fini(&w->proc);
    cp_row_close(w->row);
    cp_buf_fini(&w->out);
    cp_buf_fini(&w->in);
    cp_result_free(w->part);
    free(w->has_func);
    free(w);
}

static void
close_child_ends(struct cp_worker *w)
{
    cp_fd_close(&w->child_rx);
    cp_fd_close(&w->child_tx);
    cp_fd_close(&w->child_life);
    cp_fd_close(&w->child_row);
}

int
cp_worker_started(struct cp_worker *w, pid_t pid)
{
    if (pid < 0) {
        cp_worker_close(w);
        cp_proc_close_sentinel(&w->proc);
        return 0;
    }
    close_child_ends(w);
    cp_row_hide(w->row);
    return cp_proc_started(&w->proc, pid);
}

void
cp_worker_started_by_server(struct cp_worker *w, pid_t pid, int status_fd)
{
    close_child_ends(w);
    cp_row_hide(w->row);
    cp_proc_started_by_server(&w->proc, pid, status_fd);
}

void
cp_worker_in_child(struct cp_worker *w)
{
    int keep[] = {w->child_rx, w->child_tx, w->child_life, w->proc.child_end};
    cp_fd_in_child(keep, (int)(sizeof(keep) / sizeof(keep[0])));
    for (size_t i = 0; i < sizeof(keep) / sizeof(keep[0]); i++) {
        if (keep[i] >= 0) {
            cp_fd_note(keep[i]); /* for processes that this one forks */
        }
    }
    w->tx = w->rx = w->life = -1;
    w->proc.pid = 0;
    w->proc.sentinel = -1;
    cp_proc_tie_to_pipe(w->child_life);
}

int
cp_worker_attach(uint64_t budget, const struct cp_worker_ends *ends,
                 struct cp_worker **out)
{
    struct cp_worker_ends e = *ends;
    int fds[] = {e.rx, e.tx, e.life, e.row, e.common, e.proc};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0) {
            cp_fd_note(fds[i]);
            (void)fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        }
    }
    *out = NULL;
    struct cp_worker *w = alloc_worker(budget);
    int r = w != NULL ? cp_proc_init(&w->proc) : CP_ENOMEM;
    if (r == 0) {
        cp_proc_close_sentinel(&w->proc); /* that was for a child of ours */
        /* What it holds is closed by the end of the process and not before: the
         * parent takes end-of-file for that, while the interpreter still winds
         * up. */
        w->owner = 0;
        w->proc.child_end = e.proc;
        w->child_rx = e.rx;
        w->child_tx = e.tx;
        w->child_life = e.life;
        r = cp_common_attach(&w->common, e.common);
    }
    if (r == 0) {
        r = cp_row_attach(&w->row, e.row);
    }
    cp_fd_close(&e.row);
    cp_fd_close(&e.common);
    if (r != 0) {
        /* The process ends by that: what else it holds is closed then. */
        return r;
    }
    cp_proc_tie_to_pipe(w->child_life);
    *out = w;
    return 0;
}

bool
cp_worker_accepts(const struct cp_worker *w)
{
    return w->tx >= 0 && !w->exiting && !w->bad && !w->eof && !w->tx_closed
           && w->budget > 0 && w->big == NULL && w->tail - w->head < CP_WINDOW
           && cp_buf_len(&w->out) < OUT_LIMIT;
}

/* Append a header, and the body where it is small. */
static int
put_frame(struct cp_worker *w, const struct cp_frame *frame,
          const uint8_t *body)
{
    bool big = frame->len >= CP_BIG;
    int r = cp_buf_reserve(&w->out, CP_HEADER + (big ? 0 : frame->len));
    if (r != 0) {
        return r;
    }
    (void)cp_buf_put(&w->out, frame, CP_HEADER);
    if (big) {
        w->big = body;
        w->big_left = frame->len;
    } else {
        (void)cp_buf_put(&w->out, body, frame->len);
    }
    return 0;
}

/* 1: the worker has it, or will before the next frame. 0: it is big and has
 * to go out alone first. */
static int
send_func(struct cp_worker *w, struct cp_func *func)
{
    if (func->slot < w->has_func_n && w->has_func[func->slot] != 0) {
        return 1;
    }
    if (func->slot >= w->has_func_n) {
        uint32_t n = (func->slot + 16u) & ~15u;
        if (n <= func->slot) {
            n = func->slot + 16u;
        }
        uint8_t *has = realloc(w->has_func, n);
        if (has == NULL) {
            return CP_ENOMEM;
        }
        memset(has + w->has_func_n, 0, n - w->has_func_n);
        w->has_func = has;
        w->has_func_n = n;
    }
    struct cp_frame frame = {.kind = CP_FUNC,
                             .flags = func->flags,
                             .arg = func->slot,
                             .len = func->len};
    int r = put_frame(w, &frame, func->bytes);
    if (r != 0) {
        return r;
    }
    w->has_func[func->slot] = 1;
    if (w->big != NULL) {
        func->refs++;
        w->big_func = func;
        return 0;
    }
    return 1;
}

int
cp_worker_send_task(struct cp_worker *w, struct cp_func *func,
                    struct cp_task *task)
{
    CP_ASSERT(cp_worker_accepts(w));
    /* It could not be taken back from one that never starts. */
    if (task->len >= CP_BIG && (w->in_flight > 0 || !w->hello)) {
        return 0;
    }
    int r = send_func(w, func);
    if (r != 1) {
        return r;
    }
    struct cp_frame frame = {.kind = CP_TASK,
                             .flags = task->flags,
                             .arg = func->slot,
                             .seq = w->tail,
                             .len = task->len};
    r = put_frame(w, &frame, task->body);
    if (r != 0) {
        return r;
    }
    cp_claim_offer(w->row, w->tail);
    w->window[w->tail & (CP_WINDOW - 1)] = task;
    w->tail++;
    w->in_flight++;
    if (w->budget != UINT64_MAX) {
        w->budget--;
    }
    return 1;
}

void
cp_worker_forget(struct cp_worker *w, uint32_t slot)
{
    if (slot >= w->has_func_n || w->has_func[slot] == 0 || w->tx < 0) {
        return;
    }
    struct cp_frame frame = {.kind = CP_FORGET, .arg = slot};
    w->has_func[slot] = 0;
    /* A FUNC for the same slot replaces it, so losing this loses memory of
     * the worker's at worst. A big body may be under way: it goes first. */
    if (w->big == NULL) {
        (void)cp_buf_put(&w->out, &frame, CP_HEADER);
    }
}

bool
cp_worker_has_out(const struct cp_worker *w)
{
    return w->tx >= 0 && (cp_buf_len(&w->out) > 0 || w->big != NULL);
}

static void
big_done(struct cp_worker *w)
{
    w->big = NULL;
    w->big_left = 0;
    if (w->big_func != NULL) {
        struct cp_func *func = w->big_func;
        w->big_func = NULL;
        w->ops->on_func_sent(w, func);
    }
}

int
cp_worker_flush(struct cp_worker *w)
{
    while (cp_worker_has_out(w)) {
        size_t n_out = cp_buf_len(&w->out);
        struct iovec parts[2] = {{cp_buf_head(&w->out), n_out},
                                 {(void *)(uintptr_t)w->big, w->big_left}};
        ssize_t n = cp_fd_writev(w->tx, parts, w->big != NULL ? 2 : 1);
        if (n == 0 || n == CP_EINTR) {
            return 0;
        }
        if (n < 0) {
            return (int)n;
        }
        (void)atomic_fetch_add(&w->row->sent, (uint64_t)n);
        size_t from_out = (size_t)n < n_out ? (size_t)n : n_out;
        cp_buf_consume(&w->out, from_out);
        if (w->big != NULL) {
            w->big += (size_t)n - from_out;
            w->big_left -= (size_t)n - from_out;
            if (w->big_left == 0) {
                big_done(w);
            }
        }
    }
    return 0;
}

bool
cp_worker_is_claimed(const struct cp_worker *w, uint64_t seq)
{
    return cp_claim_is_taken(w->row, seq);
}

struct cp_task *
cp_worker_recall(struct cp_worker *w, uint32_t *n)
{
    struct cp_task *list = NULL;
    struct cp_task **end = &list;
    uint32_t wanted = *n;
    *n = 0;
    for (uint64_t seq = w->tail; seq > w->head && *n < wanted; seq--) {
        struct cp_task **place = &w->window[(seq - 1) & (CP_WINDOW - 1)];
        /* A big body is being written from the task's own memory. */
        if (*place == NULL || (*place)->len >= CP_BIG) {
            continue;
        }
        if (!cp_claim_recall(w->row, seq - 1)) {
            break; /* begun, and so are all before it */
        }
        struct cp_task *task = *place;
        *place = NULL;
        w->in_flight--;
        if (w->budget != UINT64_MAX) {
            w->budget++;
        }
        task->next = NULL;
        *end = task;
        end = &task->next;
        (*n)++;
    }
    while (w->head < w->tail && w->window[w->head & (CP_WINDOW - 1)] == NULL) {
        w->head++;
    }
    return list;
}

void
cp_worker_close_tx(struct cp_worker *w)
{
    w->tx_closed = true;
    cp_buf_fini(&w->out);
    w->big = NULL;
    w->big_left = 0;
    cp_fd_close(&w->tx);
}

void
cp_worker_close(struct cp_worker *w)
{
    close_child_ends(w);
    cp_fd_close(&w->tx);
    cp_fd_close(&w->rx);
    cp_fd_close(&w->life);
    big_done(w);
}
