/*
 * The body that this thread is encoding or decoding, and the shared objects
 * that the body refers to.
 */
#ifndef PY_USES_H
#define PY_USES_H

#include "base/state.h"

#include "core/share/parts.h"

struct py_uses {
    struct cp_parts *parts; /* of the body; NULL: it goes to no pool */
    /* The list to which the handles of shared objects are added while a body is
     * encoded, or from which they are taken while it is decoded. NULL: not
     * needed. Borrowed. */
    PyObject *handles;
    /* The list of objects whose bytes are written once the body is encoded,
     * without the GIL: cp_sealed_write(). NULL: all bytes are written at once.
     * Borrowed. */
    PyObject *owners;
};

/* From now on this thread encodes or decodes a body with these parts. Returns
 * the state before, for py_uses_end(). handles NULL: keep the present lists, if
 * the parts are the same. */
struct py_uses py_uses_begin(struct cp_parts *parts, PyObject *handles);
/* The same, with a list of owners. */
struct py_uses py_uses_begin_late(struct cp_parts *parts, PyObject *handles,
                                  PyObject *owners);
void py_uses_end(struct py_uses before);

/* The object of the handle with this number: a new reference, or NULL with an
 * exception. */
PyObject *py_uses_find(unsigned long number);

/* The body that this thread is encoding or decoding. */
const struct py_uses *py_uses_now(void);

#endif
