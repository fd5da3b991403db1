/*
 * Strings that occur in one body after the other: names of modules, classes and
 * attributes, and keys. The most recent ones are kept, and found by their
 * bytes. [attached]
 */
#ifndef PY_KNOWN_H
#define PY_KNOWN_H

#include "value/reader.h"

/* Longer strings are not kept. */
#define PY_KNOWN_LONGEST 40u

/* The ASCII string with these n bytes (2 to PY_KNOWN_LONGEST), all below 0x80,
 * as a new reference: 0, or -1 with MemoryError. interned: as sys.intern()
 * would return it. */
int py_known_get(struct py_reader *in, const uint8_t *bytes, size_t n,
                 bool interned, PyObject **str);

/* A body ends: give the strings back to the state. */
void py_known_leave(struct py_reader *in);

/* Drop the strings that the state keeps. */
void py_known_forget(struct py_state *state);

#endif
