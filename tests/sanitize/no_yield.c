/*
 * Preloaded into the free-threaded 3.13: sched_yield() that yields nothing.
 *
 * That interpreter waits for a lock of its own by 40 calls of sched_yield(), thousands of
 * times while it starts, even with one thread: a lock that an outer critical section
 * holds is waited for before that section is suspended. Since Linux 6.18, who yields
 * all the time gets no processor while others want one: the interpreter then needs 40 s
 * to start instead of 0.4, and tests with deadlines fail.
 */
#include <sched.h>

int
sched_yield(void)
{
    return 0;
}
