/*
 * What the two files that decode share; see value/codec.h. A decoder lives on the
 * stack of one call.
 *
 * Its functions return 0, CP_EPROTO, or -1 with an exception.
 */
#ifndef PY_CODEC_DECODER_H
#define PY_CODEC_DECODER_H

#include "value/codec.h"
#include "value/codec_tags.h"

#include <string.h>

struct py_decoder {
    const uint8_t *at, *end;
    int depth;
};

static inline size_t
py_codec_left(const struct py_decoder *d)
{
    return (size_t)(d->end - d->at);
}

static inline int
py_codec_get_byte(struct py_decoder *d, unsigned *byte)
{
    if (py_codec_left(d) < 1) {
        return CP_EPROTO;
    }
    *byte = *d->at++;
    return 0;
}

/* So many more bytes, at *bytes. */
static inline int
py_codec_get_raw(struct py_decoder *d, size_t n, const uint8_t **bytes)
{
    if (py_codec_left(d) < n) {
        return CP_EPROTO;
    }
    *bytes = d->at;
    d->at += n;
    return 0;
}

/* A size of what takes `each` bytes or more. */
static inline int
py_codec_get_size(struct py_decoder *d, size_t each, size_t *size)
{
    unsigned byte;
    if (py_codec_get_byte(d, &byte) < 0) {
        return CP_EPROTO;
    }
    uint64_t wide = byte;
    if (byte == WIDE) {
        const uint8_t *bytes;
        if (py_codec_get_raw(d, sizeof(wide), &bytes) < 0) {
            return CP_EPROTO;
        }
        memcpy(&wide, bytes, sizeof(wide));
    }
    if (wide > py_codec_left(d) / each) {
        return CP_EPROTO;
    }
    *size = (size_t)wide;
    return 0;
}

/* The value with this tag, which has been read; CP_EPROTO for one that holds
 * others. */
int py_codec_get_atom(struct py_decoder *d, unsigned tag, PyObject **obj);

/* A column of n such values, into every stride-th slot; likewise. */
int py_codec_get_atoms(struct py_decoder *d, unsigned tag, size_t n,
                       PyObject **slots, size_t stride);

#endif
