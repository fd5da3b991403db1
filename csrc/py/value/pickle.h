/*
 * Objects to bytes and back: protocol 5 with the dispatch table that
 * multiprocessing's ForkingPickler would use. [attached]
 */
#ifndef PY_PICKLE_H
#define PY_PICKLE_H

#include "base/state.h"

/* Append the pickle of obj to out: 0, or -1 with an exception, and then out
 * is as it was. Runs Python code. */
int py_dumps(struct py_state *state, PyObject *obj, struct cp_buf *out);

/* The object that these bytes hold, or NULL with an exception. */
PyObject *py_loads(struct py_state *state, const uint8_t *bytes, size_t len);

/* A read-only memoryview of bytes that are ours, and its end: what may have
 * kept it finds it released. */
PyObject *py_pickle_view(const uint8_t *bytes, size_t len);
void py_pickle_release_view(PyObject *view);

/* Drop what a kept pickler holds. */
void py_pickler_clear(struct py_pickler *p);

#endif
