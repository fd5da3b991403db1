/* See value/uses.h. */
#include "value/uses.h"

/* One variable per thread, because reducers are called by pickle, which passes
 * them nothing of ours. */
static _Thread_local struct py_uses now; /* lint-ok: see above */

struct py_uses
py_uses_begin(struct cp_parts *parts, PyObject *handles)
{
    struct py_uses before = now;
    if (handles == NULL && parts != NULL && parts == before.parts) {
        return before;
    }
    now = (struct py_uses){.parts = parts, .handles = handles};
    return before;
}

struct py_uses
py_uses_begin_late(struct cp_parts *parts, PyObject *handles, PyObject *owners)
{
    struct py_uses before = py_uses_begin(parts, handles);
    now.owners = owners;
    return before;
}

void
py_uses_end(struct py_uses before)
{
    now = before;
}

const struct py_uses *
py_uses_now(void)
{
    return &now;
}

PyObject *
py_uses_find(unsigned long number)
{
    PyObject *handles = now.handles, *found = NULL;
    Py_ssize_t n = PyList_GET_SIZE(handles);
    for (Py_ssize_t i = 0; i < n && found == NULL && !PyErr_Occurred(); i++) {
        PyObject *handle = PyList_GET_ITEM(handles, i); /* lint-ok: ours */
        PyObject *own = PyObject_GetAttrString(handle, "_number");
        if (own != NULL && PyLong_AsUnsignedLong(own) == number) {
            found = PyObject_GetAttrString(handle, "obj");
        }
        Py_XDECREF(own);
    }
    if (found == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError, "no such shared object");
    }
    return found;
}
