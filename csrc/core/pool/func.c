/* Callables and their slots; see pool/func.h. */
#include "pool/func.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Longer callables are seldom sent twice, so keeping them would not pay. */
#define INTERN_MAX 512u
/* The same for callables by value, which are longer, and take long to load;
 * by_value.py keeps no longer ones. */
#define BY_VALUE_MAX CP_KIB(16)
/* How many bytes of CP_FORGET may wait for the next task of their worker. */
#define FORGETS CP_KIB(1)

static uint32_t
hash_bytes(const uint8_t *bytes, size_t len)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++) {
        h = (h ^ bytes[i]) * 16777619u;
    }
    return h;
}

static int
take_slot(struct cp_pool *pool, struct cp_func *func)
{
    uint32_t i = pool->free_slot;
    while (i < pool->n_slots && pool->slots[i] != NULL) {
        i++;
    }
    if (i == pool->n_slots) {
        size_t n = pool->n_slots;
        struct cp_func **slots =
            cp_mem_grow(pool->slots, &n, n + 1, sizeof(*slots));
        if (slots == NULL) {
            return CP_ENOMEM;
        }
        memset(slots + pool->n_slots, 0, (n - pool->n_slots) * sizeof(*slots));
        pool->slots = slots;
        pool->n_slots = (uint32_t)n;
    }
    pool->slots[i] = func;
    pool->free_slot = i + 1;
    func->slot = i;
    return 0;
}

/* Is the callable kept, to be found when the same bytes come again? */
static bool
is_interned(size_t len, uint16_t flags)
{
    return (flags & CP_BY_VALUE) != 0
               ? (flags & CP_KEPT) != 0 && len <= BY_VALUE_MAX
               : (flags & CP_KEEP) != 0 && len <= INTERN_MAX;
}

struct cp_func *
cp_funcs_open(struct cp_pool *pool, const void *bytes, size_t len,
              uint16_t flags)
{
    struct cp_func **place = NULL;
    if (is_interned(len, flags)) {
        place = &pool->interned[hash_bytes(bytes, len) % CP_INTERNED];
        struct cp_func *old = *place;
        if (old != NULL && old->len == len && old->flags == flags
            && memcmp(old->bytes, bytes, len) == 0) {
            old->refs++;
            return old;
        }
    }
    struct cp_func *func = malloc(sizeof(*func) + len);
    if (func == NULL) {
        return NULL;
    }
    *func =
        (struct cp_func){.refs = 1, .flags = flags, .avg_ns = -1, .len = len};
    memcpy(func->bytes, bytes, len);
    if (take_slot(pool, func) != 0) {
        free(func);
        return NULL;
    }
    if (place != NULL) {
        if (*place != NULL) {
            cp_funcs_unref(pool, *place);
        }
        func->refs++;
        *place = func;
    }
    return func;
}

struct cp_func *
cp_funcs_open_sealed(struct cp_pool *pool, struct cp_parts *parts,
                     const void *name, size_t len, uint16_t flags)
{
    struct cp_func *func = calloc(1, sizeof(*func) + len);
    if (func == NULL || take_slot(pool, func) != 0) {
        free(func);
        return NULL;
    }
    func->refs = 1;
    func->flags = flags | CP_SEALED;
    func->avg_ns = -1;
    func->unused = &pool->has_unused;
    func->len = len;
    if (len > 0) {
        memcpy(func->bytes, name, len);
    }
    func->sealed = parts->sealed;
    parts->sealed = NULL;
    cp_func_set_uses_take(func, parts);
    return func;
}

void
cp_funcs_unref(struct cp_pool *pool, struct cp_func *func)
{
    if (--func->refs > 0) {
        return;
    }
    bool is_large = func->sealed != NULL;
    for (struct cp_worker *w = pool->workers; w != NULL; w = w->next) {
        cp_worker_forget(w, func->slot);
        /* An idle worker may get nothing else for long. Its CP_FORGET frames
         * are written before they fill the buffer that tasks need, and at once
         * if they free much memory. */
        if ((cp_buf_len(&w->out) >= FORGETS
             || (is_large && cp_worker_has_out(w)))
            && !w->wants_out) {
            w->flush_due = true;
            pool->due |= CP_DUE_OUTPUT;
        }
    }
    pool->slots[func->slot] = NULL;
    if (func->slot < pool->free_slot) {
        pool->free_slot = func->slot;
    }
    cp_use_end(func->uses, &func->n_uses);
    free(func->uses);
    cp_sealed_unref(func->sealed);
    free(func);
}

void
cp_funcs_reap(struct cp_pool *pool)
{
    while (atomic_exchange(&pool->has_unused, false)) {
        for (uint32_t i = 0; i < pool->n_slots; i++) {
            struct cp_func *func = pool->slots[i];
            if (func != NULL && func->is_closed
                && atomic_load(&func->users) == 0) {
                cp_funcs_unref(pool, func);
            }
        }
    }
}
