/*
 * One child process: has it ended, with what code, signal it.
 *
 * Nobody else reaps the child, so its pid is ours until cp_proc_poll() has
 * said that it ended, and no signal goes out after that. The lock inside is a
 * leaf; all functions are [any] unless marked.
 */
#ifndef CP_PROC_H
#define CP_PROC_H

#include "base/base.h"
#include "base/lock.h"

#include <stdatomic.h>
#include <sys/types.h>

/* The exit code where somebody else's wait() took the real one from us. */
#define CP_EXIT_UNKNOWN 255

struct cp_proc {
    struct cp_lock lock;
    pid_t pid;            /* 0 before the fork; then it never changes */
    _Atomic int sentinel; /* readable once the process has ended; -1: closed */
    int child_end;  /* where a pipe stands in for a pidfd: the child's end */
    bool is_served; /* a fork server's child: see cp_proc_served() */
    _Atomic bool ended; /* set under the lock, as is: */
    int exitcode;       /* as Process.exitcode: negative for a signal */
};

/* The number of this process, also in a forked copy, from the first instruction on,
 * whoever forked. Where it can be had the kernel is asked once only: that takes
 * longer than all else that is done for a small task. */
pid_t cp_proc_self(void);

/* Before the fork: 0 or a system error. */
int cp_proc_init(struct cp_proc *proc);

/* In the parent, after the fork: 0 or a system error. */
int cp_proc_started(struct cp_proc *proc, pid_t pid);

/*
 * The same for the child of a fork server: status_fd, from now on ours, is the
 * pipe by which the server tells the exit code, as multiprocessing.forkserver
 * writes it (a native 64 bit integer). Where the server dies, nobody can tell:
 * the process counts as ended with CP_EXIT_UNKNOWN. Never fails.
 */
void cp_proc_served(struct cp_proc *proc, pid_t pid, int status_fd);

/* Does not touch the process. Idempotent. */
void cp_proc_fini(struct cp_proc *proc);

/* Close the sentinel; the rest stays usable. */
void cp_proc_close_sentinel(struct cp_proc *proc);

/* 1 and *exitcode where the process has ended, 0 where it runs. */
int cp_proc_poll(struct cp_proc *proc, int *exitcode);

/* The same, after waiting until the deadline or a signal (CP_EINTR). */
int cp_proc_wait(struct cp_proc *proc, int64_t deadline, int *exitcode);

/* Send a signal; nothing happens where the process has ended. 0 or a system
 * error. */
int cp_proc_kill(struct cp_proc *proc, int signal);

/* [child] Have this process killed when the only writer of the pipe that life_fd
 * reads is gone: by the kernel where there is F_SETSIG, elsewhere by a thread
 * that waits for it. Where neither can be had nothing happens: end-of-file on
 * the task pipe still ends an idle worker. */
void cp_proc_tie_to_pipe(int life_fd);

#endif
