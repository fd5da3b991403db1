/*
 * Large pages for the objects of a large result.
 *
 * A million ints take 8,000 pages, and the page fault of each page costs three
 * times as much as making the objects in it. CPython gets the memory of its
 * small objects in arenas of 1 MB: while a large result is decoded, two arenas
 * share one large page of Linux. CPython frees them with its own munmap(), so
 * none of our code has to stay installed.
 *
 * Nothing happens where CPython has no such arenas (without the GIL, or with
 * PYTHONMALLOC=malloc), where the program has an arena allocator of its own,
 * and while there are other interpreters, which allocate without our GIL.
 * [attached]
 */
#ifndef PY_ARENA_H
#define PY_ARENA_H

#include "base/state.h"

/* Objects of about this many bytes are about to be made. True: until
 * py_arena_end(), arenas are in large pages. */
bool py_arena_begin(size_t bytes);

/* is_active: what the matching py_arena_begin() returned. */
void py_arena_end(bool is_active);

/* In a forked copy of the process, where the thread that decoded does not
 * exist. */
void py_arena_in_child(void);

#endif
