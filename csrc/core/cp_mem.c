/* Large pages for large memory; see cp_mem.h. */
#include "cp_mem.h"

#include <sys/mman.h>
#include <unistd.h>

void
cp_mem_expect(void *bytes, size_t n)
{
#if defined(MADV_HUGEPAGE) && !defined(CP_PORTABLE)
    if (n < CP_MEM_LARGE) {
        return;
    }
    /* Whole pages, outwards: with a mapping of malloc()'s in two parts, realloc()
     * would have to copy. Some systems have larger ones than 4 KB. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)bytes / page * page;
    uintptr_t end = ((uintptr_t)bytes + n + page - 1) / page * page;
    (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)bytes;
    (void)n;
#endif
}
