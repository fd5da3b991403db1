/* One pull at a time; see task/pull.h. */
#include "task/pull.h"

/* A pull that has lasted so long is overtaken. */
#define PATIENCE CP_SECOND

static _Thread_local struct py_pull *innermost;

/* The turn passes to the next ticket. With the lock held. */
static void
pass_on(struct py_turns *turns)
{
    turns->serving++;
    turns->since = cp_now();
    cp_cond_broadcast(&turns->cond);
}

static bool
has_turn(const EngineObject *engine)
{
    for (struct py_pull *p = innermost; p != NULL; p = p->outer) {
        if (p->engine == engine && p->has_turn) {
            return true;
        }
    }
    return false;
}

/* Wait until the ticket is served. [detached] */
static void
await_turn(struct py_turns *turns, uint64_t ticket)
{
    cp_lock_acquire(&turns->lock);
    while (turns->serving < ticket) {
        int64_t deadline = turns->since + PATIENCE;
        if (cp_now() >= deadline) {
            pass_on(turns);
        } else {
            cp_cond_wait(&turns->cond, &turns->lock, deadline);
        }
    }
    cp_lock_release(&turns->lock);
}

void
py_pull_begin(struct py_pull *pull, EngineObject *engine)
{
    struct py_turns *turns = &engine->turns;
    *pull = (struct py_pull){
        .engine = engine, .outer = innermost, .has_turn = !has_turn(engine)};
    innermost = pull;
    if (!pull->has_turn) {
        return;
    }
    cp_lock_acquire(&turns->lock);
    pull->ticket = turns->tickets++;
    bool served = turns->serving == pull->ticket;
    if (served) {
        turns->since = cp_now();
    }
    cp_lock_release(&turns->lock);
    if (!served) {
        Py_BEGIN_ALLOW_THREADS
        await_turn(turns, pull->ticket);
        Py_END_ALLOW_THREADS
    }
}

/* The turn is over, unless the pull was overtaken. A copy of the process has no
 * turns: its lock may be locked for ever. */
static void
end_turn(struct py_pull *pull)
{
    struct py_turns *turns = &pull->engine->turns;
    if (pull->has_turn && cp_pool_is_ours(pull->engine->pool)) {
        cp_lock_acquire(&turns->lock);
        if (turns->serving == pull->ticket) {
            pass_on(turns);
        }
        cp_lock_release(&turns->lock);
    }
    pull->has_turn = false;
}

void
py_pull_end(struct py_pull *pull)
{
    innermost = pull->outer;
    end_turn(pull);
}

void
py_pull_yield(void)
{
    for (struct py_pull *p = innermost; p != NULL; p = p->outer) {
        end_turn(p);
    }
}
