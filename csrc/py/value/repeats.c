/* Finding repeated objects in a column; see value/repeats.h. */
#include "value/repeats.h"

/* Each item is compared with the last item that had the same hash. How many
 * such hashes there are. */
#define RECENT 256u
/* One repeated item in this many makes a column of a few objects likely. */
#define REPEATED_SHARE 4
/* The size of the table for PICK_MAX objects. */
#define PLACES ((size_t)1024)

/* Is the object so small that writing it only once saves nothing? */
static bool
is_small(PyObject *obj)
{
    return PyLong_CheckExact(obj) || PyFloat_CheckExact(obj) || obj == Py_None
           || PyBool_Check(obj);
}

bool
py_repeats_are_likely(PyObject *const *items, Py_ssize_t n)
{
    const PyObject *recent[RECENT] = {NULL};
    Py_ssize_t same = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const PyObject **slot = &recent[((uintptr_t)items[i] >> 4) % RECENT];
        same += *slot == items[i] && !is_small(items[i]);
        *slot = items[i];
    }
    return same > n / REPEATED_SHARE;
}

unsigned
py_repeats_pick(PyObject *const *items, Py_ssize_t n, PyObject **picked,
                uint8_t *which)
{
    uint16_t table[PLACES] = {0}; /* 1 + the number of the object */
    unsigned count = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        size_t at = ((uintptr_t)items[i] >> 4) % PLACES;
        while (table[at] != 0 && picked[table[at] - 1] != items[i]) {
            at = (at + 1) % PLACES;
        }
        if (table[at] == 0) {
            if (count == PICK_MAX) {
                return 0;
            }
            picked[count++] = items[i];
            table[at] = (uint16_t)count;
        }
        which[i] = (uint8_t)(table[at] - 1);
    }
    return count;
}
