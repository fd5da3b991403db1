/* One child process: reaped by its pid, never signalled after that. */
#include "os/proc.h"

#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__) && !defined(CP_PORTABLE)
#    include <sys/syscall.h>
#endif

#ifdef SYS_pidfd_open
static int
pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0u);
}

/* Old kernels and some sandboxes have no pidfd_open(). Find out before the fork,
 * while a pipe can still be made. */
static bool
has_pidfd(void)
{
    int fd = pidfd_open(getpid());
    if (fd < 0) {
        return errno == EMFILE || errno == ENFILE;
    }
    (void)close(fd);
    return true;
}
#else
static int
pidfd_open(pid_t pid)
{
    (void)pid;
    errno = ENOSYS;
    return -1;
}

static bool
has_pidfd(void)
{
    return false;
}
#endif

#if defined(MADV_WIPEONFORK) && !defined(CP_PORTABLE)
/* A page that holds the pid; the kernel zeroes it in a forked copy. NULL: not
 * mapped yet. MAP_FAILED: the kernel is too old. The page is never unmapped. */
static _Atomic(_Atomic pid_t *) self_page; /* lint-ok: see above */

static _Atomic pid_t *
make_self_page(void)
{
    void *page = mmap(NULL, sizeof(pid_t), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED
        && madvise(page, sizeof(pid_t), MADV_WIPEONFORK) != 0) {
        (void)munmap(page, sizeof(pid_t));
        page = MAP_FAILED;
    }
    _Atomic pid_t *expected = NULL;
    if (atomic_compare_exchange_strong(&self_page, &expected, page)) {
        return page;
    }
    if (page != MAP_FAILED) {
        (void)munmap(page, sizeof(pid_t)); /* another thread won the race */
    }
    return expected;
}

pid_t
cp_proc_self(void)
{
    _Atomic pid_t *page =
        atomic_load_explicit(&self_page, memory_order_acquire);
    if (page == NULL) {
        page = make_self_page();
    }
    if (page == MAP_FAILED) {
        return getpid();
    }
    pid_t pid = atomic_load_explicit(page, memory_order_relaxed);
    if (pid == 0) {
        pid = getpid();
        atomic_store_explicit(page, pid, memory_order_relaxed);
    }
    return pid;
}
#else
pid_t
cp_proc_self(void)
{
    return getpid();
}
#endif

int
cp_proc_init(struct cp_proc *proc)
{
    proc->pid = 0;
    proc->sentinel = proc->child_end = -1;
    proc->by_server = false;
    atomic_init(&proc->ended, false);
    proc->exitcode = 0;
    int r = cp_lock_init(&proc->lock);
    if (r != 0 || has_pidfd()) {
        return r;
    }
    int fds[2];
    r = cp_fd_pipe(fds);
    if (r != 0) {
        cp_lock_fini(&proc->lock);
        return r;
    }
    proc->sentinel = fds[0];
    proc->child_end = fds[1];
    return 0;
}

int
cp_proc_started(struct cp_proc *proc, pid_t pid)
{
    proc->pid = pid;
    if (proc->child_end >= 0) {
        cp_fd_close(&proc->child_end);
        return 0;
    }
    int fd = pidfd_open(pid);
    if (fd < 0) {
        return CP_ERRNO(errno);
    }
    cp_fd_note(fd);
    proc->sentinel = fd;
    return 0;
}

void
cp_proc_started_by_server(struct cp_proc *proc, pid_t pid, int status_fd)
{
    cp_proc_close_sentinel(proc); /* the pipe used without pidfds */
    cp_fd_note(status_fd);
    proc->pid = pid;
    proc->sentinel = status_fd;
    proc->by_server = true;
}

void
cp_proc_close_sentinel(struct cp_proc *proc)
{
    cp_fd_close(&proc->child_end);
    /* Atomic: cp_proc_wait() in another thread may be about to poll it. */
    int sentinel = atomic_exchange(&proc->sentinel, -1);
    cp_fd_close(&sentinel);
}

void
cp_proc_fini(struct cp_proc *proc)
{
    cp_proc_close_sentinel(proc);
    cp_lock_fini(&proc->lock);
}

static int
exitcode_of(int status)
{
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Ask the kernel, and reap. */
static void
poll_child(struct cp_proc *proc)
{
    int status = 0;
    pid_t r;
    do {
        r = waitpid(proc->pid, &status, WNOHANG);
    } while (r < 0 && errno == EINTR);
    if (r == proc->pid) {
        proc->ended = true;
        proc->exitcode = exitcode_of(status);
    } else if (r < 0) {
        /* ECHILD: the program ignores SIGCHLD, or called wait(-1). */
        proc->ended = kill(proc->pid, 0) != 0;
        proc->exitcode = CP_EXIT_UNKNOWN;
    }
}

/* Ask the fork server's pipe. */
static void
poll_served(struct cp_proc *proc)
{
    struct pollfd pfd = {proc->sentinel, POLLIN, 0};
    if (proc->sentinel >= 0 && poll(&pfd, 1, 0) <= 0) {
        return;
    }
    int64_t code = 0;
    /* The server writes the number in one write(), which is atomic. */
    ssize_t n = proc->sentinel >= 0
                    ? cp_fd_read(proc->sentinel, &code, sizeof(code))
                    : CP_ECLOSED;
    if (n == CP_EINTR) {
        return;
    }
    bool has_code =
        n == (ssize_t)sizeof(code) && code >= -1000 && code <= INT_MAX;
    proc->ended = true;
    proc->exitcode = has_code ? (int)code : CP_EXIT_UNKNOWN;
}

/* Is this certainly a running child? Answered without writing to memory:
 * multiprocessing polls all children before each fork, and each page written
 * since the last fork costs a copy-on-write fault. */
static bool
is_running(struct cp_proc *proc)
{
    siginfo_t info = {0};
    return !atomic_load(&proc->ended) && proc->pid > 0 && !proc->by_server
           && waitid(P_PID, (id_t)proc->pid, &info, WEXITED | WNOHANG | WNOWAIT)
                  == 0
           && info.si_pid == 0
           /* Check again: if the child was reaped in the meantime, waitid()
            * has seen a newer process with the same pid. */
           && !atomic_load(&proc->ended);
}

int
cp_proc_poll(struct cp_proc *proc, int *exitcode)
{
    if (is_running(proc)) {
        return 0;
    }
    cp_lock_acquire(&proc->lock);
    if (!proc->ended && proc->pid > 0) {
        if (proc->by_server) {
            poll_served(proc);
        } else {
            poll_child(proc);
        }
    }
    int ended = proc->ended ? 1 : 0;
    if (ended != 0 && exitcode != NULL) {
        *exitcode = proc->exitcode;
    }
    cp_lock_release(&proc->lock);
    return ended;
}

int
cp_proc_wait(struct cp_proc *proc, int64_t deadline, int *exitcode)
{
    for (;;) {
        if (cp_proc_poll(proc, exitcode) == 1) {
            return 1;
        }
        int64_t now = cp_now();
        if (now >= deadline) {
            return 0;
        }
        /* If the sentinel is closed, poll every millisecond. A sentinel may also
         * become readable slightly before the process can be reaped. */
        struct pollfd pfd = {atomic_load(&proc->sentinel), POLLIN, 0};
        int64_t ms =
            deadline == CP_NEVER ? 1000 : (deadline - now + CP_MS - 1) / CP_MS;
        if (pfd.fd < 0) {
            ms = 1;
        }
        int r = poll(&pfd, pfd.fd < 0 ? 0 : 1, ms > 1000 ? 1000 : (int)ms);
        if (r < 0 && errno == EINTR) {
            return cp_proc_poll(proc, exitcode) == 1 ? 1 : CP_EINTR;
        }
        if (r > 0 && cp_proc_poll(proc, exitcode) == 0) {
            (void)poll(NULL, 0, 1);
        }
    }
}

int
cp_proc_kill(struct cp_proc *proc, int signal)
{
    int r = 0;
    cp_lock_acquire(&proc->lock);
    if (!proc->ended && proc->pid > 0 && kill(proc->pid, signal) != 0
        && errno != ESRCH) {
        r = CP_ERRNO(errno);
    }
    cp_lock_release(&proc->lock);
    return r;
}

/* Is the write end of the pipe closed? */
static bool
is_hung_up(int life_fd)
{
    struct pollfd pfd = {life_fd, POLLIN, 0};
    return poll(&pfd, 1, 0) > 0;
}

#if defined(F_SETSIG) && defined(O_ASYNC) && !defined(CP_PORTABLE)
void
cp_proc_tie_to_pipe(int life_fd)
{
    /* Nobody writes to the pipe, so its only event is the hang-up. Set the
     * owner last: the kernel sends no signal without an owner. */
    int flags = fcntl(life_fd, F_GETFL);
    if (flags < 0 || fcntl(life_fd, F_SETSIG, SIGKILL) < 0
        || fcntl(life_fd, F_SETFL, flags | O_ASYNC) < 0
        || fcntl(life_fd, F_SETOWN, getpid()) < 0) {
        return;
    }
    /* The parent may have exited before the owner was set. */
    if (is_hung_up(life_fd)) {
        _exit(1);
    }
}
#else
/* A thread that waits for the hang-up. A task may do anything to the descriptor
 * without killing the worker: bytes in the pipe are ignored, and the thread exits
 * if the descriptor was closed. */
static void *
watch_life(void *arg)
{
    int life_fd = (int)(intptr_t)arg;
    struct pollfd pfd = {life_fd, POLLIN, 0};
    uint8_t bytes[64];
    for (;;) {
        ssize_t r = read(life_fd, bytes, sizeof(bytes));
        if (r == 0) {
            (void)kill(getpid(), SIGKILL);
        } else if (r < 0 && errno == EAGAIN) {
            (void)poll(&pfd, 1, -1);
        } else if (r < 0 && errno != EINTR) {
            return NULL;
        }
    }
}

void
cp_proc_tie_to_pipe(int life_fd)
{
    if (is_hung_up(life_fd)) {
        _exit(1);
    }
    sigset_t all, old;
    pthread_attr_t attr;
    pthread_t thread;
    if (pthread_attr_init(&attr) != 0) {
        return;
    }
    /* Block all signals: they belong to the thread that runs tasks. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    (void)pthread_attr_setstacksize(&attr, CP_KIB(64));
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_create(&thread, &attr, watch_life, (void *)(intptr_t)life_fd);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
}
#endif
