/*
 * What the fuzz targets share: a check that holds in every build, a log of what
 * came out, and bytes cut at places that the input decides.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "link/wire.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FUZZ_CHECK(cond) ((cond) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What came out, as one number; two runs of the same bytes have to agree. */
struct fuzz_log {
    uint64_t hash;
    uint64_t n;
    int end; /* how the stream ended */
};

static inline void
fuzz_log_add(struct fuzz_log *log, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++) {
        log->hash = (log->hash ^ p[i]) * UINT64_C(1099511628211);
    }
    log->hash = (log->hash ^ n) * UINT64_C(1099511628211);
    log->n++;
}

/* The input: what to prepare, how to cut, and the stream. */
struct fuzz_input {
    unsigned n_tasks, bits; /* so many tasks; a bit for each of them */
    uint64_t cut;           /* state of the sequence of cuts; 0: uncut */
    uint8_t *stream;
    size_t len;
};

/* So much fits into a pipe without blocking. */
#define FUZZ_STREAM_MAX 30000u
#define FUZZ_BODY_MAX 100000u

/*
 * Lengths that no memory could hold are the unit tests': here they would only
 * be the fuzzer's own limit. All others stay as they are, and so do those that
 * have to be refused.
 */
static inline void
fuzz_limit_lengths(struct fuzz_input *in, bool up)
{
    size_t at = 0;
    struct cp_frame frame;
    while (cp_wire_get(in->stream + at, in->len - at, up, &frame) == 1) {
        if (frame.len > FUZZ_BODY_MAX) {
            frame.len %= FUZZ_BODY_MAX;
            memcpy(in->stream + at, &frame, CP_HEADER);
        }
        if (in->len - at - CP_HEADER < frame.len) {
            return;
        }
        at += CP_HEADER + (size_t)frame.len;
    }
}

/* False where the input is too short. in->stream is to be freed. */
static inline bool
fuzz_take(struct fuzz_input *in, const uint8_t *data, size_t size, bool up)
{
    if (size < 8 || size - 8 > FUZZ_STREAM_MAX) {
        return false;
    }
    in->n_tasks = data[0] % 17u;
    in->bits = (unsigned)data[1] | (unsigned)data[2] << 8;
    memcpy(&in->cut, data, sizeof(in->cut));
    in->cut |= 1;
    in->len = size - 8;
    in->stream = malloc(in->len + 1);
    FUZZ_CHECK(in->stream != NULL);
    memcpy(in->stream, data + 8, in->len);
    fuzz_limit_lengths(in, up);
    return true;
}

/* How many of the next `left` bytes come together: at least one. */
static inline size_t
fuzz_cut(uint64_t *cut, size_t left)
{
    if (*cut == 0) {
        return left;
    }
    *cut = *cut * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    size_t most = (*cut >> 40) % 4 == 0 ? 2000 : 40;
    size_t n = 1 + (size_t)(*cut >> 33) % most;
    return n < left ? n : left;
}

static inline void
fuzz_write(int fd, const uint8_t *bytes, size_t n)
{
    FUZZ_CHECK(write(fd, bytes, n) == (ssize_t)n);
}

#endif
