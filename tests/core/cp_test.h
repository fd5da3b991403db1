/*
 * A test program for the core in a few lines.
 *
 * TEST(name) { ... } defines a test and registers it. Each one runs in a process
 * of its own, and in a process group of its own, so that a crash or a hang is
 * one failed test, and whatever it has forked goes with it. A test has to give
 * back what it took: it fails where it leaves a child or a descriptor.
 *
 * CHECK works in release builds, in any thread, and in any process that a test
 * forked: it says what is wrong and ends the whole group.
 */
#ifndef CP_TEST_H
#define CP_TEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The memory of this sanitizer may be locked in a process that is forked while
 * another thread allocates: such forks are left to the other builds. */
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

/* Say what is wrong and end the test. */
_Noreturn void cp_test_fail(const char *file, int line, const char *what);
void cp_test_equal(const char *file, int line, const char *what, int64_t is,
                   int64_t should);
void cp_test_bytes(const char *file, int line, const char *what, const void *is,
                   const void *should, size_t n);

#define CHECK(cond) ((cond) ? (void)0 : cp_test_fail(__FILE__, __LINE__, #cond))
/* Integers of any type; the second is what the first should be. */
#define CHECK_EQ(is, should)                                             \
    cp_test_equal(__FILE__, __LINE__, #is " == " #should, (int64_t)(is), \
                  (int64_t)(should))
#define CHECK_BYTES(is, should, n) \
    cp_test_bytes(__FILE__, __LINE__, #is " == " #should, is, should, n)

/* How many descriptors this process has open. */
int cp_test_descriptors(void);

/* A number from a sequence that is the same in each run; *state is its seed. */
uint32_t cp_test_random(uint64_t *state);

/* fork() that cannot fail; 0 in the child. */
int cp_test_fork(void);

/* Wait for this child: its exit code, negative for a signal. */
int cp_test_reap(int pid);

/* A thread that cannot fail, and its end: what it returned. */
pthread_t cp_test_start(void *(*run)(void *), void *arg);
void *cp_test_join(pthread_t thread);

#endif
