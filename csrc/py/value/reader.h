/*
 * Reading the format of value/tags.h: what the files that decode have in
 * common. A reader lives on the stack of one call.
 *
 * Functions return 0, CP_EPROTO, or -1 with an exception.
 */
#ifndef PY_READER_H
#define PY_READER_H

#include "base/state.h"
#include "value/tags.h"

#include "core/base/base.h"

#include <string.h>

struct py_reader {
    const uint8_t *at, *end;
    int depth;
};

static inline size_t
py_reader_left(const struct py_reader *in)
{
    return (size_t)(in->end - in->at);
}

static inline int
py_reader_get_byte(struct py_reader *in, unsigned *byte)
{
    if (py_reader_left(in) < 1) {
        return CP_EPROTO;
    }
    *byte = *in->at++;
    return 0;
}

/* The next n bytes, at *bytes. */
static inline int
py_reader_get_raw(struct py_reader *in, size_t n, const uint8_t **bytes)
{
    if (py_reader_left(in) < n) {
        return CP_EPROTO;
    }
    *bytes = in->at;
    in->at += n;
    return 0;
}

/* A size, of things that take at least `each` bytes. */
static inline int
py_reader_get_size(struct py_reader *in, size_t each, size_t *size)
{
    unsigned byte;
    if (py_reader_get_byte(in, &byte) < 0) {
        return CP_EPROTO;
    }
    uint64_t wide = byte;
    if (byte == WIDE) {
        const uint8_t *bytes;
        if (py_reader_get_raw(in, sizeof(wide), &bytes) < 0) {
            return CP_EPROTO;
        }
        memcpy(&wide, bytes, sizeof(wide));
    }
    if (wide > py_reader_left(in) / each) {
        return CP_EPROTO;
    }
    *size = (size_t)wide;
    return 0;
}

#endif
