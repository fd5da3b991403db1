/* The worker of the rig: does what its tasks order, including violations of the
 * protocol. */
#include "os/fd.h"
#include "link/serve.h"
#include "cp_test.h"
#include "link/worker.h"
#include "rig.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 8192u

struct worker {
    struct rig *rig;
    struct cp_serve s;
    struct cp_worker *w;
    struct func {
        uint8_t *bytes;
        size_t len;
    } slots[SLOTS];
    struct order order; /* of the running task */
    uint64_t budget;    /* tasks that the worker may still run */
    bool ends;
    uint16_t flags; /* of the answer */
};

/* Exit when the pool has closed the pipes. */
static void
check_io(int r)
{
    if (r == CP_ECLOSED) {
        _exit(0);
    }
    CHECK_EQ(r, 0);
}

static void
write_raw(struct worker *me, const void *bytes, size_t n)
{
    const char *at = bytes;
    while (n > 0) {
        ssize_t r = write(me->s.tx, at, n);
        if (r < 0 && errno == EPIPE) {
            _exit(0);
        }
        CHECK(r > 0);
        at += r;
        n -= (size_t)r;
    }
}

/* task: NULL for a frame that answers no task. */
static void
answer(struct worker *me, const struct cp_frame *task, unsigned kind,
       const void *body, size_t len)
{
    struct cp_frame frame = {.kind = (uint16_t)kind, .len = len};
    bool quiet = false;
    if (task != NULL) {
        frame.seq = task->seq;
        frame.arg = me->order.ns;
        frame.flags = (uint16_t)((me->ends ? CP_LAST : 0) | me->flags);
        quiet = me->order.op == OP_QUIET;
    }
    int r = cp_serve_put(&me->s, &frame, body, cp_now());
    if (r == CP_ETOOBIG) {
        check_io(cp_serve_send(&me->s, &frame, body));
    } else if (r == 1 && !quiet) {
        check_io(cp_serve_flush(&me->s));
    }
}

static void
say_begun(struct worker *me)
{
    CHECK_EQ(write(me->rig->begun[1], "b", 1), 1);
}

static void
pass_gate(struct worker *me)
{
    char byte;
    CHECK_EQ(read(me->rig->gate[0], &byte, 1), 1);
}

static void
keep_func(struct worker *me, const struct cp_frame *frame, const uint8_t *body)
{
    CHECK(frame->arg < SLOTS);
    struct func *func = &me->slots[frame->arg];
    free(func->bytes);
    func->bytes = malloc((size_t)frame->len + 1);
    CHECK(func->bytes != NULL);
    memcpy(func->bytes, body, (size_t)frame->len);
    func->len = (size_t)frame->len;
}

static void
forget_func(struct worker *me, uint32_t slot)
{
    CHECK(slot < SLOTS && me->slots[slot].bytes != NULL);
    free(me->slots[slot].bytes);
    me->slots[slot].bytes = NULL;
}

static void
answer_big(struct worker *me, const struct cp_frame *task)
{
    uint8_t *bytes = malloc(me->order.arg + 1u);
    CHECK(bytes != NULL);
    cp_test_pattern(bytes, me->order.arg, me->order.index);
    answer(me, task, CP_RESULT, bytes, me->order.arg);
    free(bytes);
}

static void
answer_slots(struct worker *me, const struct cp_frame *task)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        n += me->slots[i].bytes != NULL;
    }
    answer(me, task, CP_RESULT, &n, sizeof(n));
}

static void
die_half_way(struct worker *me, const struct cp_frame *task, uint32_t len)
{
    struct cp_frame frame = {.kind = CP_RESULT, .seq = task->seq, .len = len};
    uint8_t *bytes = calloc(1, len);
    CHECK(bytes != NULL);
    check_io(cp_serve_flush(&me->s));
    write_raw(me, &frame, CP_HEADER);
    write_raw(me, bytes, len / 2);
    (void)raise(SIGKILL);
}

/* Leave a process behind of which the pool knows nothing, as a fork() in a
 * library would: it has all of our descriptors. */
static void
leave_orphan(struct worker *me)
{
    int pid = cp_test_fork();
    if (pid == 0) {
        pass_gate(me);
        _exit(0);
    }
    (void)raise(SIGKILL);
}

static void
yield(struct worker *me, const struct cp_frame *task)
{
    struct cp_row *row = me->w->row;
    for (uint64_t i = 0; i < me->order.arg; i++) {
        int r = me->order.op == OP_YIELD_FREE ? 1 : CP_EINTR;
        while (r == CP_EINTR) {
            r = cp_credit_get(row, task->seq) > i
                        && cp_credit_get(row, task->seq) != CP_CREDIT_CLOSED
                    ? 1
                    : cp_serve_wait_credit(&me->s, task->seq, i, false);
        }
        if (r == 0) {
            say_begun(me);
            break;
        }
        check_io(r == 1 ? 0 : r);
        struct cp_frame frame = {
            .kind = CP_VALUE, .seq = task->seq, .len = sizeof(i)};
        r = cp_serve_yield(&me->s, &frame, (const uint8_t *)&i);
        check_io(r == 1 ? cp_serve_flush(&me->s)
                 : r == CP_ETOOBIG
                     ? cp_serve_send(&me->s, &frame, (const uint8_t *)&i)
                     : r);
    }
    if (me->order.op == OP_YIELD_DIE) {
        (void)raise(SIGKILL);
    }
    answer(me, task, CP_RESULT, NULL, 0);
}

/* Violate the protocol. The parent has to kill this worker for it: the task
 * never ends in another way. */
static _Noreturn void
break_rules(struct worker *me, const struct cp_frame *task, uint32_t op)
{
    struct cp_frame frame = {.kind = CP_RESULT, .seq = task->seq};
    check_io(cp_serve_flush(&me->s));
    switch (op) {
        case OP_TWICE: write_raw(me, &frame, CP_HEADER); break;
        case OP_UNCLAIMED: frame.seq++; break;
        case OP_KIND: frame.kind = CP_TASK; break;
        case OP_LENGTH: frame.len = CP_FRAME_MAX + 1; break;
        case OP_RUBBISH:
            write_raw(me, "Traceback (most recent call last):\n", 35);
            break;
        case OP_BREAK: frame.kind = CP_INIT_ERROR; break;
        case OP_RING:
            memset(me->w->row->ring, 0x5a, CP_RING);
            atomic_store(&me->w->row->committed,
                         atomic_load(&me->w->row->flushed) + 1000);
            (void)raise(SIGKILL); /* the parent looks at the ring now */
            break;
        case OP_CLOSE_TX: (void)close(me->s.tx); break;
        default: CHECK(false);
    }
    if (op != OP_CLOSE_TX && op != OP_RUBBISH) {
        write_raw(me, &frame, CP_HEADER);
    }
    for (;;) {
        (void)pause();
    }
}

static _Noreturn void
take_memory(void)
{
    size_t n = CP_KIB(64) * 1024;
    volatile uint8_t *bytes = malloc(n);
    CHECK(bytes != NULL);
    for (;;) {
        for (size_t i = 0; i < n; i += 4096) {
            bytes[i]++;
        }
    }
}

/* Obey the order; true if the task's own bytes are the answer. */
static bool
obey(struct worker *me, const struct cp_frame *task, const struct func *func)
{
    int pid = getpid();
    volatile bool spins = true;
    switch (me->order.op) {
        case OP_ECHO:
        case OP_LAST:
        case OP_LINGER:
        case OP_LEAVE:
        case OP_QUIET: return true;
        case OP_GATE:
            say_begun(me);
            pass_gate(me);
            return true;
        case OP_BUSY:
            say_begun(me);
            while (spins) {
            }
            return false;
        case OP_TAKE: take_memory(); return false;
        case OP_BIG: answer_big(me, task); return false;
        case OP_SLOTS: answer_slots(me, task); return false;
        case OP_YIELD:
        case OP_YIELD_DIE:
        case OP_YIELD_FREE: yield(me, task); return false;
        case OP_FUNC:
            answer(me, task, CP_RESULT, func->bytes, func->len);
            return false;
        case OP_PID:
            answer(me, task, CP_RESULT, &pid, sizeof(pid));
            return false;
        case OP_DIE: (void)raise((int)me->order.arg); return true;
        case OP_EXIT: _exit((int)me->order.arg);
        case OP_ORPHAN: leave_orphan(me); return false;
        case OP_HALF: die_half_way(me, task, me->order.arg); return false;
        default: break_rules(me, task, me->order.op);
    }
}

static volatile sig_atomic_t was_asked;

static void
on_stop_signal(int number)
{
    (void)number;
    was_asked = 1;
}

/* As in Python, the handler of the signal does no more than take a note, and
 * the task looks at the note only when the system call has returned. */
static void
miss_first_signal(struct worker *me)
{
    struct sigaction action = {.sa_handler = on_stop_signal};
    char byte;
    was_asked = 0;
    CHECK_EQ(sigaction(CP_STOP_SIGNAL, &action, NULL), 0);
    say_begun(me);
    while (!was_asked) { /* TSan runs handlers in system calls only */
        (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    CHECK_EQ(read(me->rig->gate[0], &byte, 1), -1);
    CHECK_EQ(errno, EINTR);
    (void)signal(CP_STOP_SIGNAL, SIG_IGN);
}

/* The task goes on until it is asked to stop. */
static void
await_stop(struct worker *me)
{
    if (me->order.op == OP_STOPS_DEAF) {
        miss_first_signal(me);
    } else {
        say_begun(me);
    }
    while (!cp_serve_take_stop(me->w->row)) {
    }
    CHECK(!cp_serve_take_stop(me->w->row)); /* once for each request */
    if (me->order.op == OP_STOPS_LATE) {
        say_begun(me);
        pass_gate(me);
    }
}

static void
run_task(struct worker *me, const struct cp_frame *task, const uint8_t *body)
{
    CHECK(task->len >= ORDER_LEN && task->arg < SLOTS);
    memcpy(&me->order, body, ORDER_LEN);
    const struct func *func = &me->slots[task->arg];
    CHECK(func->bytes != NULL);
    me->ends = --me->budget == 0 || me->order.op == OP_LAST
               || me->order.op == OP_LINGER;
    cp_serve_begin(&me->s, task->seq, cp_now());
    if ((me->order.flags & ORDER_COUNT) != 0) {
        (void)atomic_fetch_add(&me->rig->shared->runs[me->order.index], 1);
    }
    me->flags = 0;
    if (me->order.op == OP_RAISE) {
        answer(me, task, CP_ERROR, body, (size_t)task->len);
    } else if (me->order.op == OP_AGAIN) {
        me->flags = (task->flags & CP_FINAL) != 0 ? 0 : CP_AGAIN;
        answer(me, task, CP_ERROR, body, (size_t)task->len);
    } else if (me->order.op == OP_STOPS || me->order.op == OP_STOPS_LATE
               || me->order.op == OP_STOPS_DEAF) {
        await_stop(me);
        me->flags = CP_STOPPED;
        answer(me, task, CP_ERROR, body, (size_t)task->len);
    } else if (me->order.op == OP_CLOSE_RX) {
        (void)close(me->s.rx);
        me->ends = true;
        say_begun(me);
        pass_gate(me);
        answer(me, task, CP_RESULT, body, (size_t)task->len);
    } else if (obey(me, task, func)) {
        answer(me, task, CP_RESULT, body, (size_t)task->len);
    }
    if (me->order.op == OP_LEAVE) {
        answer(me, NULL, CP_LEAVE, NULL, 0);
        me->ends = true;
        say_begun(me);
    }
}

static void
run_initializer(struct worker *me)
{
    switch (me->rig->start) {
        case START_WELL: break;
        case START_STUBBORN: (void)signal(SIGTERM, SIG_IGN); break;
        case START_INIT_ERROR:
            answer(me, NULL, CP_INIT_ERROR, "no luck", 7);
            check_io(cp_serve_flush(&me->s));
            _exit(1);
        case START_DIES: (void)raise(SIGKILL); break;
        case START_WAITS:
            say_begun(me);
            pass_gate(me);
            break;
        case START_CHOKES: break;
    }
    answer(me, NULL, CP_HELLO, NULL, 0);
}

void
rig_worker_main(struct rig *rig, struct cp_worker *w)
{
    static struct worker me;
    cp_worker_in_child(w);
    me.rig = rig;
    me.w = w;
    me.budget = w->budget;
    CHECK_EQ(cp_serve_init(&me.s, w), 0);
    run_initializer(&me);
    while (!me.ends) {
        struct cp_frame frame;
        const uint8_t *body;
        int r = cp_serve_next(&me.s, &frame, &body);
        if (r == 0) {
            r = cp_serve_wait(&me.s);
            if (r != CP_EINTR) {
                check_io(r);
            }
            if (rig->start == START_CHOKES && cp_buf_len(&me.s.in) >= CP_BIG) {
                (void)raise(SIGKILL);
            }
            continue;
        }
        CHECK_EQ(r, 1);
        switch (frame.kind) {
            case CP_FUNC: keep_func(&me, &frame, body); break;
            case CP_FORGET: forget_func(&me, frame.arg); break;
            default: run_task(&me, &frame, body); break;
        }
    }
    check_io(cp_serve_flush(&me.s));
    if (me.order.op == OP_LINGER || me.order.op == OP_LEAVE) {
        pass_gate(&me);
    }
    _exit(0);
}
