/* Contents of lists, sets and dicts; see value/gather.h. */
#include "value/gather.h"

#include "value/kind.h"

bool
py_gather_items(PyObject *sequence, Py_ssize_t n, PyObject **to,
                Py_ssize_t stride)
{
    bool fits;
    Py_BEGIN_CRITICAL_SECTION(sequence);
    fits = Py_SIZE(sequence) == n;
    PyObject **from =
        PySequence_Fast_ITEMS(sequence); /* lint-ok: in the section */
    for (Py_ssize_t i = 0; i < n && fits; i++) {
        to[i * stride] = Py_NewRef(from[i]);
    }
    Py_END_CRITICAL_SECTION();
    return fits;
}

/* Reads the table of the set, since an iterator would cost more than the items.
 * Deleted entries have the hash -1, which no item has. */
bool
py_gather_set(PyObject *obj, Py_ssize_t n, PyObject **to)
{
    const PySetObject *set = (const PySetObject *)obj;
    bool fits;
    Py_BEGIN_CRITICAL_SECTION(obj);
    fits = PySet_GET_SIZE(obj) == n;
    Py_ssize_t done = 0;
    for (Py_ssize_t i = 0; i <= set->mask && fits; i++) {
        const setentry *entry = &set->table[i];
        if (entry->key != NULL && entry->hash != -1 && done < n) {
            to[done++] = Py_NewRef(entry->key);
        }
    }
    Py_END_CRITICAL_SECTION();
    return fits;
}

static bool
is_same_key(PyObject *a, PyObject *b)
{
    return a == b
           || (PyUnicode_CheckExact(a) && PyUnicode_CheckExact(b)
               && py_kind_make_ready(a) == 0 && py_kind_make_ready(b) == 0
               && PyUnicode_Compare(a, b) == 0);
}

/* Call this in the critical section of the dict. Returns how many pairs
 * fitted. */
static Py_ssize_t
gather(PyObject *dict, Py_ssize_t n, PyObject *const *expected, PyObject **keys,
       PyObject **values, Py_ssize_t stride)
{
    Py_ssize_t at = 0, i = 0;
    PyObject *key, *value;
    while (i < n
           && PyDict_Next(dict, &at, &key, &value) /* lint-ok: in a section */
           && (expected == NULL || is_same_key(expected[i], key))) {
        if (keys != NULL) {
            keys[i] = Py_NewRef(key);
        }
        values[i++ * stride] = Py_NewRef(value);
    }
    return i;
}

bool
py_gather_dict(PyObject *dict, Py_ssize_t n, PyObject *const *expected,
               PyObject **keys, PyObject **values, Py_ssize_t stride)
{
    bool fits;
    Py_ssize_t done = 0;
    Py_BEGIN_CRITICAL_SECTION(dict);
    fits = PyDict_GET_SIZE(dict) == n;
    if (fits) {
        done = gather(dict, n, expected, keys, values, stride);
    }
    Py_END_CRITICAL_SECTION();
    for (Py_ssize_t i = 0; i < done && done < n; i++) {
        if (keys != NULL) {
            Py_CLEAR(keys[i]);
        }
        Py_CLEAR(values[i * stride]);
    }
    return fits && done == n;
}

PyObject **
py_gather_new(Py_ssize_t n)
{
    PyObject **array = PyMem_Calloc(n > 0 ? (size_t)n : 1, sizeof(*array));
    if (array == NULL) {
        (void)PyErr_NoMemory();
    }
    return array;
}

void
py_gather_free(PyObject **array, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; array != NULL && i < n; i++) {
        Py_XDECREF(array[i]);
    }
    PyMem_Free(array);
}
