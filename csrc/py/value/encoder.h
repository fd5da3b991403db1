/*
 * Objects as bytes: any object that pickle can send. value/decoder.h turns the
 * bytes back into objects. What arrives is equal in value, type and shape to
 * what pickle would have delivered. An object that occurs twice in a body
 * arrives as one object; numbers, short strings and tuples of these may arrive
 * as copies, since nobody can tell.
 *
 * Asking an object how to send it (__reduce_ex__() and the like) runs code of
 * the program, which may do anything. [attached]
 */
#ifndef PY_ENCODER_H
#define PY_ENCODER_H

#include "base/state.h"

#include "core/base/buf.h"

/*
 * Append obj, or n values that belong together (a run): 1. 0 if pickle has to
 * do it: for an object that pickle refuses, is nested too deep, or contains
 * itself in a way that only pickle can rebuild. -1 with an exception. With 0
 * and -1, out is unchanged. The caller keeps the items alive. ran_code (NULL:
 * not needed) becomes true if code of the program may have run.
 */
int py_encode(struct py_state *state, struct cp_buf *out, PyObject *obj,
              bool *ran_code);
int py_encode_run(struct py_state *state, struct cp_buf *out,
                  PyObject *const *items, Py_ssize_t n, bool *ran_code);

/* The same; but 0 also if something may be shared with other runs and that
 * would be noticed: an object that can be changed, or a large one, to which
 * there may be other references. refs: how many references to each value the
 * caller knows of. */
int py_encode_run_alone(struct py_state *state, struct cp_buf *out,
                        PyObject *const *items, Py_ssize_t n, Py_ssize_t refs,
                        bool *ran_code);

#endif
