/*
 * Readiness of descriptors, by epoll on Linux (os/poller_epoll.c) and by poll()
 * elsewhere (os/poller_poll.c). The build compiles both files; the preprocessor
 * empties one of them.
 *
 * Each descriptor has a tag, which cp_poller_wait() returns. Call add, set and
 * del with the pool's lock held, also while another thread waits. Call wait
 * without the lock, by one thread at a time.
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

/* 0 or a negative code. */
int cp_poller_new(struct cp_poller **poller);
void cp_poller_free(struct cp_poller *poller); /* NULL is fine */

/* Watch fd for CP_IN and/or CP_OUT; hang-ups are always reported. */
int cp_poller_add(struct cp_poller *poller, int fd, unsigned events,
                  uint64_t tag);
int cp_poller_set(struct cp_poller *poller, int fd, unsigned events,
                  uint64_t tag);
void cp_poller_del(struct cp_poller *poller, int fd);

/* True if a wait in progress does not notice add, set and del. The caller then
 * has to interrupt the wait (struct cp_wake). */
bool cp_poller_needs_wake(void);

/* Wait until a descriptor is ready, or until the deadline. Returns how many
 * entries of ready[max] were filled, CP_EINTR, or a system error. There may be
 * false positives: every descriptor must be non-blocking. */
int cp_poller_wait(struct cp_poller *poller, struct cp_ready *ready, int max,
                   int64_t deadline);

#endif
