/*
 * Which descriptors are ready: epoll where there is one, poll() elsewhere
 * (os/poller_epoll.c, os/poller_poll.c; the build compiles both, one of them
 * is empty).
 *
 * Each descriptor carries a tag of the caller's. add, set and del may be
 * called while another thread waits; all four are called with the pool's lock
 * held, wait without it, and only one thread waits at a time.
 */
#ifndef CP_POLLER_H
#define CP_POLLER_H

#include "base/base.h"

#define CP_IN 1u
#define CP_OUT 2u

struct cp_poller;

struct cp_ready {
    uint64_t tag;
};

/* 0 or a negative code; *poller is to be freed. */
int cp_poller_new(struct cp_poller **poller);
void cp_poller_free(struct cp_poller *poller); /* NULL is fine */

/* Watch fd for events (CP_IN, CP_OUT; hang-ups always show). */
int cp_poller_add(struct cp_poller *poller, int fd, unsigned events,
                  uint64_t tag);
int cp_poller_set(struct cp_poller *poller, int fd, unsigned events,
                  uint64_t tag);
void cp_poller_del(struct cp_poller *poller, int fd);

/* True where a change made while another thread waits is only seen when that
 * wait ends, so that the caller has to end it. */
bool cp_poller_needs_wake(void);

/* Wait until something is ready or the deadline: how many of ready[max] were
 * filled, CP_EINTR, or a system error. What is said to be ready may not be: the
 * descriptors are such that do not block. */
int cp_poller_wait(struct cp_poller *poller, struct cp_ready *ready, int max,
                   int64_t deadline);

#endif
