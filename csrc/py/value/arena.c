/* Large pages for the objects of a large result; see value/arena.h. */
#include "value/arena.h"

#if defined(__linux__) && !defined(CP_PORTABLE) && !defined(Py_GIL_DISABLED)
#    include "core/base/mem.h"

#    include <dlfcn.h>
#    include <sys/mman.h>

/* The size of CPython's arenas, unless CPython was built for large pages
 * itself. */
#    define ARENA (CP_MEM_HUGE_PAGE / 2)

/* The interpreter's own allocator, while ours replaces it. There is one
 * allocator for the process, so this is a variable of the process too. */
static PyObjectArenaAllocator own; /* lint-ok: of the process */
/* The second half of the last large page; the next arena takes it. Atomic,
 * since another interpreter may have been made meanwhile. */
static void *_Atomic spare; /* lint-ok: of the process */

static void *
alloc_arena(void *ctx, size_t size)
{
    void *half = size == ARENA ? atomic_exchange(&spare, NULL) : NULL;
    if (half != NULL) {
        return half;
    }
    char *page = size == ARENA ? cp_mem_map_huge_page() : NULL;
    if (page == NULL) {
        return own.alloc(ctx, size);
    }
    half = atomic_exchange(&spare, page + ARENA);
    if (half != NULL) {
        (void)munmap(half, ARENA);
    }
    return page;
}

/* Is this function in the same library as the interpreter? */
static bool
is_interpreters(const void *function)
{
    Dl_info here, there;
    return dladdr(function, &here) != 0
           && dladdr((const void *)PyObject_Malloc, &there) != 0
           && here.dli_fbase == there.dli_fbase;
}

/* Are these the interpreter's own functions, which free arenas with munmap()?
 * An allocator of the program must never have to free memory that it did not
 * allocate. This check takes as long as decoding a thousand ints. */
static bool
is_known(const PyObjectArenaAllocator *now)
{
    return (now->alloc == own.alloc && now->free == own.free)
           || (is_interpreters((const void *)now->alloc)
               && is_interpreters((const void *)now->free));
}

bool
py_arena_begin(size_t bytes)
{
    PyObjectArenaAllocator now;
    if (bytes < CP_MEM_HUGE_MIN
        || PyInterpreterState_Head() != PyInterpreterState_Main()) {
        return false;
    }
    PyObject_GetArenaAllocator(&now);
    if (now.alloc == alloc_arena || !is_known(&now)) {
        return false;
    }
    own = now;
    now.alloc = alloc_arena;
    PyObject_SetArenaAllocator(&now);
    return true;
}

void
py_arena_end(bool is_active)
{
    PyObjectArenaAllocator now;
    if (!is_active) {
        return;
    }
    PyObject_GetArenaAllocator(&now);
    /* False if code of a result has installed another allocator meanwhile. */
    if (now.alloc == alloc_arena) {
        PyObject_SetArenaAllocator(&own);
    }
}

void
py_arena_in_child(void)
{
    py_arena_end(true);
}
#else
bool
py_arena_begin(size_t Py_UNUSED(bytes))
{
    return false;
}

void
py_arena_end(bool Py_UNUSED(is_active))
{
}

void
py_arena_in_child(void)
{
}
#endif
