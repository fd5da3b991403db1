/*
 * Lookups in a dict; and whether a dict or a class has changed since the last
 * lookup, for what is looked up with each task and hardly ever changes.
 * [attached]
 */
#ifndef PY_DICT_H
#define PY_DICT_H

#include "base/state.h"

/* The value of the key: a new reference. NULL: with an exception, or without
 * one if there is no such key. */
static inline PyObject *
py_dict_get(PyObject *dict, PyObject *key)
{
    PyObject *value;
#if PY_VERSION_HEX >= 0x030D0000
    (void)PyDict_GetItemRef(dict, key, &value);
#else
    value = PyDict_GetItemWithError(dict, key); /* lint-ok: held below */
    Py_XINCREF(value);
#endif
    return value;
}

/* The version of a dict: each change of the dict sets a new one, and no two
 * dicts ever have the same. 0: unknown, since from 3.12 on the interpreter does
 * not tell. */
static inline uint64_t
py_dict_version(PyObject *dict)
{
#if PY_VERSION_HEX < 0x030C0000
    return ((PyDictObject *)dict)->ma_version_tag;
#else
    (void)dict;
    return 0;
#endif
}

/* The version of a class: each change of the class or of a base sets a new one,
 * and no two classes ever have the same. 0: it has none. _PyType_Lookup() gives
 * it one. */
static inline unsigned
py_class_version(PyTypeObject *type)
{
#if PY_VERSION_HEX < 0x030C0000
    if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG)) {
        return 0;
    }
#endif
    return __atomic_load_n(&type->tp_version_tag, __ATOMIC_ACQUIRE);
}

#endif
