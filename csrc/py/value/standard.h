/*
 * Classes of the standard library that have a rule of their own: dates and
 * times, complex, Decimal, UUID, the Path classes and Counter. Sending them by the
 * reduce protocol runs Python code that takes longer than everything else. The
 * rules do not apply to subclasses, nor to classes that the program has
 * changed. [attached]
 */
#ifndef PY_STANDARD_H
#define PY_STANDARD_H

#include "value/reader.h"
#include "value/writer.h"

/* The byte after TAG_STANDARD. Dates, times and complex numbers are sent as
 * bytes; times with zones are followed by a column of zones. An object of any other kind is sent
 * as one part: a string, an int, a tuple of strings, or a dict. */
enum py_standard {
    PY_STANDARD_NONE,
    PY_STANDARD_DATE,
    PY_STANDARD_TIME,
    PY_STANDARD_DATETIME,
    PY_STANDARD_TIMEDELTA,
    PY_STANDARD_ZONED_TIME,
    PY_STANDARD_ZONED_DATETIME,
    PY_STANDARD_COMPLEX,
    PY_STANDARD_DECIMAL,
    PY_STANDARD_UUID,
    PY_STANDARD_PATH,
    PY_STANDARD_PURE_PATH,
    PY_STANDARD_COUNTER,
    PY_STANDARD_END
};

static_assert(PY_STANDARD_END <= PY_STANDARDS, "make room for the kinds");

/* Are objects of this kind sent as parts? */
static inline bool
py_standard_has_parts(unsigned kind)
{
    return kind >= PY_STANDARD_DECIMAL;
}

static inline bool
py_standard_has_zones(unsigned kind)
{
    return kind == PY_STANDARD_ZONED_TIME || kind == PY_STANDARD_ZONED_DATETIME;
}

/* The kind of objects of this class; times count as without zones. */
enum py_standard py_standard_kind_of(struct py_state *state,
                                     PyTypeObject *type);

/* ---- objects of bytes ---- */

/* How many bytes one object takes. */
size_t py_standard_size(unsigned kind);

/* The zone of a time or a datetime, borrowed; or None. */
PyObject *py_standard_zone(PyObject *obj);

/* Write one object as that many bytes. */
void py_standard_put_bytes(unsigned kind, PyObject *obj, uint8_t *to);

/* Prepare to make objects of this kind: the module is imported if necessary. 0,
 * or -1 with an exception. */
int py_standard_begin(unsigned kind);

/* Make one object from these bytes, and a zone or None: 0, CP_EPROTO, or -1
 * with an exception. */
int py_standard_get_bytes(unsigned kind, const uint8_t *from, PyObject *zone,
                          PyObject **obj);

/* ---- objects of parts ---- */

/* The class of a column, and what is known of it. */
struct py_standard_class {
    unsigned kind;
    PyTypeObject *type; /* a reference */
    bool plain; /* not changed by the program: make objects by their slots */
    PyObject
        *members[3];   /* borrowed from the class: descriptors of its slots */
    PyObject *unknown; /* SafeUUID.unknown, of PY_STANDARD_UUID; or NULL */
};

/* The class of this kind that its name leads to now: 0, or -1 with an
 * exception. */
int py_standard_find(struct py_state *state, unsigned kind,
                     struct py_standard_class *found);
void py_standard_release(struct py_standard_class *found);

/* The part of an object of exactly this class: 1; 0 if the object or its class
 * has a form that is unknown here; or -1 with an exception. */
int py_standard_part(const struct py_standard_class *cls, PyObject *obj,
                     PyObject **part);

/* Make an object from its part: 0, CP_EPROTO, or -1 with an exception. */
int py_standard_make(const struct py_standard_class *cls, PyObject *part,
                     PyObject **obj);

#endif
