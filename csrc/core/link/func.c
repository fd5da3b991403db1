/* The shared objects that bodies refer to; see link/func.h. */
#include "link/func.h"

#include "base/mem.h"

int
cp_use_add(struct cp_parts *parts, struct cp_func *func, bool *is_new)
{
    *is_new = false;
    for (uint32_t i = 0; i < parts->n_uses; i++) {
        if (parts->uses[i] == func) {
            return 0;
        }
    }
    struct cp_func **uses =
        cp_mem_grow(parts->uses, &parts->cap_uses, parts->n_uses + 1,
                    sizeof(struct cp_func *));
    if (uses == NULL) {
        return CP_ENOMEM;
    }
    parts->uses = uses;
    parts->uses[parts->n_uses++] = func;
    *is_new = true;
    return 0;
}

void
cp_func_set_uses_take(struct cp_func *func, struct cp_parts *parts)
{
    CP_ASSERT(func->n_uses == 0);
    func->uses = parts->uses;
    func->n_uses = parts->n_uses;
    parts->uses = NULL;
    parts->n_uses = 0;
    parts->cap_uses = 0;
}

void
cp_use_end(struct cp_func **uses, uint32_t *n)
{
    while (*n > 0) {
        struct cp_func *func = uses[--*n];
        _Atomic bool *unused = func->unused; /* func may be freed at once */
        if (atomic_fetch_sub(&func->users, 1) == 1) {
            atomic_store(unused, true);
        }
    }
}

void
cp_use_end_all(struct cp_parts *parts)
{
    cp_use_end(parts->uses, &parts->n_uses);
    cp_parts_cut(parts, 0);
}
