/*
 * Memory for bodies, which may be large.
 *
 * A page that is touched for the first time costs as much as copying it several
 * times over; Linux can give 2 MB at a time where it is asked to. [any]
 */
#ifndef CP_MEM_H
#define CP_MEM_H

#include "base/base.h"

/* From here on it is worth asking. */
#define CP_MEM_LARGE (CP_KIB(1) << 12)

/* The size of a large page. */
#define CP_MEM_PAGE (CP_KIB(1) << 11)

/* Nothing has been touched yet of these n bytes: ask for large pages. It changes
 * nothing but what touching costs; where there are none it does nothing. */
void cp_mem_expect(void *bytes, size_t n);

/* A new mapping for which one large page was asked, or NULL. To be given back by
 * munmap(), in parts as well. */
void *cp_mem_map_page(void);

#endif
