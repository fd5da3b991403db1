/*
 * The frames that cross a pipe: a fixed header, then len bytes of body.
 *
 * Both ends are one fork of one binary, so the header is a plain struct in
 * native order. What a worker sends is still checked like any outside input:
 * user code in it can write rubbish to any descriptor. Pure functions; [any].
 */
#ifndef CP_WIRE_H
#define CP_WIRE_H

#include "base/base.h"

enum cp_kind {
    /* parent to worker */
    CP_FUNC = 1, /* body: a pickled callable, to be kept in slot arg */
    CP_FORGET,   /* slot arg is not used any more */
    CP_TASK,     /* body: arguments for the callable in slot arg */
    /* worker to parent */
    CP_HELLO = 16, /* the initializer has run; tasks may come */
    CP_RESULT,     /* body: what the task returned; arg: time in ns */
    CP_ERROR,      /* body: what the task raised; arg: time in ns */
    CP_INIT_ERROR, /* body: what the initializer raised; no more follows */
};

/* In flags of CP_RESULT and CP_ERROR: the worker ends after this task. */
#define CP_LAST 0x1u
/* In flags of CP_FUNC: the callable is immutable, unpickle it once. */
#define CP_KEEP 0x1u

struct cp_frame {
    uint64_t len;   /* of the body, in bytes */
    uint64_t seq;   /* of the task, counted from 0 for each worker */
    uint32_t arg;   /* by kind: slot or nanoseconds (at most UINT32_MAX) */
    uint16_t kind;  /* enum cp_kind */
    uint16_t flags; /* by kind; of CP_TASK the binding's own */
};

_Static_assert(sizeof(struct cp_frame) == 24, "the header has no padding");

#define CP_HEADER sizeof(struct cp_frame)
#define CP_FRAME_MAX (UINT64_C(1) << 46)

/*
 * Look at the first len bytes of a stream: 1 and *frame filled where a whole
 * header stands there, 0 where bytes are missing, CP_EPROTO where the header
 * is none that may go this way (up: from worker to parent).
 */
int cp_wire_get(const uint8_t *bytes, size_t len, bool up,
                struct cp_frame *frame);

/* "RESULT" and so on; "?" where kind is none. */
const char *cp_wire_kind_name(unsigned kind);

#endif
