/*
 * Descriptors: made close-on-exec, counted, and closed in forked copies.
 *
 * Every descriptor of the core is opened and closed here, and noted in one
 * process-wide table of atomics. A process that was forked from this one
 * closes all of them by cp_fd_in_child(), so that end-of-file comes when
 * the real owner goes. EINTR is handled here, once.
 */
#ifndef CP_FD_H
#define CP_FD_H

#include "base/base.h"

#include <sys/uio.h> // struct iovec

/* A pipe: fds[0] to read, fds[1] to write. 0 or a system error. [any] */
int cp_fd_pipe(int fds[2]);

/* A file of `size` zeros in memory, to be mapped; it has no name. 0 or a system
 * error. [any] */
int cp_fd_memory(size_t size, int *fd);

/* Note a descriptor that was opened elsewhere (a pidfd). [any] */
void cp_fd_note(int fd);

/* Close *fd where it is not -1, and set it to -1. Keeps errno. [any] */
void cp_fd_close(int *fd);

/* Reads and writes fail with EAGAIN instead of blocking. [any] */
int cp_fd_set_nonblock(int fd);

/*
 * Read at most n bytes: how many, 0 where nothing has come yet, CP_ECLOSED at
 * end-of-file, CP_EINTR where a blocking read was interrupted, or a system
 * error. [any]
 */
ssize_t cp_fd_read(int fd, void *dst, size_t n);

/* Write: how many bytes went, 0 where none fits now, CP_ECLOSED where nobody
 * reads, CP_EINTR, or a system error. Never raises SIGPIPE in a Python
 * process, which ignores it. [any] */
ssize_t cp_fd_writev(int fd, const struct iovec *parts, int n_parts);

/* Around a fork of our own, so that it finds the table right: meanwhile no
 * descriptor is opened or closed. [any] */
void cp_fd_before_fork(void);
void cp_fd_after_fork(void); /* in the parent */

/* Close every noted descriptor but the n in keep, and forget them all.
 * [the child, first thing after a fork, whoever forked] */
void cp_fd_in_child(const int *keep, int n);

/* A wake-up: one side notifies, the other finds fds[0] readable. */
struct cp_wake {
    int fds[2]; /* the same descriptor twice where there is eventfd */
};

int cp_wake_init(struct cp_wake *wake); /* 0 or a system error */
void cp_wake_fini(struct cp_wake *wake);
void cp_wake_notify(struct cp_wake *wake); /* [any] */
void cp_wake_drain(struct cp_wake *wake);

#endif
