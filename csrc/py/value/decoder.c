/*
 * From bytes to values; see value/decoder.h. Everything is checked before
 * memory is asked for: a tag, size, count or character that value/encoder.h
 * never writes is CP_EPROTO.
 */
#include "value/decoder.h"

#include "value/constant.h"
#include "value/number.h"
#include "value/reader.h"
#include "value/text.h"

/* ---- columns: n values into every stride-th slot ---- */

static int get_value(struct py_reader *in, PyObject **obj);
static int get_column(struct py_reader *in, size_t n, PyObject **slots,
                      size_t stride);

static void
clear(PyObject **slots, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        Py_XDECREF(slots[i]);
    }
}

static int
get_arity(struct py_reader *in, size_t most, size_t *arity)
{
    unsigned byte;
    if (py_reader_get_byte(in, &byte) < 0 || byte == 0 || byte > most) {
        return CP_EPROTO;
    }
    *arity = byte;
    return 0;
}

/* The items of n rows, into `arity` slots for each row. */
static int
get_rows(struct py_reader *in, size_t n, size_t arity, PyObject **slots)
{
    int r = 0;
    for (size_t j = 0; j < arity && r == 0; j++) {
        r = get_column(in, n, slots + j, arity);
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

/* A list or tuple of n values, which move into it. The sequence is made last:
 * once it exists, gc.get_objects() can find it. */
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

/* 0, or CP_EPROTO where a key is not hashable. */
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

/* n tuples, lists or dicts of one length. */
static int
get_each_of_rows(struct py_reader *in, unsigned tag, size_t n, PyObject **slots,
                 size_t stride)
{
    size_t arity;
    PyObject *keys[KEYS_MAX];
    size_t most = tag == TAG_DICT ? KEYS_MAX : ARITY_MAX;
    if (get_arity(in, most, &arity) < 0 || n > py_reader_left(in) / arity) {
        return CP_EPROTO;
    }
    PyObject **rows = new_slots(n * arity);
    if (rows == NULL) {
        return -1;
    }
    for (size_t i = 0; i < arity; i++) {
        keys[i] = NULL;
    }
    int r = tag == TAG_DICT ? get_column(in, arity, keys, 1) : 0;
    r = r == 0 ? get_rows(in, n, arity, rows) : r;
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

/* A few objects, and for each value the number of its object. */
static int
get_picked(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    unsigned count;
    const uint8_t *which;
    PyObject *picked[PICK_MAX] = {NULL};
    if (py_reader_get_byte(in, &count) < 0 || count == 0) {
        return CP_EPROTO;
    }
    int r = get_column(in, count, picked, 1);
    r = r == 0 ? py_reader_get_raw(in, n, &which) : r;
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
get_mixed(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        r = get_value(in, &slots[i * stride]);
    }
    return r;
}

static int
get_column(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    unsigned tag;
    if (in->depth == DEPTH_MAX || py_reader_get_byte(in, &tag) < 0
        || n > py_reader_left(in)) {
        return CP_EPROTO;
    }
    in->depth++;
    int r;
    switch (tag) {
        case TAG_PICK: r = get_picked(in, n, slots, stride); break;
        case TAG_TUPLE:
        case TAG_LIST:
        case TAG_DICT: r = get_each_of_rows(in, tag, n, slots, stride); break;
        case TAG_MIXED: r = get_mixed(in, n, slots, stride); break;
        case TAG_INT1:
        case TAG_INT2:
        case TAG_INT4:
        case TAG_INT8:
        case TAG_FLOAT:
            r = py_number_get_column(in, tag, n, slots, stride);
            break;
        case TAG_ONES: r = py_constant_get_column(in, n, slots, stride); break;
        case TAG_ASCII:
        case TAG_UCS1:
        case TAG_UCS2:
        case TAG_UCS4:
        case TAG_BYTES:
            r = py_text_get_column(in, tag, n, slots, stride);
            break;
        default: r = CP_EPROTO; break;
    }
    in->depth--;
    return r;
}

/* ---- values ---- */

static int
get_sequence(struct py_reader *in, unsigned tag, PyObject **obj)
{
    size_t n;
    if (py_reader_get_size(in, 1, &n) < 0) {
        return CP_EPROTO;
    }
    PyObject **items = new_slots(n);
    if (items == NULL) {
        return -1;
    }
    int r = get_column(in, n, items, 1);
    if (r == 0) {
        *obj = sequence_of(tag, items, n);
        r = *obj != NULL ? 0 : -1;
    }
    clear(items, n);
    PyMem_Free(items);
    return r;
}

static int
get_dict(struct py_reader *in, PyObject **obj)
{
    size_t n;
    if (py_reader_get_size(in, 2, &n) < 0) {
        return CP_EPROTO;
    }
    PyObject **items = new_slots(2 * n);
    if (items == NULL) {
        return -1;
    }
    int r = get_column(in, n, items, 1);
    r = r == 0 ? get_column(in, n, items + n, 1) : r;
    r = r == 0 ? dict_of(items, items + n, n, obj) : r;
    clear(items, 2 * n);
    PyMem_Free(items);
    return r;
}

static int
get_value(struct py_reader *in, PyObject **obj)
{
    unsigned tag;
    if (py_reader_get_byte(in, &tag) < 0) {
        return CP_EPROTO;
    }
    switch (tag) {
        case TAG_TUPLE:
        case TAG_LIST: return get_sequence(in, tag, obj);
        case TAG_DICT: return get_dict(in, obj);
        case TAG_NONE:
        case TAG_FALSE:
        case TAG_TRUE: return py_constant_get(tag, obj);
        case TAG_INT1:
        case TAG_INT2:
        case TAG_INT4:
        case TAG_INT8:
        case TAG_FLOAT: return py_number_get_column(in, tag, 1, obj, 1);
        case TAG_INT: return py_number_get_wide(in, obj);
        case TAG_ASCII:
        case TAG_UCS1:
        case TAG_UCS2:
        case TAG_UCS4:
        case TAG_BYTES: return py_text_get(in, tag, obj);
        default: return CP_EPROTO;
    }
}

/* ---- runs ---- */

static int
open_run(struct py_reader *in, const uint8_t *bytes, size_t len, size_t *n)
{
    unsigned tag;
    *in = (struct py_reader){.at = bytes, .end = bytes + len};
    return py_reader_get_byte(in, &tag) < 0 || tag != TAG_RUN
               ? CP_EPROTO
               : py_reader_get_size(in, 1, n);
}

/* r; but CP_EPROTO for success with bytes left over. */
static int
whole(const struct py_reader *in, int r)
{
    return r == 0 && py_reader_left(in) > 0 ? CP_EPROTO : r;
}

int
py_decode_owns(const uint8_t *bytes, size_t len)
{
    return len > 0 && bytes[0] < TAG_END;
}

Py_ssize_t
py_decode_run_length(const uint8_t *bytes, size_t len)
{
    struct py_reader in;
    size_t n;
    return open_run(&in, bytes, len, &n) == 0 ? (Py_ssize_t)n : -1;
}

Py_ssize_t
py_decode_row_width(const uint8_t *bytes, size_t len)
{
    struct py_reader in;
    size_t n, arity;
    unsigned tag;
    bool has = open_run(&in, bytes, len, &n) == 0
               && py_reader_get_byte(&in, &tag) == 0 && tag == TAG_TUPLE
               && get_arity(&in, ARITY_MAX, &arity) == 0 && n > 0
               && n <= py_reader_left(&in) / arity;
    return has ? (Py_ssize_t)arity : 0;
}

int
py_decode_run(const uint8_t *bytes, size_t len, PyObject **slots)
{
    struct py_reader in;
    size_t n;
    int r = open_run(&in, bytes, len, &n);
    return whole(&in, r == 0 ? get_column(&in, n, slots, 1) : r);
}

int
py_decode_rows(const uint8_t *bytes, size_t len, PyObject **slots)
{
    struct py_reader in;
    size_t n, arity;
    unsigned tag;
    if (open_run(&in, bytes, len, &n) < 0 || py_reader_get_byte(&in, &tag) < 0
        || tag != TAG_TUPLE || get_arity(&in, ARITY_MAX, &arity) < 0) {
        return CP_EPROTO;
    }
    in.depth = 1;
    return whole(&in, get_rows(&in, n, arity, slots));
}

int
py_decode(const uint8_t *bytes, size_t len, PyObject **obj)
{
    *obj = NULL;
    struct py_reader in = {.at = bytes, .end = bytes + len};
    bool is_run = len > 0 && bytes[0] == TAG_RUN;
    in.at += is_run ? 1 : 0;
    int r = whole(
        &in, is_run ? get_sequence(&in, TAG_LIST, obj) : get_value(&in, obj));
    if (r != 0) {
        Py_CLEAR(*obj);
    }
    return r;
}
