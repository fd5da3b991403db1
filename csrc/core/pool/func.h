/*
 * The callables of a pool: pickled once, kept in numbered slots that every
 * worker has too, and short ones found again when they come again. The lock is
 * held.
 */
#ifndef CP_POOL_FUNC_H
#define CP_POOL_FUNC_H

#include "pool/state.h"

/* The callable with these bytes, with one reference; NULL: out of memory. A
 * short callable with CP_KEEP is shared by all calls that bring the same bytes;
 * one that was pickled by value, only with CP_KEPT. */
struct cp_func *cp_funcs_open(struct cp_pool *pool, const void *bytes,
                              size_t len, uint16_t flags);

/* See cp_func_open_sealed(). */
struct cp_func *cp_funcs_open_sealed(struct cp_pool *pool,
                                     struct cp_parts *parts, const void *name,
                                     size_t len, uint16_t flags);

/* Free the shared objects that nobody refers to any more. */
void cp_funcs_reap(struct cp_pool *pool);

/* Drop a reference. The last one tells the workers to forget the callable. */
void cp_funcs_unref(struct cp_pool *pool, struct cp_func *func);

#endif
