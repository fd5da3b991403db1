/* Memory of large bytes and strings; see value/spare.h. */
#include "value/spare.h"

/* The spare, if only we have it; its last task is over. */
static PyObject *
take(struct py_state *state, PyTypeObject *type)
{
    PyObject *obj = state->spare;
    if (obj == NULL || state->spare_is_noted || !Py_IS_TYPE(obj, type)
        || Py_REFCNT(obj) != 1) {
        return NULL;
    }
    state->spare = NULL;
    return obj;
}

/* Resizing an object to another size and back forgets what is cached of its
 * contents, such as its hash. */
PyObject *
py_spare_bytes(struct py_state *state, size_t n)
{
    PyObject *obj = take(state, &PyBytes_Type);
    if (obj == NULL) {
        return NULL;
    }
    if ((size_t)PyBytes_GET_SIZE(obj) != n) {
        Py_DECREF(obj);
        return NULL;
    }
    if (_PyBytes_Resize(&obj, (Py_ssize_t)n - 1) < 0
        || _PyBytes_Resize(&obj, (Py_ssize_t)n) < 0) {
        PyErr_Clear();
        return NULL;
    }
    return obj;
}

PyObject *
py_spare_str(struct py_state *state, size_t n, Py_UCS4 most)
{
    PyObject *obj = take(state, &PyUnicode_Type);
    if (obj == NULL) {
        return NULL;
    }
    /* A string with a hash cannot be resized: it would be copied. */
    if ((size_t)PyUnicode_GET_LENGTH(obj) != n
        || PyUnicode_MAX_CHAR_VALUE(obj) != most
        || PyUnicode_CHECK_INTERNED(obj)
        || ((PyASCIIObject *)obj)->hash != -1) {
        Py_DECREF(obj);
        return NULL;
    }
    if (PyUnicode_Resize(&obj, (Py_ssize_t)n - 1) < 0
        || PyUnicode_Resize(&obj, (Py_ssize_t)n) < 0) {
        PyErr_Clear();
        Py_DECREF(obj);
        return NULL;
    }
    return obj;
}

void
py_spare_note(struct py_state *state, PyObject *obj)
{
    if (state->keeps_spare && !state->spare_is_noted) {
        Py_XSETREF(state->spare, Py_NewRef(obj));
        state->spare_is_noted = true;
    }
}

void
py_spare_settle(struct py_state *state)
{
    if (state->spare != NULL
        && (!state->spare_is_noted || Py_REFCNT(state->spare) != 1)) {
        Py_CLEAR(state->spare);
    }
    state->spare_is_noted = false;
}

#define SPARE_MS 50 /* and one more for each MiB */

int
py_spare_ms(const struct py_state *state)
{
    const PyObject *obj = state->spare;
    if (obj == NULL) {
        return 0;
    }
    size_t n = PyBytes_CheckExact(obj) ? (size_t)PyBytes_GET_SIZE(obj)
                                       : (size_t)PyUnicode_GET_LENGTH(obj)
                                             * (size_t)PyUnicode_KIND(obj);
    return SPARE_MS + (int)(n >> 20 < INT_MAX / 2 ? n >> 20 : INT_MAX / 2);
}

void
py_spare_drop(struct py_state *state)
{
    Py_CLEAR(state->spare);
    state->spare_is_noted = false;
}
