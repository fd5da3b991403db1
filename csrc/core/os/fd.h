/*
 * File descriptors: opened close-on-exec, recorded, and closed in forked copies.
 *
 * The core opens and closes every descriptor here and records it in one
 * process-wide table. A process forked from this one calls cp_fd_in_child(),
 * which closes all of them: otherwise a pipe's end-of-file would wait until
 * the copy exits too. Errors, including EINTR, become codes of base/base.h
 * here.
 */
#ifndef CP_FD_H
#define CP_FD_H

#include "base/base.h"

#include <sys/uio.h> // struct iovec

/* Open a pipe: fds[0] to read, fds[1] to write. 0 or a system error. [any] */
int cp_fd_pipe(int fds[2]);

/* Enlarge the buffer of this pipe, for bodies of CP_WIDE bytes and more:
 * whenever the pipe is full, the two processes have to take turns. Only a hint:
 * the system may refuse. [any] */
#define CP_WIDE CP_KIB(256)
void cp_fd_widen(int fd);

/* A copy of fd, close-on-exec. 0 or a system error. [any] */
int cp_fd_dup(int fd, int *copy);

/* The read end of a pipe once more, close-on-exec and nonblocking, with flags and
 * an owner of its own. 0, or a system error where there is no /proc. [any] */
int cp_fd_reopen(int fd, int *copy);

/* Open an anonymous shared-memory file of `size` zeroed bytes: by memfd_create(), or
 * else, as in sandboxes that refuse that call, by a file that is unlinked at once. 0
 * or a system error. [any] */
int cp_fd_memory(size_t size, int *fd);

/* Open an anonymous file in memory with a fixed size. The file is sparse, so
 * `size` may be more than the machine's memory. 0, or a system error: ENOSYS if
 * the system has no such files. [any] */
int cp_fd_sealed_memory(uint64_t size, int *fd);

/* Open an empty anonymous file in memory that grows to any size and can be
 * sealed. 0, or a system error: ENOSYS if the system has no such files.
 * [any] */
int cp_fd_memory_to_seal(int *fd);

/* Seal the file: nobody can write to it or change its size any more. 0 or a
 * system error. [any] */
int cp_fd_seal(int fd);

/* Write all n bytes at offset `at`. 0 or a system error. [any] */
int cp_fd_write_at(int fd, uint64_t at, const void *bytes, size_t n);

/* May this process open files through the descriptors of process pid? [any] */
bool cp_fd_may_open_of(pid_t pid);

/* Open for reading the file that is descriptor `number` of process pid. 0 or a
 * system error. [any] */
int cp_fd_open_of(pid_t pid, int number, int *fd);

/* Record a descriptor that was opened elsewhere, such as a pidfd. [any] */
void cp_fd_note(int fd);

/* Close *fd unless it is -1, and set it to -1. Preserves errno. [any] */
void cp_fd_close(int *fd);

/* Set O_NONBLOCK: reads and writes return 0 instead of blocking. [any] */
int cp_fd_set_nonblock(int fd);

/*
 * Read at most n bytes. Returns how many; 0 if the pipe is empty (O_NONBLOCK);
 * CP_ECLOSED at end-of-file; CP_EINTR; or a system error. [any]
 */
ssize_t cp_fd_read(int fd, void *dst, size_t n);

/* Wait until a read would not block, for `ms` milliseconds at most. 1; 0 when
 * the time has passed; or CP_EINTR. [any] */
int cp_fd_wait_readable(int fd, int ms);

/* Write. Returns how many bytes were written; 0 if the pipe is full (O_NONBLOCK);
 * CP_ECLOSED if the read end is closed; CP_EINTR; or a system error. Raises no
 * SIGPIPE, whatever the program does with that signal. [any] */
ssize_t cp_fd_writev(int fd, const struct iovec *parts, int n_parts);

/* The same without the system call that finds out how SIGPIPE is handled: for a
 * process that ends with its reader, as a worker does with the parent. [any] */
ssize_t cp_fd_writev_to_parent(int fd, const struct iovec *parts, int n_parts);

/* Call around our own fork. In between no descriptor is opened or closed, so the
 * child inherits a table that matches its descriptors. [any] */
void cp_fd_before_fork(void);
void cp_fd_after_fork(void); /* in the parent */

/* Close every recorded descriptor except the n in keep, and clear the table.
 * [in the child, first thing after any fork] */
void cp_fd_in_child(const int *keep, int n);

/* A self-pipe or eventfd: cp_wake_notify() makes fds[0] readable, which ends a
 * wait in the poller. */
struct cp_wake {
    int fds[2]; /* twice the same descriptor if it is an eventfd */
};

int cp_wake_init(struct cp_wake *wake); /* 0 or a system error */
void cp_wake_fini(struct cp_wake *wake);
void cp_wake_notify(struct cp_wake *wake); /* [any] */
void cp_wake_drain(struct cp_wake *wake);  /* clear all notifications */

#endif
