/*
 * The worker's end receives arbitrary bytes, cut anywhere. It must not crash,
 * must not run unclaimed tasks, and must give the same result wherever the
 * bytes are cut.
 */
#include "os/fd.h"
#include "link/serve.h"
#include "link/worker.h"
#include "fuzz.h"

#include <sys/ioctl.h>

static bool
has_bytes(int fd)
{
    int n = 0;
    FUZZ_CHECK(ioctl(fd, FIONREAD, &n) == 0);
    return n > 0;
}

/* Handle all frames received so far. 0, or the code that ended the stream. */
static int
serve_all(struct cp_serve *s, struct fuzz_log *log)
{
    for (;;) {
        struct cp_frame frame;
        const uint8_t *body;
        int r = cp_serve_next(s, &frame, &body);
        if (r == 1) {
            FUZZ_CHECK(frame.kind != CP_TASK
                       || cp_claim_is_taken(s->row, frame.seq));
            fuzz_log_add(log, &frame, CP_HEADER);
            fuzz_log_add(log, body, (size_t)frame.len);
        } else if (r == 0 && has_bytes(s->rx)) {
            r = cp_serve_wait(s);
        } else {
            return r;
        }
        if (r < 0) {
            return r;
        }
    }
}

static struct fuzz_log
run(const struct fuzz_input *in, uint64_t cut)
{
    struct cp_worker *w;
    struct cp_rows rows;
    struct cp_serve s;
    struct fuzz_log log = {.hash = 14695981039346656037u};
    FUZZ_CHECK(cp_rows_init(&rows) == 0);
    FUZZ_CHECK(cp_worker_new(UINT64_MAX, &rows, -1, &w) == 0);
    cp_rows_fini(&rows);
    FUZZ_CHECK(cp_serve_init(&s, w) == 0);
    for (unsigned i = 0; i < in->n_tasks; i++) {
        if ((in->bits >> i & 1) != 0) {
            cp_claim_offer(w->row, i);
        }
    }
    size_t at = 0;
    while (at < in->len && log.end == 0) {
        size_t n = fuzz_cut(&cut, in->len - at);
        fuzz_write(w->tx, in->stream + at, n);
        log.end = serve_all(&s, &log);
        at += n;
    }
    if (log.end == 0) {
        cp_fd_close(&w->tx);
        log.end = cp_serve_wait(&s);
        FUZZ_CHECK(log.end == CP_ECLOSED);
    }
    cp_serve_fini(&s);
    cp_worker_unref(w);
    return log;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in;
    if (!fuzz_take(&in, data, size, false)) {
        return 0;
    }
    struct fuzz_log whole = run(&in, 0);
    struct fuzz_log cut = run(&in, in.cut);
    FUZZ_CHECK(cut.hash == whole.hash && cut.n == whole.n);
    FUZZ_CHECK(cut.end == whole.end);
    free(in.stream);
    return 0;
}
