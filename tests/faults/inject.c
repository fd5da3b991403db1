/*
 * Makes one system call of the extension fail. Preloaded; fault_arm() says which.
 *
 * Only calls made by _core itself are looked at, so that the interpreter's own are never the
 * N-th. Each process is in one of two roles: the one that armed it is the parent, every copy of
 * that one is a worker; all workers count together. The counters are in memory that copies share.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* The formatter does not come to an end with this. */
/* clang-format off */
#define CALLS(X)                                                    \
    X(pipe2) X(eventfd) X(epoll_create1) X(epoll_ctl) X(epoll_wait) \
    X(memfd_create) X(ftruncate) X(fstat) X(mmap) X(madvise)        \
    X(fallocate) X(lseek) X(pwrite)                                 \
    X(fork) X(pidfd_open) X(fcntl) X(pthread_create)                \
    X(waitid) X(waitpid) X(poll) X(read) X(write) X(writev)         \
    X(pwritev2) X(open) X(opendir) X(malloc) X(calloc) X(realloc)
/* clang-format on */

enum call {
#define NAME(name) CALL_##name,
    CALLS(NAME)
#undef NAME
        N_CALLS
};

static const char *const names[] = {
#define NAME(name) #name,
    CALLS(NAME)
#undef NAME
};

#define SHORT (-1)  /* one byte instead of all */
#define OTHER (-2)  /* another file, which is empty */
#define SIGNAL (-3) /* the call works, but a signal arrives: SIGUSR2 */

struct shared {
    _Atomic uint64_t counts[2][N_CALLS]; /* by role: parent, worker */
    _Atomic uint64_t hits;
};

static struct shared *shared;
static pid_t parent; /* 0: not armed */
static int call = -1, role, error;
static uint64_t first, last; /* the calls that fail, from 1 */
static uintptr_t code_start, code_end;

static int
find_core(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    (void)arg;
    if (strstr(info->dlpi_name, "/_core.") == NULL) {
        return 0;
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0) {
            code_start = (uintptr_t)info->dlpi_addr + part->p_vaddr;
            code_end = code_start + part->p_memsz;
        }
    }
    return 1;
}

/* 0, or -1 where there is no such call or the extension is not loaded. first_ 0: only count. */
__attribute__((visibility("default"))) int
fault_arm(const char *name, int in_worker, unsigned long long first_,
          unsigned long long n, int error_)
{
    if (shared == NULL) {
        void *p = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            return -1;
        }
        shared = p;
    }
    memset((void *)shared, 0, sizeof(*shared));
    call = -1;
    for (int i = 0; i < N_CALLS; i++) {
        if (strcmp(names[i], name) == 0) {
            call = i;
        }
    }
    role = in_worker;
    first = first_;
    last = first_ > 0 ? first_ + n - 1 : 0;
    error = error_;
    (void)dl_iterate_phdr(find_core, NULL);
    parent = 0;
    return call >= 0 && code_end > 0 ? 0 : -1;
}

/* From now on calls count, and this process is the parent. */
__attribute__((visibility("default"))) void
fault_begin(void)
{
    parent = getpid();
}

__attribute__((visibility("default"))) void
fault_end(void)
{
    parent = 0;
}

/* How many calls there were, and how many of them were made to fail. */
__attribute__((visibility("default"))) unsigned long long
fault_count(const char *name, int in_worker)
{
    for (int i = 0; i < N_CALLS; i++) {
        if (strcmp(names[i], name) == 0) {
            return atomic_load(&shared->counts[in_worker][i]);
        }
    }
    return atomic_load(&shared->hits);
}

/* Is this the call that fails? caller: where it returns to. */
static bool
fails(enum call which, const void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    if (parent == 0 || at < code_start || at >= code_end) {
        return false;
    }
    int in_worker = getpid() != parent;
    uint64_t n = atomic_fetch_add(&shared->counts[in_worker][which], 1) + 1;
    if ((int)which != call || in_worker != role || n < first || n > last) {
        return false;
    }
    (void)atomic_fetch_add(&shared->hits, 1);
    if (error > 0) {
        errno = error;
    }
    return true;
}

#define FAILS(name) fails(CALL_##name, __builtin_return_address(0))
#define REAL(name)                                 \
    static __typeof__(name) *real;                 \
    if (real == NULL) {                            \
        *(void **)&real = dlsym(RTLD_NEXT, #name); \
    }

#define EXPORT __attribute__((visibility("default")))

EXPORT int
pipe2(int fds[2], int flags)
{
    REAL(pipe2)
    return FAILS(pipe2) ? -1 : real(fds, flags);
}

EXPORT int
eventfd(unsigned int value, int flags)
{
    REAL(eventfd)
    return FAILS(eventfd) ? -1 : real(value, flags);
}

EXPORT int
epoll_create1(int flags)
{
    REAL(epoll_create1)
    return FAILS(epoll_create1) ? -1 : real(flags);
}

EXPORT int
epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    REAL(epoll_ctl)
    return op != EPOLL_CTL_DEL && FAILS(epoll_ctl) ? -1
                                                   : real(epoll, op, fd, event);
}

EXPORT int
epoll_wait(int epoll, struct epoll_event *events, int max, int timeout)
{
    REAL(epoll_wait)
    return FAILS(epoll_wait) ? -1 : real(epoll, events, max, timeout);
}

EXPORT int
memfd_create(const char *name, unsigned int flags)
{
    REAL(memfd_create)
    return FAILS(memfd_create) ? -1 : real(name, flags);
}

EXPORT int
ftruncate(int fd, off_t size)
{
    REAL(ftruncate)
    return FAILS(ftruncate) ? -1 : real(fd, size);
}

EXPORT int
fstat(int fd, struct stat *st)
{
    REAL(fstat)
    return FAILS(fstat) ? -1 : real(fd, st);
}

EXPORT void *
mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
    REAL(mmap)
    return FAILS(mmap) ? MAP_FAILED : real(at, size, prot, flags, fd, offset);
}

EXPORT int
madvise(void *at, size_t size, int advice)
{
    REAL(madvise)
    return FAILS(madvise) ? -1 : real(at, size, advice);
}

EXPORT int
fallocate(int fd, int mode, off_t at, off_t size)
{
    REAL(fallocate)
    return FAILS(fallocate) ? -1 : real(fd, mode, at, size);
}

EXPORT off_t
lseek(int fd, off_t at, int whence)
{
    REAL(lseek)
    return FAILS(lseek) ? -1 : real(fd, at, whence);
}

EXPORT ssize_t
pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    REAL(pwrite)
    return !FAILS(pwrite)   ? real(fd, bytes, n, at)
           : error == SHORT ? real(fd, bytes, 1, at)
                            : -1;
}

EXPORT pid_t
fork(void)
{
    REAL(fork)
    if (!FAILS(fork)) {
        return real();
    }
    return error == SIGNAL && raise(SIGUSR2) == 0 ? real() : -1;
}

EXPORT long
syscall(long number, ...)
{
    REAL(syscall)
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(args, long);
    }
    va_end(args);
    if (number == SYS_pidfd_open && FAILS(pidfd_open)) {
        return -1;
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static int
any_fcntl(int fd, int op, void *arg)
{
    static int (*real)(int, int, ...);
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "fcntl64");
    }
    return real(fd, op, arg);
}

#define FCNTL(name)                                        \
    EXPORT int name(int fd, int op, ...)                   \
    {                                                      \
        va_list args;                                      \
        va_start(args, op);                                \
        void *arg = va_arg(args, void *);                  \
        va_end(args);                                      \
        return FAILS(fcntl) ? -1 : any_fcntl(fd, op, arg); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

EXPORT int
pthread_create(pthread_t *thread, const pthread_attr_t *attr,
               void *(*start)(void *), void *arg)
{
    REAL(pthread_create)
    return FAILS(pthread_create) ? error : real(thread, attr, start, arg);
}

/* ECHILD is said of a process that somebody else reaped, and of none that runs: reap it
 * first. False where it runs, and the call does not fail. */
static bool
is_reaped(pid_t pid, int options)
{
    int r;
    do {
        r = (int)syscall(SYS_wait4, pid, NULL, options & WNOHANG, NULL);
    } while (r < 0 && errno == EINTR);
    errno = ECHILD;
    return r != 0;
}

EXPORT int
waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
    REAL(waitid)
    bool failed =
        FAILS(waitid) && (error != ECHILD || is_reaped((pid_t)id, options));
    return failed ? -1 : real(type, id, info, options);
}

EXPORT pid_t
waitpid(pid_t pid, int *status, int options)
{
    REAL(waitpid)
    bool failed =
        FAILS(waitpid) && (error != ECHILD || is_reaped(pid, options));
    return failed ? -1 : real(pid, status, options);
}

EXPORT int
poll(struct pollfd *fds, nfds_t n, int timeout)
{
    REAL(poll)
    return FAILS(poll) ? -1 : real(fds, n, timeout);
}

/* Interpreters are built with large files, and then open() is open64(). */
#define OPEN(name)                                                    \
    EXPORT int name(const char *path, int flags, ...)                 \
    {                                                                 \
        static int (*real)(const char *, int, ...);                   \
        if (real == NULL) {                                           \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                \
        }                                                             \
        va_list args;                                                 \
        va_start(args, flags);                                        \
        int mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) != 0 \
                       ? va_arg(args, int)                            \
                       : 0;                                           \
        va_end(args);                                                 \
        if (!FAILS(open)) {                                           \
            return real(path, flags, mode);                           \
        }                                                             \
        return error == OTHER ? real("/dev/null", flags, mode) : -1;  \
    }
OPEN(open)
OPEN(open64)

EXPORT DIR *
opendir(const char *path)
{
    REAL(opendir)
    return FAILS(opendir) ? NULL : real(path);
}

/* One byte at a time is no error, but what an eventfd cannot do. */
EXPORT ssize_t
read(int fd, void *to, size_t n)
{
    REAL(read)
    if (!FAILS(read)) {
        return real(fd, to, n);
    }
    ssize_t r = error == SHORT ? real(fd, to, n > 0 ? 1 : 0) : -1;
    return r < 0 && error == SHORT && errno == EINVAL ? real(fd, to, n) : r;
}

EXPORT ssize_t
write(int fd, const void *from, size_t n)
{
    REAL(write)
    if (!FAILS(write)) {
        return real(fd, from, n);
    }
    ssize_t r = error == SHORT ? real(fd, from, n > 0 ? 1 : 0) : -1;
    return r < 0 && error == SHORT && errno == EINVAL ? real(fd, from, n) : r;
}

static struct iovec
one_byte(const struct iovec *parts, int n)
{
    int i = 0;
    while (i < n - 1 && parts[i].iov_len == 0) {
        i++;
    }
    return (struct iovec){parts[i].iov_base, parts[i].iov_len > 0 ? 1 : 0};
}

EXPORT ssize_t
writev(int fd, const struct iovec *parts, int n)
{
    REAL(writev)
    if (!FAILS(writev)) {
        return real(fd, parts, n);
    }
    struct iovec one = one_byte(parts, n);
    return error == SHORT ? real(fd, &one, 1) : -1;
}

EXPORT ssize_t
pwritev2(int fd, const struct iovec *parts, int n, off_t offset, int flags)
{
    REAL(pwritev2)
    if (!FAILS(pwritev2)) {
        return real(fd, parts, n, offset, flags);
    }
    struct iovec one = one_byte(parts, n);
    return error == SHORT ? real(fd, &one, 1, offset, flags) : -1;
}

#ifndef WITHOUT_MALLOC
/* These are glibc's own, since dlsym() allocates. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t n);

EXPORT void *
malloc(size_t n)
{
    return FAILS(malloc) ? NULL : __libc_malloc(n);
}

EXPORT void *
calloc(size_t n, size_t size)
{
    return FAILS(calloc) ? NULL : __libc_calloc(n, size);
}

EXPORT void *
realloc(void *old, size_t n)
{
    return FAILS(realloc) ? NULL : __libc_realloc(old, n);
}
#endif
