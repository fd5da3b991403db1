/*
 * Shared by the fuzz targets: a check that stays on with NDEBUG, a log of the
 * output, and a stream that is cut at places which the input selects.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "link/wire.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FUZZ_CHECK(cond) ((cond) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A hash of the output. Two runs on the same bytes must have the same hash. */
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

/* The input: how many tasks to send, where to cut, and the stream. */
struct fuzz_input {
    unsigned n_tasks, bits; /* number of tasks; one bit for each */
    uint64_t cut;           /* random state for the cuts; 0: do not cut */
    uint8_t *stream;
    size_t len;
};

/* This much fits into a pipe without blocking. */
#define FUZZ_STREAM_MAX 30000u
#define FUZZ_BODY_MAX 100000u

/*
 * Reduce the body lengths that are valid but huge, which would only hit the
 * memory limit of the fuzzer; the unit tests cover those. All other lengths
 * stay, including the invalid ones.
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

/* False if the input has the wrong size. The caller frees in->stream. */
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

/* Size of the next piece, from 1 to left bytes. */
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
