/* Large pages: advice on systems with any page size, and mapping one page;
 * growing arrays; copies past the cache. */
#include "base/mem.h"
#include "cp_test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(MADV_HUGEPAGE) && !defined(CP_PORTABLE)
#    define ASKS 1
#else
#    define ASKS 0
#endif

/* The page size that the fake system reports; 0: the real one. */
static long page;
/* The range that madvise() was called with. */
static uintptr_t start, end;
static int calls;

long __real_sysconf(int name);
long __wrap_sysconf(int name);
int __real_madvise(void *at, size_t n, int advice);
int __wrap_madvise(void *at, size_t n, int advice);

/* ThreadSanitizer's runtime calls these functions as well, before it can check
 * instrumented code. */
#if defined(__clang__)
#    define PLAIN __attribute__((disable_sanitizer_instrumentation))
#else
#    define PLAIN
#endif

PLAIN long
__wrap_sysconf(int name)
{
    return name == _SC_PAGESIZE && page != 0 ? page : __real_sysconf(name);
}

PLAIN int
__wrap_madvise(void *at, size_t n, int advice)
{
    if (page == 0) {
        return __real_madvise(at, n, advice);
    }
    start = (uintptr_t)at;
    end = start + n;
    calls++;
    return 0;
}

TEST(mem_large_pages_are_asked_for_in_whole_pages)
{
    static const long sizes[] = {4096, 16384, 65536};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        page = sizes[i];
        uintptr_t first = 10 * 65536 + 4096 + 16, n = CP_MEM_HUGE_MIN + 5;
        cp_mem_advise_huge((void *)first, n);
        CHECK_EQ(calls, ASKS * ((int)i + 1));
        CHECK_EQ(start % (uintptr_t)page, 0);
        CHECK_EQ(end % (uintptr_t)page, 0);
        if (ASKS) { /* all of the memory, and no page beyond */
            CHECK(start <= first && first - start < (uintptr_t)page);
            CHECK(end >= first + n && end - (first + n) < (uintptr_t)page);
        }
    }
    page = 0;
}

TEST(mem_small_memory_is_not_advised)
{
    page = 4096;
    cp_mem_advise_huge((void *)4096, CP_MEM_HUGE_MIN - 1);
    CHECK_EQ(calls, 0);
    page = 0;
}

TEST(mem_page_is_aligned_and_freed_in_halves)
{
    for (int i = 0; i < 4; i++) {
        char *large = cp_mem_map_huge_page();
        CHECK_EQ(large != NULL, ASKS);
        if (large != NULL) {
            CHECK_EQ((uintptr_t)large % CP_MEM_HUGE_PAGE, 0);
            memset(large, 1, CP_MEM_HUGE_PAGE);
            CHECK_EQ(munmap(large + CP_MEM_HUGE_PAGE / 2, CP_MEM_HUGE_PAGE / 2),
                     0);
            CHECK_EQ(large[CP_MEM_HUGE_PAGE / 2 - 1], 1);
            CHECK_EQ(munmap(large, CP_MEM_HUGE_PAGE / 2), 0);
        }
    }
}

TEST(mem_arrays_grow)
{
    size_t cap = 0, moves = 0;
    uint32_t *array = NULL;
    for (uint32_t n = 0; n < 1000; n++) {
        size_t before = cap;
        array = cp_mem_grow(array, &cap, n + 1, sizeof(*array));
        CHECK(array != NULL);
        CHECK(cap > n);
        CHECK(cap == before || cap >= 2 * before);
        moves += cap != before;
        array[n] = n;
    }
    CHECK(moves <= 8); /* not once for each element */
    for (uint32_t n = 0; n < 1000; n++) {
        CHECK_EQ(array[n], n);
    }
    array = cp_mem_grow(array, &cap, 5000, sizeof(*array)); /* many at once */
    CHECK(cap >= 5000 && array[999] == 999);
    size_t room = cap;
    /* More bytes than there can be. */
    CHECK(cp_mem_grow(array, &cap, SIZE_MAX, sizeof(*array)) == NULL);
    CHECK(cp_mem_grow(array, &cap, SIZE_MAX / 4 + 1, sizeof(*array)) == NULL);
    CHECK_EQ(cap, room);
    CHECK_EQ(array[999], 999);
    free(array);
    cap = SIZE_MAX / 8; /* twice as many do not fit into memory */
    CHECK(cp_mem_grow(NULL, &cap, SIZE_MAX / 4, 4) == NULL);
    CHECK_EQ(cap, SIZE_MAX / 8);
}

/* How many bytes of the array are not 0? */
static size_t
n_written(const uint8_t *bytes, size_t n)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        found += bytes[i] != 0;
    }
    return found;
}

/* Streaming stores write whole lines: with each beginning and end beside them. */
TEST(mem_streams_copy_all_bytes_and_no_others)
{
    static uint8_t from[2 * CP_MEM_STREAM_MIN], to[2 * CP_MEM_STREAM_MIN];
    static const size_t sizes[] = {0, 1, CP_CACHE_LINE, CP_MEM_STREAM_MIN - 1,
                                   CP_MEM_STREAM_MIN};
    memset(from, 1, sizeof(from));
    for (size_t i = 0; i < sizeof(from); i++) {
        from[i] |= (uint8_t)(i * 2);
    }
    for (size_t k = 0; k < CP_CACHE_LINE; k++) {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            size_t n = sizes[i] + k, in = k * 5 % CP_CACHE_LINE;
            memset(to, 0, sizeof(to));
            cp_mem_stream(to + k, from + in, n);
            cp_mem_stream_end();
            CHECK_EQ(memcmp(to + k, from + in, n), 0);
            CHECK_EQ(n_written(to, sizeof(to)), n);
        }
    }
}
