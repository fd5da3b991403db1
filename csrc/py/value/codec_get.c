/*
 * From bytes to values; see value/codec.h. Nothing is believed: a tag, a size, a
 * count or a character that no encoder of ours would have written is CP_EPROTO,
 * before memory is asked for.
 */
#include "value/codec_decoder.h"

/* ---- columns: into every stride-th slot ---- */

static int get_value(struct py_decoder *d, PyObject **obj);
static int get_column(struct py_decoder *d, size_t n, PyObject **slots,
                      size_t stride);

static void
clear(PyObject **slots, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        Py_XDECREF(slots[i]);
    }
}

static int
get_arity(struct py_decoder *d, size_t most, size_t *arity)
{
    unsigned byte;
    if (py_codec_get_byte(d, &byte) < 0 || byte == 0 || byte > most) {
        return CP_EPROTO;
    }
    *arity = byte;
    return 0;
}

/* Items of n rows, into slots of `arity` each. */
static int
get_rows(struct py_decoder *d, size_t n, size_t arity, PyObject **slots)
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
get_each_of_rows(struct py_decoder *d, unsigned tag, size_t n, PyObject **slots,
                 size_t stride)
{
    size_t arity;
    PyObject *keys[KEYS_MAX];
    size_t most = tag == TAG_DICT ? KEYS_MAX : ARITY_MAX;
    if (get_arity(d, most, &arity) < 0 || n > py_codec_left(d) / arity) {
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
            r = slots[i * stride] != NULL ? 0 : -1;
        }
    }
    clear(keys, arity);
    clear(rows, n * arity);
    PyMem_Free(rows);
    return r;
}

/* Some objects, and then which of them each value is. */
static int
get_picked(struct py_decoder *d, size_t n, PyObject **slots, size_t stride)
{
    unsigned count;
    const uint8_t *which;
    PyObject *picked[PICK_MAX] = {NULL};
    if (py_codec_get_byte(d, &count) < 0 || count == 0) {
        return CP_EPROTO;
    }
    int r = get_column(d, count, picked, 1);
    r = r == 0 ? py_codec_get_raw(d, n, &which) : r;
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
get_mixed(struct py_decoder *d, size_t n, PyObject **slots, size_t stride)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        r = get_value(d, &slots[i * stride]);
    }
    return r;
}

static int
get_column(struct py_decoder *d, size_t n, PyObject **slots, size_t stride)
{
    unsigned tag;
    if (d->depth == DEPTH_MAX || py_codec_get_byte(d, &tag) < 0
        || n > py_codec_left(d)) {
        return CP_EPROTO;
    }
    d->depth++;
    int r;
    switch (tag) {
        case TAG_PICK: r = get_picked(d, n, slots, stride); break;
        case TAG_TUPLE:
        case TAG_LIST:
        case TAG_DICT: r = get_each_of_rows(d, tag, n, slots, stride); break;
        case TAG_MIXED: r = get_mixed(d, n, slots, stride); break;
        default: r = py_codec_get_atoms(d, tag, n, slots, stride); break;
    }
    d->depth--;
    return r;
}

/* ---- values ---- */

static int
get_sequence(struct py_decoder *d, unsigned tag, PyObject **obj)
{
    size_t n;
    if (py_codec_get_size(d, 1, &n) < 0) {
        return CP_EPROTO;
    }
    PyObject **items = new_slots(n);
    if (items == NULL) {
        return -1;
    }
    int r = get_column(d, n, items, 1);
    if (r == 0) {
        *obj = sequence_of(tag, items, n);
        r = *obj != NULL ? 0 : -1;
    }
    clear(items, n);
    PyMem_Free(items);
    return r;
}

static int
get_dict(struct py_decoder *d, PyObject **obj)
{
    size_t n;
    if (py_codec_get_size(d, 2, &n) < 0) {
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
get_value(struct py_decoder *d, PyObject **obj)
{
    unsigned tag;
    if (py_codec_get_byte(d, &tag) < 0) {
        return CP_EPROTO;
    }
    switch (tag) {
        case TAG_TUPLE:
        case TAG_LIST: return get_sequence(d, tag, obj);
        case TAG_DICT: return get_dict(d, obj);
        default: return py_codec_get_atom(d, tag, obj);
    }
}

/* ---- runs ---- */

static int
open_run(struct py_decoder *d, const uint8_t *bytes, size_t len, size_t *n)
{
    unsigned tag;
    *d = (struct py_decoder){.at = bytes, .end = bytes + len};
    return py_codec_get_byte(d, &tag) < 0 || tag != TAG_RUN
               ? CP_EPROTO
               : py_codec_get_size(d, 1, n);
}

static int
whole(const struct py_decoder *d, int r)
{
    return r == 0 && py_codec_left(d) > 0 ? CP_EPROTO : r;
}

int
py_codec_owns(const uint8_t *bytes, size_t len)
{
    return len > 0 && bytes[0] < TAG_END;
}

Py_ssize_t
py_codec_run_length(const uint8_t *bytes, size_t len)
{
    struct py_decoder d;
    size_t n;
    return open_run(&d, bytes, len, &n) == 0 ? (Py_ssize_t)n : -1;
}

Py_ssize_t
py_codec_row_width(const uint8_t *bytes, size_t len)
{
    struct py_decoder d;
    size_t n, arity;
    unsigned tag;
    bool has = open_run(&d, bytes, len, &n) == 0
               && py_codec_get_byte(&d, &tag) == 0 && tag == TAG_TUPLE
               && get_arity(&d, ARITY_MAX, &arity) == 0 && n > 0
               && n <= py_codec_left(&d) / arity;
    return has ? (Py_ssize_t)arity : 0;
}

int
py_codec_get_run(const uint8_t *bytes, size_t len, PyObject **slots)
{
    struct py_decoder d;
    size_t n;
    int r = open_run(&d, bytes, len, &n);
    return whole(&d, r == 0 ? get_column(&d, n, slots, 1) : r);
}

int
py_codec_get_rows(const uint8_t *bytes, size_t len, PyObject **slots)
{
    struct py_decoder d;
    size_t n, arity;
    unsigned tag;
    if (open_run(&d, bytes, len, &n) < 0 || py_codec_get_byte(&d, &tag) < 0
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
    struct py_decoder d = {.at = bytes, .end = bytes + len};
    bool is_run = len > 0 && bytes[0] == TAG_RUN;
    d.at += is_run ? 1 : 0;
    int r = whole(
        &d, is_run ? get_sequence(&d, TAG_LIST, obj) : get_value(&d, obj));
    if (r != 0) {
        Py_CLEAR(*obj);
    }
    return r;
}
