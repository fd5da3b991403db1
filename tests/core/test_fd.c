/* Descriptors and the wake-up. */
#include "os/fd.h"
#include "cp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#if defined(__linux__) && defined(__x86_64__)
#    include <linux/filter.h>
#    include <linux/seccomp.h>
#    include <sys/prctl.h>
#    include <sys/syscall.h>
#endif

static void
open_pipe(int fds[2])
{
    CHECK_EQ(cp_fd_pipe(fds), 0);
}

static void
close_pipe(int fds[2])
{
    cp_fd_close(&fds[0]);
    cp_fd_close(&fds[1]);
}

static bool
is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

TEST(fd_pipe_is_closed_on_exec)
{
    int fds[2];
    open_pipe(fds);
    CHECK_EQ(fcntl(fds[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    CHECK_EQ(fcntl(fds[1], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close_pipe(fds);
}

TEST(fd_close_is_idempotent_and_keeps_errno)
{
    int fds[2];
    open_pipe(fds);
    int was = fds[0];
    errno = EXDEV;
    cp_fd_close(&fds[0]);
    CHECK_EQ(errno, EXDEV);
    CHECK_EQ(fds[0], -1);
    CHECK(!is_open(was));
    cp_fd_close(&fds[0]);
    close_pipe(fds);
}

TEST(fd_lack_of_descriptors_is_an_error)
{
    struct rlimit old;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit low = {(rlim_t)dup(0), old.rlim_max};
    (void)close((int)low.rlim_cur);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    int fds[2] = {7, 7};
    struct cp_wake wake;
    CHECK_EQ(cp_fd_pipe(fds), CP_ERRNO(EMFILE));
    CHECK_EQ(fds[0], -1);
    CHECK_EQ(fds[1], -1);
    CHECK_EQ(cp_wake_init(&wake), CP_ERRNO(EMFILE));
    cp_wake_fini(&wake);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    open_pipe(fds);
    close_pipe(fds);
}

TEST(fd_read_and_write)
{
    int fds[2];
    open_pipe(fds);
    CHECK_EQ(cp_fd_set_nonblock(fds[0]), 0);
    CHECK_EQ(cp_fd_set_nonblock(fds[1]), 0);
    char bytes[16];
    CHECK_EQ(cp_fd_read(fds[0], bytes, sizeof(bytes)), 0);
    char text[] = "abcde";
    struct iovec parts[3] = {{text, 2}, {NULL, 0}, {text + 2, 3}};
    CHECK_EQ(cp_fd_writev(fds[1], parts, 3), 5);
    CHECK_EQ(cp_fd_read(fds[0], bytes, 4), 4);
    CHECK_BYTES(bytes, "abcd", 4);
    CHECK_EQ(cp_fd_read(fds[0], bytes, sizeof(bytes)), 1);
    CHECK_EQ(cp_fd_read(fds[0], bytes, sizeof(bytes)), 0);
    cp_fd_close(&fds[1]);
    CHECK_EQ(cp_fd_read(fds[0], bytes, sizeof(bytes)), CP_ECLOSED);
    close_pipe(fds);
}

TEST(fd_full_pipe_says_try_later)
{
    int fds[2];
    open_pipe(fds);
    CHECK_EQ(cp_fd_set_nonblock(fds[1]), 0);
    static char bytes[1 << 16];
    struct iovec part = {bytes, sizeof(bytes)};
    ssize_t n, sum = 0;
    while ((n = cp_fd_writev(fds[1], &part, 1)) > 0) {
        sum += n;
    }
    CHECK_EQ(n, 0);
    CHECK(sum > 0);
    close_pipe(fds);
}

TEST(fd_writing_without_a_reader_is_closed)
{
    int fds[2];
    open_pipe(fds);
    cp_fd_close(&fds[0]);
    char byte = 'x';
    struct iovec part = {&byte, 1};
    CHECK_EQ(cp_fd_writev(fds[1], &part, 1), CP_ECLOSED);
    close_pipe(fds);
}

/* ---- SIGPIPE ---- */

static volatile sig_atomic_t n_sigpipe;

static void
on_sigpipe(int signal_number)
{
    (void)signal_number;
    n_sigpipe++;
}

static bool
is_sigpipe_pending(void)
{
    sigset_t set;
    CHECK_EQ(sigpending(&set), 0);
    return sigismember(&set, SIGPIPE) == 1;
}

static void
write_to_nobody(void)
{
    int fds[2];
    char byte = 'x';
    struct iovec part = {&byte, 1};
    open_pipe(fds);
    CHECK_EQ(cp_fd_writev(fds[1], &part, 1), 1);
    cp_fd_close(&fds[0]);
    CHECK_EQ(cp_fd_writev(fds[1], &part, 1), CP_ECLOSED);
    CHECK_EQ(errno, EPIPE);
    close_pipe(fds);
}

TEST(fd_writing_to_nobody_raises_no_signal)
{
    struct sigaction simple = {.sa_handler = on_sigpipe},
                     default_action = {.sa_handler = SIG_DFL};
    sigset_t set;
    CHECK_EQ(sigaction(SIGPIPE, &default_action, NULL), 0);
    write_to_nobody();
    CHECK_EQ(sigaction(SIGPIPE, &simple, NULL), 0);
    write_to_nobody();
    simple.sa_flags = SA_SIGINFO;
    CHECK_EQ(sigaction(SIGPIPE, &simple, NULL), 0);
    write_to_nobody();
    CHECK_EQ(n_sigpipe, 0);
    CHECK(!is_sigpipe_pending());
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &set), 0);
    CHECK_EQ(sigismember(&set, SIGPIPE), 0);
}

/* A signal from another sender is not lost, and the signal mask is
 * unchanged. */
TEST(fd_writing_to_nobody_takes_no_signal_of_others)
{
    struct sigaction act = {.sa_handler = on_sigpipe};
    sigset_t set;
    CHECK_EQ(sigaction(SIGPIPE, &act, NULL), 0);
    CHECK_EQ(sigemptyset(&set), 0);
    CHECK_EQ(sigaddset(&set, SIGPIPE), 0);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    write_to_nobody();
    CHECK(!is_sigpipe_pending());
    for (int i = 1; i <= 2; i++) { /* for the process, and for this thread */
        CHECK_EQ(i == 1 ? kill(getpid(), SIGPIPE) : raise(SIGPIPE), 0);
        write_to_nobody();
        CHECK(is_sigpipe_pending());
        CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
        CHECK_EQ(n_sigpipe, i);
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    }
}

TEST(fd_errors_are_codes)
{
    char byte;
    struct iovec part = {&byte, 1};
    CHECK_EQ(cp_fd_read(-1, &byte, 1), CP_ERRNO(EBADF));
    CHECK_EQ(cp_fd_writev(-1, &part, 1), CP_ERRNO(EBADF));
    CHECK_EQ(cp_fd_set_nonblock(-1), CP_ERRNO(EBADF));
    CHECK_EQ(CP_ERRNO_OF(CP_ERRNO(EBADF)), EBADF);
    CHECK_EQ(CP_ERRNO_OF(CP_ETOOBIG), 0);
    CHECK_EQ(CP_ERRNO_OF(0), 0);
}

static void
on_alarm(int signal_number)
{
    (void)signal_number;
}

TEST(fd_blocking_read_is_interrupted_by_a_signal)
{
    int fds[2];
    open_pipe(fds);
    struct sigaction act = {.sa_handler = on_alarm};
    CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    CHECK_EQ(setitimer(ITIMER_REAL, &often, NULL), 0);
    char byte;
    CHECK_EQ(cp_fd_read(fds[0], &byte, 1), CP_EINTR);
    CHECK_EQ(setitimer(ITIMER_REAL, &never, NULL), 0);
    close_pipe(fds);
}

/* A forked copy closes all noted descriptors except the kept ones, and no others. */
TEST(fd_copies_close_noted_descriptors)
{
    int a[2], b[2], foreign[2];
    open_pipe(a);
    open_pipe(b);
    CHECK_EQ(pipe(foreign), 0);
    int high = fcntl(foreign[1], F_DUPFD_CLOEXEC, 500);
    CHECK(high >= 500);
    cp_fd_note(high);
    int pid = cp_test_fork();
    if (pid == 0) {
        int keep[] = {-1, b[0], a[1]};
        cp_fd_in_child(keep, 3);
        CHECK(!is_open(a[0]) && is_open(a[1]));
        CHECK(is_open(b[0]) && !is_open(b[1]));
        CHECK(is_open(foreign[0]) && is_open(foreign[1]));
        CHECK(!is_open(high));
        /* The copy has forgotten the numbers, which may belong to other
         * descriptors now. */
        CHECK(dup2(foreign[0], a[0]) >= 0);
        cp_fd_in_child(NULL, 0);
        CHECK(is_open(a[0]) && is_open(a[1]) && is_open(b[0]));
        _exit(0);
    }
    CHECK_EQ(cp_test_reap(pid), 0);
    CHECK(is_open(a[0]) && is_open(b[1]) && is_open(high));
    close_pipe(a);
    close_pipe(b);
    cp_fd_close(&high);
    (void)close(foreign[0]);
    (void)close(foreign[1]);
}

TEST(fd_end_of_file_arrives_in_spite_of_copies)
{
    int fds[2], ready[2];
    char byte;
    open_pipe(fds);
    CHECK_EQ(pipe(ready), 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        cp_fd_in_child(NULL, 0);
        CHECK_EQ(write(ready[1], "x", 1), 1);
        for (;;) {
            (void)pause();
        }
    }
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    cp_fd_close(&fds[1]);
    CHECK_EQ(cp_fd_read(fds[0], &byte, 1), CP_ECLOSED);
    close_pipe(fds);
    (void)close(ready[0]);
    (void)close(ready[1]);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(cp_test_reap(pid), -SIGKILL);
}

static bool
is_readable(int fd)
{
    struct pollfd pfd = {fd, POLLIN, 0};
    CHECK(poll(&pfd, 1, 0) >= 0);
    return pfd.revents != 0;
}

TEST(wake_is_seen_once_however_often_notified)
{
    struct cp_wake wake;
    CHECK_EQ(cp_wake_init(&wake), 0);
    CHECK(!is_readable(wake.fds[0]));
    cp_wake_drain(&wake);
    for (int i = 0; i < 100000; i++) {
        cp_wake_notify(&wake); /* more than a pipe holds */
    }
    CHECK(is_readable(wake.fds[0]));
    cp_wake_drain(&wake);
    CHECK(!is_readable(wake.fds[0]));
    cp_wake_notify(&wake);
    CHECK(is_readable(wake.fds[0]));
    cp_wake_fini(&wake);
    CHECK_EQ(wake.fds[0], -1);
    CHECK_EQ(wake.fds[1], -1);
    cp_wake_fini(&wake);
}

static void
check_memory(void)
{
    int fd;
    CHECK_EQ(cp_fd_memory(10000, &fd), 0);
    CHECK_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(st.st_size, 10000);
    CHECK_EQ(st.st_nlink, 0);
    uint8_t *bytes =
        mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(bytes != MAP_FAILED);
    for (int i = 0; i < 10000; i++) {
        CHECK_EQ(bytes[i], 0);
    }
    int pid = cp_test_fork();
    if (pid == 0) {
        cp_fd_in_child(NULL, 0); /* the descriptor is noted */
        CHECK(!is_open(fd));
        bytes[9999] = 7;
        _exit(0);
    }
    CHECK_EQ(cp_test_reap(pid), 0);
    CHECK_EQ(bytes[9999], 7);
    CHECK_EQ(munmap(bytes, 10000), 0);
    cp_fd_close(&fd);
}

TEST(fd_memory_is_zeros_without_a_name)
{
    check_memory();
}

#if defined(__linux__) && defined(__x86_64__)
/* From now on memfd_create() fails with this error, as in a sandbox. files:
 * openat() fails for all paths, too. */
static void
refuse(int error, bool files)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, files ? SYS_openat : 0xffffffffu, 1,
                 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST(fd_memory_needs_no_memfd)
{
    int errors[] = {EPERM, ENOSYS, EACCES};
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        int pid = cp_test_fork();
        if (pid == 0) {
            refuse(errors[i], false);
            check_memory();
            _exit(0);
        }
        CHECK_EQ(cp_test_reap(pid), 0);
    }
}

TEST(fd_memory_that_is_refused_is_an_error)
{
    int pid = cp_test_fork();
    if (pid == 0) {
        int fd = 7;
        refuse(EACCES, true);
        CHECK_EQ(cp_fd_memory(10, &fd), CP_ERRNO(EACCES));
        CHECK_EQ(fd, -1);
        _exit(0);
    }
    CHECK_EQ(cp_test_reap(pid), 0);
}
#endif

TEST(fd_memory_that_cannot_be_leaves_nothing)
{
    int before = cp_test_descriptors(), fd = 7;
    CHECK(cp_fd_memory(SIZE_MAX, &fd) < 0);
    CHECK_EQ(fd, -1);
    struct rlimit old;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit low = {(rlim_t)dup(0), old.rlim_max};
    (void)close((int)low.rlim_cur);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    CHECK_EQ(cp_fd_memory(10, &fd), CP_ERRNO(EMFILE));
    CHECK_EQ(fd, -1);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK_EQ(cp_test_descriptors(), before);
}

/* A pipe is enlarged, if the system allows that; other descriptors are left
 * alone. */
TEST(fd_pipe_is_widened)
{
    static char bytes[CP_WIDE];
    int fds[2];
    CHECK_EQ(cp_fd_pipe(fds), 0);
    CHECK_EQ(cp_fd_set_nonblock(fds[1]), 0);
    cp_fd_widen(fds[1]);
    struct iovec part = {bytes, sizeof(bytes)};
    ssize_t n = cp_fd_writev(fds[1], &part, 1);
#ifndef CP_PORTABLE
    CHECK_EQ(n, (ssize_t)sizeof(bytes));
#endif
    CHECK(n >= 4096);
    CHECK_EQ(cp_fd_writev(fds[1], &part, 1), 0);
    cp_fd_close(&fds[0]);
    cp_fd_close(&fds[1]);
    cp_fd_widen(-1);
}
