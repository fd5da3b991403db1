/*
 * What is encoded or decoded on this thread, for objects that are shared: which body refers
 * to them, and to which objects it does.
 */
#ifndef PY_USES_H
#define PY_USES_H

#include "base/state.h"

#include "core/share/parts.h"

struct py_uses {
    struct cp_parts *parts; /* of the body; NULL: it goes to no pool */
    /* A list of the handles: in which those are found while it is encoded, or from which
     * they are taken while it is decoded. NULL: nobody needs it. Borrowed. */
    PyObject *handles;
};

/* From now on this thread encodes a body with these parts, or decodes one; what it did
 * before. handles: NULL keeps those of before, if the parts are the same. */
struct py_uses py_uses_begin(struct cp_parts *parts, PyObject *handles);
void py_uses_end(struct py_uses before);

/* The object of the one of these handles that has this number: a new reference, or NULL
 * with an exception. */
PyObject *py_uses_find(unsigned long number);

/* What this thread encodes or decodes. */
const struct py_uses *py_uses_now(void);

#endif
