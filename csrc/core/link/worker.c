/*
 * The parent's end of one worker, in four parts: life (pipes, shared row,
 * fork), the window of tasks in flight, sending, receiving.
 *
 * The caller holds the pool's lock, except in new, attach, ref, unref and
 * cp_worker_in_child().
 */
#include "link/worker.h"

#include "os/fd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Stop sending at this much unwritten output: enough small frames for one write. */
#define OUT_LIMIT CP_KIB(64)
/* Size of one read, and how many reads cp_worker_recv() does at most. */
#define READ_SIZE CP_KIB(64)
#define MAX_READS 4

/* ---- life ---- */

static struct cp_worker *
alloc_worker(uint64_t budget)
{
    struct cp_worker *w = calloc(1, sizeof(*w));
    if (w != NULL) {
        w->tx = w->rx = -1;
        w->child_rx = w->child_tx = w->child_life = w->child_row = -1;
        w->share = -1;
        w->budget = budget;
        w->owner = getpid();
        atomic_init(&w->refs, 1);
    }
    return w;
}

static int
open_pipes(struct cp_worker *w)
{
    int down[2], up[2];
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
    r = cp_fd_set_nonblock(w->tx);
    return r != 0 ? r : cp_fd_set_nonblock(w->rx);
}

int
cp_worker_new(uint64_t budget, struct cp_rows *rows, int life,
              struct cp_worker **out)
{
    *out = NULL;
    struct cp_worker *w = alloc_worker(budget);
    int r = w == NULL ? CP_ENOMEM : cp_proc_init(&w->proc);
    if (r != 0) {
        free(w);
        cp_fd_close(&life);
        return r;
    }
    w->child_life = life;
    r = rows == NULL ? cp_row_share(&w->row, &w->child_row)
                     : cp_row_open(rows, &w->row, &w->slab);
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

int
cp_worker_share(struct cp_worker *w, struct cp_area *parents,
                struct cp_heap *heap, uint32_t area_id)
{
    int r = cp_area_open(parents->region, area_id, &w->area);
    if (r == 0) {
        cp_area_ref(parents);
        w->parents_area = parents;
        w->heap = heap;
        w->share = cp_region_fd(parents->region);
        w->area_id = area_id;
        cp_heap_meet(heap, &w->borrower, w->area);
    }
    return r;
}

void
cp_worker_unshare(struct cp_worker *w)
{
    if (w->heap != NULL) {
        cp_heap_forget(w->heap, &w->borrower);
        cp_area_retire(w->area);
        cp_area_unref(w->area);
        cp_area_unref(w->parents_area);
        w->area = w->parents_area = NULL;
        w->heap = NULL;
    }
}

static void
close_child_ends(struct cp_worker *w)
{
    cp_fd_close(&w->child_rx);
    cp_fd_close(&w->child_tx);
    cp_fd_close(&w->child_life);
    cp_fd_close(&w->child_row);
}

/* The big body was written, or given up. */
static void
finish_big(struct cp_worker *w)
{
    w->big = NULL;
    w->big_left = 0;
    cp_task_free(w->big_task);
    w->big_task = NULL;
    if (w->big_func != NULL) {
        struct cp_func *func = w->big_func;
        w->big_func = NULL;
        w->ops->on_func_sent(w, func);
    }
}

void
cp_worker_close(struct cp_worker *w)
{
    close_child_ends(w);
    cp_fd_close(&w->tx);
    cp_fd_close(&w->rx);
    cp_proc_drop_sentinel(&w->proc);
    finish_big(w);
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
    cp_worker_unshare(w);
    bool is_over = w->proc.pid == 0 || atomic_load(&w->proc.ended);
    cp_proc_fini(&w->proc);
    cp_row_close(w->row, w->slab, is_over);
    cp_buf_fini(&w->out);
    cp_buf_fini(&w->in);
    cp_result_free(w->part);
    free(w->has_func);
    free(w);
}

int
cp_worker_before_fork(struct cp_worker *w)
{
    return cp_row_show(w->row);
}

void
cp_worker_started(struct cp_worker *w, pid_t pid)
{
    cp_row_hide(w->row);
    if (pid < 0) {
        cp_worker_close(w);
        return;
    }
    cp_proc_started(&w->proc, pid);
    close_child_ends(w);
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
    int keep[] = {w->child_rx, w->child_tx, w->child_life, w->share};
    cp_fd_in_child(keep, (int)(sizeof(keep) / sizeof(keep[0])));
    for (size_t i = 0; i < sizeof(keep) / sizeof(keep[0]); i++) {
        if (keep[i] >= 0) {
            cp_fd_note(keep[i]); /* the worker may fork too */
        }
    }
    w->tx = w->rx = -1;
    w->proc.pid = 0;
    w->proc.sentinel = w->proc.teller = -1;
    cp_proc_tie_to_pipe(w->child_life, w->life_is_own);
    uint64_t shared;
    if (atomic_load(&w->row->memory_limit) > 0
        && cp_proc_memory(getpid(), &shared) == 0) {
        atomic_store(&w->row->memory_shared, shared);
    }
}

int
cp_worker_attach(uint64_t budget, const struct cp_worker_ends *ends,
                 struct cp_worker **out)
{
    struct cp_worker_ends e = *ends;
    int fds[] = {e.rx, e.tx, e.life, e.row, e.common, e.share};
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
        /* owner 0 means that nothing is closed before the process exits: the
         * parent would take the end-of-file for the exit, while the interpreter
         * is still finalizing. */
        w->owner = 0;
        w->child_rx = e.rx;
        w->child_tx = e.tx;
        w->child_life = e.life;
        w->share = e.share;
        w->area_id = e.area_id;
        r = cp_common_attach(&w->common, e.common);
    }
    if (r == 0) {
        r = cp_row_attach(&w->row, e.row);
    }
    cp_fd_close(&e.row);
    cp_fd_close(&e.common);
    if (r != 0) {
        /* The caller exits, which closes the rest. */
        return r;
    }
    cp_proc_tie_to_pipe(w->child_life, false);
    *out = w;
    return 0;
}

/* ---- the window of tasks in flight ---- */

/* Advance head past tasks that are finished or recalled. */
static void
advance_head(struct cp_worker *w)
{
    while (w->head < w->tail && w->window[w->head & (CP_WINDOW - 1)] == NULL) {
        w->head++;
    }
}

bool
cp_worker_accepts(const struct cp_worker *w)
{
    return w->tx >= 0 && !w->exiting && !w->doomed && !w->bad && !w->eof
           && !w->tx_closed && w->budget > 0 && w->big == NULL
           && w->tail - w->head < CP_WINDOW && cp_buf_len(&w->out) < OUT_LIMIT;
}

bool
cp_worker_is_claimed(const struct cp_worker *w, uint64_t seq)
{
    return cp_claim_is_taken(w->row, seq);
}

/* Has the worker claimed this task, and not answered yet? */
static bool
is_awaited(const struct cp_worker *w, uint64_t seq)
{
    if (seq < w->head || seq >= w->tail
        || w->window[seq & (CP_WINDOW - 1)] == NULL
        || !cp_claim_is_taken(w->row, seq)) {
        return false;
    }
    /* The worker cannot answer a big task before all of its body is written. */
    return w->big == NULL || w->big_func != NULL || seq != w->tail - 1;
}

static struct cp_task *
take_from_window(struct cp_worker *w, uint64_t seq)
{
    struct cp_task **place = &w->window[seq & (CP_WINDOW - 1)];
    struct cp_task *task = *place;
    *place = NULL;
    w->in_flight--;
    w->n_yield -= (task->flags & CP_YIELDS) != 0 ? 1 : 0;
    w->ahead_ns -= task->cost_ns;
    advance_head(w);
    return task;
}

/* Is the body of the task with this seq still being written? */
static bool
is_being_written(const struct cp_worker *w, uint64_t seq)
{
    return w->big != NULL && w->big_func == NULL && seq == w->tail - 1;
}

/* Take back one task: 1 and *task; 0 if the task has to stay; CP_ECLOSED if the
 * worker has claimed it. */
static int
recall_one(struct cp_worker *w, uint64_t seq, bool with_big,
           struct cp_task **task)
{
    struct cp_task **place = &w->window[seq & (CP_WINDOW - 1)];
    struct cp_task *clone = NULL;
    bool written = !is_being_written(w, seq);
    if (*place == NULL || (!written && !with_big)) {
        return 0;
    }
    if (!written && (clone = cp_task_clone(*place)) == NULL) {
        return 0;
    }
    if (!cp_claim_recall(w->row, seq)) {
        cp_task_free(clone);
        return CP_ECLOSED;
    }
    *task = *place;
    *place = NULL;
    w->in_flight--;
    w->n_yield -= ((*task)->flags & CP_YIELDS) != 0 ? 1 : 0;
    w->ahead_ns -= (*task)->cost_ns;
    if ((*task)->parts != NULL) {
        w->lent_bytes -= (*task)->parts->bytes;
        cp_parts_unlend((*task)->parts, &w->borrower);
    }
    if (!written) { /* the worker still has to read and drop the rest of the body */
        clone->parts = (*task)->parts;
        (*task)->parts = NULL;
        w->big_task = *task;
        *task = clone;
    }
    return 1;
}

struct cp_task *
cp_worker_recall(struct cp_worker *w, uint32_t *n, unsigned which,
                 const struct cp_job *job)
{
    struct cp_task *list = NULL;
    struct cp_task **end = &list;
    uint32_t wanted = *n;
    *n = 0;
    for (uint64_t seq = w->tail; seq > w->head && *n < wanted; seq--) {
        struct cp_task *task = w->window[(seq - 1) & (CP_WINDOW - 1)];
        if (task != NULL
            && ((job != NULL && task->job != job)
                || (task->pinned && (which & CP_RECALL_PINNED) == 0))) {
            continue;
        }
        int r = recall_one(w, seq - 1, (which & CP_RECALL_BIG) != 0, &task);
        if (r < 0) {
            break; /* claimed, and so are all tasks before it */
        }
        if (r == 0) {
            continue;
        }
        if (w->budget != UINT64_MAX) {
            w->budget++;
        }
        task->next = NULL;
        *end = task;
        end = &task->next;
        (*n)++;
    }
    advance_head(w);
    return list;
}

struct cp_task *
cp_worker_claimed(const struct cp_worker *w, uint64_t *seq)
{
    for (uint64_t s = w->tail; s > w->head; s--) {
        struct cp_task *task = w->window[(s - 1) & (CP_WINDOW - 1)];
        if (task != NULL && cp_claim_is_taken(w->row, s - 1)) {
            *seq = s - 1;
            return task;
        }
    }
    return NULL;
}

struct cp_task *
cp_worker_running(const struct cp_worker *w, uint64_t *seq, int64_t *since)
{
    bool waits = cp_worker_waits(w);
    uint64_t running =
        atomic_load_explicit(&w->row->running, memory_order_acquire);
    *since = atomic_load_explicit(&w->row->since, memory_order_relaxed);
    *since = waits ? cp_now() : *since;
    *seq = running - 1;
    return running > w->head && running <= w->tail
               ? w->window[*seq & (CP_WINDOW - 1)]
               : NULL;
}

struct cp_task *
cp_worker_recall_one(struct cp_worker *w, uint64_t seq)
{
    struct cp_task *task = NULL;
    if (seq < w->head || seq >= w->tail
        || recall_one(w, seq, true, &task) != 1) {
        return NULL;
    }
    if (w->budget != UINT64_MAX) {
        w->budget++;
    }
    task->next = NULL;
    advance_head(w);
    return task;
}

/* ---- sending ---- */

/* Append a header, and the body unless it is big: a big body is written from its
 * own memory, after out. */
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
        if (frame->len >= CP_WIDE && !w->is_wide) {
            cp_fd_widen(w->tx);
            w->is_wide = true;
        }
        w->big = body;
        w->big_left = frame->len;
    } else {
        (void)cp_buf_put(&w->out, body, frame->len);
    }
    return 0;
}

/* What the worker has in a slot: NONE; IT, the present callable; or OLD, a
 * freed callable that the worker was not told to forget yet, since a big body
 * was in the way. */
#define HAS_NONE 0
#define HAS_IT 1
#define HAS_OLD 2

/* Send the callable unless the worker has it; before that, the shared objects
 * it refers to. 1: a task may follow. 0: the callable is big and has to be
 * flushed first; or it is in a file, and the worker has not said yet whether it
 * can open files of the parent. */
static int send_func(struct cp_worker *w, struct cp_func *func);

/* Make the frame and the body of a callable for this worker. Returns as
 * send_func(). */
static int
frame_for(const struct cp_worker *w, struct cp_func *func,
          struct cp_frame *frame, const uint8_t **body)
{
    *frame = (struct cp_frame){.kind = CP_FUNC,
                               .flags = func->flags,
                               .arg = func->slot,
                               .len = func->len};
    *body = func->bytes;
    if (func->sealed == NULL) {
        return 1;
    }
    if (cp_sealed_has_file(func->sealed) && !w->hello) {
        return 0;
    }
    bool opens = atomic_load(&w->row->opens) != 0;
    size_t len;
    *body = cp_sealed_message(func->sealed, !opens, &len);
    frame->len = len;
    return *body != NULL ? 1 : CP_ENOMEM;
}

static int
send_uses(struct cp_worker *w, struct cp_func *const *uses, uint32_t n)
{
    int r = 1;
    for (uint32_t i = 0; i < n && r == 1; i++) {
        r = send_func(w, uses[i]);
    }
    return r;
}

static int
send_func(struct cp_worker *w, struct cp_func *func)
{
    if (func->slot < w->has_func_n && w->has_func[func->slot] == HAS_IT) {
        return 1;
    }
    int r = send_uses(w, func->uses, func->n_uses);
    if (r != 1) {
        return r;
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
    struct cp_frame frame;
    const uint8_t *body;
    r = frame_for(w, func, &frame, &body);
    r = r == 1 ? put_frame(w, &frame, body) : r == 0 ? 1 : r;
    if (r != 0) {
        return r == 1 ? 0 : r;
    }
    w->has_func[func->slot] = HAS_IT;
    if (w->big != NULL) {
        func->refs++;
        w->big_func = func;
        return 0;
    }
    return 1;
}

bool
cp_worker_takes(const struct cp_worker *w, const struct cp_task *task)
{
    return task->len < CP_BIG || (w->in_flight == 0 && w->hello);
}

int
cp_worker_send_task(struct cp_worker *w, struct cp_func *func,
                    struct cp_task *task)
{
    CP_ASSERT(cp_worker_accepts(w));
    if (!cp_worker_takes(w, task)) {
        return 0;
    }
    int r = send_func(w, func);
    if (r == 1 && task->parts != NULL) {
        r = send_uses(w, task->parts->uses, task->parts->n_uses);
    }
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
    if (task->parts != NULL) {
        cp_parts_lend(task->parts, &w->borrower);
        w->lent_bytes += task->parts->bytes;
    }
    cp_claim_offer(w->row, w->tail);
    w->window[w->tail & (CP_WINDOW - 1)] = task;
    w->tail++;
    w->in_flight++;
    w->n_yield += (task->flags & CP_YIELDS) != 0 ? 1 : 0;
    w->ahead_ns += task->cost_ns;
    if (w->budget != UINT64_MAX) {
        w->budget--;
    }
    return 1;
}

/* Send the CP_FORGET frames that are due, unless a big body is in the way: no
 * frame may go between a header and its body. */
static void
put_forgets(struct cp_worker *w)
{
    bool fits = w->big == NULL;
    for (uint32_t i = 0; i < w->has_func_n && fits && w->forget_due; i++) {
        struct cp_frame frame = {.kind = CP_FORGET, .arg = i};
        if (w->has_func[i] == HAS_OLD) {
            fits = cp_buf_put(&w->out, &frame, CP_HEADER) == 0;
            w->has_func[i] = fits ? HAS_NONE : HAS_OLD;
        }
    }
    w->forget_due &= !fits;
}

void
cp_worker_forget(struct cp_worker *w, uint32_t slot)
{
    if (slot < w->has_func_n && w->has_func[slot] == HAS_IT && w->tx >= 0) {
        w->has_func[slot] = HAS_OLD;
        w->forget_due = true;
        put_forgets(w);
    }
}

/* Send CP_CREDIT now, or as soon as no big body is in the way. */
static void
put_credit(struct cp_worker *w)
{
    struct cp_frame frame = {.kind = CP_CREDIT};
    w->credit_due =
        w->big != NULL || cp_buf_put(&w->out, &frame, CP_HEADER) != 0;
}

void
cp_worker_begin_credit(struct cp_worker *w, uint64_t credit)
{
    cp_credit_set(w->row, w->tail, credit);
    atomic_store(&w->row->sleeps, 1); /* the driver may be asleep already */
}

bool
cp_worker_set_credit(struct cp_worker *w, uint64_t seq, uint64_t credit)
{
    cp_credit_set(w->row, seq, credit);
    uint64_t waits = atomic_load(&w->row->waits);
    if (waits == 0 || waits == w->told || w->tx < 0) {
        return false;
    }
    w->told = waits;
    put_credit(w);
    return true;
}

const struct cp_task *
cp_worker_yielding(const struct cp_worker *w)
{
    if (w->n_yield == 0) {
        return NULL;
    }
    uint64_t running =
        atomic_load_explicit(&w->row->running, memory_order_relaxed);
    const struct cp_task *task =
        running > w->head && running <= w->tail
            ? w->window[(running - 1) & (CP_WINDOW - 1)]
            : NULL;
    return task != NULL && (task->flags & CP_YIELDS) != 0 ? task : NULL;
}

bool
cp_worker_has_bytes(const struct cp_worker *w)
{
    return w->tx >= 0 && (cp_buf_len(&w->out) > 0 || w->big != NULL);
}

bool
cp_worker_has_out(const struct cp_worker *w)
{
    return cp_worker_has_bytes(w)
           || (w->tx >= 0 && (w->credit_due || w->forget_due));
}

int
cp_worker_flush(struct cp_worker *w)
{
    while (cp_worker_has_out(w)) {
        if (w->credit_due && w->big == NULL) {
            put_credit(w);
        }
        if (w->forget_due && w->big == NULL) {
            put_forgets(w);
        }
        if (!cp_worker_has_bytes(w)) {
            return 0; /* no memory for the frame: it stays due */
        }
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
                finish_big(w);
            }
        }
    }
    return 0;
}

void
cp_worker_ask_stack(struct cp_worker *w)
{
    if (atomic_load(&w->row->tells_stack) == 0) {
        return;
    }
    uint64_t seq;
    int64_t since;
    bool is_idle =
        cp_worker_is_ready(w) && cp_worker_running(w, &seq, &since) == NULL;
    bool is_stopped = cp_proc_is_stopped(&w->proc);
    atomic_store(&w->row->stack_stops, is_stopped && !is_idle ? 1 : 0);
    (void)atomic_fetch_add(&w->row->stack_asked, 1);
    if (is_stopped && is_idle) {
        return; /* nobody waits for its stack, so nobody would see that it has
                   stopped again */
    }
    (void)cp_proc_kill(&w->proc, CP_STOP_SIGNAL);
    if (is_stopped) {
        (void)cp_proc_kill(&w->proc, SIGCONT);
    }
}

void
cp_worker_close_tx(struct cp_worker *w)
{
    w->tx_closed = true;
    cp_buf_fini(&w->out);
    w->big = NULL;
    w->big_left = 0;
    w->credit_due = w->forget_due = false;
    cp_task_free(w->big_task);
    w->big_task = NULL;
    cp_fd_close(&w->tx);
}

/* ---- receiving ---- */

/* May the worker send this frame now? Checked as soon as the header is there:
 * the body of a bogus frame would swallow the valid frames that follow. */
static bool
is_expected(const struct cp_worker *w, const struct cp_frame *frame)
{
    if (frame->kind == CP_HELLO || frame->kind == CP_INIT_ERROR) {
        return !w->hello; /* else a task could fake a failed initializer */
    }
    if (frame->kind == CP_LEAVE) {
        return w->hello && !w->exiting;
    }
    return is_awaited(w, frame->seq)
           && (frame->kind != CP_VALUE
               || (w->window[frame->seq & (CP_WINDOW - 1)]->flags & CP_YIELDS)
                      != 0);
}

/* Open the parts of a result in shared memory. 0; or CP_EPROTO: there are no
 * such blocks, and the result is freed. */
static int
take_loan(struct cp_worker *w, const struct cp_frame *frame,
          struct cp_result *result)
{
    if (result == NULL || (frame->flags & CP_PARTS) == 0
        || result->outcome == CP_NOMEM) {
        return 0;
    }
    struct cp_lender from = {w->area, w->area, w->heap, &w->borrower};
    int r =
        w->area != NULL && (frame->kind == CP_RESULT || frame->kind == CP_VALUE)
            ? cp_loan_open(&from, result->body, &result->len, &result->loan)
            : CP_EPROTO;
    if (r == CP_EPROTO) {
        cp_result_free(result);
        return r;
    }
    if (r != 0) {
        result->outcome = CP_NOMEM;
        return 0;
    }
    for (uint32_t i = 0; i < result->loan->n; i++) {
        w->got_bytes += result->loan->leases[i]->len;
    }
    return 0;
}

/* 0, or a negative code. */
static int
on_value(struct cp_worker *w, const struct cp_frame *frame,
         struct cp_result *value)
{
    struct cp_task *task = w->window[frame->seq & (CP_WINDOW - 1)];
    value->index = task->index;
    value->items = 0;
    value->flags = CP_IS_VALUE;
    value->pid = (int)w->proc.pid;
    value->worker = w->index;
    return w->ops->on_value(w, frame->seq, task, value);
}

/* 0, or a negative code. */
static int
on_frame(struct cp_worker *w, const struct cp_frame *frame,
         struct cp_result *result)
{
    if (frame->kind == CP_HELLO) {
        w->hello = true;
        w->ops->on_hello(w);
        return 0;
    }
    if (frame->kind == CP_INIT_ERROR) {
        w->exiting = true;
        w->ops->on_init_error(w, result);
        return 0;
    }
    if (frame->kind == CP_LEAVE) {
        w->exiting = true;
        w->ops->on_leave(w);
        return 0;
    }
    if (frame->kind == CP_VALUE) {
        return on_value(w, frame, result);
    }
    struct cp_task *task = take_from_window(w, frame->seq);
    result->index = task->index;
    result->items = task->items;
    result->flags = (uint16_t)(frame->flags & ~CP_IS_VALUE);
    if (result->outcome != CP_NOMEM) {
        result->outcome = frame->kind == CP_RESULT ? CP_OK : CP_RAISED;
    }
    result->pid = (int)w->proc.pid;
    result->worker = w->index;
    if ((frame->flags & CP_LAST) != 0) {
        w->exiting = true;
    }
    w->ops->on_result(w, frame->seq, task, result, frame->arg);
    return 0;
}

/* Allocate the result for this frame, or NULL. If the body is too large for the
 * memory, the result is CP_NOMEM: the body is read and discarded, and only its
 * task fails. */
static struct cp_result *
result_for(const struct cp_frame *frame)
{
    struct cp_result *result = cp_result_new(0, CP_OK, (size_t)frame->len);
    return result != NULL ? result : cp_result_new(0, CP_NOMEM, 0);
}

/* Parse and handle all complete frames in `in`. 0 or a negative code. */
static int
parse_frames(struct cp_worker *w)
{
    for (;;) {
        if (w->part != NULL) {
            size_t missing = (size_t)w->part_frame.len - w->part_got;
            size_t n =
                cp_buf_len(&w->in) < missing ? cp_buf_len(&w->in) : missing;
            if (w->part->outcome != CP_NOMEM) {
                memcpy(w->part->body + w->part_got, cp_buf_head(&w->in), n);
            }
            cp_buf_consume(&w->in, n);
            w->part_got += n;
            if (w->part_got < w->part_frame.len) {
                return 0;
            }
            struct cp_result *result = w->part;
            w->part = NULL;
            int r;
            /* Check again: the worker can write anything into its claims. */
            if (!is_expected(w, &w->part_frame)) {
                cp_result_free(result);
                return CP_EPROTO;
            }
            r = take_loan(w, &w->part_frame, result);
            r = r == 0 ? on_frame(w, &w->part_frame, result) : r;
            if (r != 0) {
                return r;
            }
            continue;
        }
        struct cp_frame frame;
        int r =
            cp_wire_get(cp_buf_head(&w->in), cp_buf_len(&w->in), true, &frame);
        if (r <= 0) {
            return r;
        }
        if (!is_expected(w, &frame)) {
            return CP_EPROTO;
        }
        cp_buf_consume(&w->in, CP_HEADER);
        struct cp_result *result = NULL;
        if (frame.kind != CP_HELLO && frame.kind != CP_LEAVE) {
            result = result_for(&frame);
            if (result == NULL) {
                return CP_ENOMEM;
            }
        }
        if (result != NULL && frame.len > 0) {
            w->part = result;
            w->part_frame = frame;
            w->part_got = 0;
            continue;
        }
        r = take_loan(w, &frame, result);
        r = r == 0 ? on_frame(w, &frame, result) : r;
        if (r != 0) {
            return r;
        }
    }
}

/* How many of the next n bytes of the pipe were read from the ring before. */
static size_t
already_read_from_ring(const struct cp_worker *w, size_t n)
{
    uint64_t ahead = w->seen_bytes - w->read_bytes;
    return ahead < n ? (size_t)ahead : n;
}

/* One read() from the pipe, straight into the body if much of the body is missing.
 * Returns bytes read, 0 for nothing now, negative for an error or end-of-file. */
static ssize_t
read_some(struct cp_worker *w)
{
    bool direct = w->part != NULL && w->part->outcome != CP_NOMEM
                  && cp_buf_len(&w->in) == 0
                  && w->part->len - w->part_got >= READ_SIZE
                  && w->seen_bytes == w->read_bytes;
    if (direct) {
        ssize_t n = cp_fd_read(w->rx, w->part->body + w->part_got,
                               w->part->len - w->part_got);
        if (n > 0) {
            w->part_got += (size_t)n;
            w->read_bytes += (uint64_t)n;
            w->seen_bytes = w->read_bytes;
        }
        return n;
    }
    int r = cp_buf_reserve(&w->in, READ_SIZE);
    if (r != 0) {
        return r;
    }
    ssize_t n = cp_fd_read(w->rx, cp_buf_tail(&w->in), READ_SIZE);
    if (n > 0) {
        size_t skip = already_read_from_ring(w, (size_t)n);
        uint8_t *at = cp_buf_tail(&w->in);
        memmove(at, at + skip, (size_t)n - skip);
        cp_buf_add(&w->in, (size_t)n - skip);
        w->read_bytes += (uint64_t)n;
        if (w->seen_bytes < w->read_bytes) {
            w->seen_bytes = w->read_bytes;
        }
    }
    return n;
}

int
cp_worker_recv(struct cp_worker *w)
{
    for (int i = 0; i < MAX_READS; i++) {
        ssize_t n = read_some(w);
        if (n <= 0) {
            return n == CP_EINTR ? 1 : (int)n;
        }
        int r = parse_frames(w);
        if (r != 0) {
            return r;
        }
        if ((size_t)n < READ_SIZE) {
            /* A short read: the pipe was empty. The poller reports more. */
            return 0;
        }
    }
    return 1;
}

bool
cp_worker_recv_ring(struct cp_worker *w)
{
    if (w->bad || cp_buf_reserve(&w->in, CP_RING) != 0) {
        return false;
    }
    size_t n =
        cp_ring_peek(w->row, w->seen_bytes, cp_buf_tail(&w->in), CP_RING);
    if (n == 0) {
        return false;
    }
    cp_buf_add(&w->in, n);
    w->seen_bytes += n;
    if (parse_frames(w) != 0) {
        w->bad = true;
    }
    return true;
}
