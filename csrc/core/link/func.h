/*
 * What is sent once to each worker that needs it: callables and shared objects
 * (CP_SHARED). Also, which shared objects a body refers to: they are sent
 * before the body, and live until the body is no longer needed.
 */
#ifndef CP_FUNC_H
#define CP_FUNC_H

#include "base/base.h"
#include "share/parts.h"

#include <stdatomic.h>

/* An encoded callable, or a shared object. Sent once to each worker that needs
 * it. */
struct cp_func {
    uint32_t refs;
    uint32_t slot;  /* index in the callable table of every worker */
    uint16_t flags; /* of the frame */
    /* With CP_SEALED: the file with the data, which replaces `bytes`; or
     * NULL. */
    struct cp_sealed *sealed;
    /* For a shared object (CP_SHARED): how many bodies refer to it [any];
     * whether no new body can; and the flag to set when the last of these
     * bodies has ended. */
    _Atomic uint32_t users;
    bool is_closed;
    _Atomic bool *unused;
    struct cp_func **uses; /* the shared objects this one refers to */
    uint32_t n_uses;
    int64_t avg_ns; /* mean run time in jobs of one task; -1: not measured */
    /* Workers that died while loading this callable, since a worker last ran
     * it; and the last one of them. */
    uint32_t deaths;
    int lost_pid, lost_exitcode;
    uint32_t lost_worker;
    size_t len;
    uint8_t bytes[];
};

/* Record that the body with these parts refers to func: 0 or CP_ENOMEM.
 * *is_new: it did not before, so the caller has to count it in func->users.
 * [any] */
int cp_use_add(struct cp_parts *parts, struct cp_func *func, bool *is_new);

/* Move the uses of these parts to a callable that was just opened: it refers to
 * the same shared objects. */
void cp_func_set_uses_take(struct cp_func *func, struct cp_parts *parts);

/* End these uses, and empty the list. [any] */
void cp_use_end(struct cp_func **uses, uint32_t *n);

/* The body is given up: end its uses, and forget its parts. [any] */
void cp_use_end_all(struct cp_parts *parts);

#endif
