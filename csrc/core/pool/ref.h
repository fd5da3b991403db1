/* References to a pool: public, like pool/pool.h. [any] */
#ifndef CP_POOL_REF_H
#define CP_POOL_REF_H

#include "base/base.h"

struct cp_pool;

void cp_pool_ref(struct cp_pool *pool);

/* The last one frees the pool; it must have ended, or have no workers. In a
 * forked copy it frees nothing. */
void cp_pool_unref(struct cp_pool *pool);

/* Did this process make the pool? */
bool cp_pool_is_ours(const struct cp_pool *pool);

#endif
