/*
 * Which tag a value gets: whether this encoding covers its type at all, and for
 * strings, how wide the characters are. [attached]
 */
#ifndef PY_KIND_H
#define PY_KIND_H

#include "base/state.h"
#include "value/tags.h"

/* Convert a string of the legacy kind (before 3.12) to its final form: 0, or -1
 * with an exception. */
static inline int
py_kind_make_ready(PyObject *str)
{
#if PY_VERSION_HEX < 0x030C0000
    return PyUnicode_READY(str);
#else
    (void)str;
    return 0;
#endif
}

static inline int
py_kind_of_str(PyObject *str)
{
    return PyUnicode_IS_ASCII(str)                       ? TAG_ASCII
           : PyUnicode_KIND(str) == PyUnicode_1BYTE_KIND ? TAG_UCS1
           : PyUnicode_KIND(str) == PyUnicode_2BYTE_KIND ? TAG_UCS2
                                                         : TAG_UCS4;
}

/* The tag of a column of such values: TAG_INT8 for any int, TAG_OBJECT for
 * every object without a rule of its own. -1: an exception. */
static inline int
py_kind_of(PyObject *obj)
{
    if (PyLong_CheckExact(obj)) {
        return TAG_INT8;
    }
    if (PyUnicode_CheckExact(obj)) {
        return py_kind_make_ready(obj) < 0 ? -1 : py_kind_of_str(obj);
    }
    if (PyFloat_CheckExact(obj)) {
        return TAG_FLOAT;
    }
    if (PyTuple_CheckExact(obj)) {
        return TAG_TUPLE;
    }
    if (obj == Py_None || PyBool_Check(obj)) {
        return TAG_ONES;
    }
    if (PyDict_CheckExact(obj)) {
        return TAG_DICT;
    }
    if (PyList_CheckExact(obj)) {
        return TAG_LIST;
    }
    if (PyBytes_CheckExact(obj)) {
        return TAG_BYTES;
    }
    if (Py_IS_TYPE(obj, &PySet_Type)) {
        return TAG_SET;
    }
    if (Py_IS_TYPE(obj, &PyFrozenSet_Type)) {
        return TAG_FROZENSET;
    }
    return PyByteArray_CheckExact(obj) ? TAG_BYTEARRAY : TAG_OBJECT;
}

/* Does the object hold no other object? */
static inline bool
py_kind_is_atom(PyObject *obj)
{
    return PyLong_CheckExact(obj) || PyUnicode_CheckExact(obj)
           || PyFloat_CheckExact(obj) || obj == Py_None || PyBool_Check(obj)
           || PyBytes_CheckExact(obj);
}

#endif
