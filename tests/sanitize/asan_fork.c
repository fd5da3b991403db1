/*
 * Makes fork() safe in a process with threads under AddressSanitizer.
 *
 * glibc's malloc is locked while a process forks, so that the copy never
 * finds it in use by a thread which it does not have. AddressSanitizer's
 * allocator, in the versions of gcc 12 and clang 14, is not: now and then a
 * forked child waits for ever, in its first allocation. This library, preloaded
 * before the sanitizer's own, keeps every thread out of the allocator while
 * one of them forks. ASAN_OPTIONS must have verify_asan_link_order=0.
 */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>

/* Many allocate at a time; who forks does so alone. */
static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;

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

static void
before_fork(void)
{
    (void)pthread_rwlock_wrlock(&gate);
}

static void
after_fork(void)
{
    (void)pthread_rwlock_unlock(&gate);
}

/* In the child the lock may have waiters that it does not have. */
static void
after_fork_in_child(void)
{
    gate = (pthread_rwlock_t)PTHREAD_RWLOCK_INITIALIZER;
}

__attribute__((constructor)) static void
start(void)
{
    (void)pthread_atfork(before_fork, after_fork, after_fork_in_child);
}
