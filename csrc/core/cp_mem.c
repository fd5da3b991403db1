/* Large pages for large memory; see cp_mem.h. */
#include "cp_mem.h"

#include <sys/mman.h>

#define PAGE CP_KIB(4)

void
cp_mem_expect(void *bytes, size_t n)
{
#if defined(MADV_HUGEPAGE) && !defined(CP_PORTABLE)
    /* Whole pages, outwards: with a mapping of malloc()'s in two parts, realloc()
     * would have to copy. */
    uintptr_t start = (uintptr_t)bytes & ~(PAGE - 1);
    uintptr_t end = ((uintptr_t)bytes + n + PAGE - 1) & ~(PAGE - 1);
    if (n >= CP_MEM_LARGE) {
        (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
    }
#else
    (void)bytes;
    (void)n;
#endif
}
