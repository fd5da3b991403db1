/*
 * Monotonic time in nanoseconds. Deadlines are absolute, so a wait that is
 * interrupted and resumed does not take longer. [any]
 */
#ifndef CP_CLOCK_H
#define CP_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CP_NEVER INT64_MAX
#define CP_US INT64_C(1000)
#define CP_MS INT64_C(1000000)
#define CP_SECOND INT64_C(1000000000)

static inline int64_t
cp_now(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * CP_SECOND + ts.tv_nsec;
}

static inline int64_t
cp_clock_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
