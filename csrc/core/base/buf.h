/*
 * A growable run of bytes: put at the end, consume at the head.
 *
 * Owned by one structure and guarded by whatever guards that structure. A
 * pointer into it is valid until the next call that may move it (reserve,
 * put, consume). It never shares its memory and never shrinks on its own,
 * except that cp_buf_consume() of everything resets it to the start.
 */
#ifndef CP_BUF_H
#define CP_BUF_H

#include "base/base.h"

struct cp_buf {
    uint8_t *data;
    size_t start; /* first byte not consumed */
    size_t end;   /* one past the last byte */
    size_t cap;
};

/* An all-zero struct is an empty buffer too. */
void cp_buf_init(struct cp_buf *buf);

/* Release the memory; the buffer is empty and usable after. */
void cp_buf_fini(struct cp_buf *buf);

static inline size_t
cp_buf_len(const struct cp_buf *buf)
{
    return buf->end - buf->start;
}

/* NULL at most where the buffer is empty: C does not know NULL + 0. */
static inline uint8_t *
cp_buf_head(const struct cp_buf *buf)
{
    return buf->data == NULL ? NULL : buf->data + buf->start;
}

/* How many bytes can be added without growing. */
static inline size_t
cp_buf_room(const struct cp_buf *buf)
{
    return buf->cap - buf->end;
}

/* Make room for n more bytes at the end: 0 or CP_ENOMEM. */
int cp_buf_reserve(struct cp_buf *buf, size_t n);

/* Where reserved bytes go; cp_buf_add() then counts them in. */
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

/* The memory, which is the caller's to free(), and the buffer is empty: the bytes
 * stand at *start. */
void *cp_buf_take(struct cp_buf *buf, uint8_t **start);

/* Empty the buffer, and give back its memory where it is above keep bytes. */
void cp_buf_reset(struct cp_buf *buf, size_t keep);

#endif
