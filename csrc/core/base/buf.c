/* The growable byte queue of base/buf.h. The caller does the locking. */
#include "base/buf.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 4096

void
cp_buf_init(struct cp_buf *buf)
{
    memset(buf, 0, sizeof(*buf));
}

void
cp_buf_fini(struct cp_buf *buf)
{
    free(buf->data);
    cp_buf_init(buf);
}

int
cp_buf_grow(struct cp_buf *buf, size_t n)
{
    size_t len = cp_buf_len(buf);
    if (buf->start > 0) {
        memmove(buf->data, buf->data + buf->start, len);
        buf->start = 0;
        buf->end = len;
        if (n <= buf->cap - len) {
            return 0;
        }
    }
    if (n > SIZE_MAX / 4 - len) {
        return CP_ENOMEM;
    }
    /* Grow by half: doubling would waste up to 300 MB on a 300 MB frame. */
    size_t cap = buf->cap + buf->cap / 2;
    if (cap < FIRST_CAP) {
        cap = FIRST_CAP;
    }
    if (cap < len + n) {
        cap = len + n;
    }
    uint8_t *data = realloc(buf->data, cap);
    if (data == NULL) {
        return CP_ENOMEM;
    }
    cp_mem_advise_huge(data, cap);
    buf->data = data;
    buf->cap = cap;
    return 0;
}

int
cp_buf_put(struct cp_buf *buf, const void *bytes, size_t n)
{
    int r = cp_buf_reserve(buf, n);
    if (r != 0) {
        return r;
    }
    if (n > 0) {
        memcpy(cp_buf_tail(buf), bytes, n);
    }
    cp_buf_add(buf, n);
    return 0;
}

void
cp_buf_consume(struct cp_buf *buf, size_t n)
{
    CP_ASSERT(n <= cp_buf_len(buf));
    buf->start += n;
    if (buf->start == buf->end) {
        buf->start = buf->end = 0;
    }
}

void *
cp_buf_take(struct cp_buf *buf, uint8_t **start)
{
    void *data = buf->data;
    *start = cp_buf_head(buf);
    cp_buf_init(buf);
    return data;
}

void
cp_buf_reset(struct cp_buf *buf, size_t keep)
{
    if (buf->cap > keep) {
        cp_buf_fini(buf);
    }
    buf->start = buf->end = 0;
}
