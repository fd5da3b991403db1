/*
 * What a pool counts, as it is kept and as it is read. pool/tally.h counts.
 */
#ifndef CP_POOL_TALLIES_H
#define CP_POOL_TALLIES_H

#include "link/task.h"
#include "share/region.h"

/* Counts of all workers that have had one index. The live worker counts in its
 * row; see pool/tally.h. */
struct cp_tally {
    uint64_t tasks;                       /* that were answered */
    uint64_t done, failed, lost, retried; /* items */
    uint64_t starts, bytes_out, bytes_in; /* to the worker, and from it */
    int64_t work_ns, start_ns,
        ready_ns;       /* in tasks; until ready; ready and alive */
    int64_t entered_at; /* when a live thread began; or 0 */
    int pid;            /* of the live process; or 0 */
};

#define CP_LONGEST 5u
#define CP_NAME_BYTES CP_KIB(4)

/* One of the tasks that took longest. */
struct cp_long {
    int64_t ns; /* 0: no task */
    uint64_t index;
    uint32_t items, stride, worker;
    int pid;
    enum cp_outcome outcome;
    /* The first bytes of its callable, from malloc(), or NULL. With worker
     * threads: the callable's name. */
    uint8_t *func;
    size_t func_len;
};

struct cp_tallies {
    uint64_t submitted, cancelled,
        failed_here;          /* items that never had a worker */
    struct cp_tally *workers; /* by index */
    struct cp_tally none; /* of workers for whose counts there was no memory */
    uint32_t n;
    struct cp_long longest[CP_LONGEST]; /* longest first */
    struct cp_usage memory; /* shared; only in a copy, as it is then */
    _Atomic int64_t least; /* the shortest of them; readable without the lock */
};

/* Free what a copy holds. [any] */
void cp_tallies_free(struct cp_tallies *tallies);

#endif
