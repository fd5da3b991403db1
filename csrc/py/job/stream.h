/*
 * _core.Stream: the iterator of imap() and imap_unordered(). Each next() takes
 * one result from the job's inbox, in the order of the items or of arrival, and
 * decodes it. Several threads may share an iterator: each item goes to one of
 * them, and all of them see the end. [attached]
 */
#ifndef PY_STREAM_H
#define PY_STREAM_H

#include "job/life.h"

/* Add the type to the module: 0, or -1 with an exception. */
int py_stream_add_type(PyObject *module, struct py_state *state);

#endif
