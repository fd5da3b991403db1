/* Allocating, counting and freeing a pool; see pool/state.h and pool/ref.h. */
#include "pool/state.h"

#include <stdlib.h>
#include <unistd.h>

int
cp_pool_alloc(uint32_t target, struct cp_pool **out)
{
    *out = NULL;
    struct cp_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL) {
        return CP_ENOMEM;
    }
    pool->owner = getpid();
    pool->target = target;
    pool->task_ns = pool->value_ns = -1;
    pool->tick_ns = CP_NEVER;
    pool->next_worker_id = 1;
    pool->wake.fds[0] = pool->wake.fds[1] = -1;
    pool->common_fd = pool->life[0] = pool->life[1] = -1;
    pool->probe_at = CP_NEVER;
    pool->n_indexes = UINT32_MAX;
    atomic_init(&pool->refs, 1);
    int r;
    if ((r = cp_lock_init(&pool->lock)) != 0
        || (r = cp_rows_init(&pool->rows)) != 0
        || (r = cp_cond_init(&pool->feed)) != 0
        || (r = cp_cond_init(&pool->events)) != 0
        || (r = cp_cond_init(&pool->starts)) != 0
        || (r = cp_cond_init(&pool->standby)) != 0
        || (r = cp_cond_init(&pool->threads.work)) != 0) {
        free(pool); /* these fail only before they allocate */
        return r;
    }
    *out = pool;
    return 0;
}

void
cp_pool_free_memory(struct cp_pool *pool)
{
    cp_heap_free(pool->heap);
    cp_area_unref(pool->area);
    if (pool->region != NULL) {
        cp_region_close(pool->region);
        cp_region_unref(pool->region);
    }
    pool->heap = NULL;
    pool->area = NULL;
    pool->region = NULL;
}

bool
cp_pool_is_ours(const struct cp_pool *pool)
{
    return pool->owner == cp_proc_self();
}

void
cp_pool_ref(struct cp_pool *pool)
{
    (void)atomic_fetch_add(&pool->refs, 1);
}

static void
free_lines(struct cp_pool *pool)
{
    for (unsigned i = 0; pool->levels != NULL && i < CP_PRIORITIES; i++) {
        if (pool->levels->at[i] != &pool->level) {
            free(pool->levels->at[i]);
        }
    }
    free(pool->levels);
    if (pool->pins != NULL) {
        for (uint32_t i = 0; i < pool->pins->n; i++) {
            free(pool->pins->lines[i].ends);
        }
        free(pool->pins->lines);
        free(pool->pins->each.ends);
    }
    free(pool->pins);
}

void
cp_pool_unref(struct cp_pool *pool)
{
    if (atomic_fetch_sub(&pool->refs, 1) != 1 || !cp_pool_is_ours(pool)) {
        return;
    }
    CP_ASSERT(pool->workers == NULL && pool->all_first == NULL);
    CP_ASSERT(pool->threads.tasks == NULL && pool->threads.results == NULL);
    for (uint32_t i = 0; i < CP_INTERNED; i++) {
        free(pool->interned[i]); /* the last reference: all jobs are closed */
    }
    free(pool->slots);
    cp_pool_free_memory(pool);
    free_lines(pool);
    cp_rows_fini(&pool->rows);
    cp_common_close(pool->common);
    cp_fd_close(&pool->common_fd);
    cp_fd_close(&pool->life[0]);
    cp_fd_close(&pool->life[1]);
    cp_poller_free(pool->poller);
    cp_wake_fini(&pool->wake);
    cp_result_free(pool->broken);
    cp_tallies_free(&pool->tally);
    cp_trace_free(pool->trace);
    cp_cond_fini(&pool->feed);
    cp_cond_fini(&pool->events);
    cp_cond_fini(&pool->starts);
    cp_cond_fini(&pool->standby);
    cp_cond_fini(&pool->threads.work);
    cp_lock_fini(&pool->lock);
    free(pool);
}
