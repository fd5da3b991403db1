/* One pull at a time; see task/pull.h. */
#include "task/pull.h"

/* A pull that has lasted this long is overtaken by the next one. */
#define PATIENCE CP_SECOND

/* Pass the turn to the next ticket. Call this with the lock held. */
static void
pass_on(struct py_turns *turns)
{
    turns->serving++;
    turns->since = cp_now();
    cp_cond_broadcast(&turns->cond);
}

/* The pull of this thread that has the turn, or NULL. Call this with the lock
 * held. */
static struct py_pull *
own_pull(const struct py_turns *turns)
{
    unsigned long me = PyThread_get_thread_ident();
    struct py_pull *p = turns->pulls;
    while (p != NULL && p->thread != me) {
        p = p->next;
    }
    return p;
}

/* Take the pull out of the list, and pass on the turn unless the pull was
 * overtaken. Call this with the lock held. */
static void
end_turn(struct py_turns *turns, struct py_pull *pull)
{
    struct py_pull **at = &turns->pulls;
    while (*at != pull) {
        at = &(*at)->next;
    }
    *at = pull->next;
    pull->has_turn = false;
    if (turns->serving == pull->ticket) {
        pass_on(turns);
    }
}

/* Wait until it is this ticket's turn. [detached] */
static void
await_turn(struct py_turns *turns, uint64_t ticket)
{
    cp_lock_acquire(&turns->lock);
    int64_t came = cp_now();
    atomic_fetch_add(&turns->waiting, 1);
    while (turns->serving < ticket) {
        /* A pull of many items may have begun long before us, but it only sees
         * us from now on. */
        int64_t deadline =
            (turns->since > came ? turns->since : came) + PATIENCE;
        if (cp_now() >= deadline) {
            pass_on(turns);
        } else {
            cp_cond_wait(&turns->cond, &turns->lock, deadline);
        }
    }
    atomic_fetch_sub(&turns->waiting, 1);
    cp_lock_release(&turns->lock);
}

void
py_pull_begin(struct py_pull *pull, EngineObject *engine)
{
    struct py_turns *turns = &engine->turns;
    *pull = (struct py_pull){.engine = engine,
                             .thread = PyThread_get_thread_ident()};
    cp_lock_acquire(&turns->lock);
    bool served = true;
    if (own_pull(turns) == NULL) {
        pull->has_turn = true;
        pull->next = turns->pulls;
        turns->pulls = pull;
        pull->ticket = turns->tickets++;
        served = turns->serving == pull->ticket;
        if (served) {
            turns->since = cp_now();
        }
    }
    cp_lock_release(&turns->lock);
    if (!served) {
        Py_BEGIN_ALLOW_THREADS
        await_turn(turns, pull->ticket);
        Py_END_ALLOW_THREADS
    }
}

void
py_pull_end(struct py_pull *pull)
{
    struct py_turns *turns = &pull->engine->turns;
    /* A forked copy of the process takes no turns: the lock may be locked for
     * ever. */
    if (pull->has_turn && cp_pool_is_ours(pull->engine->pool)) {
        cp_lock_acquire(&turns->lock);
        end_turn(turns, pull);
        cp_lock_release(&turns->lock);
    }
}

void
py_pull_next(struct py_pull *pull)
{
    struct py_turns *turns = &pull->engine->turns;
    bool is_free =
        pull->has_turn
        && atomic_load_explicit(&turns->waiting, memory_order_relaxed) == 0;
    if (!is_free && cp_pool_is_ours(pull->engine->pool)) {
        py_pull_end(pull);
        py_pull_begin(pull, pull->engine);
    }
}

void
py_pull_yield(EngineObject *engine)
{
    struct py_turns *turns = &engine->turns;
    cp_lock_acquire(&turns->lock);
    struct py_pull *pull = own_pull(turns);
    if (pull != NULL) {
        end_turn(turns, pull);
    }
    cp_lock_release(&turns->lock);
}
