/* os/poller.h by epoll. A wait in progress notices changes by itself. */
#include "os/poller.h"

#if defined(__linux__) && !defined(CP_PORTABLE)

#    include "base/clock.h"
#    include "os/fd.h"

#    include <errno.h>
#    include <stdlib.h>
#    include <sys/epoll.h>
#    include <unistd.h>

struct cp_poller {
    int fd;
};

int
cp_poller_new(struct cp_poller **out)
{
    *out = NULL;
    struct cp_poller *poller = malloc(sizeof(*poller));
    if (poller == NULL) {
        return CP_ENOMEM;
    }
    poller->fd = epoll_create1(EPOLL_CLOEXEC);
    if (poller->fd < 0) {
        int e = errno;
        free(poller);
        return CP_ERRNO(e);
    }
    cp_fd_note(poller->fd);
    *out = poller;
    return 0;
}

void
cp_poller_free(struct cp_poller *poller)
{
    if (poller != NULL) {
        cp_fd_close(&poller->fd);
        free(poller);
    }
}

static int
control(struct cp_poller *poller, int op, int fd, unsigned events, uint64_t tag)
{
    struct epoll_event ev = {
        .events = ((events & CP_IN) != 0 ? (uint32_t)EPOLLIN : 0u)
                  | ((events & CP_OUT) != 0 ? (uint32_t)EPOLLOUT : 0u),
        .data.u64 = tag,
    };
    return epoll_ctl(poller->fd, op, fd, &ev) == 0 ? 0 : CP_ERRNO(errno);
}

int
cp_poller_add(struct cp_poller *poller, int fd, unsigned events, uint64_t tag)
{
    return control(poller, EPOLL_CTL_ADD, fd, events, tag);
}

int
cp_poller_set(struct cp_poller *poller, int fd, unsigned events, uint64_t tag)
{
    return control(poller, EPOLL_CTL_MOD, fd, events, tag);
}

void
cp_poller_del(struct cp_poller *poller, int fd)
{
    (void)control(poller, EPOLL_CTL_DEL, fd, 0, 0);
}

bool
cp_poller_needs_wake(void)
{
    return false;
}

int
cp_poller_wait(struct cp_poller *poller, struct cp_ready *ready, int max,
               int64_t deadline)
{
    struct epoll_event events[64];
    int timeout = -1;
    if (deadline != CP_NEVER) {
        int64_t left = deadline == 0 ? 0 : deadline - cp_now();
        /* Round up; rounding down would busy-loop in the last millisecond. */
        left = left <= 0 ? 0 : (left + CP_MS - 1) / CP_MS;
        timeout = left > INT32_MAX ? INT32_MAX : (int)left;
    }
    int n = epoll_wait(poller->fd, events, max < 64 ? max : 64, timeout);
    if (n < 0) {
        return errno == EINTR ? CP_EINTR : CP_ERRNO(errno);
    }
    for (int i = 0; i < n; i++) {
        ready[i].tag = events[i].data.u64;
    }
    return n;
}

#else
typedef int cp_poller_epoll_is_empty;
#endif
