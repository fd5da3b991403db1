/*
 * Run all tests, or those whose names begin with one of the arguments. Print one
 * line per test, then the line `N passed, N failed`.
 */
#include "cp_test.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A test that takes longer counts as hung. The slowest one takes two seconds,
 * but twenty under a sanitizer on a busy machine. */
#define DEADLINE_SECONDS 120

static struct cp_test *first;

void
cp_test_add(struct cp_test *test)
{
    struct cp_test **at = &first;
    while (*at != NULL && strcmp((*at)->name, test->name) < 0) {
        at = &(*at)->next;
    }
    test->next = *at;
    *at = test;
}

void
cp_test_fail(const char *file, int line, const char *what)
{
    (void)fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    (void)fflush(stderr);
    (void)kill(0, SIGKILL);
    _exit(1);
}

void
cp_test_equal(const char *file, int line, const char *what, int64_t is,
              int64_t should)
{
    if (is != should) {
        (void)fprintf(stderr, "%lld is not %lld\n", (long long)is,
                      (long long)should);
        cp_test_fail(file, line, what);
    }
}

void
cp_test_bytes(const char *file, int line, const char *what, const void *is,
              const void *should, size_t n)
{
    const unsigned char *a = is, *b = should;
    if (n == 0 || memcmp(a, b, n) == 0) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (a[i] != b[i]) {
            (void)fprintf(stderr, "byte %zu of %zu is %u, not %u\n", i, n, a[i],
                          b[i]);
            cp_test_fail(file, line, what);
        }
    }
}

int
cp_test_descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != NULL);
    while (readdir(dir) != NULL) {
        n++;
    }
    (void)closedir(dir);
    return n - 3; /* ".", "..", and the directory itself */
}

uint32_t
cp_test_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

void
cp_test_pattern(uint8_t *bytes, size_t n, uint64_t seed)
{
    uint64_t state = seed + 1;
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (uint8_t)cp_test_random(&state);
    }
}

void
cp_test_check_pattern(const uint8_t *bytes, size_t n, uint64_t seed)
{
    uint8_t *should = malloc(n + 1);
    CHECK(should != NULL);
    cp_test_pattern(should, n, seed);
    CHECK_BYTES(bytes, should, n);
    free(should);
}

int
cp_test_fork(void)
{
    int pid = fork();
    CHECK(pid >= 0);
    return pid;
}

int
cp_test_reap(int pid)
{
    int status;
    while (waitpid(pid, &status, 0) != pid) {
        CHECK(errno == EINTR);
    }
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

void
cp_test_let_others_run(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
}

pthread_t
cp_test_start(void *(*run)(void *), void *arg)
{
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, run, arg), 0);
    return thread;
}

void *
cp_test_join(pthread_t thread)
{
    void *result;
    CHECK_EQ(pthread_join(thread, &result), 0);
    return result;
}

static void
run_here(const struct cp_test *test)
{
    /* as Python does */
    (void)signal(SIGPIPE, SIG_IGN);
    int descriptors = cp_test_descriptors();
    test->run();
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_EQ(errno, ECHILD);
    CHECK_EQ(cp_test_descriptors(), descriptors);
    exit(0); /* the leak sanitizer checks now */
}

/* Wait for the test until the deadline; true and *status if the test ended. */
static bool
await(int pid, int *status)
{
    sigset_t child;
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    struct timespec second = {1, 0};
    for (int left = DEADLINE_SECONDS; left > 0;) {
        if (waitpid(pid, status, WNOHANG) == pid) {
            return true;
        }
        if (sigtimedwait(&child, NULL, &second) < 0 && errno == EAGAIN) {
            left--;
        }
    }
    return false;
}

static bool
run(const struct cp_test *test)
{
    struct timespec start, end;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    (void)fflush(NULL);
    int pid = fork();
    if (pid < 0) {
        perror("fork");
        return false;
    }
    if (pid == 0) {
        sigset_t none;
        (void)sigemptyset(&none);
        (void)setpgid(0, 0);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        run_here(test);
    }
    (void)setpgid(pid, pid);
    int status = 0;
    bool ended = await(pid, &status);
    (void)kill(-pid, SIGKILL); /* and the processes that the test left behind */
    if (!ended) {
        (void)waitpid(pid, &status, 0);
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - start.tv_sec)
                     + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    bool passed = ended && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("%s %s (%.3f s)", passed ? "ok    " : "FAILED", test->name, seconds);
    if (!ended) {
        printf(": it hangs");
    } else if (!passed && WIFSIGNALED(status)) {
        printf(": signal %d", WTERMSIG(status));
    } else if (!passed) {
        printf(": exit code %d", WEXITSTATUS(status));
    }
    printf("\n");
    return passed;
}

static bool
is_wanted(const struct cp_test *test, char **names, int n)
{
    for (int i = 0; i < n; i++) {
        if (strncmp(test->name, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return n == 0;
}

int
main(int argc, char **argv)
{
    sigset_t child;
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &child, NULL);
    int n_passed = 0, n_failed = 0;
    for (struct cp_test *test = first; test != NULL; test = test->next) {
        if (is_wanted(test, argv + 1, argc - 1)) {
            bool passed = run(test);
            n_passed += passed;
            n_failed += !passed;
        }
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed == 0 && n_passed > 0 ? 0 : 1;
}
