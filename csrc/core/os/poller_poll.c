/* os/poller.h by poll(), for systems without epoll. */
#include "os/poller.h"

#if !defined(__linux__) || defined(CP_PORTABLE)

#    include "base/clock.h"
#    include "base/lock.h"
#    include "base/mem.h"

#    include <errno.h>
#    include <poll.h>
#    include <stdlib.h>
#    include <string.h>

/* How long to sleep if poll() itself cannot wait. */
#    define GUESS_MS 1

struct watched {
    int fd;
    unsigned events;
    uint64_t tag;
};

/* Waiting happens without the pool's lock, so the list has a lock of its own:
 * cp_poller_wait() copies the list under that lock. */
struct cp_poller {
    struct cp_lock lock;
    struct watched *list;
    size_t n, cap;
    struct pollfd *fds; /* the waiting thread's copy */
    uint64_t *tags;
    size_t fds_cap;
    size_t next_start; /* index at which the next wait starts its scan */
};

int
cp_poller_new(struct cp_poller **out)
{
    *out = NULL;
    struct cp_poller *poller = calloc(1, sizeof(*poller));
    if (poller == NULL) {
        return CP_ENOMEM;
    }
    int r = cp_lock_init(&poller->lock);
    if (r != 0) {
        free(poller);
        return r;
    }
    *out = poller;
    return 0;
}

void
cp_poller_free(struct cp_poller *poller)
{
    if (poller != NULL) {
        cp_lock_fini(&poller->lock);
        free(poller->list);
        free(poller->fds);
        free(poller->tags);
        free(poller);
    }
}

static struct watched *
find(struct cp_poller *poller, int fd)
{
    for (size_t i = 0; i < poller->n; i++) {
        if (poller->list[i].fd == fd) {
            return &poller->list[i];
        }
    }
    return NULL;
}

int
cp_poller_add(struct cp_poller *poller, int fd, unsigned events, uint64_t tag)
{
    int r = 0;
    cp_lock_acquire(&poller->lock);
    struct watched *list =
        cp_mem_grow(poller->list, &poller->cap, poller->n + 1, sizeof(*list));
    if (list == NULL) {
        r = CP_ENOMEM;
    } else {
        poller->list = list;
    }
    if (r == 0) {
        poller->list[poller->n++] = (struct watched){fd, events, tag};
    }
    cp_lock_release(&poller->lock);
    return r;
}

int
cp_poller_set(struct cp_poller *poller, int fd, unsigned events, uint64_t tag)
{
    cp_lock_acquire(&poller->lock);
    struct watched *w = find(poller, fd);
    if (w != NULL) {
        w->events = events;
        w->tag = tag;
    }
    cp_lock_release(&poller->lock);
    return w != NULL ? 0 : CP_ERRNO(ENOENT);
}

void
cp_poller_del(struct cp_poller *poller, int fd)
{
    cp_lock_acquire(&poller->lock);
    struct watched *w = find(poller, fd);
    if (w != NULL) {
        *w = poller->list[--poller->n];
    }
    cp_lock_release(&poller->lock);
}

bool
cp_poller_needs_wake(void)
{
    return true;
}

static int
copy_list(struct cp_poller *poller)
{
    size_t n = poller->n;
    if (n > poller->fds_cap) {
        struct pollfd *fds = realloc(poller->fds, n * sizeof(*fds));
        if (fds != NULL) {
            poller->fds = fds;
        }
        uint64_t *tags = realloc(poller->tags, n * sizeof(*tags));
        if (tags != NULL) {
            poller->tags = tags;
        }
        if (fds == NULL || tags == NULL) {
            return CP_ENOMEM;
        }
        poller->fds_cap = n;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned events = poller->list[i].events;
        short mask = (short)(((events & CP_IN) != 0 ? POLLIN : 0)
                             | ((events & CP_OUT) != 0 ? POLLOUT : 0));
        poller->fds[i] = (struct pollfd){poller->list[i].fd, mask, 0};
        poller->tags[i] = poller->list[i].tag;
    }
    return (int)n;
}

static int
timeout_ms(int64_t deadline)
{
    if (deadline == CP_NEVER) {
        return -1;
    }
    int64_t left = deadline == 0 ? 0 : deadline - cp_now();
    left = left <= 0 ? 0 : (left + CP_MS - 1) / CP_MS;
    return left > INT32_MAX ? INT32_MAX : (int)left;
}

/* poll() fails with EINVAL for more descriptors than RLIMIT_NOFILE, which the
 * program may have lowered since. Then report all of them as ready. */
static int
guess(struct pollfd *fds, int n, int timeout)
{
    int r =
        poll(NULL, 0, timeout < 0 || timeout > GUESS_MS ? GUESS_MS : timeout);
    if (r < 0) {
        return r;
    }
    for (int i = 0; i < n; i++) {
        fds[i].revents = POLLHUP; /* ready, whatever the events */
    }
    return n;
}

int
cp_poller_wait(struct cp_poller *poller, struct cp_ready *ready, int max,
               int64_t deadline)
{
    cp_lock_acquire(&poller->lock);
    int n = copy_list(poller);
    cp_lock_release(&poller->lock);
    if (n < 0) {
        return n;
    }
    int timeout = timeout_ms(deadline);
    int r = poll(poller->fds, (nfds_t)n, timeout);
    if (r < 0 && errno == EINVAL) {
        r = guess(poller->fds, n, timeout);
    }
    if (r < 0) {
        return errno == EINTR ? CP_EINTR : CP_ERRNO(errno);
    }
    int filled = 0;
    size_t at = poller->next_start;
    for (int i = 0; i < n && filled < max; i++, at++) {
        /* POLLNVAL: the descriptor was closed in the meantime. */
        size_t k = at % (size_t)n;
        if ((poller->fds[k].revents & ~POLLNVAL) != 0) {
            ready[filled++].tag = poller->tags[k];
        }
    }
    /* Round-robin: with more than max ready descriptors, each one is reported
     * sooner or later. */
    poller->next_start = n > 0 ? at % (size_t)n : 0;
    return filled;
}

#else
typedef int cp_poller_poll_is_empty;
#endif
