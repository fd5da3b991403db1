/* The objects that were met so far; see value/seen.h. */
#include "value/seen.h"

static void
free_tables(struct py_seen *seen)
{
    if (seen->objects != seen->first_objects) {
        PyMem_Free(seen->objects);
        PyMem_Free(seen->table);
    }
}

int
py_seen_grow(struct py_seen *seen, size_t more)
{
    size_t cap = seen->cap == 0 ? SEEN_FIRST : 4 * seen->cap;
    while (cap / 2 < seen->used + more) {
        cap *= 2;
    }
    if (cap == SEEN_FIRST) {
        seen->objects = seen->first_objects;
        seen->table = seen->first_table;
        memset(seen->first_table, 0, sizeof(seen->first_table));
        seen->cap = SEEN_FIRST;
        return 0;
    }
    PyObject **objects = PyMem_New(PyObject *, cap / 2);
    uint32_t *table = PyMem_Calloc(cap, sizeof(*table));
    if (objects == NULL || table == NULL || seen->used >= UINT32_MAX / 2) {
        PyMem_Free(objects);
        PyMem_Free(table);
        (void)PyErr_NoMemory();
        return -1;
    }
    if (seen->cap > 0) {
        memcpy(objects, seen->objects, seen->used * sizeof(*objects));
        free_tables(seen);
    }
    seen->objects = objects;
    seen->table = table;
    seen->cap = cap;
    /* In the order of the numbers, as py_seen_forget() needs it. */
    for (size_t i = 0; i < seen->used; i++) {
        *py_seen_place(seen, objects[i]) = (uint32_t)(i + 1);
    }
    return 0;
}

/* The object that was added last is in nobody's probe sequence, so its place
 * can simply be freed. */
void
py_seen_forget(struct py_seen *seen, size_t n)
{
    while (seen->used > n) {
        PyObject *obj = seen->objects[seen->used - 1];
        *py_seen_place(seen, obj) = 0;
        seen->used--;
        Py_DECREF(obj);
    }
}

void
py_seen_fini(struct py_seen *seen)
{
    for (size_t i = 0; i < seen->used; i++) {
        Py_DECREF(seen->objects[i]);
    }
    if (seen->cap > 0) {
        free_tables(seen);
    }
}
