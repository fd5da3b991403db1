/* What the parent does, for a timeline; see base/work.h. */
#include "base/work.h"

#include "core/base/clock.h"

/* Whether this thread is in work that it will record. Of nested work only the
 * outermost is recorded, since slices of a timeline must not overlap. */
static _Thread_local bool is_at_work; /* lint-ok: of the thread */

int64_t
py_work_begin(const EngineObject *engine)
{
    if (engine->pool == NULL || !cp_pool_is_traced(engine->pool)
        || is_at_work) {
        return 0;
    }
    is_at_work = true;
    return cp_now();
}

void
py_work_end(EngineObject *engine, enum cp_work kind, int64_t began)
{
    if (began == 0) {
        return;
    }
    is_at_work = false;
    /* If the work has forked, this is a copy of the pool, whose lock may be
     * locked. */
    if (engine->pool != NULL && cp_pool_is_ours(engine->pool)) {
        cp_pool_trace_work(engine->pool, kind,
                           (uint64_t)PyThread_get_thread_ident(), began,
                           cp_now());
    }
}
