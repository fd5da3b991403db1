/*
 * Writing the format of value/tags.h: what the files that encode have in
 * common. A writer lives on the stack of one call. [attached]
 *
 * Functions that put values return 1; or 0 where a value is left to pickle; or
 * -1 with an exception. What they wrote before 0 or -1 stays in the buffer, and
 * py_encode() or py_encode_run() removes it.
 */
#ifndef PY_WRITER_H
#define PY_WRITER_H

#include "base/state.h"
#include "value/seen.h"
#include "value/tags.h"

#include "core/base/buf.h"

#include <string.h>

struct py_writer {
    struct cp_buf *out;
    int depth;
    int large;       /* how many large strings were written */
    size_t held;     /* tuples, lists and dicts, or columns of them, so far */
    Py_ssize_t keys; /* of dicts that are not in a column of dicts */
    struct py_seen seen;
    bool alone;      /* leave what other objects may refer to, too, to pickle */
    bool copied;     /* alone: a copy of the container refers to its values */
    int under;       /* alone: how many tuples around have other references */
    Py_ssize_t refs; /* alone: how many references to each value are ours */
};

/* From this many bytes on, it matters how often an object is sent. */
#define LARGE 256

/* A column was started, and one of its values is of another kind. */
#define OTHER_KIND 2

/* May there be another reference to the value that is being written? */
static inline bool
py_writer_shares(const struct py_writer *w, PyObject *obj)
{
    Py_ssize_t ours = w->depth <= 1 ? w->refs : 1 + w->copied;
    return w->alone && (w->under > 0 || Py_REFCNT(obj) > ours);
}

static inline int
py_writer_reserve(struct py_writer *w, size_t n)
{
    if (cp_buf_reserve(w->out, n) == 0) {
        return 1;
    }
    (void)PyErr_NoMemory();
    return -1;
}

/* The add functions need bytes that were reserved. */
static inline void
py_writer_add(struct py_writer *w, const void *bytes, size_t n)
{
    memcpy(cp_buf_tail(w->out), bytes, n);
    cp_buf_add(w->out, n);
}

static inline void
py_writer_add_byte(struct py_writer *w, unsigned byte)
{
    *cp_buf_tail(w->out) = (uint8_t)byte;
    cp_buf_add(w->out, 1);
}

#define SIZE_ROOM 9u

static inline void
py_writer_add_size(struct py_writer *w, size_t size)
{
    if (size < WIDE) {
        py_writer_add_byte(w, (unsigned)size);
    } else {
        uint64_t wide = size;
        py_writer_add_byte(w, WIDE);
        py_writer_add(w, &wide, sizeof(wide));
    }
}

#endif
