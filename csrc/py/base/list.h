/* Adding to a list. [attached] */
#ifndef PY_LIST_H
#define PY_LIST_H

#include "base/state.h"

/* Append item, a new reference or NULL. 0, or -1 with an exception. */
static inline int
py_list_append_take(PyObject *list, PyObject *item)
{
    int r = item != NULL ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return r;
}

#endif
