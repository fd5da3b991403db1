/*
 * How deep the current thread is in calls, and what exception it handles: a
 * forked worker inherits both from the thread that forks it. [attached]
 */
#ifndef PY_BASE_DEPTH_H
#define PY_BASE_DEPTH_H

#include "base/state.h"

struct py_depth {
    int frames;   /* calls of Python functions; until 3.11 of all */
    int c_frames; /* calls in C; the interpreter counts them in 3.12 and 3.13 */
};

static inline struct py_depth
py_depth_get(void)
{
    PyThreadState *tstate = PyThreadState_Get();
#if PY_VERSION_HEX < 0x030C0000
    return (struct py_depth){.frames = tstate->recursion_limit
                                       - tstate->recursion_remaining};
#else
    struct py_depth depth = {.frames = tstate->py_recursion_limit
                                       - tstate->py_recursion_remaining};
#    if PY_VERSION_HEX < 0x030E0000
    depth.c_frames = tstate->c_recursion_remaining;
#    endif
    return depth;
#endif
}

/* In a forked child that never returns to the frames below: be as deep as
 * `depth`, and handle no exception. The exception objects are left alone, since
 * freeing them would run the program's code. */
static inline void
py_depth_start_at(struct py_depth depth)
{
    PyThreadState *tstate = PyThreadState_Get();
#if PY_VERSION_HEX < 0x030C0000
    tstate->recursion_remaining = tstate->recursion_limit - depth.frames;
#else
    tstate->py_recursion_remaining = tstate->py_recursion_limit - depth.frames;
#    if PY_VERSION_HEX < 0x030E0000
    tstate->c_recursion_remaining = depth.c_frames;
#    endif
#endif
    for (_PyErr_StackItem *item = tstate->exc_info; item != NULL;
         item = item->previous_item) {
        item->exc_value = NULL;
    }
}

#endif
