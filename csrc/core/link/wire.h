/*
 * The frame format of the pipes: a fixed header, then len bytes of body.
 *
 * Both ends run the same build, so the header is a plain struct in native byte
 * order. Frames from a worker are validated like any untrusted input: user code
 * in the worker can write to any descriptor. Pure functions; [any].
 */
#ifndef CP_WIRE_H
#define CP_WIRE_H

#include "base/base.h"

enum cp_kind {
    /* parent to worker */
    CP_FUNC = 1, /* body: a pickled callable, to be stored in slot arg */
    CP_FORGET,   /* free the callable in slot arg */
    CP_TASK,     /* body: arguments for the callable in slot arg */
    CP_CREDIT,   /* the running task may yield more values: see struct cp_row */
    /* worker to parent */
    CP_HELLO = 16, /* the initializer has run; ready for tasks */
    CP_RESULT,     /* body: what the task returned; arg: time in ns */
    CP_ERROR,      /* body: what the task raised; arg: time in ns */
    CP_INIT_ERROR, /* body: what the initializer raised; the last frame */
    CP_LEAVE,      /* takes no more tasks, and exits; the last frame */
    CP_VALUE,      /* body: one value that the task has yielded; it goes on */
};

/* Flag of CP_RESULT and CP_ERROR: the worker exits after this task. */
#define CP_LAST 0x1u
/* Flag of CP_RESULT: sets the mark of the job (cp_job_is_marked()). What the
 * mark means is up to the binding. */
#define CP_MARK 0x2u
/* Flag of CP_ERROR: the task stopped because the parent asked it to; arg: the
 * index of the item that stopped. */
#define CP_STOPPED 0x4u
/* Flag of CP_ERROR: run the task again if its job has retries left. */
#define CP_AGAIN 0x8u
/* Flag of CP_RESULT: some items of the task failed, and the board says how many. */
#define CP_CAUGHT 0x10u
/* Flag of a struct cp_result, never of a frame: the result came as CP_VALUE. */
#define CP_IS_VALUE 0x20u
/* Likewise, if the workers are threads: the worker has passed on the value
 * itself, so the result is only counted. Its body has nothing to release. */
#define CP_TAKEN 0x40u
/* Flag of CP_TASK: the task brings its own callable. The body begins with the
 * length of the callable, a uint64_t, and the callable's bytes. */
#define CP_OWN_FUNC 0x80u
/* Flag of CP_TASK: the task yields values (CP_VALUE), as many as its credit in
 * the board allows. It ends with a CP_RESULT without a body, or with
 * CP_ERROR. */
#define CP_YIELDS 0x1000u
/* Flag of CP_TASK: this is the last try, so a failure is final. */
#define CP_FINAL 0x8000u
/* Flag of CP_TASK and CP_RESULT: the body ends with references to parts in
 * shared memory; see share/parts.h. */
#define CP_PARTS 0x4000u
/* Flags of CP_RESULT and CP_ERROR from here on are the binding's. */
#define CP_FRAME_USER 0x100u
/* Flag of CP_FUNC: the callable is immutable; unpickle it only once. */
#define CP_KEEP 0x1u
/* Flag of CP_FUNC besides CP_KEEP: the callable was pickled by value, not by
 * name. */
#define CP_BY_VALUE 0x2u
/* Flag of CP_FUNC besides CP_BY_VALUE: later jobs that send the same bytes use
 * it too. */
#define CP_KEPT 0x4u
/* Flag of CP_FUNC: the body is a message of share/sealed.h. */
#define CP_SEALED 0x8u
/* Flag of CP_FUNC: not a callable, but a shared object. */
#define CP_SHARED 0x10u

struct cp_frame {
    uint64_t len;   /* of the body, in bytes */
    uint64_t seq;   /* of the task, counted from 0 for each worker */
    uint32_t arg;   /* by kind: slot, or time in ns, capped */
    uint16_t kind;  /* enum cp_kind */
    uint16_t flags; /* by kind; of CP_TASK: the binding's */
};

_Static_assert(sizeof(struct cp_frame) == 24, "the header has no padding");

#define CP_HEADER sizeof(struct cp_frame)
/* The longest body that is accepted: a longer one is a protocol violation. */
#define CP_FRAME_MAX (UINT64_C(1) << 46)

/*
 * Decode the header at the start of a stream of len bytes. 1: *frame is filled.
 * 0: the header is incomplete. CP_EPROTO: it is invalid in this direction (up:
 * from worker to parent).
 */
int cp_wire_get(const uint8_t *bytes, size_t len, bool up,
                struct cp_frame *frame);

/* "RESULT" and so on; "?" for an unknown kind. */
const char *cp_wire_kind_name(unsigned kind);

#endif
