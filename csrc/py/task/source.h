/*
 * Pulling items from the user's iterable. Runs Python code, unless the source
 * is plain. [attached]
 */
#ifndef PY_SOURCE_H
#define PY_SOURCE_H

#include "task/input.h"
#include "value/run.h"

/* Is it known that iterating over this object runs no Python code? */
bool py_source_is_plain(struct py_state *state, PyObject *iterable);

/* Read from this iterable. 0, or -1 with the exception of iter(iterable). */
int py_source_open(struct py_source *src, PyObject *iterable);

/* The next item: 1, 0 at the end, -1 with an exception. An iterable with fewer
 * or more items than its length is a ValueError. */
int py_source_next(struct py_source *src, PyObject **item);

/* The next chunk, of up to n items: 1, 0 at the end, -1 with an exception. */
int py_source_next_chunk(struct py_source *src, Py_ssize_t n,
                         struct py_run *run);

/* The same, but the items are added to the run, until there are n in it. */
int py_source_add_chunk(struct py_source *src, Py_ssize_t n,
                        struct py_run *run);

/* list(iterable), but taking turns with the other pulls of the pool. A new
 * reference, or NULL with an exception. */
PyObject *py_source_list(EngineObject *engine, PyObject *iterable);

/* How many references to an item the source and a chunk have together. */
Py_ssize_t py_source_references(const struct py_source *src);

/* Is it known that there are no more items? An iterable that runs Python code
 * is not asked: it may block for ever, and with it the thread that joins the
 * pool. */
bool py_source_is_at_end(struct py_source *src);

#endif
