/*
 * What every file of the core shares: error codes, assertions, attributes.
 *
 * Core functions return 0, or a negative CP_E* or CP_ERRNO() code. Three-way
 * calls return 1 (got one), 0 (not now, or the end) or a negative code. -1 is
 * never returned: the binding reserves it for "a Python exception is set".
 */
#ifndef CP_BASE_H
#define CP_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CP_ENOMEM (-2)   /* no memory; nothing was changed */
#define CP_EPROTO (-3)   /* the other side sent what it must not send */
#define CP_ECLOSED (-4)  /* the pool takes no more work, or has ended */
#define CP_EFOREIGN (-5) /* the pool belongs to another process */
#define CP_EINTR (-6)    /* a signal arrived; its handlers should run now */
#define CP_EREMOVED (-7) /* the task or worker is not there any more */

/* A system error as a code, and back. 0 where code is not a system error. */
#define CP_ERRNO(e) (-1000 - (e))
#define CP_ERRNO_OF(code) ((code) <= -1000 ? -(code)-1000 : 0)

/* A broken invariant of our own; what comes from outside is CP_EPROTO. */
#define CP_ASSERT(cond) assert(cond)

#define CP_LIKELY(x) __builtin_expect(!!(x), 1)
#define CP_UNLIKELY(x) __builtin_expect(!!(x), 0)

#define CP_CACHE_LINE 64
#define CP_KIB(n) ((size_t)(n) << 10)

/* Tell the processor that this is a loop that only looks. */
static inline void
cp_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
