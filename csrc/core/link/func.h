/*
 * What is sent once to each worker that needs it: callables, and objects that are shared
 * (CP_SHARED). And which of the latter a body refers to: these are sent before the body, and
 * live until it is no longer needed.
 */
#ifndef CP_FUNC_H
#define CP_FUNC_H

#include "base/base.h"
#include "share/parts.h"

#include <stdatomic.h>

/* A pickled callable, or an object that is shared. Sent once to each worker that needs
 * it. */
struct cp_func {
    uint32_t refs;
    uint32_t slot;  /* index in the callable table of every worker */
    uint16_t flags; /* of the frame */
    /* With CP_SEALED, where the data are that the bytes would be; or NULL. */
    struct cp_sealed *sealed;
    /* Of one that bodies refer to (CP_SHARED): bodies that do, [any]; whether nobody else
     * can any more; and where it is told that the last one has ended. */
    _Atomic uint32_t users;
    bool is_closed;
    _Atomic bool *unused;
    struct cp_func **uses; /* what this one refers to, each once */
    uint32_t n_uses;
    int64_t avg_ns; /* mean run time in jobs of one task; -1: not measured */
    /* Workers that died while they loaded this callable, since a worker last
     * ran it; and the last one that died. */
    uint32_t deaths;
    int lost_pid, lost_exitcode;
    uint32_t lost_worker;
    size_t len;
    uint8_t bytes[];
};

/* The body with these parts refers to func: 0 or CP_ENOMEM. Where *is_new, that is to be
 * counted in func->users, and otherwise it was before. [any] */
int cp_use_add(struct cp_parts *parts, struct cp_func *func, bool *is_new);

/* These uses have ended; the list is empty then. [any] */
void cp_use_end(struct cp_func **uses, uint32_t *n);

/* The body is given up: its uses end, and its parts are forgotten. [any] */
void cp_use_end_all(struct cp_parts *parts);

#endif
