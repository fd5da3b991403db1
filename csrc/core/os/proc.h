/*
 * One child process: poll, wait, signal, exit code.
 *
 * Only this code reaps the child. The pid therefore cannot be reused before
 * cp_proc_poll() reports the exit, and no signal is sent after that. The lock
 * is a leaf lock. All functions are [any] unless marked.
 */
#ifndef CP_PROC_H
#define CP_PROC_H

#include "base/base.h"
#include "base/lock.h"

#include <stdatomic.h>
#include <sys/types.h>

/* The exit code if the real one was lost: something else reaped the child. */
#define CP_EXIT_UNKNOWN 255

struct cp_proc {
    struct cp_lock lock;
    pid_t pid;            /* 0 before the fork; constant afterwards */
    _Atomic int sentinel; /* readable once the process has exited; -1: closed */
    int child_end; /* without pidfds, the child's end of the sentinel pipe */
    bool
        by_server; /* started by a fork server: see cp_proc_started_by_server() */
    _Atomic bool ended; /* written under the lock, like exitcode */
    int exitcode;       /* as Process.exitcode: negative for a signal */
};

/* getpid() from a cache that is right in every forked copy, without a fork hook
 * (MADV_WIPEONFORK). A system call would cost more than everything else that is
 * done for a small task. */
pid_t cp_proc_self(void);

/* Before the fork: 0 or a system error. */
int cp_proc_init(struct cp_proc *proc);

/* In the parent, after the fork: 0 or a system error. */
int cp_proc_started(struct cp_proc *proc, pid_t pid);

/*
 * The same for the child of a fork server. status_fd, which this call consumes,
 * is the pipe on which the server reports the exit code, in the format of
 * multiprocessing.forkserver (a native 64-bit integer). If the server dies, the
 * process counts as ended with CP_EXIT_UNKNOWN. Never fails.
 */
void cp_proc_started_by_server(struct cp_proc *proc, pid_t pid, int status_fd);

/* Free the struct's resources; the process goes on. */
void cp_proc_fini(struct cp_proc *proc);

/* Close the sentinel. Poll, wait and kill still work. Idempotent. */
void cp_proc_close_sentinel(struct cp_proc *proc);

/* 1 and *exitcode if the process has ended, 0 while it runs. */
int cp_proc_poll(struct cp_proc *proc, int *exitcode);

/* The same, but wait until the deadline. CP_EINTR after a signal. */
int cp_proc_wait(struct cp_proc *proc, int64_t deadline, int *exitcode);

/* Send a signal. Does nothing if the process has ended. 0 or a system error. */
int cp_proc_kill(struct cp_proc *proc, int signal);

/* [child] Die with the parent: this process gets SIGKILL when the write end of the
 * pipe life_fd is closed, from the kernel (F_SETSIG) or else from a thread that
 * reads the pipe. If neither can be set up, nothing happens: an idle worker
 * still exits on the end-of-file of its task pipe. */
void cp_proc_tie_to_pipe(int life_fd);

#endif
