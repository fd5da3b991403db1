/*
 * Writing the format of value/tags.h: what the encoding files have in common. A
 * writer lives on the stack of one call. [attached]
 *
 * Functions that put values return 1; 0 if the body is left to pickle; RETRY,
 * which only the column that it concerns handles; or -1 with an exception. What
 * they wrote before 0 or -1 stays in the buffer, and py_encode() or
 * py_encode_run() removes it.
 */
#ifndef PY_WRITER_H
#define PY_WRITER_H

#include "base/state.h"
#include "value/seen.h"
#include "value/tags.h"

#include "core/base/buf.h"
#include "core/share/parts.h"

#include <string.h>

/* Numbered objects that are being written: their first number, how many they
 * are, and their tag, which becomes TAG_OPEN_LIST if a list contains itself. */
struct py_open {
    struct py_open *outer;
    size_t from, n;
    size_t tag_at;
    int calls; /* the writer's `calls` when these objects were started */
};

#define NOT_MADE SIZE_MAX /* made only after their contents */
#define NOT_FILLED \
    (SIZE_MAX - 1) /* made before their contents; tags stay as they are */

/* The plans of classes: see value/plan.h. */
struct py_plans;

struct py_writer {
    struct py_state *state;
    struct cp_buf *out;
    int depth, level; /* see DEPTH_MAX and LEVEL_MAX */
    struct py_open *open;
    unsigned flags; /* HAS_REFS, HAS_CODE */
    bool ran_code;  /* code of the program may have run */
    size_t held;    /* containers so far, single or in columns */
    size_t retry;   /* see RETRY */
    int retries;    /* how often a column was started again */
    int early;      /* how often code would have seen rows too early */
    int calls;      /* around the value: what the decoder hands to code (of
                        __hash__(), say) before it goes on */
    bool alone;     /* leave to pickle what other objects may refer to too */
    bool copied;    /* alone: an array of ours also refers to the values */
    int under;      /* alone: how many enclosing tuples have other references */
    Py_ssize_t refs;  /* alone: how many references to each value are our own */
    PyObject *owners; /* see py_writer_part(); borrowed, or NULL */
    int made;         /* how many calls of code have made what is written */
    struct py_plans
        *plans;          /* taken from the state when first needed; or NULL */
    struct py_seen seen; /* the last: most of it is not set before its use */
};

/* Sets only what every body needs, since a writer is made for each task. */
static inline void
py_writer_init(struct py_writer *w, struct py_state *state, struct cp_buf *out)
{
    memset(w, 0,
           offsetof(struct py_writer, seen)
               + offsetof(struct py_seen, first_objects));
    w->state = state;
    w->out = out;
}

/* A column was started, and one of its values is of another kind. */
#define OTHER_KIND 2
/* A value refers to another value of a column that is being written, and the
 * column cannot express that; w->retry is the first number of that column.
 * Either the other value is not made yet; or it is not complete yet, and code
 * would see it. The column is then written value by value, so that the first
 * values are complete before the next ones start. */
#define RETRY 3
/* How many retries there may be in one body. */
#define RETRIES_MAX 3

/* May there be references to the value that is being written, besides the known
 * ones? */
static inline bool
py_writer_shares(const struct py_writer *w, PyObject *obj)
{
    Py_ssize_t ours = w->depth <= 1 ? w->refs : 1 + w->copied;
    return w->alone && (w->under > 0 || Py_REFCNT(obj) > ours);
}

/* Assign the next number to the object: 1; 0 if it is left to pickle; or
 * OTHER_KIND if it has a number already. */
static inline int
py_writer_enter(struct py_writer *w, PyObject *obj)
{
    if (py_writer_shares(w, obj)) {
        return 0;
    }
    int r = py_seen_add(&w->seen, obj);
    return r == 0 ? OTHER_KIND : r;
}

static inline int
py_writer_reserve(struct py_writer *w, size_t n)
{
    if (cp_buf_reserve(w->out, n) == 0) {
        return 1;
    }
    (void)PyErr_NoMemory();
    return -1;
}

/* How much was written so far: bytes, numbers and parts. */
struct py_mark {
    size_t length, seen;
    uint64_t parts;
};

static inline struct py_mark
py_writer_mark(const struct py_writer *w)
{
    return (struct py_mark){
        .length = cp_buf_len(w->out),
        .seen = w->seen.used,
        .parts = w->out->parts != NULL ? cp_parts_count(w->out->parts) : 0};
}

/* Remove what was written since the mark. */
static inline void
py_writer_back(struct py_writer *w, const struct py_mark *mark)
{
    w->out->end = w->out->start + mark->length;
    py_seen_forget(&w->seen, mark->seen);
    if (w->out->parts != NULL) {
        cp_parts_back(w->out->parts, mark->parts);
    }
}

/* The add functions need bytes that were reserved. */
static inline void
py_writer_add(struct py_writer *w, const void *bytes, size_t n)
{
    memcpy(cp_buf_tail(w->out), bytes, n);
    cp_buf_add(w->out, n);
}

static inline void
py_writer_add_byte(struct py_writer *w, unsigned byte)
{
    *cp_buf_tail(w->out) = (uint8_t)byte;
    cp_buf_add(w->out, 1);
}

/* Is it worth making a part of n bytes, and can parts be stored? */
static inline bool
py_writer_may_part(const struct py_writer *w, size_t n)
{
    return n >= CP_PART_MIN && w->out->parts != NULL
           && cp_parts_are_open(w->out->parts);
}

/* May the bytes of this object be written after everything is encoded? Then it
 * is added to w->owners. Not an object that only the caller's code has made:
 * many of these would take much memory. */
static inline bool
py_writer_keeps(const struct py_writer *w, PyObject *owner)
{
    if (w->owners == NULL || owner == NULL
        || (w->made > 0 && Py_REFCNT(owner) < 2)) {
        return false;
    }
    if (PyList_Append(w->owners, owner) < 0) {
        PyErr_Clear();
        return false;
    }
    return true;
}

/* Make a part of these bytes, if there is room. Returns its number, or NO_PART.
 * owner: the bytes stay where they are as long as this object lives; or NULL. */
static inline uint32_t
py_writer_part(struct py_writer *w, const void *bytes, size_t n,
               PyObject *owner)
{
    struct cp_parts *parts = w->out->parts;
    if (!py_writer_may_part(w, n)) {
        return NO_PART;
    }
    int64_t number = py_writer_keeps(w, owner)
                         ? cp_parts_add_later(parts, bytes, n)
                         : cp_parts_add(parts, bytes, n);
    return number >= 0 ? (uint32_t)number : NO_PART;
}

#define SIZE_ROOM 9u

static inline void
py_writer_add_size(struct py_writer *w, size_t size)
{
    if (size < WIDE) {
        py_writer_add_byte(w, (unsigned)size);
    } else {
        uint64_t wide = size;
        py_writer_add_byte(w, WIDE);
        py_writer_add(w, &wide, sizeof(wide));
    }
}

/* Put a str or bytes with this tag, of `size` characters or bytes, as a part: 1; 0 if
 * there is no room for the part, and nothing is written; or -1 with an
 * exception. */
static inline int
py_writer_put_part(struct py_writer *w, unsigned tag, PyObject *obj,
                   const void *bytes, size_t n, size_t size)
{
    uint64_t wide = size;
    if (!py_writer_may_part(w, n)) {
        return 0;
    }
    if (py_writer_reserve(w, 2 + sizeof(uint32_t) + sizeof(wide)) < 0) {
        return -1;
    }
    uint32_t number = py_writer_part(w, bytes, n, obj);
    if (number == NO_PART) {
        return 0;
    }
    py_writer_add_byte(w, TAG_PART);
    py_writer_add_byte(w, tag);
    py_writer_add(w, &number, sizeof(number));
    py_writer_add(w, &wide, sizeof(wide));
    return 1;
}

/* The n objects that got the last numbers are being written, until
 * w->open = open->outer. */
static inline void
py_writer_open(struct py_writer *w, struct py_open *open, Py_ssize_t n,
               size_t tag_at)
{
    *open = (struct py_open){.outer = w->open,
                             .from = w->seen.used - (size_t)n,
                             .n = (size_t)n,
                             .tag_at = tag_at,
                             .calls = w->calls};
    w->open = open;
}

/* May more columns be started whose objects are made before they are
 * complete? */
static inline bool
py_writer_may_open(const struct py_writer *w)
{
    return w->early <= RETRIES_MAX;
}

/* A REF to the object with this number. */
static inline int
py_writer_put_ref(struct py_writer *w, size_t number)
{
    if (py_writer_reserve(w, 5) < 0) {
        return -1;
    }
    for (struct py_open *open = w->open; open != NULL; open = open->outer) {
        if (number - open->from < open->n) {
            bool early = open->n > 1 && w->calls > open->calls;
            if (open->tag_at == NOT_MADE || early) {
                w->early += early && open->tag_at != NOT_MADE;
                w->retry = open->from;
                return open->n > 1 ? RETRY : 0;
            }
            if (open->tag_at != NOT_FILLED) {
                cp_buf_head(w->out)[open->tag_at] = TAG_OPEN_LIST;
            }
        }
    }
    uint32_t v4 = (uint32_t)number;
    uint16_t v2 = (uint16_t)number;
    w->flags |= HAS_REFS;
    if (number <= UINT8_MAX) {
        py_writer_add_byte(w, TAG_REF1);
        py_writer_add_byte(w, (unsigned)number);
    } else if (number <= UINT16_MAX) {
        py_writer_add_byte(w, TAG_REF2);
        py_writer_add(w, &v2, sizeof(v2));
    } else {
        py_writer_add_byte(w, TAG_REF4);
        py_writer_add(w, &v4, sizeof(v4));
    }
    return 1;
}

#endif
