/*
 * What travels as the body of a task or a result: a value in our own encoding
 * (value/encoder.h), or one pickle (value/pickle.h). [attached]
 */
#ifndef PY_BODY_H
#define PY_BODY_H

#include "base/state.h"

#include "core/base/buf.h"
#include "core/share/parts.h"

/* Append obj to out, and large parts of it to out->parts. 0, or -1 with an
 * exception, and out is unchanged. *ran_code becomes true if code of the
 * program may have run; it may be NULL. */
int py_body_put(struct py_state *state, PyObject *obj, struct cp_buf *out,
                bool *ran_code);

/* The object in these bytes and in the parts of the loan (NULL: none); a list
 * if they hold a run. NULL with an exception. May run Python code. */
PyObject *py_body_get(struct py_state *state, const uint8_t *bytes, size_t len,
                      const struct cp_loan *loan);

/* Decode the object in a sealed file anew, with its own copy of the parts: a
 * new reference, or NULL with an exception. */
PyObject *py_body_of_sealed(struct py_state *state, struct cp_sealed *sealed);

#endif
