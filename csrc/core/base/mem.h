/* Arrays that grow, and huge pages for large bodies. [any] */
#ifndef CP_MEM_H
#define CP_MEM_H

#include "base/base.h"

/* Make room for n elements of this size in an array with room for *cap; NULL for a
 * new array. Returns the array to go on with: if it had to grow, it may have moved,
 * and *cap is at least doubled. Returns NULL, and changes nothing, if there is no
 * memory. */
void *cp_mem_grow(void *array, size_t *cap, size_t n, size_t size);

/*
 * Huge pages for large task and result bodies. The page fault at the first write to
 * a page costs several times as much as copying the page. With transparent huge
 * pages, Linux maps 2 MB in one fault.
 */

/* Smaller blocks are not worth the madvise() call. */
#define CP_MEM_HUGE_MIN (CP_KIB(1) << 12)

/* The size of a huge page. */
#define CP_MEM_HUGE_PAGE (CP_KIB(1) << 11)

/* Ask for huge pages for a block that has not been written to yet. This is only a
 * hint: the contents stay, and without huge pages nothing happens. */
void cp_mem_advise_huge(void *bytes, size_t n);

/* Map one huge page (a hint, as above), or NULL. Release the page with munmap(),
 * as a whole or in parts. */
void *cp_mem_map_huge_page(void);

#endif
