/*
 * What the two files that encode share; see value/codec.h. An encoder lives on the
 * stack of one call.
 *
 * Its functions return 1, or 0 where a value is none of ours or better left to
 * pickle, or -1 with an exception; what was put until then stays, and the caller
 * takes it back.
 */
#ifndef PY_CODEC_ENCODER_H
#define PY_CODEC_ENCODER_H

#include "value/codec.h"
#include "value/codec_seen.h"
#include "value/codec_tags.h"

#include <string.h>

struct py_encoder {
    struct cp_buf *out;
    int depth;
    int large;       /* large strings so far */
    size_t held;     /* tuples, lists and dicts, or columns of them */
    Py_ssize_t keys; /* of dicts that are not in a column of one shape */
    struct py_codec_seen seen;
};

/* A column was begun, and one of its values is of another kind. */
#define OTHER_KIND 2

/* The tag that a column of such values would have, of ints TAG_INT8; 0: none of
 * ours, -1: an exception. */
int py_codec_tag_of(PyObject *obj);

/* Values that hold no others: one, with its tag; or n in a column, which may also
 * be of OTHER_KIND. tag: that of the first. */
int py_codec_put_atom(struct py_encoder *e, PyObject *obj, int tag);
int py_codec_put_atoms(struct py_encoder *e, PyObject *const *items,
                       Py_ssize_t n, int tag);

/* Is the string, which may be of the old kind, as it has to be? 0, or -1. */
static inline int
py_codec_is_ready(PyObject *str)
{
#if PY_VERSION_HEX < 0x030C0000
    return PyUnicode_READY(str);
#else
    (void)str;
    return 0;
#endif
}

static inline int
py_codec_room(struct py_encoder *e, size_t n)
{
    if (cp_buf_reserve(e->out, n) == 0) {
        return 1;
    }
    (void)PyErr_NoMemory();
    return -1;
}

/* The bytes were reserved. */
static inline void
py_codec_add(struct py_encoder *e, const void *bytes, size_t n)
{
    memcpy(cp_buf_tail(e->out), bytes, n);
    cp_buf_add(e->out, n);
}

static inline void
py_codec_add_byte(struct py_encoder *e, unsigned byte)
{
    *cp_buf_tail(e->out) = (uint8_t)byte;
    cp_buf_add(e->out, 1);
}

#define SIZE_ROOM 9u

static inline void
py_codec_add_size(struct py_encoder *e, size_t size)
{
    if (size < WIDE) {
        py_codec_add_byte(e, (unsigned)size);
    } else {
        uint64_t wide = size;
        py_codec_add_byte(e, WIDE);
        py_codec_add(e, &wide, sizeof(wide));
    }
}

#endif
