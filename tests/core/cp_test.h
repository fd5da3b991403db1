/*
 * A test program for the core in a few lines.
 *
 * TEST(name) { ... } defines and registers a test. Each test runs in its own
 * process and its own process group, so that a crash or a hang is one failed
 * test, and its children end with it. A test must release its resources: a test
 * that leaves a child or a descriptor fails.
 *
 * CHECK works in release builds, in any thread, and in any process that a test
 * forked: a failed CHECK prints the condition and ends the whole group.
 */
#ifndef CP_TEST_H
#define CP_TEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The sanitizer's allocator may be locked in a process that is forked while
 * another thread allocates: the other builds test such forks. */
#if defined(__SANITIZE_ADDRESS__)
#    define CP_TEST_ASAN 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define CP_TEST_ASAN 1
#    endif
#endif
#ifndef CP_TEST_ASAN
#    define CP_TEST_ASAN 0
#endif

struct cp_test {
    const char *name;
    void (*run)(void);
    struct cp_test *next;
};

void cp_test_add(struct cp_test *test);

#define TEST(test_name)                                            \
    static void test_name(void);                                   \
    __attribute__((constructor)) static void test_name##_add(void) \
    {                                                              \
        static struct cp_test test = {                             \
            .name = #test_name, .run = test_name, .next = NULL};   \
        cp_test_add(&test);                                        \
    }                                                              \
    static void test_name(void)

/* Print the failure and end the test. */
_Noreturn void cp_test_fail(const char *file, int line, const char *what);
void cp_test_equal(const char *file, int line, const char *what, int64_t is,
                   int64_t should);
void cp_test_bytes(const char *file, int line, const char *what, const void *is,
                   const void *should, size_t n);

#define CHECK(cond) ((cond) ? (void)0 : cp_test_fail(__FILE__, __LINE__, #cond))
/* Integers of any type; the second is the expected value. */
#define CHECK_EQ(is, should)                                             \
    cp_test_equal(__FILE__, __LINE__, #is " == " #should, (int64_t)(is), \
                  (int64_t)(should))
#define CHECK_BYTES(is, should, n) \
    cp_test_bytes(__FILE__, __LINE__, #is " == " #should, is, should, n)

/* How many descriptors this process has open. */
int cp_test_descriptors(void);

/* A pseudo-random number, the same in each run; *state is the seed. */
uint32_t cp_test_random(uint64_t *state);

/* Fill with pseudo-random bytes from seed; check bytes against these. */
void cp_test_pattern(uint8_t *bytes, size_t n, uint64_t seed);
void cp_test_check_pattern(const uint8_t *bytes, size_t n, uint64_t seed);

/* fork() that cannot fail; 0 in the child. */
int cp_test_fork(void);

/* Wait for this child: its exit code, negative for a signal. */
int cp_test_reap(int pid);

/* For a loop that waits for another thread or process: let that one run. A
 * thread that calls sched_yield() all the time may get no processor for minutes
 * on a busy machine, since Linux 6.18 counts each yield as time used. */
void cp_test_let_others_run(void);

/* Start a thread, which cannot fail; join a thread, for its return value. */
pthread_t cp_test_start(void *(*run)(void *), void *arg);
void *cp_test_join(pthread_t thread);

#endif
