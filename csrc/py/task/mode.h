/* How the body of a task is applied: the flags of CP_TASK, and of a
 * submission. */
#ifndef PY_MODE_H
#define PY_MODE_H

#include "core/link/wire.h"

#define PY_CALL 0x0u     /* func(*args); body: args */
#define PY_CALL_KW 0x1u  /* func(*args, **kwds); body: (args, kwds) */
#define PY_MAP 0x2u      /* [func(x) for x in items]; body: a run of items */
#define PY_STAR 0x3u     /* [func(*x) for x in items]; body: a run of items */
#define PY_MAP_ONE 0x4u  /* func(x); body: x */
#define PY_STAR_ONE 0x5u /* func(*x); body: x */
#define PY_MODE 0xfu

/* The answer to a single item stands for a list of one value; only texts of
 * errors differ. */
#define PY_LISTED 0x10u

/* Of a submission: the pool may choose the sizes of chunks, where no code can
 * see them. Of a task: the chunk has such a size, and the worker marks the
 * result if results share objects (CP_MARK). */
#define PY_FIT 0x20u

/* Of a submission: the items are the stdlib's own task tuples. */
#define PY_TASKS 0x40u

/* Of a task: it has a callable of its own. The body begins with the length of
 * its pickle in 8 bytes, and the pickle. */
#define PY_OWN_FUNC CP_OWN_FUNC

/* Of a task: an item that raises does not end its chunk; what it raised stands in its
 * place. */
#define PY_CATCH 0x100u

/* Of a task: each item has a time limit of its own. */
#define PY_TIMED 0x200u

/* Of a task: it may be asked to stop. */
#define PY_GRACE 0x400u

/* Of a task: its callable is a failures.Retrying, which says what else is retried. */
#define PY_RETRY 0x800u

/* Of an answer: something stands for an item that raised. */
#define PY_CAUGHT CP_CAUGHT

/* Of a failure of this process (CP_LOCAL): it is no item's, but the iterable's. */
#define PY_OF_CALL CP_FRAME_USER

#endif
