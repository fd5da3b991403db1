/*
 * One pull at a time. The iterables of a pool may share what they iterate over,
 * as the halves of a tee do, and each job has its own thread that pulls. So a
 * pull waits until the pull before it has ended, but for a second at most: a
 * source that blocks must not keep the other jobs of the pool waiting. A pull
 * inside another one, on the same thread, does not wait. [attached]
 */
#ifndef PY_PULL_H
#define PY_PULL_H

#include "base/engine.h"

/* On the stack of the thread that pulls. */
struct py_pull {
    EngineObject *engine;
    struct py_pull *next;
    unsigned long thread;
    uint64_t ticket;
    bool has_turn;
};

/* Wait for the turn; detached while it waits. */
void py_pull_begin(struct py_pull *pull, EngineObject *engine);
void py_pull_end(struct py_pull *pull);

/* Between two items of one pull: let others have their turn, if any are
 * waiting. */
void py_pull_next(struct py_pull *pull);

/* This thread is about to wait for the pool, perhaps in the code of an
 * iterable: other pulls do not wait for this one any longer. */
void py_pull_yield(EngineObject *engine);

#endif
