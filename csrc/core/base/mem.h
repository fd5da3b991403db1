/* Arrays that grow; large bodies: huge pages, and copies past the cache. [any] */
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

/*
 * Copies past the cache. A plain store first fetches the cache line that it changes.
 * If another processor has read or written that line before, this takes up to
 * ten times as long as a store that goes to memory directly. So memory that another
 * process reads, and this one does not, is written by such stores.
 */

/* Smaller pieces are not worth it: their ends are not whole lines. */
#define CP_MEM_STREAM_MIN CP_KIB(4)

/* Copy like memcpy(), but past the cache. The other process may be told of the bytes
 * only after cp_mem_stream_end(), by the same thread. */
void cp_mem_stream(void *to, const void *from, size_t n);
void cp_mem_stream_end(void);

#endif
