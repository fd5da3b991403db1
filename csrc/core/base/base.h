/*
 * Error codes, assertions and compiler attributes, for every file of the core.
 *
 * Core functions return 0 on success, or a negative CP_E* or CP_ERRNO() code.
 * A function that may find nothing returns 1 (found), 0 (nothing now, or the
 * end) or a negative code. No function returns -1: the binding reserves -1 for
 * "a Python exception is set".
 *
 * [any] behind a declaration, in all headers of the core: may be called by any
 * thread, with or without the pool's lock.
 */
#ifndef CP_BASE_H
#define CP_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CP_ENOMEM (-2)   /* out of memory; nothing was changed */
#define CP_EPROTO (-3)   /* the other side violated the protocol */
#define CP_ECLOSED (-4)  /* the pool is closed or terminated; end-of-file */
#define CP_EFOREIGN (-5) /* the pool belongs to another process */
#define CP_EINTR (-6)    /* a signal arrived: run the signal handlers now */
#define CP_ETOOBIG (-7)  /* the frame does not fit into the ring */

/* Convert an errno to a code, and back. CP_ERRNO_OF() is 0 for other codes. */
#define CP_ERRNO(e) (-1000 - (e))
#define CP_ERRNO_OF(code) ((code) <= -1000 ? -(code)-1000 : 0)

/* For our own invariants only; bad input from a worker is CP_EPROTO. */
#define CP_ASSERT(cond) assert(cond)

#define CP_LIKELY(x) __builtin_expect(!!(x), 1)
#define CP_UNLIKELY(x) __builtin_expect(!!(x), 0)

#define CP_CACHE_LINE 64
#define CP_KIB(n) ((size_t)(n) << 10)

/* Hint to the processor that the caller is in a spin loop. */
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
