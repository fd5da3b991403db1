/* Memory: arrays, huge pages by madvise(), streaming stores; see base/mem.h. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SSE2__) && !defined(CP_PORTABLE)
#    include <emmintrin.h>
#    define HAS_STREAM 1
#else
#    define HAS_STREAM 0
#endif

#define FIRST 8u /* room of a new array */

void *
cp_mem_grow(void *array, size_t *cap, size_t n, size_t size)
{
    if (n <= *cap) {
        return array;
    }
    size_t most = SIZE_MAX / 2 / size;
    size_t more = *cap <= most / 2 ? *cap * 2 : most;
    more = more < FIRST ? FIRST : more;
    more = more < n ? n : more;
    void *moved = more <= most ? realloc(array, more * size) : NULL;
    if (moved != NULL) {
        *cap = more;
    }
    return moved;
}

void
cp_mem_advise_huge(void *bytes, size_t n)
{
#if defined(MADV_HUGEPAGE) && !defined(CP_PORTABLE)
    if (n < CP_MEM_HUGE_MIN) {
        return;
    }
    /* Round outwards to whole pages. If the advice covered only a part of
     * malloc()'s mapping, the kernel would split the mapping in two, and realloc()
     * would have to copy. The page size is not 4 KB everywhere. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)bytes / page * page;
    uintptr_t end = ((uintptr_t)bytes + n + page - 1) / page * page;
    (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)bytes;
    (void)n;
#endif
}

void *
cp_mem_map_huge_page(void)
{
#if defined(MADV_HUGEPAGE) && !defined(CP_PORTABLE)
    /* Map twice the size: it always contains one aligned huge page. */
    char *base = mmap(NULL, 2 * CP_MEM_HUGE_PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return NULL;
    }
    size_t before =
        CP_MEM_HUGE_PAGE - ((uintptr_t)base & (CP_MEM_HUGE_PAGE - 1));
    char *page = base + before;
    (void)munmap(base, before);
    if (before < CP_MEM_HUGE_PAGE) {
        (void)munmap(page + CP_MEM_HUGE_PAGE, CP_MEM_HUGE_PAGE - before);
    }
    (void)madvise(page, CP_MEM_HUGE_PAGE, MADV_HUGEPAGE);
    return page;
#else
    return NULL;
#endif
}

#if HAS_STREAM
/* Copy n bytes, a multiple of CP_CACHE_LINE, to the beginning of a line. */
static void
stream_lines(uint8_t *to, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += CP_CACHE_LINE) {
        const __m128i *in = (const __m128i *)(const void *)(from + i);
        __m128i *out = (__m128i *)(void *)(to + i);
        __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
        __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
        _mm_stream_si128(out, a);
        _mm_stream_si128(out + 1, b);
        _mm_stream_si128(out + 2, c);
        _mm_stream_si128(out + 3, d);
    }
}
#endif

void
cp_mem_stream(void *to, const void *from, size_t n)
{
    uint8_t *out = to;
    const uint8_t *in = from;
#if HAS_STREAM
    if (n >= CP_MEM_STREAM_MIN) {
        size_t before = (0 - (uintptr_t)out) % CP_CACHE_LINE;
        size_t lines = (n - before) / CP_CACHE_LINE * CP_CACHE_LINE;
        memcpy(out, in, before);
        stream_lines(out + before, in + before, lines);
        out += before + lines;
        in += before + lines;
        n -= before + lines;
    }
#endif
    memcpy(out, in, n);
}

void
cp_mem_stream_end(void)
{
#if HAS_STREAM
    _mm_sfence(); /* before any later store */
#endif
}
