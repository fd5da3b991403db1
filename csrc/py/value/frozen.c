/* Copies of lists and dicts, where there is no GIL; see value/frozen.h. */
#include "value/frozen.h"

#include "value/writer.h"

#ifdef Py_GIL_DISABLED
/* A list as a tuple, or a dict as another dict. The copy keeps its contents
 * alive. */
static PyObject *
copy_of(PyObject *obj)
{
    return PyList_CheckExact(obj) ? PyList_AsTuple(obj) : PyDict_Copy(obj);
}

static Py_ssize_t
size_of(PyObject *obj)
{
    return PyList_CheckExact(obj) ? PyList_GET_SIZE(obj) : PyDict_GET_SIZE(obj);
}
#endif

int
py_frozen_copy(PyObject *const *items, Py_ssize_t n, PyObject ***copies)
{
    *copies = NULL;
#ifdef Py_GIL_DISABLED
    if (PyTuple_CheckExact(items[0])) {
        return 1;
    }
    PyObject **made = PyMem_New(PyObject *, n);
    if (made == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        bool alike = Py_TYPE(items[i]) == Py_TYPE(items[0])
                     && size_of(items[i]) == size_of(items[0]);
        made[i] = alike ? copy_of(items[i]) : NULL;
        if (made[i] == NULL) {
            py_frozen_release(made, i);
            return alike ? -1 : OTHER_KIND;
        }
    }
    *copies = made;
#else
    (void)items;
    (void)n;
#endif
    return 1;
}

void
py_frozen_release(PyObject **copies, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; copies != NULL && i < n; i++) {
        Py_DECREF(copies[i]);
    }
    PyMem_Free(copies);
}
