/*
 * One child process: poll, wait, signal, exit code.
 *
 * A process has no descriptor here before somebody needs one: a pool of hundreds of
 * workers would run out of them. A pid alone can lie, where the program reaps all
 * of its children (waitpid(-1), SIGCHLD ignored): the number may have passed to
 * another process. So cp_proc_started() records which process has the pid, and
 * nothing is signalled, reaped or taken for alive on the strength of the number.
 *
 * The lock is a leaf lock. All functions are [any] unless marked.
 */
#ifndef CP_PROC_H
#define CP_PROC_H

#include "base/base.h"
#include "base/lock.h"

#include <stdatomic.h>
#include <sys/types.h>

/* The exit code if the real one was lost: something else reaped the child. */
#define CP_EXIT_UNKNOWN 255

/* Which process has the pid: what no later process with the same pid has. */
struct cp_proc_birth {
    enum { CP_BIRTH_UNKNOWN, CP_BIRTH_PIDFS, CP_BIRTH_TIME } kind;
    uint64_t value; /* the inode of its pidfd, or its start time */
};

struct cp_proc {
    struct cp_lock lock;
    pid_t pid; /* 0 before the start; constant afterwards */
    struct cp_proc_birth birth;
    int sentinel; /* readable once the process has ended; -1: not open */
    /* Without pidfds, the sentinel is a pipe, and this is its write end, closed when
     * the process is found to have ended; or -1. */
    int teller;
    _Atomic bool needs_polling; /* teller is open; written under the lock */
    bool is_lent; /* the sentinel was given away: keep it until it is closed */
    bool by_server;     /* started by a fork server; the sentinel is its pipe */
    _Atomic bool ended; /* written under the lock, like exitcode */
    int exitcode;       /* as Process.exitcode: negative for a signal */
};

/* A page that holds the pid, or 0: the kernel zeroes the page in a forked copy
 * (MADV_WIPEONFORK). */
extern _Atomic(_Atomic pid_t *) cp_proc_page;
pid_t cp_proc_find_self(void);

/* getpid() from a cache that is right in every forked copy, without a fork hook. A
 * system call would cost more than everything else that is done for a small task. */
static inline pid_t
cp_proc_self(void)
{
    pid_t pid = atomic_load_explicit(
        atomic_load_explicit(&cp_proc_page, memory_order_acquire),
        memory_order_relaxed);
    return pid != 0 ? pid : cp_proc_find_self();
}

/* Before the start: 0 or a system error. */
int cp_proc_init(struct cp_proc *proc);

/* In the parent, right after the fork. Never fails. */
void cp_proc_started(struct cp_proc *proc, pid_t pid);

/*
 * The same for the child of a fork server. status_fd, which this call consumes,
 * is the pipe on which the server reports the exit code, in the format of
 * multiprocessing.forkserver (a native 64-bit integer). If the server dies, the
 * process is killed, and counts as ended with CP_EXIT_UNKNOWN. Never fails.
 */
void cp_proc_started_by_server(struct cp_proc *proc, pid_t pid, int status_fd);

/* Free the struct's resources; the process goes on. */
void cp_proc_fini(struct cp_proc *proc);

/*
 * A descriptor that becomes readable when the process ends, opened unless it is open.
 * lend: until cp_proc_close_sentinel() it stays open; if there are no pidfds, it
 * becomes readable when a poll or a check finds that the process has ended. Else the
 * caller closes it by cp_proc_drop_sentinel(), and without pidfds there is none:
 * a system error.
 */
int cp_proc_open_sentinel(struct cp_proc *proc, bool lend);

/* Does somebody have to poll the process, so that the sentinel shows its end? */
static inline bool
cp_proc_needs_polling(struct cp_proc *proc)
{
    return atomic_load_explicit(&proc->needs_polling, memory_order_relaxed);
}

/* Close the sentinel, unless it was lent. Idempotent. */
void cp_proc_drop_sentinel(struct cp_proc *proc);

/* Close the sentinel. Poll, wait and kill still work. Idempotent. */
void cp_proc_close_sentinel(struct cp_proc *proc);

/* 1 and *exitcode if the process has ended, 0 while it runs; or while the program,
 * which reaped the process itself, has another child with the same pid. */
int cp_proc_poll(struct cp_proc *proc, int *exitcode);

/* The same, and another process with the same pid is not taken for this one. */
int cp_proc_check(struct cp_proc *proc, int *exitcode);

/* The same, but wait until the deadline. CP_EINTR after a signal. */
int cp_proc_wait(struct cp_proc *proc, int64_t deadline, int *exitcode);

/* Send a signal. Does nothing if the process has ended. 0 or a system error. */
int cp_proc_kill(struct cp_proc *proc, int signal);

/* Is it stopped by a signal? False where nobody can tell. */
bool cp_proc_is_stopped(struct cp_proc *proc);

/* Does it handle this signal, from 1 to 31, and its main thread not block the signal? True
 * where nobody can tell. */
bool cp_proc_handles(struct cp_proc *proc, int signal);

/*
 * SIGKILL to the process and to all processes that it has started, and these in turn.
 * Each is stopped before its children are looked for, so that it starts no more
 * meanwhile. Processes that have been handed to another parent are not found. Without
 * /proc: to the process alone. Takes milliseconds at most.
 *
 * is_due is asked once the process is stopped; where it says no, the process goes on: 1.
 * Otherwise 0, or a system error.
 */
int cp_proc_kill_tree(struct cp_proc *proc, bool (*is_due)(void *arg),
                      void *arg);

/* The memory of a process that no other process has in a file, in bytes: what it has
 * allocated and touched, and not given back, and what it has of that in common with its
 * parent since a fork. Swapped out pages do not count. 0, or a system error: ENOSYS
 * without /proc. Takes some microseconds. */
int cp_proc_memory(pid_t pid, uint64_t *bytes);

/* [child] Die with the parent: this process gets SIGKILL when the write end of the
 * pipe life_fd is closed, which other workers may read as well: from the kernel
 * (F_SETSIG) or else from a thread that reads the pipe. If neither can be set up,
 * nothing happens: an idle worker still exits on the end-of-file of its task pipe. */
void cp_proc_tie_to_pipe(int life_fd);

#endif
