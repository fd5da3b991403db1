/*
 * Reading the format of value/tags.h: what the decoding files have in common. A
 * reader lives on the stack of one call.
 *
 * Functions return 0, CP_EPROTO, or -1 with an exception.
 */
#ifndef PY_READER_H
#define PY_READER_H

#include "base/state.h"
#include "value/tags.h"

#include "core/base/base.h"
#include "core/share/parts.h"

#include <string.h>

/* Strings that have arrived before: see value/known.h. */
struct py_known;

struct py_reader {
    struct py_state *state;
    const uint8_t *at, *end;
    int depth, level;
    size_t owed;    /* how many bytes all other values need at least */
    unsigned flags; /* HAS_REFS, HAS_CODE */
    const struct cp_loan *loan; /* the parts of the body, or NULL */
    /* With HAS_REFS, the objects by their numbers; NULL: not made yet. */
    PyObject **objects;
    size_t numbered, cap;
    bool interns; /* keys are attribute names: intern them */
    struct py_known
        *known; /* taken from the state when first needed; or NULL */
};

/* A reader of these bytes; its flags come from the first byte. */
static inline struct py_reader
py_reader_of(struct py_state *state, const uint8_t *bytes, size_t len,
             const struct cp_loan *loan)
{
    return (struct py_reader){.state = state,
                              .at = bytes,
                              .end = bytes + len,
                              .loan = loan,
                              .flags = len > 0 ? bytes[0] & ~TAG_BITS : 0};
}

static inline size_t
py_reader_left(const struct py_reader *in)
{
    return (size_t)(in->end - in->at);
}

/* Are there enough bytes left for n more values? */
static inline bool
py_reader_has(const struct py_reader *in, size_t n)
{
    size_t left = py_reader_left(in);
    return left >= in->owed && n <= left - in->owed;
}

static inline int
py_reader_get_byte(struct py_reader *in, unsigned *byte)
{
    if (py_reader_left(in) < 1) {
        return CP_EPROTO;
    }
    *byte = *in->at++;
    return 0;
}

/* Set *bytes to the next n bytes, and skip them. */
static inline int
py_reader_get_raw(struct py_reader *in, size_t n, const uint8_t **bytes)
{
    if (py_reader_left(in) < n) {
        return CP_EPROTO;
    }
    *bytes = in->at;
    in->at += n;
    return 0;
}

/* Read a size: the number of things that take at least `each` bytes. */
static inline int
py_reader_get_size(struct py_reader *in, size_t each, size_t *size)
{
    unsigned byte;
    if (py_reader_get_byte(in, &byte) < 0) {
        return CP_EPROTO;
    }
    uint64_t wide = byte;
    if (byte == WIDE) {
        const uint8_t *bytes;
        if (py_reader_get_raw(in, sizeof(wide), &bytes) < 0) {
            return CP_EPROTO;
        }
        memcpy(&wide, bytes, sizeof(wide));
    }
    if (wide > py_reader_left(in) / each) {
        return CP_EPROTO;
    }
    *size = (size_t)wide;
    return 0;
}

/* The lease of the part with this number: 0 or CP_EPROTO. */
static inline int
py_reader_find_part(const struct py_reader *in, uint32_t number,
                    struct cp_lease **lease)
{
    if (in->loan == NULL || number >= in->loan->n) {
        return CP_EPROTO;
    }
    *lease = in->loan->leases[number];
    return 0;
}

/* Read the number of a part. */
static inline int
py_reader_get_number(struct py_reader *in, uint32_t *number)
{
    const uint8_t *bytes;
    if (py_reader_get_raw(in, sizeof(*number), &bytes) < 0) {
        return CP_EPROTO;
    }
    memcpy(number, bytes, sizeof(*number));
    return 0;
}

/* Assign n consecutive numbers; *first is the first of them. 0, or -1 with
 * MemoryError. */
int py_reader_number(struct py_reader *in, size_t n, size_t *first);

/* Record that the object with this number is made. */
static inline void
py_reader_set(struct py_reader *in, size_t number, PyObject *obj)
{
    if ((in->flags & HAS_REFS) != 0) {
        in->objects[number] = Py_NewRef(obj);
    }
}

/* Assign the next number to an object that is made. 0, or -1 with
 * MemoryError. */
static inline int
py_reader_keep(struct py_reader *in, PyObject *obj)
{
    size_t number;
    if ((in->flags & HAS_REFS) == 0) {
        return 0;
    }
    if (py_reader_number(in, 1, &number) < 0) {
        return -1;
    }
    py_reader_set(in, number, obj);
    return 0;
}

/* The object of a REF with this tag, as a new reference. */
int py_reader_get_ref(struct py_reader *in, unsigned tag, PyObject **obj);

/* Release the objects. */
void py_reader_fini(struct py_reader *in);

#endif
