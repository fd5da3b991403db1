/*
 * A growable byte queue: append at the tail, consume at the head.
 *
 * A buffer belongs to one structure and is guarded by the lock of that
 * structure. A pointer into the buffer is valid until the next reserve, put or
 * consume, which may move the bytes. The buffer keeps its memory until
 * cp_buf_fini(), cp_buf_take() or cp_buf_reset().
 */
#ifndef CP_BUF_H
#define CP_BUF_H

#include "base/base.h"

struct cp_parts;

struct cp_buf {
    uint8_t *data;
    size_t start; /* first byte not consumed */
    size_t end;   /* one past the last byte */
    size_t cap;
    /* For a body that is encoded into this buffer: the list of its parts that
     * go elsewhere (share/parts.h), borrowed; or NULL. The functions of this
     * file ignore the field. */
    struct cp_parts *parts;
};

/* Optional: a zeroed struct is an empty buffer. */
void cp_buf_init(struct cp_buf *buf);

/* Free the memory. The buffer is empty and can be used again. */
void cp_buf_fini(struct cp_buf *buf);

static inline size_t
cp_buf_len(const struct cp_buf *buf)
{
    return buf->end - buf->start;
}

/* The first byte not consumed. May be NULL if the buffer is empty; the check
 * is there because NULL + 0 is undefined in C. */
static inline uint8_t *
cp_buf_head(const struct cp_buf *buf)
{
    return buf->data == NULL ? NULL : buf->data + buf->start;
}

/* How many bytes fit without a reallocation. */
static inline size_t
cp_buf_room(const struct cp_buf *buf)
{
    return buf->cap - buf->end;
}

/* Move the bytes or get memory, so that n more fit: 0 or CP_ENOMEM. */
int cp_buf_grow(struct cp_buf *buf, size_t n);

/* Make room for n more bytes at the end: 0 or CP_ENOMEM. */
static inline int
cp_buf_reserve(struct cp_buf *buf, size_t n)
{
    return n <= cp_buf_room(buf) ? 0 : cp_buf_grow(buf, n);
}

/* Write the reserved bytes here, then count them with cp_buf_add(). */
static inline uint8_t *
cp_buf_tail(const struct cp_buf *buf)
{
    return buf->data == NULL ? NULL : buf->data + buf->end;
}

static inline void
cp_buf_add(struct cp_buf *buf, size_t n)
{
    CP_ASSERT(n <= cp_buf_room(buf));
    buf->end += n;
}

/* Append a copy of n bytes: 0 or CP_ENOMEM. */
int cp_buf_put(struct cp_buf *buf, const void *bytes, size_t n);

/* Drop n bytes from the head. */
void cp_buf_consume(struct cp_buf *buf, size_t n);

/* Drop n bytes from the end. */
static inline void
cp_buf_cut(struct cp_buf *buf, size_t n)
{
    CP_ASSERT(n <= cp_buf_len(buf));
    buf->end -= n;
}

/* Move the memory block to the caller, who frees it with free(). *start points to
 * the bytes within the block. The buffer is empty afterwards. */
void *cp_buf_take(struct cp_buf *buf, uint8_t **start);

/* Empty the buffer. Free its memory if it has more than keep bytes. */
void cp_buf_reset(struct cp_buf *buf, size_t keep);

#endif
