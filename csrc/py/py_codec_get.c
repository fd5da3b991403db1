/*
 * From bytes to values; see py_codec.h. Nothing is believed: a tag, a size, a
 * count or a character that no encoder of ours would have written is CP_EPROTO,
 * before memory is asked for.
 */
#include "py_codec.h"

#include "cp_mem.h"
#include "py_codec_tags.h"

#include <string.h>

struct decoder {
    const uint8_t *at, *end;
    int depth;
};

/* All of these: 0, CP_EPROTO, or -1 with an exception. */

static size_t
left(const struct decoder *d)
{
    return (size_t)(d->end - d->at);
}

static int
get_byte(struct decoder *d, unsigned *byte)
{
    if (left(d) < 1) {
        return CP_EPROTO;
    }
    *byte = *d->at++;
    return 0;
}

/* So many more bytes, at *bytes. */
static int
get_raw(struct decoder *d, size_t n, const uint8_t **bytes)
{
    if (left(d) < n) {
        return CP_EPROTO;
    }
    *bytes = d->at;
    d->at += n;
    return 0;
}

/* A size of what takes `each` bytes or more. */
static int
get_size(struct decoder *d, size_t each, size_t *size)
{
    unsigned byte;
    if (get_byte(d, &byte) < 0) {
        return CP_EPROTO;
    }
    uint64_t wide = byte;
    if (byte == WIDE) {
        const uint8_t *bytes;
        if (get_raw(d, sizeof(wide), &bytes) < 0) {
            return CP_EPROTO;
        }
        memcpy(&wide, bytes, sizeof(wide));
    }
    if (wide > left(d) / each) {
        return CP_EPROTO;
    }
    *size = (size_t)wide;
    return 0;
}

static int
made(PyObject *obj)
{
    return obj != NULL ? 0 : -1;
}

/* ---- what values have ---- */

static PyObject *
int_from(unsigned tag, const uint8_t *bytes)
{
    int16_t v2;
    int32_t v4;
    int64_t v8;
    switch (tag) {
        case TAG_INT1: return PyLong_FromLong((int8_t)*bytes);
        case TAG_INT2: memcpy(&v2, bytes, 2); return PyLong_FromLong(v2);
        case TAG_INT4: memcpy(&v4, bytes, 4); return PyLong_FromLong(v4);
        default:
            memcpy(&v8, bytes, 8);
            return sizeof(long) == 8 ? PyLong_FromLong((long)v8)
                                     : PyLong_FromLongLong(v8);
    }
}

static int
get_wide_int(struct decoder *d, PyObject **obj)
{
    size_t n;
    const uint8_t *bytes;
    if (get_size(d, 1, &n) < 0 || get_raw(d, n, &bytes) < 0) {
        return CP_EPROTO;
    }
#if PY_VERSION_HEX >= 0x030D0000
    *obj = PyLong_FromNativeBytes(bytes, n, Py_ASNATIVEBYTES_NATIVE_ENDIAN);
#else
    *obj = _PyLong_FromByteArray(bytes, n, PY_LITTLE_ENDIAN, 1);
#endif
    return made(*obj);
}

static PyObject *
float_from(const uint8_t *bytes)
{
    double value;
    memcpy(&value, bytes, sizeof(value));
    return PyFloat_FromDouble(value);
}

struct kind {
    size_t width;
    Py_UCS4 least, most; /* between them lies the highest character */
};

static struct kind
kind_of(unsigned tag)
{
    switch (tag) {
        case TAG_ASCII: return (struct kind){1, 0, 0x7f};
        case TAG_UCS1: return (struct kind){1, 0x80, 0xff};
        case TAG_UCS2: return (struct kind){2, 0x100, 0xffff};
        default: return (struct kind){4, 0x10000, 0x10ffff};
    }
}

/* The highest character, or something of the same kind that is above it. */
static Py_UCS4
highest(const void *data, size_t width, size_t n)
{
    Py_UCS4 all = 0, most = 0;
    if (width == 1) {
        for (size_t i = 0; i < n; i++) {
            all |= ((const Py_UCS1 *)data)[i];
        }
    } else if (width == 2) {
        for (size_t i = 0; i < n; i++) {
            all |= ((const Py_UCS2 *)data)[i];
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            Py_UCS4 c = ((const Py_UCS4 *)data)[i];
            most = c > most ? c : most;
        }
    }
    return all | most;
}

static int
get_str(struct decoder *d, unsigned tag, PyObject **obj)
{
    struct kind kind = kind_of(tag);
    size_t n;
    const uint8_t *bytes;
    if (get_size(d, kind.width, &n) < 0
        || get_raw(d, n * kind.width, &bytes) < 0) {
        return CP_EPROTO;
    }
    if (n == 1 && kind.width == 1) { /* there is one object for each */
        if (*bytes > kind.most || *bytes < kind.least) {
            return CP_EPROTO;
        }
        *obj = PyUnicode_FromOrdinal(*bytes);
        return made(*obj);
    }
    if (n == 0 && tag != TAG_ASCII) {
        return CP_EPROTO;
    }
    PyObject *str = PyUnicode_New((Py_ssize_t)n, kind.most);
    if (str == NULL) {
        return -1;
    }
    if (n > 0) {
        cp_mem_expect(PyUnicode_DATA(str), n * kind.width);
        memcpy(PyUnicode_DATA(str), bytes, n * kind.width);
        Py_UCS4 top = highest(PyUnicode_DATA(str), kind.width, n);
        if (top > kind.most || top < kind.least) {
            Py_DECREF(str);
            return CP_EPROTO;
        }
    }
    *obj = str;
    return 0;
}

static int
get_bytes(struct decoder *d, PyObject **obj)
{
    size_t n;
    const uint8_t *bytes;
    if (get_size(d, 1, &n) < 0 || get_raw(d, n, &bytes) < 0) {
        return CP_EPROTO;
    }
    if (n < CP_MEM_LARGE) {
        *obj = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)n);
        return made(*obj);
    }
    *obj = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (*obj == NULL) {
        return -1;
    }
    cp_mem_expect(PyBytes_AS_STRING(*obj), n);
    memcpy(PyBytes_AS_STRING(*obj), bytes, n);
    return 0;
}

static PyObject *
one_of(unsigned tag)
{
    return tag == TAG_NONE    ? Py_None
           : tag == TAG_FALSE ? Py_False
           : tag == TAG_TRUE  ? Py_True
                              : NULL;
}

/* ---- columns: into every stride-th slot ---- */

static int get_value(struct decoder *d, PyObject **obj);
static int get_column(struct decoder *d, size_t n, PyObject **slots,
                      size_t stride);

/* Ints of one width, or floats. */
static int
get_numbers(struct decoder *d, unsigned tag, size_t n, PyObject **slots,
            size_t stride)
{
    size_t width = tag == TAG_FLOAT ? 8 : (size_t)1 << (tag - TAG_INT1);
    const uint8_t *bytes;
    if (n > left(d) / width || get_raw(d, n * width, &bytes) < 0) {
        return CP_EPROTO;
    }
    for (size_t i = 0; i < n; i++) {
        const uint8_t *at = bytes + i * width;
        slots[i * stride] =
            tag == TAG_FLOAT ? float_from(at) : int_from(tag, at);
        if (slots[i * stride] == NULL) {
            return -1;
        }
    }
    return 0;
}

static int
get_ones(struct decoder *d, size_t n, PyObject **slots, size_t stride)
{
    const uint8_t *bytes;
    if (get_raw(d, n, &bytes) < 0) {
        return CP_EPROTO;
    }
    for (size_t i = 0; i < n; i++) {
        PyObject *one = one_of(bytes[i]);
        if (one == NULL) {
            return CP_EPROTO;
        }
        slots[i * stride] = Py_NewRef(one);
    }
    return 0;
}

static void
clear(PyObject **slots, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        Py_XDECREF(slots[i]);
    }
}

static int
get_arity(struct decoder *d, size_t most, size_t *arity)
{
    unsigned byte;
    if (get_byte(d, &byte) < 0 || byte == 0 || byte > most) {
        return CP_EPROTO;
    }
    *arity = byte;
    return 0;
}

/* Items of n rows, into slots of `arity` each. */
static int
get_rows(struct decoder *d, size_t n, size_t arity, PyObject **slots)
{
    int r = 0;
    for (size_t j = 0; j < arity && r == 0; j++) {
        r = get_column(d, n, slots + j, arity);
    }
    return r;
}

static PyObject **
new_slots(size_t n)
{
    PyObject **slots = PyMem_Calloc(n > 0 ? n : 1, sizeof(*slots));
    if (slots == NULL) {
        (void)PyErr_NoMemory();
    }
    return slots;
}

/* Of n values, which it takes over. Made only when there is all that goes into
 * it: once it exists, the collector's callers can find it. */
static PyObject *
sequence_of(unsigned tag, PyObject **values, size_t n)
{
    bool is_list = tag == TAG_LIST;
    PyObject *obj =
        is_list ? PyList_New((Py_ssize_t)n) : PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; obj != NULL && i < n; i++) {
        if (is_list) {
            PyList_SET_ITEM(obj, (Py_ssize_t)i, values[i]);
        } else {
            PyTuple_SET_ITEM(obj, (Py_ssize_t)i, values[i]);
        }
        values[i] = NULL;
    }
    return obj;
}

/* 0, or CP_EPROTO where a key cannot be one. */
static int
dict_of(PyObject *const *keys, PyObject *const *values, size_t n,
        PyObject **obj)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (PyDict_SetItem(dict, keys[i], values[i]) < 0) {
            Py_DECREF(dict);
            if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
                return -1;
            }
            PyErr_Clear();
            return CP_EPROTO;
        }
    }
    *obj = dict;
    return 0;
}

/* Tuples, lists or dicts of `arity` items each. */
static int
get_each_of_rows(struct decoder *d, unsigned tag, size_t n, PyObject **slots,
                 size_t stride)
{
    size_t arity;
    PyObject *keys[KEYS_MAX];
    size_t most = tag == TAG_DICT ? KEYS_MAX : ARITY_MAX;
    if (get_arity(d, most, &arity) < 0 || n > left(d) / arity) {
        return CP_EPROTO;
    }
    PyObject **rows = new_slots(n * arity);
    if (rows == NULL) {
        return -1;
    }
    for (size_t i = 0; i < arity; i++) {
        keys[i] = NULL;
    }
    int r = tag == TAG_DICT ? get_column(d, arity, keys, 1) : 0;
    r = r == 0 ? get_rows(d, n, arity, rows) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **row = rows + i * arity;
        if (tag == TAG_DICT) {
            r = dict_of(keys, row, arity, &slots[i * stride]);
        } else {
            slots[i * stride] = sequence_of(tag, row, arity);
            r = made(slots[i * stride]);
        }
    }
    clear(keys, arity);
    clear(rows, n * arity);
    PyMem_Free(rows);
    return r;
}

/* Some objects, and then which of them each value is. */
static int
get_picked(struct decoder *d, size_t n, PyObject **slots, size_t stride)
{
    unsigned count;
    const uint8_t *which;
    PyObject *picked[PICK_MAX] = {NULL};
    if (get_byte(d, &count) < 0 || count == 0) {
        return CP_EPROTO;
    }
    int r = get_column(d, count, picked, 1);
    r = r == 0 ? get_raw(d, n, &which) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        if (which[i] < count) {
            slots[i * stride] = Py_NewRef(picked[which[i]]);
        } else {
            r = CP_EPROTO;
        }
    }
    clear(picked, count);
    return r;
}

static int
get_each(struct decoder *d, unsigned tag, size_t n, PyObject **slots,
         size_t stride)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **slot = &slots[i * stride];
        r = tag == TAG_MIXED   ? get_value(d, slot)
            : tag == TAG_BYTES ? get_bytes(d, slot)
                               : get_str(d, tag, slot);
    }
    return r;
}

static int
get_column(struct decoder *d, size_t n, PyObject **slots, size_t stride)
{
    unsigned tag;
    if (d->depth == DEPTH_MAX || get_byte(d, &tag) < 0 || n > left(d)) {
        return CP_EPROTO;
    }
    d->depth++;
    int r;
    switch (tag) {
        case TAG_INT1:
        case TAG_INT2:
        case TAG_INT4:
        case TAG_INT8:
        case TAG_FLOAT: r = get_numbers(d, tag, n, slots, stride); break;
        case TAG_ONES: r = get_ones(d, n, slots, stride); break;
        case TAG_PICK: r = get_picked(d, n, slots, stride); break;
        case TAG_TUPLE:
        case TAG_LIST:
        case TAG_DICT: r = get_each_of_rows(d, tag, n, slots, stride); break;
        case TAG_ASCII:
        case TAG_UCS1:
        case TAG_UCS2:
        case TAG_UCS4:
        case TAG_BYTES:
        case TAG_MIXED: r = get_each(d, tag, n, slots, stride); break;
        default: r = CP_EPROTO; break;
    }
    d->depth--;
    return r;
}

/* ---- values ---- */

static int
get_sequence(struct decoder *d, unsigned tag, PyObject **obj)
{
    size_t n;
    if (get_size(d, 1, &n) < 0) {
        return CP_EPROTO;
    }
    PyObject **items = new_slots(n);
    if (items == NULL) {
        return -1;
    }
    int r = get_column(d, n, items, 1);
    if (r == 0) {
        *obj = sequence_of(tag, items, n);
        r = made(*obj);
    }
    clear(items, n);
    PyMem_Free(items);
    return r;
}

static int
get_dict(struct decoder *d, PyObject **obj)
{
    size_t n;
    if (get_size(d, 2, &n) < 0) {
        return CP_EPROTO;
    }
    PyObject **items = new_slots(2 * n);
    if (items == NULL) {
        return -1;
    }
    int r = get_column(d, n, items, 1);
    r = r == 0 ? get_column(d, n, items + n, 1) : r;
    r = r == 0 ? dict_of(items, items + n, n, obj) : r;
    clear(items, 2 * n);
    PyMem_Free(items);
    return r;
}

static int
get_value(struct decoder *d, PyObject **obj)
{
    unsigned tag;
    if (get_byte(d, &tag) < 0) {
        return CP_EPROTO;
    }
    switch (tag) {
        case TAG_NONE:
        case TAG_FALSE:
        case TAG_TRUE: *obj = Py_NewRef(one_of(tag)); return 0;
        case TAG_INT1:
        case TAG_INT2:
        case TAG_INT4:
        case TAG_INT8:
        case TAG_FLOAT: return get_numbers(d, tag, 1, obj, 1);
        case TAG_INT: return get_wide_int(d, obj);
        case TAG_ASCII:
        case TAG_UCS1:
        case TAG_UCS2:
        case TAG_UCS4: return get_str(d, tag, obj);
        case TAG_BYTES: return get_bytes(d, obj);
        case TAG_TUPLE:
        case TAG_LIST: return get_sequence(d, tag, obj);
        case TAG_DICT: return get_dict(d, obj);
        default: return CP_EPROTO;
    }
}

/* ---- runs ---- */

static int
open_run(struct decoder *d, const uint8_t *bytes, size_t len, size_t *n)
{
    unsigned tag;
    *d = (struct decoder){.at = bytes, .end = bytes + len};
    return get_byte(d, &tag) < 0 || tag != TAG_RUN ? CP_EPROTO
                                                   : get_size(d, 1, n);
}

static int
whole(const struct decoder *d, int r)
{
    return r == 0 && left(d) > 0 ? CP_EPROTO : r;
}

int
py_codec_owns(const uint8_t *bytes, size_t len)
{
    return len > 0 && bytes[0] < TAG_END;
}

Py_ssize_t
py_codec_run_length(const uint8_t *bytes, size_t len)
{
    struct decoder d;
    size_t n;
    return open_run(&d, bytes, len, &n) == 0 ? (Py_ssize_t)n : -1;
}

Py_ssize_t
py_codec_row_width(const uint8_t *bytes, size_t len)
{
    struct decoder d;
    size_t n, arity;
    unsigned tag;
    bool has = open_run(&d, bytes, len, &n) == 0 && get_byte(&d, &tag) == 0
               && tag == TAG_TUPLE && get_arity(&d, ARITY_MAX, &arity) == 0
               && n > 0 && n <= left(&d) / arity;
    return has ? (Py_ssize_t)arity : 0;
}

int
py_codec_get_run(const uint8_t *bytes, size_t len, PyObject **slots)
{
    struct decoder d;
    size_t n;
    int r = open_run(&d, bytes, len, &n);
    return whole(&d, r == 0 ? get_column(&d, n, slots, 1) : r);
}

int
py_codec_get_rows(const uint8_t *bytes, size_t len, PyObject **slots)
{
    struct decoder d;
    size_t n, arity;
    unsigned tag;
    if (open_run(&d, bytes, len, &n) < 0 || get_byte(&d, &tag) < 0
        || tag != TAG_TUPLE || get_arity(&d, ARITY_MAX, &arity) < 0) {
        return CP_EPROTO;
    }
    d.depth = 1;
    return whole(&d, get_rows(&d, n, arity, slots));
}

int
py_codec_get(const uint8_t *bytes, size_t len, PyObject **obj)
{
    *obj = NULL;
    struct decoder d = {.at = bytes, .end = bytes + len};
    bool is_run = len > 0 && bytes[0] == TAG_RUN;
    d.at += is_run ? 1 : 0;
    int r = whole(
        &d, is_run ? get_sequence(&d, TAG_LIST, obj) : get_value(&d, obj));
    if (r != 0) {
        Py_CLEAR(*obj);
    }
    return r;
}
