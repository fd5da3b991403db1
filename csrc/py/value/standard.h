/*
 * Objects of classes of the standard library that have a rule of their own: dates and
 * times, Decimal, UUID, the Path classes and Counter. Asking them by the reduce protocol, and
 * calling what makes them, is Python code that takes longer than everything else. Of
 * subclasses, and of classes that the program has changed, nothing is known here.
 * [attached]
 */
#ifndef PY_STANDARD_H
#define PY_STANDARD_H

#include "value/reader.h"
#include "value/writer.h"

/* What stands after TAG_STANDARD. Dates and times are bytes, those with zones followed by a
 * column of their zones. All others consist of one part each: a string, an int, a tuple of
 * strings, or a dict. */
enum py_standard {
    PY_STANDARD_NONE,
    PY_STANDARD_DATE,
    PY_STANDARD_TIME,
    PY_STANDARD_DATETIME,
    PY_STANDARD_TIMEDELTA,
    PY_STANDARD_ZONED_TIME,
    PY_STANDARD_ZONED_DATETIME,
    PY_STANDARD_DECIMAL,
    PY_STANDARD_UUID,
    PY_STANDARD_PATH,
    PY_STANDARD_PURE_PATH,
    PY_STANDARD_COUNTER,
    PY_STANDARD_END
};

/* Consist objects of this kind of parts? */
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

/* What objects of this class are; times count as without zones. */
enum py_standard py_standard_kind_of(const struct py_state *state,
                                     PyTypeObject *type);

/* ---- dates and times ---- */

/* How many bytes one takes. */
size_t py_standard_size(unsigned kind);

/* The zone, borrowed, or None; of a time or a datetime. */
PyObject *py_standard_zone(PyObject *obj);

/* Write one into bytes of this size. */
void py_standard_put_date(unsigned kind, PyObject *obj, uint8_t *to);

/* Can dates be made? 0, or -1 with an exception: the module is imported if need be. */
int py_standard_begin_dates(void);

/* One of these bytes, with a zone or None: 0, CP_EPROTO, or -1 with an exception. */
int py_standard_get_date(unsigned kind, const uint8_t *from, PyObject *zone,
                         PyObject **obj);

/* ---- objects of parts ---- */

/* What is known of the class of a column. */
struct py_standard_class {
    unsigned kind;
    PyTypeObject *type; /* a reference */
    bool plain; /* it is as we know it: objects are made by their slots */
    PyObject
        *members[3];   /* borrowed from the class: descriptors of its slots */
    PyObject *unknown; /* SafeUUID.unknown, of PY_STANDARD_UUID; or NULL */
};

/* The class of this kind, as its name leads to it now: 0, or -1 with an exception. */
int py_standard_find(struct py_state *state, unsigned kind,
                     struct py_standard_class *found);
void py_standard_release(struct py_standard_class *found);

/* The part of an object of this very class: 1; 0 where it has another form than we know, or
 * its class has; or -1 with an exception. */
int py_standard_part(const struct py_standard_class *cls, PyObject *obj,
                     PyObject **part);

/* An object of a part: 0, CP_EPROTO, or -1 with an exception. */
int py_standard_make(const struct py_standard_class *cls, PyObject *part,
                     PyObject **obj);

#endif
