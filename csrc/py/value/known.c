/* Strings that occur again; see value/known.h. */
#include "value/known.h"

/* A hash table with one place for each hash of a string's bytes. */
#define PLACES 256u

struct py_known {
    PyObject *strings[PLACES]; /* or NULL */
};

static size_t
place_of(const uint8_t *bytes, size_t n)
{
    uint64_t hash = n;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, sizeof(word));
        hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 29;
    }
    for (size_t i = n & ~(size_t)7; i < n; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001B3);
    }
    hash *= UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(hash >> 56) % PLACES;
}

/* Take the table from the state, so that only this body uses it; NULL if there
 * is no memory for one. */
static struct py_known *
take(struct py_reader *in)
{
    if (in->known == NULL) {
        in->known = atomic_exchange(&in->state->known, NULL);
    }
    if (in->known == NULL) {
        in->known = PyMem_RawCalloc(1, sizeof(*in->known));
    }
    return in->known;
}

int
py_known_get(struct py_reader *in, const uint8_t *bytes, size_t n,
             bool interned, PyObject **str)
{
    struct py_known *known = take(in);
    if (known == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    PyObject **place = &known->strings[place_of(bytes, n)], *old = *place;
    if (old == NULL || PyUnicode_GET_LENGTH(old) != (Py_ssize_t)n
        || memcmp(PyUnicode_DATA(old), bytes, n) != 0) {
        PyObject *made = PyUnicode_New((Py_ssize_t)n, 0x7f);
        if (made == NULL) {
            return -1;
        }
        memcpy(PyUnicode_DATA(made), bytes, n);
        *place = made;
        Py_XDECREF(old);
    }
    if (interned) {
        PyUnicode_InternInPlace(place);
    }
    *str = Py_NewRef(*place);
    return 0;
}

static void
free_known(struct py_known *known)
{
    for (size_t i = 0; i < PLACES; i++) {
        Py_XDECREF(known->strings[i]);
    }
    PyMem_RawFree(known);
}

void
py_known_leave(struct py_reader *in)
{
    struct py_known *none = NULL;
    if (!atomic_compare_exchange_strong(&in->state->known, &none, in->known)) {
        free_known(in->known);
    }
    in->known = NULL;
}

void
py_known_forget(struct py_state *state)
{
    struct py_known *known = atomic_exchange(&state->known, NULL);
    if (known != NULL) {
        free_known(known);
    }
}
