/* One child process, identified by more than its pid: it is never signalled or
 * reaped by the pid alone. */
#include "os/proc.h"

#include "base/clock.h"
#include "base/mem.h"
#include "os/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__) && !defined(CP_PORTABLE)
#    include <sys/syscall.h>
#    include <sys/utsname.h>
#    include <sys/vfs.h>
#endif

/* Without pidfds, a wait looks again each time it has become longer by one part
 * in so many: soon at first, then less and less often. */
#define WAIT_PART 8

/* ---- pidfds ---- */

#ifdef SYS_pidfd_open
#    define PIDFS_MAGIC 0x50494446

static int
pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0u);
}

static int
pidfd_send_signal(int fd, int signal)
{
    return (int)syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0u);
}

/* From Linux 6.9 on, each process has an inode of its own among the pidfds. */
static bool
read_pidfs_inode(int fd, struct cp_proc_birth *birth)
{
    struct stat st;
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0 || fs.f_type != PIDFS_MAGIC
        || fstat(fd, &st) != 0) {
        return false;
    }
    birth->kind = CP_BIRTH_PIDFS;
    birth->value = (uint64_t)st.st_ino;
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

static int
pidfd_send_signal(int fd, int signal)
{
    (void)fd;
    (void)signal;
    errno = ENOSYS;
    return -1;
}

static bool
read_pidfs_inode(int fd, struct cp_proc_birth *birth)
{
    (void)fd;
    (void)birth;
    return false;
}
#endif

/* ---- which process has the pid ---- */

/* Read field 22 of /proc/PID/stat, in clock ticks. Field 2, in parentheses, is
 * the name of the program, which may contain any character. */
static bool
read_start_time(pid_t pid, struct cp_proc_birth *birth)
{
    char text[1024];
    (void)snprintf(text, sizeof(text), "/proc/%ld/stat", (long)pid);
    int fd = open(text, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    char *at = strrchr(text, ')');
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    if (at == NULL) {
        return false;
    }
    birth->kind = CP_BIRTH_TIME;
    birth->value = strtoull(at + 1, NULL, 10);
    return true;
}

static struct cp_proc_birth
read_birth(pid_t pid)
{
    struct cp_proc_birth birth = {CP_BIRTH_UNKNOWN, 0};
    int fd = pidfd_open(pid);
    bool found = fd >= 0 && read_pidfs_inode(fd, &birth);
    if (fd >= 0) {
        (void)close(fd);
    }
    if (!found) {
        (void)read_start_time(pid, &birth);
    }
    return birth;
}

/* Is it certain that another process has the pid now? */
static bool
is_stranger(const struct cp_proc *proc)
{
    struct cp_proc_birth now = {CP_BIRTH_UNKNOWN, 0};
    if (proc->birth.kind == CP_BIRTH_TIME) {
        (void)read_start_time(proc->pid, &now);
    } else if (proc->birth.kind == CP_BIRTH_PIDFS) {
        now = read_birth(proc->pid);
    }
    return now.kind != CP_BIRTH_UNKNOWN && now.kind == proc->birth.kind
           && now.value != proc->birth.value;
}

enum whose { OURS_RUNS, OURS_ENDED, NOT_OURS };

/* Who has the pid now: our process, running or not reaped yet; another process;
 * or nobody. *exitcode is set for OURS_ENDED. Reaps nothing. */
static enum whose
look_up(const struct cp_proc *proc, int *exitcode)
{
    siginfo_t info = {0};
    int r;
    do {
        r = waitid(P_PID, (id_t)proc->pid, &info, WEXITED | WNOHANG | WNOWAIT);
    } while (r != 0 && errno == EINTR);
    *exitcode = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
    /* ECHILD: the program ignores SIGCHLD, or called wait(-1). */
    if (r != 0 || is_stranger(proc)) {
        return NOT_OURS;
    }
    return info.si_pid == 0 ? OURS_RUNS : OURS_ENDED;
}

/* The same for a fork server's child. If the identity of the process is
 * unknown, the pid is ours until the server has reported the end: the server
 * reports after it has reaped. */
static enum whose
look_up_served(const struct cp_proc *proc)
{
    struct cp_proc_birth now = read_birth(proc->pid);
    if (now.kind != CP_BIRTH_UNKNOWN && now.kind == proc->birth.kind) {
        return now.value == proc->birth.value ? OURS_RUNS : NOT_OURS;
    }
    struct pollfd pfd = {proc->sentinel, POLLIN, 0};
    return poll(&pfd, 1, 0) == 0 ? OURS_RUNS : NOT_OURS;
}

static enum whose
look_up_any(const struct cp_proc *proc)
{
    int exitcode;
    return proc->by_server ? look_up_served(proc) : look_up(proc, &exitcode);
}

/* A pidfd of the process, or -1 and errno: ESRCH if it is gone. The pid is
 * checked after the pidfd was opened: if it is ours then, it was ours at the
 * opening too. */
static int
open_pidfd(const struct cp_proc *proc)
{
    int fd = pidfd_open(proc->pid);
    if (fd >= 0 && look_up_any(proc) == NOT_OURS) {
        (void)close(fd);
        errno = ESRCH;
        return -1;
    }
    return fd;
}

/* Call this with the lock held, as for reaping. */
static int
send_signal(const struct cp_proc *proc, int signal)
{
    int fd = open_pidfd(proc);
    int r = fd >= 0 ? pidfd_send_signal(fd, signal) : -1;
    int e = errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    /* No pidfds, or no more descriptors, or a sandbox that refuses the call. */
    if (r != 0 && e != ESRCH) {
        r = look_up_any(proc) != NOT_OURS ? kill(proc->pid, signal) : 0;
        e = errno;
    }
    return r == 0 || e == ESRCH ? 0 : CP_ERRNO(e);
}

/* ---- our own pid ---- */

static _Atomic pid_t no_page; /* lint-ok: of the process; always 0 */
_Atomic(_Atomic pid_t *) cp_proc_page = &no_page; /* lint-ok: as above */

/* Map the page, unless that fails or another thread does it. It is never
 * unmapped. */
static void
map_page(void)
{
#if defined(MADV_WIPEONFORK) && !defined(CP_PORTABLE)
    static _Atomic bool failed; /* lint-ok: the kernel is too old */
    if (atomic_load(&failed)) {
        return;
    }
    void *page = mmap(NULL, sizeof(pid_t), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return;
    }
    _Atomic pid_t *expected = &no_page;
    if (madvise(page, sizeof(pid_t), MADV_WIPEONFORK) != 0) {
        atomic_store(&failed, true);
        (void)munmap(page, sizeof(pid_t));
    } else if (!atomic_compare_exchange_strong(&cp_proc_page, &expected,
                                               page)) {
        (void)munmap(page, sizeof(pid_t)); /* another thread was first */
    }
#endif
}

pid_t
cp_proc_find_self(void)
{
    if (atomic_load(&cp_proc_page) == &no_page) {
        map_page();
    }
    pid_t pid = getpid();
    _Atomic pid_t *page = atomic_load(&cp_proc_page);
    if (page != &no_page) {
        atomic_store_explicit(page, pid, memory_order_relaxed);
    }
    return pid;
}

/* ---- life ---- */

int
cp_proc_init(struct cp_proc *proc)
{
    proc->pid = 0;
    proc->birth = (struct cp_proc_birth){CP_BIRTH_UNKNOWN, 0};
    proc->sentinel = proc->teller = -1;
    proc->is_lent = proc->by_server = false;
    atomic_init(&proc->needs_polling, false);
    proc->is_seen = false;
    atomic_init(&proc->ended, false);
    proc->exitcode = 0;
    return cp_lock_init(&proc->lock);
}

void
cp_proc_started(struct cp_proc *proc, pid_t pid)
{
    proc->birth = read_birth(pid);
    proc->pid = pid;
}

void
cp_proc_started_by_server(struct cp_proc *proc, pid_t pid, int status_fd)
{
    cp_fd_note(status_fd);
    proc->birth = read_birth(pid);
    proc->pid = pid;
    proc->sentinel = status_fd;
    proc->by_server = true;
}

void
cp_proc_fini(struct cp_proc *proc)
{
    cp_proc_close_sentinel(proc);
    cp_lock_fini(&proc->lock);
}

/* ---- the sentinel ---- */

static void
close_teller(struct cp_proc *proc)
{
    proc->needs_polling = false;
    cp_fd_close(&proc->teller);
}

/* A pipe in place of a pidfd: readable as soon as its write end is closed. */
static int
open_pipe(struct cp_proc *proc)
{
    int fds[2];
    int r = cp_fd_pipe(fds);
    if (r != 0) {
        return r;
    }
    proc->sentinel = fds[0];
    proc->teller = fds[1];
    proc->needs_polling = true;
    if (proc->ended) {
        close_teller(proc);
    }
    return 0;
}

static int
open_sentinel(struct cp_proc *proc, bool lend)
{
    int fd = -1;
    if (!proc->ended && proc->pid > 0 && !proc->by_server) {
        fd = open_pidfd(proc);
    }
    if (fd >= 0) {
        cp_fd_note(fd);
        proc->sentinel = fd;
        return 0;
    }
    if (!lend) {
        return proc->ended ? CP_ECLOSED : CP_ERRNO(errno);
    }
    return open_pipe(proc);
}

int
cp_proc_open_sentinel(struct cp_proc *proc, bool lend)
{
    cp_lock_acquire(&proc->lock);
    int r = proc->sentinel >= 0 ? 0 : open_sentinel(proc, lend);
    if (r == 0) {
        proc->is_lent = proc->is_lent || lend;
        r = proc->sentinel;
    }
    cp_lock_release(&proc->lock);
    return r;
}

static void
close_sentinel(struct cp_proc *proc)
{
    close_teller(proc);
    cp_fd_close(&proc->sentinel);
    proc->is_lent = false;
}

void
cp_proc_drop_sentinel(struct cp_proc *proc)
{
    cp_lock_acquire(&proc->lock);
    if (!proc->is_lent) {
        close_sentinel(proc);
    }
    cp_lock_release(&proc->lock);
}

void
cp_proc_close_sentinel(struct cp_proc *proc)
{
    cp_lock_acquire(&proc->lock);
    close_sentinel(proc);
    cp_lock_release(&proc->lock);
}

/* ---- the end ---- */

static void
set_ended(struct cp_proc *proc, int exitcode)
{
    proc->exitcode = exitcode;
    proc->ended = true;
    close_teller(proc);
}

/* Does the program have a handler of SIGCHLD? */
static bool
is_handled(void)
{
    struct sigaction act;
    return sigaction(SIGCHLD, NULL, &act) == 0 && act.sa_handler != SIG_DFL
           && act.sa_handler != SIG_IGN;
}

/* Ask the kernel, and reap, or leave that to the program's handler: 0, or
 * CP_EINTR to run it. */
static int
poll_child(struct cp_proc *proc)
{
    int exitcode;
    enum whose whose = look_up(proc, &exitcode);
    if (whose == OURS_RUNS) {
        return 0;
    }
    pid_t r = -1;
    if (whose == OURS_ENDED) {
        bool is_new = !proc->is_seen;
        proc->is_seen = true;
        proc->exitcode = exitcode;
        if (is_new && is_handled()) {
            return CP_EINTR;
        }
        do {
            r = waitpid(proc->pid, NULL, WNOHANG);
        } while (r < 0 && errno == EINTR);
    }
    if (r != 0) {
        set_ended(proc, proc->is_seen ? proc->exitcode : CP_EXIT_UNKNOWN);
    }
    return 0;
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
    if (!has_code) {
        (void)send_signal(proc, SIGKILL); /* nobody will report its end */
    }
    set_ended(proc, has_code ? (int)code : CP_EXIT_UNKNOWN);
}

/* Answered without writing to memory: multiprocessing polls all children before
 * each fork, and each page written since the last fork costs a copy-on-write
 * fault. */
bool
cp_proc_seems_to_run(struct cp_proc *proc)
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
cp_proc_check(struct cp_proc *proc, int *exitcode)
{
    int r = 0;
    cp_lock_acquire(&proc->lock);
    if (!proc->ended && proc->pid > 0) {
        if (proc->by_server) {
            poll_served(proc);
        } else {
            r = poll_child(proc);
        }
    }
    if (proc->ended) {
        r = 1;
        if (exitcode != NULL) {
            *exitcode = proc->exitcode;
        }
    }
    cp_lock_release(&proc->lock);
    return r;
}

int
cp_proc_poll(struct cp_proc *proc, int *exitcode)
{
    return cp_proc_seems_to_run(proc) ? 0 : cp_proc_check(proc, exitcode);
}

/* A descriptor that shows the end of the process and belongs to the caller:
 * nobody else closes it while the caller waits. -1: there is none. */
static int
open_to_wait(struct cp_proc *proc)
{
    int fd = -1;
    cp_lock_acquire(&proc->lock);
    if (!proc->ended && proc->pid > 0) {
        fd = !proc->by_server      ? open_pidfd(proc)
             : proc->sentinel >= 0 ? fcntl(proc->sentinel, F_DUPFD_CLOEXEC, 0)
                                   : -1;
    }
    cp_lock_release(&proc->lock);
    return fd;
}

/* Wait for the end of the process, until the deadline, or until it is time to
 * look again. 0, or CP_EINTR after a signal. */
static int
wait_once(int fd, int64_t begin, int64_t now, int64_t deadline)
{
    int64_t ns = deadline == CP_NEVER ? CP_NEVER : deadline - now;
    if (fd < 0) {
        int64_t part = (now - begin) / WAIT_PART;
        ns = cp_clock_min(ns, part > CP_MS ? part : CP_MS);
    }
    int64_t ms = ns / CP_MS + (ns % CP_MS != 0 ? 1 : 0);
    struct pollfd pfd = {fd, POLLIN, 0};
    int r = poll(&pfd, fd < 0 ? 0 : 1,
                 ns == CP_NEVER ? -1
                 : ms > INT_MAX ? INT_MAX
                                : (int)ms);
    return r < 0 && errno == EINTR ? CP_EINTR : 0;
}

int
cp_proc_wait(struct cp_proc *proc, int64_t deadline, int *exitcode)
{
    int r = cp_proc_check(proc, exitcode);
    int64_t begin = cp_now(), now = begin;
    if (r != 0 || now >= deadline) {
        return r;
    }
    int fd = open_to_wait(proc);
    for (;;) {
        int waited = wait_once(fd, begin, now, deadline);
        r = cp_proc_check(proc, exitcode);
        if (r == 0 && waited != 0) {
            r = waited;
        }
        now = cp_now();
        if (r != 0 || now >= deadline) {
            break;
        }
        struct pollfd pfd = {fd, POLLIN, 0};
        if (fd >= 0 && poll(&pfd, 1, 0) != 0) {
            (void)close(fd); /* it has ended, but cannot be reaped yet */
            fd = -1;
            begin = now;
        }
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return r;
}

int
cp_proc_kill(struct cp_proc *proc, int signal)
{
    cp_lock_acquire(&proc->lock);
    int r = !proc->ended && proc->pid > 0 ? send_signal(proc, signal) : 0;
    cp_lock_release(&proc->lock);
    return r;
}

/* ---- a process and its descendants ---- */

#if defined(__linux__) && !defined(CP_PORTABLE)

/* How many looks, one each 50 us, to wait until a process has stopped. A
 * process inside an uninterruptible system call does not stop. */
#    define LOOKS_FOR_STOP 40

struct pids {
    pid_t *at;
    size_t n, cap;
};

static bool
pids_add(struct pids *pids, pid_t pid)
{
    pid_t *at = cp_mem_grow(pids->at, &pids->cap, pids->n + 1, sizeof(*at));
    if (at == NULL) {
        return false;
    }
    pids->at = at;
    pids->at[pids->n++] = pid;
    return true;
}

#    define STAT_SIZE 512

/* What /proc/PID/stat says of the process, from its state on; NULL if there is
 * no such process. */
static const char *
read_stat(pid_t pid, char text[STAT_SIZE])
{
    char path[40];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, STAT_SIZE - 1);
    if (fd >= 0) {
        (void)close(fd);
    }
    text[n > 0 ? n : 0] = '\0';
    const char *name_end = strrchr(text, ')'); /* a name may contain any byte */
    return name_end != NULL && name_end[1] == ' ' ? name_end + 2 : NULL;
}

/* The state of the process ('R', 'T', 'Z', ...) and its parent; '?' if there is
 * no such process. */
static char
state_of(pid_t pid, pid_t *parent)
{
    char text[STAT_SIZE], state;
    const char *stat = read_stat(pid, text);
    int ppid;
    if (stat == NULL || sscanf(stat, "%c %d", &state, &ppid) != 2) {
        *parent = 0;
        return '?';
    }
    *parent = (pid_t)ppid;
    return state;
}

static void
await_stop(pid_t pid)
{
    const struct timespec pause = {.tv_nsec = 50 * CP_US};
    for (int i = 0; i < LOOKS_FOR_STOP; i++) {
        pid_t parent;
        char state = state_of(pid, &parent);
        if (state != 'R' && state != 'S' && state != 'D') {
            return;
        }
        (void)nanosleep(&pause, NULL);
    }
}

static bool
handles(pid_t pid, int signal)
{
    enum { STATE = 3, BLOCKED = 32 }; /* field numbers of proc(5) */
    char text[STAT_SIZE];
    const char *field = read_stat(pid, text);
    for (int i = STATE; field != NULL && i < BLOCKED; i++) {
        field = strchr(field, ' ');
        if (field != NULL) {
            field++;
        }
    }
    unsigned long blocked, ignored, handled, bit = 1ul << (signal - 1);
    return field == NULL
           || sscanf(field, "%lu %lu %lu", &blocked, &ignored, &handled) != 3
           || ((blocked & bit) == 0 && (handled & bit) != 0);
}

/* Add the children of the process: from the kernel's list of them, or else by
 * looking at all processes. */
static void
add_children(struct pids *pids, pid_t pid)
{
    DIR *dir = opendir("/proc");
    if (dir == NULL) {
        return;
    }
    const struct dirent *entry;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): nobody else has the stream. */
    while ((entry = readdir(dir)) != NULL) {
        char *end;
        long child = strtol(entry->d_name, &end, 10);
        pid_t parent;
        if (*end == '\0' && child > 0 && state_of((pid_t)child, &parent) != '?'
            && parent == pid) {
            (void)pids_add(pids, (pid_t)child); /* no memory: it lives on */
        }
    }
    (void)closedir(dir);
}

bool
cp_proc_is_stopped(struct cp_proc *proc)
{
    pid_t parent;
    cp_lock_acquire(&proc->lock);
    bool found =
        !proc->ended && proc->pid > 0 && state_of(proc->pid, &parent) == 'T';
    cp_lock_release(&proc->lock);
    return found;
}

bool
cp_proc_handles(struct cp_proc *proc, int signal)
{
    cp_lock_acquire(&proc->lock);
    bool found = !proc->ended && proc->pid > 0 && handles(proc->pid, signal);
    cp_lock_release(&proc->lock);
    return found;
}

int
cp_proc_kill_tree(struct cp_proc *proc, bool (*is_due)(void *arg), void *arg)
{
    struct pids pids = {0};
    cp_lock_acquire(&proc->lock);
    bool lives =
        !proc->ended && proc->pid > 0 && send_signal(proc, SIGSTOP) == 0;
    pid_t pid = proc->pid;
    cp_lock_release(&proc->lock);
    if (lives) {
        await_stop(pid);
        if (!is_due(arg)) {
            (void)cp_proc_kill(proc, SIGCONT);
            return 1;
        }
        add_children(&pids, pid);
        for (size_t i = 0; i < pids.n; i++) { /* the list grows meanwhile */
            if (kill(pids.at[i], SIGSTOP) == 0) {
                await_stop(pids.at[i]);
                add_children(&pids, pids.at[i]);
            }
        }
        for (size_t i = pids.n; i > 0; i--) {
            (void)kill(pids.at[i - 1], SIGKILL);
        }
        free(pids.at);
    }
    return cp_proc_kill(proc, SIGKILL);
}
#else
bool
cp_proc_is_stopped(struct cp_proc *proc)
{
    (void)proc;
    return false;
}

bool
cp_proc_handles(struct cp_proc *proc, int signal)
{
    (void)proc;
    (void)signal;
    return true;
}

int
cp_proc_kill_tree(struct cp_proc *proc, bool (*is_due)(void *arg), void *arg)
{
    return is_due(arg) ? cp_proc_kill(proc, SIGKILL) : 1;
}
#endif

/* ---- memory ---- */

#if defined(__linux__) && !defined(CP_PORTABLE)
int
cp_proc_memory(pid_t pid, uint64_t *bytes)
{
    char text[128];
    (void)snprintf(text, sizeof(text), "/proc/%d/statm", (int)pid);
    int fd = open(text, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return CP_ERRNO(errno);
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    unsigned long long resident, shared;
    if (sscanf(text, "%*s %llu %llu", &resident, &shared) != 2) {
        return CP_ERRNO(EIO);
    }
    uint64_t pages = resident > shared ? resident - shared : 0;
    *bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    return 0;
}
#else
int
cp_proc_memory(pid_t pid, uint64_t *bytes)
{
    (void)pid;
    *bytes = 0;
    return CP_ERRNO(ENOSYS);
}
#endif

/* ---- the life line ---- */

/* Is the write end of the pipe closed? */
static bool
is_hung_up(int life_fd)
{
    struct pollfd pfd = {life_fd, POLLIN, 0};
    return poll(&pfd, 1, 0) > 0;
}

#if defined(F_SETSIG) && defined(O_ASYNC) && !defined(CP_PORTABLE)
/* Before Linux 5.6, the kernel also told all readers of a pipe when one of them
 * closed it. 5.10 is required here, to be on the safe side. */
static bool
tells_hang_ups_only(void)
{
    struct utsname name;
    int major = 0, minor = 0;
    return uname(&name) == 0
           && sscanf(name.release, "%d.%d", &major, &minor) == 2
           && (major > 5 || (major == 5 && minor >= 10));
}

/* The kernel signals one owner for each open file, and the workers of a pool
 * may share theirs: open the pipe anew. */
static bool
reopen(int fd)
{
    int own;
    if (cp_fd_reopen(fd, &own) != 0) {
        return false;
    }
    int r = dup3(own, fd, O_CLOEXEC);
    cp_fd_close(&own);
    return r == fd;
}

int
cp_proc_open_life(int life_fd, int *own)
{
    if (tells_hang_ups_only() && cp_fd_reopen(life_fd, own) == 0) {
        return 1;
    }
    return cp_fd_dup(life_fd, own);
}

static bool
tie_by_signal(int life_fd, bool is_own)
{
    /* Nobody writes to the pipe, so its only event is the hang-up. Set the
     * owner last: the kernel sends no signal without an owner. */
    return (is_own || (tells_hang_ups_only() && reopen(life_fd)))
           && fcntl(life_fd, F_SETSIG, SIGKILL) == 0
           && fcntl(life_fd, F_SETFL, O_ASYNC) == 0
           && fcntl(life_fd, F_SETOWN, getpid()) == 0;
}
#else
int
cp_proc_open_life(int life_fd, int *own)
{
    return cp_fd_dup(life_fd, own);
}

static bool
tie_by_signal(int life_fd, bool is_own)
{
    (void)life_fd;
    (void)is_own;
    return false;
}
#endif

/* A thread that waits until the pipe is hung up. Whatever a task does to the
 * descriptor must not kill the worker: bytes in the pipe are ignored, and the
 * thread exits if the descriptor was closed. */
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

static void
tie_by_thread(int life_fd)
{
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
    void *arg = (void *)(intptr_t)life_fd;
    if (pthread_create(&thread, &attr, watch_life, arg) == 0) {
#if defined(__linux__) && defined(_GNU_SOURCE)
        (void)pthread_setname_np(thread, "cpool-life");
#endif
        (void)pthread_detach(thread);
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
}

void
cp_proc_tie_to_pipe(int life_fd, bool is_own)
{
    bool tied = tie_by_signal(life_fd, is_own);
    /* The parent may have exited already. */
    if (is_hung_up(life_fd)) {
        _exit(1);
    }
    if (!tied) {
        tie_by_thread(life_fd);
    }
}
