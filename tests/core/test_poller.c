/* Which descriptors are ready: the same tests for epoll and for poll(). */
#include "base/clock.h"
#include "os/fd.h"
#include "os/poller.h"
#include "cp_test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#define MANY 100

struct rig {
    struct cp_poller *poller;
    int fds[MANY][2];
    int n;
};

static void
open_rig(struct rig *rig, int n)
{
    CHECK_EQ(cp_poller_new(&rig->poller), 0);
    rig->n = n;
    for (int i = 0; i < n; i++) {
        CHECK_EQ(cp_fd_pipe(rig->fds[i]), 0);
    }
}

static void
close_rig(struct rig *rig)
{
    for (int i = 0; i < rig->n; i++) {
        cp_fd_close(&rig->fds[i][0]);
        cp_fd_close(&rig->fds[i][1]);
    }
    cp_poller_free(rig->poller);
    cp_poller_free(NULL);
}

static void
fill(struct rig *rig, int i)
{
    CHECK_EQ(write(rig->fds[i][1], "x", 1), 1);
}

static int
wait_now(struct rig *rig, struct cp_ready *ready, int max)
{
    return cp_poller_wait(rig->poller, ready, max, 0);
}

TEST(poller_reports_tags)
{
    struct rig rig;
    struct cp_ready ready[8];
    uint64_t tag = UINT64_MAX - 5;
    open_rig(&rig, 2);
    CHECK_EQ(wait_now(&rig, ready, 8), 0);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[0][0], CP_IN, 7), 0);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[1][0], CP_IN, tag), 0);
    CHECK_EQ(wait_now(&rig, ready, 8), 0);
    fill(&rig, 1);
    CHECK_EQ(wait_now(&rig, ready, 8), 1);
    CHECK_EQ(ready[0].tag, tag);
    CHECK_EQ(wait_now(&rig, ready, 8),
             1); /* for as long as the descriptor is ready */
    fill(&rig, 0);
    CHECK_EQ(wait_now(&rig, ready, 8), 2);
    CHECK(ready[0].tag + ready[1].tag == tag + 7);
    cp_poller_del(rig.poller, rig.fds[1][0]);
    CHECK_EQ(wait_now(&rig, ready, 8), 1);
    CHECK_EQ(ready[0].tag, 7);
    cp_poller_del(rig.poller, rig.fds[1][0]); /* not watched: nothing happens */
    close_rig(&rig);
}

TEST(poller_set_changes_events_and_tag)
{
    struct rig rig;
    struct cp_ready ready[8];
    open_rig(&rig, 1);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[0][1], 0, 1), 0);
    CHECK_EQ(wait_now(&rig, ready, 8), 0);
    CHECK_EQ(cp_poller_set(rig.poller, rig.fds[0][1], CP_OUT, 2), 0);
    CHECK_EQ(wait_now(&rig, ready, 8), 1);
    CHECK_EQ(ready[0].tag, 2);
    CHECK_EQ(cp_poller_set(rig.poller, rig.fds[0][1], 0, 3), 0);
    CHECK_EQ(wait_now(&rig, ready, 8), 0);
    CHECK(cp_poller_set(rig.poller, rig.fds[0][0], CP_IN, 4) < -1);
    close_rig(&rig);
}

TEST(poller_always_reports_hang_ups)
{
    struct rig rig;
    struct cp_ready ready[8];
    open_rig(&rig, 2);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[0][0], CP_IN, 1), 0);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[1][1], 0, 2), 0);
    cp_fd_close(&rig.fds[0][1]);
    CHECK_EQ(wait_now(&rig, ready, 8), 1);
    CHECK_EQ(ready[0].tag, 1);
    cp_poller_del(rig.poller, rig.fds[0][0]);
    cp_fd_close(&rig.fds[1][0]);
    CHECK_EQ(wait_now(&rig, ready, 8), 1);
    CHECK_EQ(ready[0].tag, 2);
    close_rig(&rig);
}

TEST(poller_waits_until_the_deadline)
{
    struct rig rig;
    struct cp_ready ready[8];
    open_rig(&rig, 1);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[0][0], CP_IN, 1), 0);
    int64_t deadline = cp_now() + 3 * CP_MS / 2;
    CHECK_EQ(cp_poller_wait(rig.poller, ready, 8, deadline), 0);
    CHECK(cp_now() >= deadline);
    CHECK_EQ(cp_poller_wait(rig.poller, ready, 8, cp_now() - CP_SECOND), 0);
    fill(&rig, 0);
    CHECK_EQ(cp_poller_wait(rig.poller, ready, 8, CP_NEVER), 1);
    CHECK_EQ(cp_poller_wait(rig.poller, ready, 8, CP_NEVER - 1), 1);
    close_rig(&rig);
}

/* More descriptors are ready than fit: all of them are reported in turn. */
TEST(poller_starves_nobody)
{
    struct rig rig;
    struct cp_ready ready[8];
    bool seen[MANY] = {false};
    int n_seen = 0;
    open_rig(&rig, MANY);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(cp_poller_add(rig.poller, rig.fds[i][0], CP_IN, (uint64_t)i),
                 0);
        fill(&rig, i);
    }
    for (int round = 0; round < 2 * MANY; round++) {
        int n = wait_now(&rig, ready, 8);
        CHECK(n > 0 && n <= 8);
        for (int i = 0; i < n; i++) {
            CHECK(ready[i].tag < MANY);
            n_seen += !seen[ready[i].tag];
            seen[ready[i].tag] = true;
        }
    }
    CHECK_EQ(n_seen, MANY);
    close_rig(&rig);
}

/* The limit on open files is now lower than the number of watched ones. */
TEST(poller_works_beyond_the_file_limit)
{
    struct rig rig;
    struct cp_ready ready[8];
    struct rlimit limit;
    open_rig(&rig, 3);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cp_poller_add(rig.poller, rig.fds[i][0], i > 0 ? CP_IN : 0,
                               (uint64_t)i),
                 0);
    }
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 1;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cp_fd_close(&rig.fds[0][1]); /* a hang-up */
    fill(&rig, 2);
    bool seen[3] = {false};
    while (!seen[0] || !seen[2]) {
        int n = cp_poller_wait(rig.poller, ready, 1, CP_NEVER);
        CHECK_EQ(n, 1);
        CHECK(ready[0].tag < 3);
        seen[ready[0].tag] = true;
    }
    int64_t deadline = cp_now() + 3 * CP_MS / 2;
    while (cp_now() < deadline) {
        CHECK(cp_poller_wait(rig.poller, ready, 8, deadline) >= 2);
    }
    limit.rlim_cur = before;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    close_rig(&rig);
}

static void
on_alarm(int signal_number)
{
    (void)signal_number;
}

TEST(poller_wait_is_interrupted_by_a_signal)
{
    struct rig rig;
    struct cp_ready ready[8];
    open_rig(&rig, 1);
    struct sigaction act = {.sa_handler = on_alarm};
    CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    CHECK_EQ(setitimer(ITIMER_REAL, &often, NULL), 0);
    CHECK_EQ(cp_poller_wait(rig.poller, ready, 8, CP_NEVER), CP_EINTR);
    CHECK_EQ(setitimer(ITIMER_REAL, &never, NULL), 0);
    close_rig(&rig);
}

static void *
wait_for_nine(void *arg)
{
    struct rig *rig = arg;
    struct cp_ready ready[8];
    for (;;) {
        int n = cp_poller_wait(rig->poller, ready, 8, CP_NEVER);
        CHECK(n > 0);
        for (int i = 0; i < n; i++) {
            if (ready[i].tag == 9) {
                return NULL;
            }
        }
    }
}

/* A descriptor is added while another thread waits. If the poller needs to, it
 * ends the wait by a descriptor that is watched already. */
TEST(poller_reports_a_descriptor_added_during_a_wait)
{
    struct rig rig;
    open_rig(&rig, 2);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[0][0], CP_IN, 0), 0);
    pthread_t thread = cp_test_start(wait_for_nine, &rig);
    fill(&rig, 1);
    CHECK_EQ(cp_poller_add(rig.poller, rig.fds[1][0], CP_IN, 9), 0);
    if (cp_poller_needs_wake()) {
        fill(&rig, 0);
    }
    (void)cp_test_join(thread);
    close_rig(&rig);
}
