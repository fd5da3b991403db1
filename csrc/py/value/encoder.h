/*
 * Objects as bytes: any object that pickle can send. value/decoder.h turns the
 * bytes back into objects. What arrives is equal in value, type and shape to
 * what pickle would have delivered: what is one object in a body arrives as one
 * object, but for numbers, short strings and tuples of such, which cannot be
 * told from copies.
 *
 * What has to be asked of an object (__reduce_ex__() and the like) is code of
 * the program, which may do anything. [attached]
 */
#ifndef PY_ENCODER_H
#define PY_ENCODER_H

#include "base/state.h"

#include "core/base/buf.h"

/*
 * Append obj, or n values that belong together (a run): 1. Or 0 where pickle has
 * to do it (an object that pickle refuses, or that is nested too deep, or
 * contains itself in a way that only pickle can rebuild); or -1 with an
 * exception. With 0 and -1, out is unchanged. The caller keeps the items alive.
 * ran_code (NULL: nobody asks) becomes true where code of the program may have
 * run.
 */
int py_encode(struct py_state *state, struct cp_buf *out, PyObject *obj,
              bool *ran_code);
int py_encode_run(struct py_state *state, struct cp_buf *out,
                  PyObject *const *items, Py_ssize_t n, bool *ran_code);

/* The same; but 0 also where something may be shared with other runs, for which
 * it matters: an object that can be changed, or a large one, to which there may
 * be other references. refs: how many references to each value the caller
 * knows. */
int py_encode_run_alone(struct py_state *state, struct cp_buf *out,
                        PyObject *const *items, Py_ssize_t n, Py_ssize_t refs,
                        bool *ran_code);

#endif
