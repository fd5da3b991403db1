/*
 * Makes fork() safe in a process with threads under AddressSanitizer.
 *
 * glibc's malloc is locked while a process forks, so that the copy never
 * finds it in use by a thread which it does not have. AddressSanitizer's
 * allocator, in the versions of gcc 12 and clang 14, is not: now and then a
 * forked child waits for ever, in its first allocation. This library, preloaded
 * before the sanitizer's own, keeps every thread out of the allocator while
 * one of them forks. The sanitizer's code that runs at the start and at the end of a
 * thread uses the allocator, too: a fork waits until no thread is there. No fork
 * waits for ever: after WAIT_S seconds it goes on, and writes what it waited for
 * to the file that ASAN_FORK_LOG names. ASAN_OPTIONS must have
 * verify_asan_link_order=0.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_S = 5 };

/* Many allocate at a time; who forks does so alone. */
static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;
static bool gate_is_shut;

/* Held by who forks, and to change what follows. */
static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;
/* Two for each thread that is being created: one is its own, one its creator's. */
static int n_starting;
/* Threads that have returned from their function, and may still be there. */
static pid_t leaving[1024];
static size_t n_leaving;

struct start {
    void *(*run)(void *);
    void *arg;
};

extern int __interceptor_pthread_create(pthread_t *thread,
                                        const pthread_attr_t *attr,
                                        void *(*run)(void *), void *arg);
extern void *__interceptor_malloc(size_t size);
extern void *__interceptor_calloc(size_t n, size_t size);
extern void *__interceptor_realloc(void *old, size_t size);
extern void *__interceptor_memalign(size_t alignment, size_t size);
extern void *__interceptor_aligned_alloc(size_t alignment, size_t size);
extern int __interceptor_posix_memalign(void **to, size_t alignment,
                                        size_t size);
extern void __interceptor_free(void *old);

#define GATED(type, call)               \
    (void)pthread_rwlock_rdlock(&gate); \
    type result = call;                 \
    (void)pthread_rwlock_unlock(&gate); \
    return result

void *
malloc(size_t size)
{
    GATED(void *, __interceptor_malloc(size));
}

void *
calloc(size_t n, size_t size)
{
    GATED(void *, __interceptor_calloc(n, size));
}

void *
realloc(void *old, size_t size)
{
    GATED(void *, __interceptor_realloc(old, size));
}

void *
memalign(size_t alignment, size_t size)
{
    GATED(void *, __interceptor_memalign(alignment, size));
}

void *
aligned_alloc(size_t alignment, size_t size)
{
    GATED(void *, __interceptor_aligned_alloc(alignment, size));
}

int
posix_memalign(void **to, size_t alignment, size_t size)
{
    GATED(int, __interceptor_posix_memalign(to, alignment, size));
}

void
free(void *old)
{
    int saved = errno;
    (void)pthread_rwlock_rdlock(&gate);
    __interceptor_free(old);
    (void)pthread_rwlock_unlock(&gate);
    errno = saved;
}

static pid_t
own_number(void)
{
    return (pid_t)syscall(SYS_gettid);
}

static bool
is_there(pid_t thread)
{
    return syscall(SYS_tgkill, getpid(), thread, 0) == 0 || errno != ESRCH;
}

/* With `threads` locked. */
static void
forget_threads_that_are_gone(void)
{
    int saved = errno;
    size_t n = 0;
    for (size_t i = 0; i < n_leaving; i++) {
        if (is_there(leaving[i])) {
            leaving[n++] = leaving[i];
        }
    }
    n_leaving = n;
    errno = saved;
}

static void
end_starting(void)
{
    (void)pthread_mutex_lock(&threads);
    n_starting--;
    (void)pthread_mutex_unlock(&threads);
}

static void
leave(void *unused)
{
    (void)unused;
    (void)pthread_mutex_lock(&threads);
    if (n_leaving == sizeof(leaving) / sizeof(*leaving)) {
        forget_threads_that_are_gone();
    }
    if (n_leaving < sizeof(leaving) / sizeof(*leaving)) {
        leaving[n_leaving++] = own_number();
    }
    (void)pthread_mutex_unlock(&threads);
}

static void *
run(void *arg)
{
    struct start start = *(struct start *)arg;
    void *result;
    free(arg);
    end_starting();
    pthread_cleanup_push(leave, NULL);
    result = start.run(start.arg);
    pthread_cleanup_pop(1);
    return result;
}

int
pthread_create(pthread_t *thread, const pthread_attr_t *attr,
               void *(*function)(void *), void *arg)
{
    struct start *start = malloc(sizeof(*start));
    if (start == NULL) {
        return EAGAIN;
    }
    *start = (struct start){function, arg};
    (void)pthread_mutex_lock(&threads);
    n_starting += 2;
    (void)pthread_mutex_unlock(&threads);
    int error = __interceptor_pthread_create(thread, attr, run, start);
    if (error != 0) {
        end_starting();
        free(start);
    }
    end_starting();
    return error;
}

/* A line in the log, with what the kernel says of a thread. */
static void
say(const char *text, int n, pid_t thread)
{
    char line[300], path[64], state[160] = "";
    const char *log = getenv("ASAN_FORK_LOG");
    int to = log != NULL ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)thread);
    int from = thread != 0 ? open(path, O_RDONLY) : -1;
    if (from >= 0) {
        (void)!read(from, state, sizeof(state) - 1);
        (void)close(from);
    }
    int size = snprintf(line, sizeof(line), "fork in %d: %s: %d; %s\n",
                        (int)getpid(), text, n, state);
    if (to >= 0) {
        (void)!write(to, line, (size_t)size);
        (void)close(to);
    }
}

/* With `threads` locked. */
static void
wait_for_threads(const struct timespec *until)
{
    struct timespec now;
    for (;;) {
        forget_threads_that_are_gone();
        if (n_starting == 0 && n_leaving == 0) {
            return;
        }
        (void)clock_gettime(CLOCK_REALTIME, &now);
        if (now.tv_sec > until->tv_sec) {
            say("still starting", n_starting, 0);
            say("still ending", (int)n_leaving, n_leaving > 0 ? leaving[0] : 0);
            return;
        }
        (void)pthread_mutex_unlock(&threads);
        /* Since Linux 6.18, who yields all the time may wait for minutes. */
        (void)nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        (void)pthread_mutex_lock(&threads);
    }
}

static void
before_fork(void)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    (void)pthread_mutex_lock(&threads);
    wait_for_threads(&until);
    until.tv_sec += WAIT_S;
    int error = pthread_rwlock_timedwrlock(&gate, &until);
    gate_is_shut = error == 0;
    if (error != 0) {
        say("the allocator is in use", error, 0);
    }
}

static void
after_fork(void)
{
    if (gate_is_shut) {
        (void)pthread_rwlock_unlock(&gate);
    }
    (void)pthread_mutex_unlock(&threads);
}

/* In the child the locks may have waiters that it does not have. */
static void
after_fork_in_child(void)
{
    gate = (pthread_rwlock_t)PTHREAD_RWLOCK_INITIALIZER;
    threads = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    n_starting = 0;
    n_leaving = 0;
}

__attribute__((constructor)) static void
start(void)
{
    (void)pthread_atfork(before_fork, after_fork, after_fork_in_child);
}
