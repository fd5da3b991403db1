/*
 * One child process: poll, wait, signal, exit code.
 *
 * A process gets no descriptor here before somebody needs one: a pool of
 * hundreds of workers would run out of them. A pid alone can mislead if the
 * program reaps all of its children (waitpid(-1), SIGCHLD ignored): another
 * process may have the number by now. So cp_proc_started() records the identity
 * of the process, and no process is signalled, reaped or taken for alive
 * because of its pid alone.
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

/* The identity of the process: no later process with the same pid has the
 * same. */
struct cp_proc_birth {
    enum { CP_BIRTH_UNKNOWN, CP_BIRTH_PIDFS, CP_BIRTH_TIME } kind;
    uint64_t value; /* the inode of its pidfd, or its start time */
};

struct cp_proc {
    struct cp_lock lock;
    pid_t pid; /* 0 before the start; constant afterwards */
    struct cp_proc_birth birth;
    int sentinel; /* readable once the process has ended; -1: not open */
    /* Without pidfds, the sentinel is the read end of a pipe, and this is the
     * write end, which is closed when the process is found to have ended; or
     * -1. */
    int teller;
    _Atomic bool needs_polling; /* teller is open; written under the lock */
    bool is_lent; /* the caller has the sentinel: keep it until it is closed */
    bool by_server;     /* started by a fork server; the sentinel is its pipe */
    bool is_seen;       /* a check has found the end, before it was reaped */
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
 * A descriptor that becomes readable when the process ends; opened unless it is
 * open. With lend, it stays open until cp_proc_close_sentinel(); without
 * pidfds, it becomes readable when a poll or a check finds that the process has
 * ended. Without lend, the caller closes it with cp_proc_drop_sentinel();
 * without pidfds there is none, which is a system error.
 */
int cp_proc_open_sentinel(struct cp_proc *proc, bool lend);

/* Does the sentinel show the end of the process only if somebody polls the
 * process? */
static inline bool
cp_proc_needs_polling(struct cp_proc *proc)
{
    return atomic_load_explicit(&proc->needs_polling, memory_order_relaxed);
}

/* Close the sentinel, unless it was lent. Idempotent. */
void cp_proc_drop_sentinel(struct cp_proc *proc);

/* Close the sentinel. Poll, wait and kill still work. Idempotent. */
void cp_proc_close_sentinel(struct cp_proc *proc);

/* Is there a running child with this pid? It may be another process, if the program
 * has reaped this one itself. False for a child of a fork server. */
bool cp_proc_seems_to_run(struct cp_proc *proc);

/* 1 and *exitcode if the process has ended. 0 while it runs; also if the
 * program has reaped the process itself, and has another child with the same
 * pid now. CP_EINTR once, if the process has ended and the program has a handler
 * of SIGCHLD: many handlers call waitpid(), which fails if we reap first. The
 * next check reaps. */
int cp_proc_poll(struct cp_proc *proc, int *exitcode);

/* The same, but never takes another process with the same pid for this one. */
int cp_proc_check(struct cp_proc *proc, int *exitcode);

/* As cp_proc_check(), but wait until the deadline. CP_EINTR after a signal. */
int cp_proc_wait(struct cp_proc *proc, int64_t deadline, int *exitcode);

/* Send a signal. Does nothing if the process has ended. 0 or a system error. */
int cp_proc_kill(struct cp_proc *proc, int signal);

/* Is the process stopped by a signal? False if that cannot be known. */
bool cp_proc_is_stopped(struct cp_proc *proc);

/* Does the process handle this signal (1 to 31), and does its main thread not
 * block it? True if that cannot be known. */
bool cp_proc_handles(struct cp_proc *proc, int signal);

/*
 * Send SIGKILL to the process and to all of its descendants. Each process is
 * stopped before its children are listed, so that it starts no more meanwhile.
 * Descendants that another parent has adopted are not found. Without /proc,
 * only the process itself is killed. Takes milliseconds at most.
 *
 * is_due is called once the process is stopped. If it returns false, the
 * process goes on, and the result is 1. Otherwise 0, or a system error.
 */
int cp_proc_kill_tree(struct cp_proc *proc, bool (*is_due)(void *arg),
                      void *arg);

/* The anonymous memory of a process, in bytes: what it has allocated, touched
 * and not given back, including pages that it shares with its parent since a
 * fork. Pages of files and swapped-out pages do not count. 0, or a system
 * error: ENOSYS without /proc. Takes some microseconds. */
int cp_proc_memory(pid_t pid, uint64_t *bytes);

/* Open the read end of a pipe for a child that is about to be forked: here, since it
 * takes longer in the child. Returns 1: the child alone has it, and the kernel
 * can tell it of a hang-up; 0: it is a copy, which shares its flags and its owner;
 * or a system error. [any] */
int cp_proc_open_life(int life_fd, int *own);

/* [child] Die with the parent: this process gets SIGKILL when the write end of
 * the pipe life_fd is closed. is_own: as cp_proc_open_life() says; if not, other
 * workers may have the same read end. The signal comes from the kernel
 * (F_SETSIG), or else from a thread that reads the pipe, named "cpool-life". If
 * neither can be set up, nothing happens: an idle worker still exits on the
 * end-of-file of its task pipe. */
void cp_proc_tie_to_pipe(int life_fd, bool is_own);

#endif
