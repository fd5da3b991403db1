/* The board's rows: claims and the result ring, also between processes. */
#include "link/board.h"
#include "base/clock.h"
#include "os/fd.h"
#include "cp_test.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct cp_rows rows;
static struct cp_slab *slab; /* of the row that a test has opened */

static struct cp_row *
open_row(void)
{
    struct cp_row *row;
    CHECK_EQ(cp_rows_init(&rows), 0);
    CHECK_EQ(cp_row_open(&rows, &row, &slab), 0);
    CHECK_EQ(cp_row_show(row), 0);
    return row;
}

static void
close_row(struct cp_row *row)
{
    cp_rows_fini(&rows);
    cp_row_close(row, slab, true);
}

/* A stream of bytes that repeats only after four rings, so that overwritten
 * bytes are noticed. At least one more ring of bytes follows any offset. */
static const uint8_t *
bytes_at(uint64_t offset)
{
    static uint8_t bytes[5 * CP_RING];
    if (bytes[1] == 0) {
        for (size_t i = 0; i < sizeof(bytes); i++) {
            bytes[i] = (uint8_t)(i * 7 + i / CP_RING % 4 * 101);
        }
    }
    return bytes + offset % (4 * CP_RING);
}

static void
put_bytes(struct cp_row *row, size_t n)
{
    uint8_t *bytes =
        (uint8_t *)(uintptr_t)bytes_at(atomic_load(&row->committed));
    struct iovec parts[2] = {{bytes, n / 3}, {bytes + n / 3, n - n / 3}};
    cp_ring_put(row, parts, 2);
}

TEST(board_row_starts_zeroed_and_aligned)
{
    struct cp_row *row = open_row();
    CHECK_EQ((uintptr_t)row % CP_CACHE_LINE, 0);
    CHECK_EQ(atomic_load(&row->committed), 0);
    CHECK_EQ(atomic_load(&row->running), 0);
    CHECK_EQ(cp_ring_room(row), CP_RING);
    CHECK(!cp_claim_take(row, 0));
    CHECK(!cp_claim_recall(row, 0));
    CHECK(!cp_claim_is_taken(row, 0));
    close_row(row);
    cp_row_close(NULL, NULL, true);
}

TEST(board_claim_has_one_winner)
{
    struct cp_row *row = open_row();
    cp_claim_offer(row, 5);
    CHECK(!cp_claim_is_taken(row, 5));
    CHECK(cp_claim_take(row, 5));
    CHECK(!cp_claim_take(row, 5));
    CHECK(!cp_claim_recall(row, 5));
    CHECK(cp_claim_is_taken(row, 5));
    cp_claim_offer(row, 6);
    CHECK(cp_claim_recall(row, 6));
    CHECK(!cp_claim_recall(row, 6));
    CHECK(!cp_claim_take(row, 6));
    CHECK(!cp_claim_is_taken(row, 6));
    close_row(row);
}

TEST(board_reused_claim_word_is_not_the_old_task)
{
    struct cp_row *row = open_row();
    cp_claim_offer(row, 3);
    CHECK(cp_claim_recall(row, 3));
    cp_claim_offer(row, 3 + CP_WINDOW);
    CHECK(!cp_claim_take(row, 3));
    CHECK(!cp_claim_is_taken(row, 3));
    CHECK(cp_claim_take(row, 3 + CP_WINDOW));
    CHECK(!cp_claim_is_taken(row, 3));
    CHECK(cp_claim_is_taken(row, 3 + CP_WINDOW));
    close_row(row);
}

/* The other side answers at once, unless it has no processor. */
static void
spin(uint64_t *spins)
{
    if (++*spins % 1000 == 0) {
        cp_test_let_others_run();
    }
}

/* Both sides try to claim each task at the same time, and one side wins. The
 * child counts its wins in the ring's memory, which the child may write. */
TEST(board_claims_between_processes)
{
    enum { TASKS = 100000 };
    struct cp_row *row = open_row();
    _Atomic uint64_t *child_at = &row->running;
    int pid = cp_test_fork();
    if (pid == 0) {
        uint64_t wins = 0, spins = 0;
        for (uint64_t seq = 0; seq < TASKS; seq++) {
            while (atomic_load(&row->sent) <= seq) {
                spin(&spins);
            }
            if (atomic_load(&row->sent) == UINT64_MAX) {
                break;
            }
            wins += cp_claim_take(row, seq);
            atomic_store(child_at, seq + 1);
        }
        atomic_store(&row->committed, wins);
        _exit(0);
    }
    uint64_t wins = 0, taken = 0, spins = 0, seq = 0;
    int64_t until = cp_now() + 5000 * CP_MS; /* on a busy machine */
    for (; seq < TASKS && cp_now() < until; seq++) {
        cp_claim_offer(row, seq);
        atomic_store(&row->sent, seq + 1);
        wins += cp_claim_recall(row, seq);
        while (atomic_load(child_at) <= seq) {
            spin(&spins);
        }
        taken += cp_claim_is_taken(row, seq);
    }
    atomic_store(&row->sent, UINT64_MAX);
    CHECK_EQ(cp_test_reap(pid), 0);
    CHECK_EQ(wins + taken, seq);
    CHECK_EQ(atomic_load(&row->committed), taken);
    close_row(row);
}

TEST(board_one_worker_is_the_first)
{
    enum { N = 8 };
    struct cp_common *common;
    int pids[N], first = 0;
    CHECK_EQ(cp_common_open(&common), 0);
    for (int i = 0; i < N; i++) {
        pids[i] = cp_test_fork();
        if (pids[i] == 0) {
            _exit(cp_common_claim_failure(common) ? 1 : 0);
        }
    }
    for (int i = 0; i < N; i++) {
        first += cp_test_reap(pids[i]);
    }
    CHECK_EQ(first, 1);
    CHECK(!cp_common_claim_failure(common));
    cp_common_close(common);
    cp_common_close(NULL);
}

TEST(board_ring_goes_round)
{
    struct cp_row *row = open_row();
    static uint8_t seen[CP_RING];
    uint64_t seed = 2;
    uint64_t from = 0;
    while (from < 40 * CP_RING) {
        size_t room = cp_ring_room(row);
        uint64_t used = atomic_load(&row->committed) - from;
        CHECK_EQ(room, CP_RING - used);
        put_bytes(row, cp_test_random(&seed) % (room + 1));
        size_t all = (size_t)(atomic_load(&row->committed) - from);
        size_t skip = all > 0 ? cp_test_random(&seed) % all : 0;
        size_t n = cp_ring_peek(row, from + skip, seen, CP_RING);
        CHECK_EQ(n, all - skip);
        CHECK_BYTES(seen, bytes_at(from + skip), n);
        CHECK_EQ(cp_ring_peek(row, from + skip, seen, n / 2), n / 2);
        CHECK_BYTES(seen, bytes_at(from + skip), n / 2);
        from += cp_test_random(&seed) % (all + 1);
        atomic_store(&row->flushed, from);
    }
    close_row(row);
}

TEST(board_ring_can_be_filled)
{
    struct cp_row *row = open_row();
    static uint8_t seen[CP_RING];
    put_bytes(row, 1000);
    atomic_store(&row->flushed, 1000);
    put_bytes(row, CP_RING);
    CHECK_EQ(cp_ring_room(row), 0);
    CHECK_EQ(cp_ring_peek(row, 1000, seen, CP_RING), CP_RING);
    CHECK_BYTES(seen, bytes_at(1000), CP_RING);
    close_row(row);
}

TEST(board_peek_returns_only_bytes_in_the_ring)
{
    struct cp_row *row = open_row();
    uint8_t seen[256];
    CHECK_EQ(cp_ring_peek(row, 0, seen, sizeof(seen)), 0);
    put_bytes(row, 200);
    atomic_store(&row->flushed, 100);
    CHECK_EQ(cp_ring_peek(row, 99, seen, sizeof(seen)), 0);
    CHECK_EQ(cp_ring_peek(row, 100, seen, sizeof(seen)), 100);
    CHECK_EQ(cp_ring_peek(row, 199, seen, sizeof(seen)), 1);
    CHECK_EQ(cp_ring_peek(row, 200, seen, sizeof(seen)), 0);
    CHECK_EQ(cp_ring_peek(row, 201, seen, sizeof(seen)), 0);
    CHECK_EQ(cp_ring_peek(row, 150, seen, 0), 0);
    close_row(row);
}

TEST(board_peek_survives_nonsense)
{
    struct cp_row *row = open_row();
    static uint8_t seen[CP_RING];
    static const uint64_t odd[] = {
        0,         1,    CP_RING, CP_RING + 1, UINT64_MAX, UINT64_MAX - CP_RING,
        INT64_MAX, 12345};
    enum { N = sizeof(odd) / sizeof(odd[0]) };
    for (int i = 0; i < N * N * N; i++) {
        atomic_store(&row->flushed, odd[i % N]);
        atomic_store(&row->committed, odd[i / N % N]);
        CHECK(cp_ring_peek(row, odd[i / N / N], seen, CP_RING) <= CP_RING);
        CHECK(cp_ring_peek(row, odd[i / N / N], seen, 10) <= 10);
    }
    close_row(row);
}

/* A writer in its own process that never stops: it puts answers into the ring,
 * and from time to time sends one past the ring, like a big answer. */
static _Noreturn void
write_for_ever(struct cp_row *row)
{
    uint64_t seed = 3;
    for (;;) {
        size_t room = cp_ring_room(row);
        uint32_t dice = cp_test_random(&seed);
        if (room < CP_RING) {
            (void)atomic_fetch_add(&row->flushed, CP_RING - room);
        } else if (dice % 4 == 0) {
            (void)atomic_fetch_add(&row->flushed, dice % CP_RING);
            (void)atomic_fetch_add(&row->committed, dice % CP_RING);
        }
        put_bytes(row, dice % (cp_ring_room(row) + 1));
    }
}

TEST(board_peek_while_the_worker_writes)
{
    struct cp_row *row = open_row();
    static uint8_t seen[CP_RING];
    int pid = cp_test_fork();
    if (pid == 0) {
        write_for_ever(row);
    }
    uint64_t seed = 5;
    int64_t stop = cp_now() + 200 * CP_MS;
    for (int full = 0; full == 0 || (full < 3000 && cp_now() < stop);) {
        size_t cap = cp_test_random(&seed) % CP_RING;
        uint64_t from = atomic_load(&row->flushed);
        size_t n = cp_ring_peek(row, from, seen, cap);
        CHECK_BYTES(seen, bytes_at(from), n);
        full += n > 0;
    }
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(cp_test_reap(pid), -SIGKILL);
    close_row(row);
}

TEST(board_hidden_row_is_not_inherited)
{
#ifdef CP_PORTABLE
    int then = 10; /* POSIX has no MADV_DONTFORK */
#else
    int then = 20;
#endif
    struct cp_row *row = open_row();
    for (int hidden = 0; hidden < 2; hidden++) {
        int pid = cp_test_fork();
        if (pid == 0) {
            unsigned char in_core[sizeof(*row) / 4096 + 1];
            int r = mincore(row, sizeof(*row), in_core);
            _exit(r == 0 ? 10 : errno == ENOMEM ? 20 : 30);
        }
        CHECK_EQ(cp_test_reap(pid), hidden != 0 ? then : 10);
        cp_row_hide(row);
    }
    atomic_store(&row->sent, 1); /* still mapped here */
    close_row(row);
}

#ifndef CP_PORTABLE
static bool
is_mapped_in_a_fork(const struct cp_row *row)
{
    int pid = cp_test_fork();
    if (pid == 0) {
        unsigned char in_core[sizeof(*row) / 4096 + 1];
        _exit(mincore((void *)(uintptr_t)row, sizeof(*row), in_core) == 0);
    }
    return cp_test_reap(pid) == 1;
}

TEST(board_rows_share_mappings_and_a_fork_gets_one_row)
{
    enum { N = 40 };
    struct cp_rows many;
    struct cp_row *at[N];
    struct cp_slab *in[N];
    CHECK_EQ(cp_rows_init(&many), 0);
    int slabs = 0;
    for (int i = 0; i < N; i++) {
        CHECK_EQ(cp_row_open(&many, &at[i], &in[i]), 0);
        CHECK_EQ((uintptr_t)at[i] % CP_CACHE_LINE, 0);
        slabs += i == 0 || in[i] != in[i - 1];
        atomic_store(&at[i]->sent, (uint64_t)i + 1);
    }
    CHECK_EQ(slabs, 3);
    CHECK(!is_mapped_in_a_fork(at[4]));
    CHECK_EQ(cp_row_show(at[4]), 0);
    CHECK(is_mapped_in_a_fork(at[4]));
    CHECK(!is_mapped_in_a_fork(at[3]));
    CHECK(!is_mapped_in_a_fork(at[5]));
    cp_row_hide(at[4]);
    CHECK(!is_mapped_in_a_fork(at[4]));
    cp_rows_fini(&many);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(atomic_load(&at[i]->sent), i + 1);
    }
    cp_row_close(at[6], in[6], true);  /* frees the memory */
    cp_row_close(at[7], in[7], false); /* a process may still use it */
    CHECK_EQ(atomic_load(&at[6]->sent), 0);
    CHECK_EQ(atomic_load(&at[7]->sent), 8);
    for (int i = 0; i < N; i++) {
        if (i != 6 && i != 7) {
            cp_row_close(at[i], in[i], true);
        }
    }
}
#endif

/* Rows and pages with a descriptor, for workers that start by exec. */

TEST(board_shared_row_is_one_memory)
{
    struct cp_row *row, *same;
    int fd;
    CHECK_EQ(cp_row_share(&row, &fd), 0);
    CHECK_EQ(atomic_load(&row->committed), 0);
    CHECK_EQ(cp_row_attach(&same, fd), 0);
    CHECK(same != row);
    cp_fd_close(&fd);
    cp_claim_offer(row, 5);
    CHECK(cp_claim_take(same, 5));
    CHECK(!cp_claim_recall(row, 5));
    put_bytes(same, 1000);
    CHECK_EQ(atomic_load(&row->committed), 1000);
    cp_row_close(row, NULL, true);
    CHECK_EQ(cp_ring_room(same), CP_RING - 1000);
    cp_row_close(same, NULL, true);
}

TEST(board_shared_page_is_one_memory)
{
    struct cp_common *common, *same;
    int fd;
    CHECK_EQ(cp_common_share(&common, &fd), 0);
    CHECK_EQ(cp_common_attach(&same, fd), 0);
    cp_fd_close(&fd);
    CHECK(cp_common_claim_failure(same));
    CHECK(!cp_common_claim_failure(common));
    cp_common_close(common);
    cp_common_close(same);
}

static void
check_refused(int fd)
{
    struct cp_common *common;
    CHECK_EQ(cp_common_attach(&common, fd), CP_EPROTO);
    CHECK(common == NULL);
}

TEST(board_of_another_build_is_refused)
{
    struct cp_common *common, *same;
    int fd;
    CHECK_EQ(cp_common_share(&common, &fd), 0);
    common->format++;
    check_refused(fd);
    common->format--;
    common->magic++;
    check_refused(fd);
    common->magic--;
    common->row_size++;
    check_refused(fd);
    common->row_size--;
    CHECK_EQ(cp_common_attach(&same, fd), 0);
    cp_common_close(same);
    cp_common_close(common);
    cp_fd_close(&fd);
}

TEST(board_of_another_size_is_refused)
{
    struct cp_row *row;
    int fd;
    CHECK_EQ(cp_fd_memory(sizeof(*row) + 1, &fd), 0);
    CHECK_EQ(cp_row_attach(&row, fd), CP_EPROTO);
    CHECK(row == NULL);
    check_refused(fd);
    cp_fd_close(&fd);
    CHECK_EQ(cp_row_attach(&row, fd), CP_ERRNO(EBADF));
    CHECK(row == NULL);
}
