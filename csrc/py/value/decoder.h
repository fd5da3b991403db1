/*
 * From bytes to values, the counterpart of value/encoder.h. The bytes are
 * checked like any input from outside, since user code in a worker can write
 * garbage to any descriptor. As with pickle, well-formed bytes can call
 * anything. [attached]
 */
#ifndef PY_DECODER_H
#define PY_DECODER_H

#include "base/state.h"

#include "core/share/parts.h"

/* Were these bytes written by value/encoder.h? A pickle starts with another
 * byte. */
int py_decode_owns(const uint8_t *bytes, size_t len);

/* Might decoding them run code of the program? A pickle always might. */
int py_decode_runs_code(const uint8_t *bytes, size_t len);

/* The object in these bytes and in the parts of the loan (NULL: none); a run
 * becomes a list. Arrays may keep leases of the loan. 0, CP_EPROTO, or -1 with
 * an exception. */
int py_decode(struct py_state *state, const uint8_t *bytes, size_t len,
              const struct cp_loan *loan, PyObject **obj);

/* How many values the run has; -1 if the bytes cannot be a run. */
Py_ssize_t py_decode_run_length(const uint8_t *bytes, size_t len);

/* How many slots py_decode_rows() fills for each value of the run. If all
 * values are tuples of one small length, that length; otherwise 0, and
 * py_decode_rows() fails. */
Py_ssize_t py_decode_row_width(const uint8_t *bytes, size_t len);

/*
 * Put the values of a run into slots that are NULL: one slot for each value;
 * or, for rows, one slot for each item of its tuples, one tuple after the
 * other. 0, CP_EPROTO, or -1 with an exception. After a failure some slots are
 * filled.
 */
int py_decode_run(struct py_state *state, const uint8_t *bytes, size_t len,
                  const struct cp_loan *loan, PyObject **slots);
int py_decode_rows(struct py_state *state, const uint8_t *bytes, size_t len,
                   const struct cp_loan *loan, PyObject **slots);

#endif
