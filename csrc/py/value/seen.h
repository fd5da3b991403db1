/*
 * The objects met so far while a body is encoded, and their numbers: an object
 * that is met twice must arrive as one object. [attached]
 */
#ifndef PY_SEEN_H
#define PY_SEEN_H

#include "base/state.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SEEN_FIRST 16u
#define SEEN_NONE SIZE_MAX

/* The objects by their numbers, and a hash table of numbers with open
 * addressing, at most half full. Zeroing the fields before first_objects makes
 * it empty. The objects are kept alive, so that no other object can get the
 * address of one. */
struct py_seen {
    PyObject **objects;
    uint32_t *table; /* 1 + the number; 0: free */
    size_t cap, used;
    PyObject *first_objects[SEEN_FIRST / 2];
    uint32_t first_table[SEEN_FIRST];
};

/* The place of obj in the table, or the free place where obj belongs. */
static inline uint32_t *
py_seen_place(const struct py_seen *seen, const PyObject *obj)
{
    size_t at = ((uintptr_t)obj >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20;
    for (;; at++) {
        uint32_t *place = &seen->table[at & (seen->cap - 1)];
        if (*place == 0 || seen->objects[*place - 1] == obj) {
            return place;
        }
    }
}

/* The number of obj, or SEEN_NONE. */
static inline size_t
py_seen_find(const struct py_seen *seen, const PyObject *obj)
{
    if (seen->used == 0) {
        return SEEN_NONE;
    }
    uint32_t found = *py_seen_place(seen, obj);
    return found == 0 ? SEEN_NONE : found - 1;
}

/* Make room for `more` objects (at least 1), and some spare: 0, or -1 with
 * MemoryError. */
int py_seen_grow(struct py_seen *seen, size_t more);

/* The same only if there is not enough room. Reserving ahead saves building the
 * table several times as it grows. */
static inline int
py_seen_reserve(struct py_seen *seen, size_t more)
{
    return 2 * (seen->used + more) > seen->cap ? py_seen_grow(seen, more) : 0;
}

/* 1: obj was not met before, and has the next number; 0: it was met; -1 with
 * MemoryError. */
static inline int
py_seen_add(struct py_seen *seen, PyObject *obj)
{
    if (2 * seen->used >= seen->cap && py_seen_grow(seen, 1) < 0) {
        return -1;
    }
    uint32_t *place = py_seen_place(seen, obj);
    if (*place != 0) {
        return 0;
    }
    seen->objects[seen->used++] = Py_NewRef(obj);
    *place = (uint32_t)seen->used;
    return 1;
}

/* Forget the objects with the number n and higher ones. */
void py_seen_forget(struct py_seen *seen, size_t n);

void py_seen_fini(struct py_seen *seen);

#endif
