/*
 * The lists and dicts that were met while one body is encoded. A list or dict
 * that is met twice has to arrive as one object, and only pickle does that.
 * [attached]
 */
#ifndef PY_SEEN_H
#define PY_SEEN_H

#include "base/state.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SEEN_FIRST 16u

/* A hash set of addresses with open addressing, at most half full. All zero:
 * empty. */
struct py_seen {
    const PyObject **table;
    size_t cap, used;
    const PyObject *first[SEEN_FIRST];
};

static inline void
py_seen_fini(struct py_seen *seen)
{
    if (seen->table != seen->first) {
        PyMem_Free(seen->table);
    }
}

/* The slot that has obj, or the free slot where obj belongs. */
static inline const PyObject **
py_seen_slot(const PyObject **table, size_t cap, const PyObject *obj)
{
    size_t at = ((uintptr_t)obj >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20;
    while (table[at & (cap - 1)] != NULL && table[at & (cap - 1)] != obj) {
        at++;
    }
    return &table[at & (cap - 1)];
}

static inline bool
py_seen_grow(struct py_seen *seen)
{
    size_t cap = seen->cap == 0 ? SEEN_FIRST : 4 * seen->cap;
    const PyObject **table =
        seen->cap == 0 ? seen->first : PyMem_Calloc(cap, sizeof(*table));
    if (table == NULL) {
        return false;
    }
    for (size_t i = 0; i < seen->cap; i++) {
        if (seen->table[i] != NULL) {
            *py_seen_slot(table, cap, seen->table[i]) = seen->table[i];
        }
    }
    py_seen_fini(seen);
    seen->table = table;
    seen->cap = cap;
    return true;
}

/* 1: obj was not met before; 0: it was; -1 with MemoryError. */
static inline int
py_seen_add(struct py_seen *seen, const PyObject *obj)
{
    if (2 * seen->used >= seen->cap && !py_seen_grow(seen)) {
        (void)PyErr_NoMemory();
        return -1;
    }
    const PyObject **slot = py_seen_slot(seen->table, seen->cap, obj);
    if (*slot != NULL) {
        return 0;
    }
    *slot = obj;
    seen->used++;
    return 1;
}

#endif
