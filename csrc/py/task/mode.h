/* How the body of a task is applied: the flags of CP_TASK, and of a
 * submission. */
#ifndef PY_MODE_H
#define PY_MODE_H

#include "core/link/wire.h"

#define PY_CALL 0x0u      /* func(*args); body: args */
#define PY_CALL_KW 0x1u   /* func(*args, **kwds); body: (args, kwds) */
#define PY_MAP 0x2u       /* [func(x) for x in items]; body: a run of items */
#define PY_STAR 0x3u      /* [func(*x) for x in items]; body: a run of items */
#define PY_MAP_ONE 0x4u   /* func(x); body: x */
#define PY_STAR_ONE 0x5u  /* func(*x); body: x */
#define PY_CALL_FLAT 0x6u /* func(*args), in a thread; body: each of args */
#define PY_MODE 0xfu

/* The answer to a single item stands for a list with one value. Only error
 * messages differ. */
#define PY_LISTED 0x10u

/* Flag of a submission: the pool may choose the chunk sizes, if the program
 * cannot observe them. Flag of a task: the chunk has such a size, so the worker
 * marks the result if results share objects (CP_MARK). */
#define PY_FIT 0x20u

/* Of a submission: the items are the stdlib's own task tuples. */
#define PY_TASKS 0x40u

/* Flag of a task: it brings its own callable. The body begins with the length
 * of the callable's pickle in 8 bytes, and the pickle. */
#define PY_OWN_FUNC CP_OWN_FUNC

/* Flag of a task: an item that raises does not end its chunk; a placeholder
 * takes the item's place. */
#define PY_CATCH 0x100u

/* Flag of a task: each item has its own time limit. */
#define PY_TIMED 0x200u

/* Of a task: it may be asked to stop. */
#define PY_GRACE 0x400u

/* Flag of a task: its callable is a failures.Retrying, which knows which
 * exceptions are retried. */
#define PY_RETRY 0x800u

/* Flag of an answer: it has placeholders for items that raised. */
#define PY_CAUGHT CP_CAUGHT

/* Flag of a failure in this process (CP_LOCAL): it belongs to the iterable, not
 * to an item. */
#define PY_OF_CALL CP_FRAME_USER

#endif
