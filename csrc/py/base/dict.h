/*
 * Whether a dict has changed since it was last looked at, for what is looked up again
 * with each task and hardly ever changes. [attached]
 */
#ifndef PY_DICT_H
#define PY_DICT_H

#include "base/state.h"

/* The version of a dict: each change of it gives it another one, and no two dicts ever
 * have the same. 0: not known, since from 3.12 on the interpreter keeps it to itself. */
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

#endif
