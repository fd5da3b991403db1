/* File descriptors and the table of the open ones; see os/fd.h. */
#include "os/fd.h"

#include "base/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__) && !defined(CP_PORTABLE)
#    include <sys/eventfd.h>
#    include <sys/syscall.h>
#    define CP_LINUX 1
#endif

/*
 * The open descriptors, one bit for each number. The table is process-wide
 * because a forked copy has no pointers to the pools whose descriptors it has
 * to close. Numbers beyond the table, above any RLIMIT_NOFILE in use, are not
 * recorded: the copy keeps those open until it exits.
 */
#define NOTED_MAX (1u << 20)
#define NOTED_WORDS (NOTED_MAX / 64u)
static _Atomic uint64_t noted[NOTED_WORDS]; /* lint-ok: see above */
static _Atomic uint32_t noted_words;        /* lint-ok: words in use */
/* Held from open to record, and from erase to close. */
static struct cp_lock lock = {PTHREAD_MUTEX_INITIALIZER}; /* lint-ok: too */

void
cp_fd_before_fork(void)
{
    cp_lock_acquire(&lock);
}

void
cp_fd_after_fork(void)
{
    cp_lock_release(&lock);
}

void
cp_fd_note(int fd)
{
    uint32_t n = (uint32_t)fd;
    if (n >= NOTED_MAX) {
        return;
    }
    uint32_t high = atomic_load(&noted_words);
    while (high <= n / 64u
           && !atomic_compare_exchange_weak(&noted_words, &high, n / 64u + 1)) {
    }
    (void)atomic_fetch_or(&noted[n / 64u], UINT64_C(1) << (n % 64u));
}

void
cp_fd_close(int *fd)
{
    if (*fd < 0) {
        return;
    }
    int saved = errno;
    uint32_t n = (uint32_t)*fd;
    cp_lock_acquire(&lock);
    if (n < NOTED_MAX) {
        (void)atomic_fetch_and(&noted[n / 64u], ~(UINT64_C(1) << (n % 64u)));
    }
    (void)close(*fd);
    cp_lock_release(&lock);
    *fd = -1;
    errno = saved;
}

/* Close n descriptors, from first on. */
static void
close_run(int first, int n)
{
#if defined(CP_LINUX) && defined(SYS_close_range)
    if (n > 1 && syscall(SYS_close_range, first, first + n - 1, 0) == 0) {
        return;
    }
#endif
    for (int i = 0; i < n; i++) {
        (void)close(first + i);
    }
}

static bool
is_kept(int fd, const int *keep, int n_keep)
{
    for (int i = 0; i < n_keep; i++) {
        if (keep[i] == fd) {
            return true;
        }
    }
    return false;
}

void
cp_fd_in_child(const int *keep, int n_keep)
{
    (void)cp_lock_init(&lock); /* a thread of the parent may have held it */
    uint32_t words = atomic_load(&noted_words);
    int first = 0, n = 0; /* descriptors in a row that are to be closed */
    for (uint32_t w = 0; w < words; w++) {
        uint64_t bits = atomic_exchange(&noted[w], 0);
        for (; bits != 0; bits &= bits - 1) {
            int fd = (int)(w * 64u) + __builtin_ctzll(bits);
            if (is_kept(fd, keep, n_keep)) {
                continue;
            }
            if (fd != first + n) {
                close_run(first, n);
                first = fd;
                n = 0;
            }
            n++;
        }
    }
    close_run(first, n);
}

/* Note what has just been opened, with the lock still held: 0, or the error if
 * fd is negative. */
static int
note_opened(int fd)
{
    if (fd < 0) {
        return CP_ERRNO(errno);
    }
    cp_fd_note(fd);
    return 0;
}

static int
open_pipe(int fds[2])
{
#ifdef CP_LINUX
    int r = pipe2(fds, O_CLOEXEC);
#else
    int r = pipe(fds);
    if (r == 0) {
        (void)fcntl(fds[0], F_SETFD, FD_CLOEXEC);
        (void)fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    }
#endif
    if (r != 0) {
        int e = errno;
        fds[0] = fds[1] = -1;
        return CP_ERRNO(e);
    }
    cp_fd_note(fds[0]);
    cp_fd_note(fds[1]);
    return 0;
}

int
cp_fd_pipe(int fds[2])
{
    cp_lock_acquire(&lock);
    int r = open_pipe(fds);
    cp_lock_release(&lock);
    return r;
}

void
cp_fd_widen(int fd)
{
#ifdef F_SETPIPE_SZ
    (void)fcntl(fd, F_SETPIPE_SZ, (int)CP_WIDE);
#else
    (void)fd;
#endif
}

int
cp_fd_dup(int fd, int *copy)
{
    cp_lock_acquire(&lock);
    *copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int r = note_opened(*copy);
    cp_lock_release(&lock);
    return r;
}

/* Open a file of that size in dir, and unlink it at once. Its blocks are
 * allocated: if the file system is full, the first access would be a SIGBUS. */
static int
open_unlinked(const char *dir, size_t size)
{
    char name[256];
    int n = snprintf(name, sizeof(name), "%s/cpool-XXXXXX", dir);
    if (n < 0 || (size_t)n >= sizeof(name)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = mkstemp(name);
    if (fd < 0) {
        return -1;
    }
    (void)unlink(name);
    int e = fcntl(fd, F_SETFD, FD_CLOEXEC) != 0
                ? errno
                : posix_fallocate(fd, 0, (off_t)size);
    if (e == EINVAL || e == EOPNOTSUPP) {
        e = ftruncate(fd, (off_t)size) != 0 ? errno : 0;
    }
    if (e != 0) {
        (void)close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

/* Shared memory if there is no memfd: in memory if the system has a folder for
 * that, or else in a temporary file. */
static int
open_memory_file(size_t size)
{
    static const char *const dirs[] = {"/dev/shm", "/tmp", "/var/tmp"};
    int fd = -1;
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]) && fd < 0; i++) {
        fd = open_unlinked(dirs[i], size);
    }
    return fd;
}

static int
open_memory(size_t size)
{
#ifdef CP_LINUX
    int fd = memfd_create("cpool", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0) {
        return fd;
    }
    int e = errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    if (e == EMFILE || e == ENFILE) {
        errno = e;
        return -1;
    }
#endif
    return open_memory_file(size);
}

int
cp_fd_memory(size_t size, int *fd)
{
    cp_lock_acquire(&lock);
    *fd = open_memory(size);
    int r = note_opened(*fd);
    cp_lock_release(&lock);
    return r;
}

#if defined(CP_LINUX) && defined(F_SEAL_SHRINK)
/* Would a file of this size raise a signal (SIGXFSZ)? */
static bool
is_too_large(uint64_t size)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size;
}
#endif

int
cp_fd_memory_to_seal(int *fd)
{
    *fd = -1;
#if defined(CP_LINUX) && defined(F_SEAL_WRITE)
    if (is_too_large(UINT64_C(1) << 47)) {
        return CP_ERRNO(EFBIG);
    }
    cp_lock_acquire(&lock);
    *fd = memfd_create("cpool-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int r = note_opened(*fd);
    cp_lock_release(&lock);
    return r;
#else
    return CP_ERRNO(ENOSYS);
#endif
}

int
cp_fd_seal(int fd)
{
#if defined(CP_LINUX) && defined(F_SEAL_WRITE)
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    return fcntl(fd, F_ADD_SEALS, seals) == 0 ? 0 : CP_ERRNO(errno);
#else
    (void)fd;
    return CP_ERRNO(ENOSYS);
#endif
}

int
cp_fd_write_at(int fd, uint64_t at, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    while (n > 0) {
        size_t most = n < (size_t)1 << 30 ? n : (size_t)1 << 30;
        ssize_t written = pwrite(fd, from, most, (off_t)at);
        if (written > 0) {
            from += written;
            at += (uint64_t)written;
            n -= (size_t)written;
        } else if (written == 0 || errno != EINTR) {
            return CP_ERRNO(written == 0 ? ENOSPC : errno);
        }
    }
    return 0;
}

#define PROC_PATH 64

bool
cp_fd_may_open_of(pid_t pid)
{
#ifdef CP_LINUX
    char path[PROC_PATH], target[1];
    (void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
    return readlink(path, target, sizeof(target)) > 0;
#else
    (void)pid;
    return false;
#endif
}

static int
open_noted(const char *path, int flags, int *fd)
{
    cp_lock_acquire(&lock);
    *fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    int r = note_opened(*fd);
    cp_lock_release(&lock);
    return r;
}

int
cp_fd_open_of(pid_t pid, int number, int *fd)
{
    char path[PROC_PATH];
    (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, number);
    return open_noted(path, 0, fd);
}

int
cp_fd_reopen(int fd, int *copy)
{
    char path[PROC_PATH];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open_noted(path, O_NONBLOCK, copy);
}

int
cp_fd_sealed_memory(uint64_t size, int *fd)
{
    int r = CP_ERRNO(ENOSYS);
    *fd = -1;
#if defined(CP_LINUX) && defined(F_SEAL_SHRINK)
    if (is_too_large(size)) {
        return CP_ERRNO(EFBIG);
    }
    cp_lock_acquire(&lock);
    *fd = memfd_create("cpool-data", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd >= 0 && ftruncate(*fd, (off_t)size) == 0
        && fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
               == 0) {
        cp_fd_note(*fd);
        r = 0;
    } else {
        r = CP_ERRNO(errno);
        if (*fd >= 0) {
            (void)close(*fd);
        }
        *fd = -1;
    }
    cp_lock_release(&lock);
#else
    (void)size;
#endif
    return r;
}

int
cp_fd_set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        return CP_ERRNO(errno);
    }
    return 0;
}

static ssize_t
io_error(void)
{
    switch (errno) {
        case EAGAIN: return 0;
        case EINTR: return CP_EINTR;
        case EPIPE: return CP_ECLOSED;
        default: return CP_ERRNO(errno);
    }
}

ssize_t
cp_fd_read(int fd, void *dst, size_t n)
{
    ssize_t r = read(fd, dst, n);
    if (r > 0) {
        return r;
    }
    return r == 0 ? CP_ECLOSED : io_error();
}

int
cp_fd_wait_readable(int fd, int ms)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    int r = poll(&pfd, 1, ms);
    /* Any other error will show when the caller reads. */
    return r == 0 ? 0 : r < 0 && errno == EINTR ? CP_EINTR : 1;
}

/* Python ignores SIGPIPE, but the program may have set it back to its default,
 * or set a handler. */
static bool
is_sigpipe_ignored(void)
{
    struct sigaction act;
    return sigaction(SIGPIPE, NULL, &act) == 0
           && (act.sa_flags & SA_SIGINFO) == 0 && act.sa_handler == SIG_IGN;
}

static bool
is_pending(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigpending(&set);
    return sigismember(&set, SIGPIPE) == 1;
}

/* Take the SIGPIPE that is pending for this thread, or else for the process. */
static void
take_sigpipe(const sigset_t *only)
{
#ifdef __APPLE__
    int taken;
    (void)sigwait(only, &taken); /* does not wait: the signal is pending */
#else
    struct timespec now = {0, 0};
    while (sigtimedwait(only, NULL, &now) < 0 && errno == EINTR) {
    }
#endif
}

/* writev() with SIGPIPE blocked in this thread. The signal of a write goes to the
 * thread that writes, where it is taken before SIGPIPE is unblocked. */
static ssize_t
writev_quietly(int fd, const struct iovec *parts, int n_parts)
{
    sigset_t only, old;
    (void)sigemptyset(&only);
    (void)sigaddset(&only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &only, &old);
    bool was_pending = is_pending();
    ssize_t r = writev(fd, parts, n_parts);
    int e = errno;
    if (r < 0 && e == EPIPE && is_pending()) {
        take_sigpipe(&only);
        if (was_pending && !is_pending()) {
            (void)raise(SIGPIPE); /* one of this thread had merged with ours */
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = e;
    return r;
}

#if defined(CP_LINUX) && defined(__GLIBC_PREREQ)
#    if __GLIBC_PREREQ(2, 26)
#        define CP_HAS_PWRITEV2 1
#    endif
#endif
#ifdef CP_HAS_PWRITEV2
#    ifndef RWF_NOSIGNAL
#        define RWF_NOSIGNAL 0x100
#    endif
static atomic_bool is_flag_unknown; /* lint-ok: of the system, for all pools */

/* From Linux 6.18 on, a flag of the write suppresses SIGPIPE. False: the system
 * is older, or a filter of system calls refuses the call. */
static bool
writev_without_signal(int fd, const struct iovec *parts, int n_parts,
                      ssize_t *r)
{
    if (atomic_load(&is_flag_unknown)) {
        return false;
    }
    *r = pwritev2(fd, parts, n_parts, -1, RWF_NOSIGNAL);
    if (*r >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EPERM)) {
        return true;
    }
    atomic_store(&is_flag_unknown, true);
    return false;
}
#else
#    define writev_without_signal(fd, parts, n_parts, r) false
#endif

ssize_t
cp_fd_writev(int fd, const struct iovec *parts, int n_parts)
{
    ssize_t r;
    if (!writev_without_signal(fd, parts, n_parts, &r)) {
        r = is_sigpipe_ignored() ? writev(fd, parts, n_parts)
                                 : writev_quietly(fd, parts, n_parts);
    }
    return r >= 0 ? r : io_error();
}

ssize_t
cp_fd_writev_to_parent(int fd, const struct iovec *parts, int n_parts)
{
    ssize_t r = writev(fd, parts, n_parts);
    return r >= 0 ? r : io_error();
}

int
cp_wake_init(struct cp_wake *wake)
{
    wake->fds[0] = wake->fds[1] = -1;
#ifdef CP_LINUX
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return CP_ERRNO(errno);
    }
    cp_fd_note(fd);
    wake->fds[0] = wake->fds[1] = fd;
    return 0;
#else
    int r = cp_fd_pipe(wake->fds);
    if (r == 0 && (r = cp_fd_set_nonblock(wake->fds[0])) == 0) {
        r = cp_fd_set_nonblock(wake->fds[1]);
    }
    if (r != 0) {
        cp_wake_fini(wake);
    }
    return r;
#endif
}

void
cp_wake_fini(struct cp_wake *wake)
{
    if (wake->fds[1] != wake->fds[0]) {
        cp_fd_close(&wake->fds[1]);
    }
    cp_fd_close(&wake->fds[0]);
    wake->fds[1] = -1;
}

void
cp_wake_notify(struct cp_wake *wake)
{
    uint64_t one = 1;
    ssize_t r;
    do {
        /* EAGAIN: a notification is pending already. No SIGPIPE: the read end is
         * ours too. */
        r = write(wake->fds[1], &one, sizeof(one));
    } while (r < 0 && errno == EINTR);
}

void
cp_wake_drain(struct cp_wake *wake)
{
    uint8_t bytes[64];
    ssize_t r;
    do {
        r = read(wake->fds[0], bytes, sizeof(bytes));
    } while (r == (ssize_t)sizeof(bytes) || (r < 0 && errno == EINTR));
}
