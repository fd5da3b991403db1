/*
 * Strings that arrive with one body after the other: names of modules and classes, of
 * attributes, and keys. The last ones are kept, and found by their bytes. [attached]
 */
#ifndef PY_KNOWN_H
#define PY_KNOWN_H

#include "value/reader.h"

/* Longer strings are not kept. */
#define PY_KNOWN_LONGEST 40u

/* An ASCII string of these n bytes (2 to PY_KNOWN_LONGEST), all below 0x80, as a new
 * reference: 0, or -1 with MemoryError. interned: as sys.intern() would return it. */
int py_known_get(struct py_reader *in, const uint8_t *bytes, size_t n,
                 bool interned, PyObject **str);

/* The end of a body: the strings go back to the state. */
void py_known_leave(struct py_reader *in);

/* Forget what the state knows. */
void py_known_forget(struct py_state *state);

#endif
