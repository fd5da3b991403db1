/*
 * From values to bytes; see py_codec.h. One pass over the values of a column: it
 * takes the type of the first for that of all, and starts again, as a column of
 * mixed values, where one is of another.
 */
#include "py_codec.h"
#include "py_codec_tags.h"

#include <string.h>

/* Pickle sends an object once, however often it stands in a chunk, and all of
 * them are one object after. From here on a string is worth that. */
#define LARGE 256
/* Of smaller objects, look for the same among the last so many, */
#define SEEN 256u
/* where a column has so many; one in so many may be the same. */
#define SEEN_FROM 8
#define SEEN_SHARE 4

struct encoder {
    struct cp_buf *out;
    int depth;
    int large; /* large strings so far */
};

/* All of these: 1, 0 none of ours, -1 an exception. */

static int
room(struct encoder *e, size_t n)
{
    if (cp_buf_reserve(e->out, n) == 0) {
        return 1;
    }
    (void)PyErr_NoMemory();
    return -1;
}

/* The bytes were reserved. */
static void
add(struct encoder *e, const void *bytes, size_t n)
{
    memcpy(cp_buf_tail(e->out), bytes, n);
    cp_buf_add(e->out, n);
}

static void
add_byte(struct encoder *e, unsigned byte)
{
    *cp_buf_tail(e->out) = (uint8_t)byte;
    cp_buf_add(e->out, 1);
}

#define SIZE_ROOM 9u

static void
add_size(struct encoder *e, size_t size)
{
    if (size < WIDE) {
        add_byte(e, (unsigned)size);
    } else {
        uint64_t wide = size;
        add_byte(e, WIDE);
        add(e, &wide, sizeof(wide));
    }
}

/* ---- what values have ---- */

static int
fits_int8(PyObject *obj, int64_t *value)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (CP_LIKELY(PyUnstable_Long_IsCompact((PyLongObject *)obj))) {
        *value = PyUnstable_Long_CompactValue((PyLongObject *)obj);
        return 1;
    }
#else
    Py_ssize_t digits = Py_SIZE(obj);
    if (CP_LIKELY(digits >= -1 && digits <= 1)) {
        *value = digits * (Py_ssize_t)((PyLongObject *)obj)->ob_digit[0];
        return 1;
    }
#endif
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(obj, &overflow);
    return overflow == 0;
}

/* The width of the tag that has room for all bits of value ^ (value >> 63). */
static unsigned
int_tag(uint64_t bits)
{
    return bits < 0x80         ? TAG_INT1
           : bits < 0x8000     ? TAG_INT2
           : bits < 0x80000000 ? TAG_INT4
                               : TAG_INT8;
}

static void
add_int(struct encoder *e, unsigned tag, int64_t value)
{
    int8_t v1 = (int8_t)value;
    int16_t v2 = (int16_t)value;
    int32_t v4 = (int32_t)value;
    switch (tag) {
        case TAG_INT1: add(e, &v1, 1); break;
        case TAG_INT2: add(e, &v2, 2); break;
        case TAG_INT4: add(e, &v4, 4); break;
        default: add(e, &value, 8); break;
    }
}

static uint64_t
int_bits(int64_t value)
{
    return (uint64_t)(value < 0 ? ~value : value);
}

static int
int_to_bytes(PyObject *obj, uint8_t *bytes, size_t n)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyLong_AsNativeBytes(obj, bytes, (Py_ssize_t)n, -1) < 0 ? -1 : 0;
#else
    int little = PY_LITTLE_ENDIAN;
    return _PyLong_AsByteArray((PyLongObject *)obj, bytes, n, little, 1);
#endif
}

/* How many bytes hold it and its sign. */
static Py_ssize_t
int_size(PyObject *obj)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyLong_AsNativeBytes(obj, NULL, 0, -1);
#else
    size_t bits = _PyLong_NumBits(obj);
    return bits == (size_t)-1 && PyErr_Occurred() ? -1
                                                  : (Py_ssize_t)(bits / 8 + 1);
#endif
}

static int
put_wide_int(struct encoder *e, PyObject *obj)
{
    Py_ssize_t n = int_size(obj);
    if (n < 0 || room(e, 1 + SIZE_ROOM + (size_t)n) < 0) {
        return -1;
    }
    add_byte(e, TAG_INT);
    add_size(e, (size_t)n);
    if (int_to_bytes(obj, cp_buf_tail(e->out), (size_t)n) < 0) {
        return -1;
    }
    cp_buf_add(e->out, (size_t)n);
    return 1;
}

static int
put_int(struct encoder *e, PyObject *obj)
{
    int64_t value;
    if (!fits_int8(obj, &value)) {
        return put_wide_int(e, obj);
    }
    unsigned tag = int_tag(int_bits(value));
    if (room(e, 9) < 0) {
        return -1;
    }
    add_byte(e, tag);
    add_int(e, tag, value);
    return 1;
}

static void
add_float(struct encoder *e, PyObject *obj)
{
    add(e, &((PyFloatObject *)obj)->ob_fval, 8);
}

static unsigned
str_tag(PyObject *obj)
{
    return PyUnicode_IS_ASCII(obj)                       ? TAG_ASCII
           : PyUnicode_KIND(obj) == PyUnicode_1BYTE_KIND ? TAG_UCS1
           : PyUnicode_KIND(obj) == PyUnicode_2BYTE_KIND ? TAG_UCS2
                                                         : TAG_UCS4;
}

/* A string or bytes of n bytes; size is what stands before them. */
static int
put_text(struct encoder *e, const void *bytes, size_t size, size_t n)
{
    if (n >= LARGE && e->large++ > 0) {
        return 0;
    }
    if (room(e, SIZE_ROOM + n) < 0) {
        return -1;
    }
    add_size(e, size);
    add(e, bytes, n);
    return 1;
}

static int
put_str(struct encoder *e, PyObject *obj)
{
    size_t size = (size_t)PyUnicode_GET_LENGTH(obj);
    return put_text(e, PyUnicode_DATA(obj), size,
                    size * (size_t)PyUnicode_KIND(obj));
}

static int
put_bytes(struct encoder *e, PyObject *obj)
{
    size_t n = (size_t)PyBytes_GET_SIZE(obj);
    return put_text(e, PyBytes_AS_STRING(obj), n, n);
}

/* ---- columns ---- */

static int put_value(struct encoder *e, PyObject *obj);
static int put_column(struct encoder *e, PyObject *const *items, Py_ssize_t n);

static int
is_ready(PyObject *str)
{
#if PY_VERSION_HEX < 0x030C0000
    return PyUnicode_READY(str);
#else
    (void)str;
    return 0;
#endif
}

/* What a column of this value's like would have as its tag; 0: none of ours,
 * -1: an exception. */
static int
tag_of(PyObject *obj)
{
    if (PyLong_CheckExact(obj)) {
        return TAG_INT8;
    }
    if (PyUnicode_CheckExact(obj)) {
        return is_ready(obj) < 0 ? -1 : (int)str_tag(obj);
    }
    if (PyFloat_CheckExact(obj)) {
        return TAG_FLOAT;
    }
    if (PyTuple_CheckExact(obj)) {
        return TAG_TUPLE;
    }
    if (obj == Py_None || PyBool_Check(obj)) {
        return TAG_ONES;
    }
    return PyBytes_CheckExact(obj) ? TAG_BYTES : 0;
}

/* Are many of them the same objects? Then pickle, which keeps that, is better. */
static bool
are_repeated(PyObject *const *items, Py_ssize_t n)
{
    const PyObject *seen[SEEN] = {NULL};
    Py_ssize_t same = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const PyObject **slot = &seen[((uintptr_t)items[i] >> 4) % SEEN];
        same += *slot == items[i];
        *slot = items[i];
    }
    return same > n / SEEN_SHARE;
}

/* The columns put their values, and answer 2 where one is of another kind. */
#define OTHER_KIND 2

/* They are written at full width, and then moved together. */
static int
put_ints(struct encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (room(e, 1 + 8 * (size_t)n) < 0) {
        return -1;
    }
    uint8_t *tag_at = cp_buf_tail(e->out);
    uint8_t *to = tag_at + 1;
    uint64_t bits = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        int64_t value;
        if (!PyLong_CheckExact(items[i]) || !fits_int8(items[i], &value)) {
            return OTHER_KIND;
        }
        bits |= int_bits(value);
        memcpy(to + 8 * i, &value, 8);
    }
    unsigned tag = int_tag(bits);
    add_byte(e, tag);
    if (tag == TAG_INT8) {
        cp_buf_add(e->out, 8 * (size_t)n);
        return 1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        int64_t value;
        memcpy(&value, to + 8 * i, 8);
        add_int(e, tag, value);
    }
    return 1;
}

static int
put_floats(struct encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (room(e, 1 + 8 * (size_t)n) < 0) {
        return -1;
    }
    add_byte(e, TAG_FLOAT);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyFloat_CheckExact(items[i])) {
            return OTHER_KIND;
        }
        add_float(e, items[i]);
    }
    return 1;
}

static unsigned
one_tag(PyObject *obj)
{
    return obj == Py_None    ? TAG_NONE
           : obj == Py_False ? TAG_FALSE
           : obj == Py_True  ? TAG_TRUE
                             : 0;
}

static int
put_ones(struct encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (room(e, 1 + (size_t)n) < 0) {
        return -1;
    }
    add_byte(e, TAG_ONES);
    for (Py_ssize_t i = 0; i < n; i++) {
        unsigned tag = one_tag(items[i]);
        if (tag == 0) {
            return OTHER_KIND;
        }
        add_byte(e, tag);
    }
    return 1;
}

static int
put_texts(struct encoder *e, PyObject *const *items, Py_ssize_t n, int tag)
{
    if (room(e, 1) < 0) {
        return -1;
    }
    add_byte(e, (unsigned)tag);
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        int own = tag_of(items[i]);
        if (own != tag) {
            return own < 0 ? -1 : OTHER_KIND;
        }
        r = tag == TAG_BYTES ? put_bytes(e, items[i]) : put_str(e, items[i]);
    }
    return r;
}

/* Tuples of one length: their first items, their second ones, and so on. */
static int
put_tuples(struct encoder *e, PyObject *const *items, Py_ssize_t n)
{
    Py_ssize_t arity = PyTuple_GET_SIZE(items[0]);
    if (arity == 0 || arity > ARITY_MAX) {
        return OTHER_KIND;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyTuple_CheckExact(items[i])
            || PyTuple_GET_SIZE(items[i]) != arity) {
            return OTHER_KIND;
        }
    }
    PyObject **column = PyMem_New(PyObject *, n);
    if (column == NULL || room(e, 2) < 0) {
        PyMem_Free(column);
        return PyErr_Occurred() ? -1 : (PyErr_NoMemory(), -1);
    }
    add_byte(e, TAG_TUPLE);
    add_byte(e, (unsigned)arity);
    int r = 1;
    for (Py_ssize_t j = 0; j < arity && r == 1; j++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            column[i] = PyTuple_GET_ITEM(items[i], j);
        }
        r = put_column(e, column, n);
    }
    PyMem_Free(column);
    return r;
}

static int
put_mixed(struct encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (room(e, 1) < 0) {
        return -1;
    }
    add_byte(e, TAG_MIXED);
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = put_value(e, items[i]);
    }
    return r;
}

static int
put_alike(struct encoder *e, PyObject *const *items, Py_ssize_t n, int tag)
{
    switch (tag) {
        case TAG_INT8: return put_ints(e, items, n);
        case TAG_FLOAT: return put_floats(e, items, n);
        case TAG_ONES: return put_ones(e, items, n);
        case TAG_TUPLE:
            return n >= SEEN_FROM && are_repeated(items, n)
                       ? 0
                       : put_tuples(e, items, n);
        default:
            return n >= SEEN_FROM && are_repeated(items, n)
                       ? 0
                       : put_texts(e, items, n, tag);
    }
}

static int
put_column(struct encoder *e, PyObject *const *items, Py_ssize_t n)
{
    size_t before = cp_buf_len(e->out);
    int large = e->large;
    int tag = n > 0 ? tag_of(items[0]) : TAG_MIXED;
    if (tag <= 0) {
        return tag;
    }
    if (e->depth == DEPTH_MAX) {
        return 0;
    }
    e->depth++;
    int r = n > 1 ? put_alike(e, items, n, tag) : OTHER_KIND;
    if (r == OTHER_KIND) {
        e->out->end = e->out->start + before;
        e->large = large;
        r = put_mixed(e, items, n);
    }
    e->depth--;
    return r;
}

/* ---- values ---- */

static int
put_tuple(struct encoder *e, PyObject *obj)
{
    Py_ssize_t n = PyTuple_GET_SIZE(obj);
    if (room(e, 1 + SIZE_ROOM) < 0) {
        return -1;
    }
    add_byte(e, TAG_TUPLE);
    add_size(e, (size_t)n);
    return put_column(e, ((PyTupleObject *)obj)->ob_item, n);
}

static int
put_value(struct encoder *e, PyObject *obj)
{
    int tag = tag_of(obj);
    if (tag == TAG_INT8) {
        return put_int(e, obj);
    }
    if (tag == TAG_TUPLE) {
        return put_tuple(e, obj);
    }
    if (tag <= 0) {
        return tag;
    }
    if (room(e, 9) < 0) {
        return -1;
    }
    add_byte(e, tag == TAG_ONES ? one_tag(obj) : (unsigned)tag);
    switch (tag) {
        case TAG_ONES: return 1;
        case TAG_FLOAT: add_float(e, obj); return 1;
        case TAG_BYTES: return put_bytes(e, obj);
        default: return put_str(e, obj);
    }
}

/* What was put stays only if all of it was. */
static int
whole(struct cp_buf *out, size_t before, int r)
{
    if (r != 1) {
        out->end = out->start + before;
    }
    return r;
}

int
py_codec_put(struct cp_buf *out, PyObject *obj)
{
    struct encoder e = {.out = out};
    size_t before = cp_buf_len(out);
    return whole(out, before, put_value(&e, obj));
}

int
py_codec_put_run(struct cp_buf *out, PyObject *const *items, Py_ssize_t n)
{
    struct encoder e = {.out = out};
    size_t before = cp_buf_len(out);
    int r = room(&e, 1 + SIZE_ROOM);
    if (r == 1) {
        add_byte(&e, TAG_RUN);
        add_size(&e, (size_t)n);
        r = put_column(&e, items, n);
    }
    return whole(out, before, r);
}
