/*
 * Values of exact built-in types as bytes, and back: None, bool, int, float, str,
 * bytes, and tuples, lists and dicts of them. What arrives is equal in value, type
 * and shape to what pickle would have delivered; other objects are pickle's.
 *
 * Needs nothing of the pool, and runs nobody's code but what freeing or
 * allocating objects may run. What is decoded is checked like any outside input:
 * user code in a worker can write rubbish to any descriptor. [attached]
 */
#ifndef PY_CODEC_H
#define PY_CODEC_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/base/buf.h"

/*
 * Append obj, or n values that belong together (a run): 1. Or 0 where one of
 * them is none of ours, or pickle would do better, or -1 with an exception; and
 * then out is as it was. The caller keeps the items alive.
 */
int py_codec_put(struct cp_buf *out, PyObject *obj);
int py_codec_put_run(struct cp_buf *out, PyObject *const *items, Py_ssize_t n);

/* Is this ours? A pickle begins with another byte. */
int py_codec_owns(const uint8_t *bytes, size_t len);

/* The object that these bytes hold; a run comes as a list. 0, CP_EPROTO, or -1
 * with an exception. */
int py_codec_get(const uint8_t *bytes, size_t len, PyObject **obj);

/* How many values the run has, or -1 where there is no run, or can be none of
 * such a length. */
Py_ssize_t py_codec_run_length(const uint8_t *bytes, size_t len);

/* How many slots each value of the run takes with py_codec_get_rows(): where all
 * are tuples of the same small length, that length; else 0, and it has no rows. */
Py_ssize_t py_codec_row_width(const uint8_t *bytes, size_t len);

/*
 * The values of a run, into slots that are NULL: one for each; or, for rows, the
 * items of its tuples, one tuple after the other. 0, CP_EPROTO, or -1 with an
 * exception; and then some slots have got their value.
 */
int py_codec_get_run(const uint8_t *bytes, size_t len, PyObject **slots);
int py_codec_get_rows(const uint8_t *bytes, size_t len, PyObject **slots);

#endif
