/*
 * Values of exact built-in types as bytes: None, bool, int, float, str, bytes,
 * and tuples, lists and dicts of these. value/decoder.h turns the bytes back
 * into values. What arrives is equal in value, type and shape to what pickle
 * would have delivered; all other objects are left to pickle.
 *
 * Uses nothing of the pool. Runs no Python code except what allocating or
 * freeing objects may run. [attached]
 */
#ifndef PY_ENCODER_H
#define PY_ENCODER_H

#include "base/state.h"

#include "core/base/buf.h"

/*
 * Append obj, or n values that belong together (a run): 1. Or 0 where one of
 * them is of another type, or pickle would do better; or -1 with an exception.
 * With 0 and -1, out is unchanged. The caller keeps the items alive.
 */
int py_encode(struct cp_buf *out, PyObject *obj);
int py_encode_run(struct cp_buf *out, PyObject *const *items, Py_ssize_t n);

/* The same; but 0 also where something may be shared with other runs, for which
 * it matters: a list, a dict or a large object to which there may be other
 * references. refs: how many references to each value the caller knows. */
int py_encode_run_alone(struct cp_buf *out, PyObject *const *items,
                        Py_ssize_t n, Py_ssize_t refs);

#endif
