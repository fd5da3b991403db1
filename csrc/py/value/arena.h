/*
 * Large pages for the objects of a large result.
 *
 * A million ints take 8,000 pages, and the first touch of each costs three times
 * as much as making the objects in it. CPython gets the memory of its small
 * objects in arenas of 1 MB: while a large result is decoded, two of them are one
 * large page of Linux's. What frees them is CPython's own munmap(), so that
 * nothing of ours has to stay.
 *
 * Nothing happens where CPython has no such arenas (without the GIL, or with
 * PYTHONMALLOC=malloc), where the program has an allocator of its own for them,
 * and while there are other interpreters, which allocate without our GIL.
 * [attached]
 */
#ifndef PY_ARENA_H
#define PY_ARENA_H

#include "base/state.h"

/* Objects of about so many bytes are about to be made: true where arenas will be
 * large pages for it until py_arena_end(). */
bool py_arena_begin(size_t bytes);

/* begun: what the matching py_arena_begin() gave. */
void py_arena_end(bool begun);

/* In a forked copy, whose thread that decoded is not there. */
void py_arena_in_child(void);

#endif
