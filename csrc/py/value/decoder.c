/*
 * From bytes to values; see value/decoder.h. Everything is checked before
 * memory is allocated: a tag, size, count or character that value/encoder.h
 * never writes is CP_EPROTO.
 *
 * Code of the program runs only while objects are made (rebuild.c), and while
 * keys are compared. While no such code can run, garbage collection is
 * disabled, since new objects are not garbage.
 */
#include "value/decoder.h"

#include "value/array.h"
#include "value/constant.h"
#include "value/decode.h"
#include "value/known.h"
#include "value/named.h"
#include "value/number.h"
#include "value/text.h"

#include "core/base/mem.h"

/* ---- columns: n values into every stride-th slot ---- */

PyObject **
py_get_slots(size_t n)
{
    PyObject **slots = PyMem_Calloc(n > 0 ? n : 1, sizeof(*slots));
    if (slots == NULL) {
        (void)PyErr_NoMemory();
    }
    return slots;
}

void
py_get_release(PyObject **slots, size_t n)
{
    for (size_t i = 0; i < n && slots != NULL; i++) {
        Py_XDECREF(slots[i]);
    }
    PyMem_Free(slots);
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

int
py_get_rows(struct py_reader *in, size_t n, size_t arity, PyObject **slots)
{
    size_t owed = in->owed;
    int r = 0;
    for (size_t j = 0; j < arity && r == 0; j++) {
        in->owed = owed + n * (arity - 1 - j);
        r = py_get_column(in, n, slots + j, arity);
    }
    in->owed = owed;
    return r;
}

PyObject *
py_get_tuple_of(PyObject **values, size_t n)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; tuple != NULL && i < n; i++) {
        PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, values[i]);
        values[i] = NULL;
    }
    return tuple;
}

PyObject *
py_get_list_of(PyObject **values, size_t n)
{
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list != NULL && i < n; i++) {
        PyList_SET_ITEM(list, (Py_ssize_t)i, values[i]);
        values[i] = NULL;
    }
    return list;
}

/* Append the values to a list that was made before them. */
static int
fill_list(PyObject *list, PyObject **values, size_t n)
{
    PyObject *tuple = py_get_tuple_of(values, n);
    int r = tuple != NULL
                ? PyList_SetSlice(list, PY_SSIZE_T_MAX, PY_SSIZE_T_MAX, tuple)
                : -1;
    Py_XDECREF(tuple);
    return r;
}

/* A key could not be added. CP_EPROTO if it is not hashable, since no encoder
 * writes such a key; -1 with the exception if code of the program may have
 * raised it. */
static int
bad_key(const struct py_reader *in)
{
    if ((in->flags & HAS_CODE) != 0
        || !PyErr_ExceptionMatches(PyExc_TypeError)) {
        return -1;
    }
    PyErr_Clear();
    return CP_EPROTO;
}

static int
fill_dict(const struct py_reader *in, PyObject *dict, PyObject *const *keys,
          PyObject *const *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (PyDict_SetItem(dict, keys[i], values[i]) < 0) {
            return bad_key(in);
        }
    }
    return 0;
}

static int
fill_set(const struct py_reader *in, PyObject *set, PyObject *const *items,
         size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (PySet_Add(set, items[i]) < 0) {
            return bad_key(in);
        }
    }
    return 0;
}

/* Make n empty containers with this tag, and assign numbers to them. */
static int
make_empty(struct py_reader *in, unsigned tag, size_t n, PyObject **slots,
           size_t stride)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject *made = tag == TAG_DICT  ? PyDict_New()
                         : tag == TAG_SET ? PySet_New(NULL)
                                          : PyList_New(0);
        slots[i * stride] = made;
        r = made != NULL ? py_reader_keep(in, made) : -1;
    }
    return r;
}

/* Make tuples, lists or dicts of rows, or fill those that were made before. */
static int
finish_rows(struct py_reader *in, unsigned tag, size_t n, size_t arity,
            PyObject *const *keys, PyObject **rows, PyObject **slots,
            size_t stride, size_t number)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **row = rows + i * arity, **slot = &slots[i * stride];
        if (tag == TAG_DICT) {
            r = fill_dict(in, *slot, keys, row, arity);
        } else if (tag == TAG_OPEN_LIST) {
            r = fill_list(*slot, row, arity);
        } else {
            *slot = tag == TAG_LIST ? py_get_list_of(row, arity)
                                    : py_get_tuple_of(row, arity);
            r = *slot != NULL ? 0 : -1;
            if (r == 0 && tag != TAG_TUPLE) {
                py_reader_set(in, number + i, *slot);
            }
        }
    }
    return r;
}

/* Get n tuples, lists or dicts that have the same length. */
static int
get_each_of_rows(struct py_reader *in, unsigned tag, size_t n, PyObject **slots,
                 size_t stride)
{
    size_t arity, number = 0;
    size_t most = tag == TAG_DICT ? KEYS_MAX : ARITY_MAX;
    bool first = tag == TAG_DICT || tag == TAG_OPEN_LIST;
    if (get_arity(in, most, &arity) < 0 || n > py_reader_left(in) / arity
        || !py_reader_has(in, n * arity)) {
        return CP_EPROTO;
    }
    size_t more = tag == TAG_DICT ? arity : 0;
    PyObject **rows = py_get_slots(n * arity + more);
    if (rows == NULL) {
        return -1;
    }
    PyObject **keys = rows + n * arity;
    int r = first              ? make_empty(in, tag, n, slots, stride)
            : tag != TAG_TUPLE ? py_reader_number(in, n, &number)
                               : 0;
    in->owed += n * arity;
    r = r == 0 && more > 0 ? py_get_column(in, arity, keys, 1) : r;
    in->owed -= n * arity;
    r = r == 0 ? py_get_rows(in, n, arity, rows) : r;
    r = r == 0
            ? finish_rows(in, tag, n, arity, keys, rows, slots, stride, number)
            : r;
    py_get_release(rows, n * arity + more);
    return r;
}

/* Read n sizes, and add them up in *total. NULL: the sizes are invalid, or an
 * exception is set. */
static size_t *
get_sizes(struct py_reader *in, size_t n, size_t *total)
{
    size_t *sizes = PyMem_New(size_t, n);
    if (sizes == NULL) {
        (void)PyErr_NoMemory();
        return NULL;
    }
    bool fits = true;
    *total = 0;
    for (size_t i = 0; i < n && fits; i++) {
        fits = py_reader_get_size(in, 1, &sizes[i]) == 0
               && !__builtin_add_overflow(*total, sizes[i], total);
    }
    if (!fits || !py_reader_has(in, *total)) {
        PyMem_Free(sizes);
        sizes = NULL;
    }
    return sizes;
}

/* Fill n sets, or make and fill n frozensets. */
static int
finish_sets(struct py_reader *in, unsigned tag, size_t n, const size_t *sizes,
            PyObject *const *items, PyObject **slots, size_t stride,
            size_t number)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **slot = &slots[i * stride];
        if (tag == TAG_FROZENSET) {
            *slot = PyFrozenSet_New(NULL);
            r = *slot != NULL ? 0 : -1;
        }
        r = r == 0 ? fill_set(in, *slot, items, sizes[i]) : r;
        if (r == 0 && tag == TAG_FROZENSET) {
            py_reader_set(in, number + i, *slot);
        }
        items += sizes[i];
    }
    return r;
}

/* Get n sets, each with its own size. */
static int
get_sets(struct py_reader *in, unsigned tag, size_t n, PyObject **slots,
         size_t stride)
{
    size_t total, number = 0;
    int r = tag == TAG_SET ? make_empty(in, tag, n, slots, stride)
                           : py_reader_number(in, n, &number);
    size_t *sizes = r == 0 ? get_sizes(in, n, &total) : NULL;
    if (sizes == NULL) {
        return PyErr_Occurred() != NULL ? -1 : CP_EPROTO;
    }
    PyObject **items = py_get_slots(total);
    r = items != NULL ? py_get_column(in, total, items, 1) : -1;
    r = r == 0 ? finish_sets(in, tag, n, sizes, items, slots, stride, number)
               : r;
    py_get_release(items, total);
    PyMem_Free(sizes);
    return r;
}

/* Get a PICK: a few objects, then for each value the number of its object. */
static int
get_picked(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    unsigned count;
    const uint8_t *which;
    if (py_reader_get_byte(in, &count) < 0 || count == 0) {
        return CP_EPROTO;
    }
    PyObject **picked = py_get_slots(count);
    if (picked == NULL) {
        return -1;
    }
    in->owed += n;
    int r = py_get_column(in, count, picked, 1);
    in->owed -= n;
    r = r == 0 ? py_reader_get_raw(in, n, &which) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        if (which[i] < count) {
            slots[i * stride] = Py_NewRef(picked[which[i]]);
        } else {
            r = CP_EPROTO;
        }
    }
    py_get_release(picked, count);
    return r;
}

static int
get_mixed(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    size_t owed = in->owed;
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        in->owed = owed + n - 1 - i;
        r = py_get_value(in, &slots[i * stride]);
    }
    in->owed = owed;
    return r;
}

static int
get_level(struct py_reader *in, unsigned tag, size_t n, PyObject **slots,
          size_t stride)
{
    switch (tag) {
        case TAG_PICK: return get_picked(in, n, slots, stride);
        case TAG_TUPLE:
        case TAG_KEPT_TUPLE:
        case TAG_LIST:
        case TAG_OPEN_LIST:
        case TAG_DICT: return get_each_of_rows(in, tag, n, slots, stride);
        case TAG_OBJECT: return py_rebuild_get(in, n, slots, stride);
        case TAG_ARRAY: return py_array_get(in, n, slots, stride);
        case TAG_SCALAR: return py_array_get_scalars(in, n, slots, stride);
        case TAG_STANDARD: return py_rebuild_get_standard(in, n, slots, stride);
        case TAG_SET:
        case TAG_FROZENSET: return get_sets(in, tag, n, slots, stride);
        case TAG_INT1:
        case TAG_INT2:
        case TAG_INT4:
        case TAG_INT8:
        case TAG_FLOAT: return py_number_get_column(in, tag, n, slots, stride);
        case TAG_ONES: return py_constant_get_column(in, n, slots, stride);
        case TAG_ASCII:
        case TAG_UCS1:
        case TAG_UCS2:
        case TAG_UCS4:
        case TAG_BYTES: return py_text_get_column(in, tag, n, slots, stride);
        default: return CP_EPROTO;
    }
}

int
py_get_column(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    unsigned tag;
    if (in->depth == DEPTH_MAX || py_reader_get_byte(in, &tag) < 0
        || !py_reader_has(in, n)) {
        return CP_EPROTO;
    }
    in->depth++;
    in->level++;
    int r;
    if (tag == TAG_MIXED) {
        r = get_mixed(in, n, slots, stride);
    } else if (tag == TAG_KEYS) {
        r = stride == 1 ? py_text_get_keys(in, n, slots) : CP_EPROTO;
    } else {
        r = in->level <= LEVEL_MAX ? get_level(in, tag, n, slots, stride)
                                   : CP_EPROTO;
    }
    in->level--;
    in->depth--;
    return r;
}

/* ---- values ---- */

static int
get_sequence(struct py_reader *in, unsigned tag, PyObject **obj)
{
    size_t n, number;
    if (py_reader_get_size(in, 1, &n) < 0 || !py_reader_has(in, n)) {
        return CP_EPROTO;
    }
    PyObject **items = py_get_slots(n);
    if (items == NULL) {
        return -1;
    }
    int r = 0;
    if (tag == TAG_OPEN_LIST || tag == TAG_SET) {
        r = make_empty(in, tag, 1, obj, 1);
    } else if (tag != TAG_TUPLE) {
        r = py_reader_number(in, 1, &number);
    }
    r = r == 0 ? py_get_column(in, n, items, 1) : r;
    if (r == 0 && tag == TAG_OPEN_LIST) {
        r = fill_list(*obj, items, n);
    } else if (r == 0 && tag == TAG_SET) {
        r = fill_set(in, *obj, items, n);
    } else if (r == 0) {
        *obj = tag == TAG_LIST        ? py_get_list_of(items, n)
               : tag == TAG_FROZENSET ? PyFrozenSet_New(NULL)
                                      : py_get_tuple_of(items, n);
        r = *obj != NULL ? 0 : -1;
        if (r == 0 && tag == TAG_FROZENSET) {
            r = fill_set(in, *obj, items, n);
        }
        if (r == 0 && tag != TAG_TUPLE) {
            py_reader_set(in, number, *obj);
        }
    }
    py_get_release(items, n);
    return r;
}

static int
get_dict(struct py_reader *in, PyObject **obj)
{
    size_t n;
    if (py_reader_get_size(in, 2, &n) < 0 || !py_reader_has(in, 2 * n)) {
        return CP_EPROTO;
    }
    PyObject **items = py_get_slots(2 * n);
    if (items == NULL) {
        return -1;
    }
    int r = make_empty(in, TAG_DICT, 1, obj, 1);
    in->owed += n;
    r = r == 0 ? py_get_column(in, n, items, 1) : r;
    in->owed -= n;
    r = r == 0 ? py_get_column(in, n, items + n, 1) : r;
    r = r == 0 ? fill_dict(in, *obj, items, items + n, n) : r;
    py_get_release(items, 2 * n);
    return r;
}

static int
get_nested(struct py_reader *in, unsigned tag, PyObject **obj)
{
    switch (tag) {
        case TAG_TUPLE:
        case TAG_KEPT_TUPLE:
        case TAG_LIST:
        case TAG_OPEN_LIST:
        case TAG_SET:
        case TAG_FROZENSET: return get_sequence(in, tag, obj);
        case TAG_DICT: return get_dict(in, obj);
        case TAG_NAME: return py_named_get(in, obj);
        case TAG_OBJECT: return py_rebuild_get(in, 1, obj, 1);
        case TAG_ARRAY: return py_array_get(in, 1, obj, 1);
        case TAG_SCALAR: return py_array_get_scalars(in, 1, obj, 1);
        case TAG_STANDARD: return py_rebuild_get_standard(in, 1, obj, 1);
        case TAG_SHARED: return py_rebuild_get_shared(in, obj);
        default: return CP_EPROTO;
    }
}

static int
get_with_tag(struct py_reader *in, unsigned tag, PyObject **obj)
{
    switch (tag) {
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
        case TAG_BYTEARRAY: return py_text_get_bytearray(in, obj);
        case TAG_PART: return py_text_get_part(in, obj);
        case TAG_REF1:
        case TAG_REF2:
        case TAG_REF4: return py_reader_get_ref(in, tag, obj);
        default: break;
    }
    int level = in->level;
    in->level = 0;
    int r = get_nested(in, tag, obj);
    in->level = level;
    return r;
}

int
py_get_value(struct py_reader *in, PyObject **obj)
{
    unsigned tag;
    return py_reader_get_byte(in, &tag) < 0 ? CP_EPROTO
                                            : get_with_tag(in, tag, obj);
}

/* ---- bodies ---- */

/* In smaller bodies there are too few objects for a garbage collection to
 * matter. */
#define HOLD_FROM 1024

/* Disable garbage collection during this body; true if it was enabled. Not
 * without the GIL, since another thread may switch it meanwhile. */
static bool
hold_collector(const struct py_reader *in)
{
#ifdef Py_GIL_DISABLED
    (void)in;
    return false;
#else
    return (in->flags & HAS_CODE) == 0 && py_reader_left(in) >= HOLD_FROM
           && PyGC_Disable() == 1;
#endif
}

/* The end of a body. Returns r; but CP_EPROTO after success if bytes are left
 * over. */
static int
finish(struct py_reader *in, bool held, int r)
{
    if (held) {
        (void)PyGC_Enable();
    }
    py_reader_fini(in);
    if (in->known != NULL) {
        py_known_leave(in);
    }
    return r == 0 && py_reader_left(in) > 0 ? CP_EPROTO : r;
}

/* The tag of the body, before the body is read. */
static unsigned
tag_of(const uint8_t *bytes, size_t len)
{
    return len > 0 ? bytes[0] & TAG_BITS : 0;
}

static int
open_run(struct py_state *state, struct py_reader *in, const uint8_t *bytes,
         size_t len, const struct cp_loan *loan, size_t *n)
{
    *in = py_reader_of(state, bytes, len, loan);
    if (tag_of(bytes, len) != TAG_RUN) {
        return CP_EPROTO;
    }
    in->at++;
    return py_reader_get_size(in, 1, n);
}

int
py_decode_owns(const uint8_t *bytes, size_t len)
{
    unsigned tag = tag_of(bytes, len);
    return tag > 0 && tag < TAG_END;
}

int
py_decode_runs_code(const uint8_t *bytes, size_t len)
{
    return !py_decode_owns(bytes, len) || (bytes[0] & HAS_CODE) != 0;
}

Py_ssize_t
py_decode_run_length(const uint8_t *bytes, size_t len)
{
    struct py_reader in;
    size_t n;
    return open_run(NULL, &in, bytes, len, NULL, &n) == 0 ? (Py_ssize_t)n : -1;
}

/* Is it the tag of a column of tuples that no REF refers to? */
static bool
is_of_rows(const struct py_reader *in, unsigned tag)
{
    return tag == TAG_TUPLE
           || (tag == TAG_KEPT_TUPLE && (in->flags & HAS_REFS) == 0);
}

Py_ssize_t
py_decode_row_width(const uint8_t *bytes, size_t len)
{
    struct py_reader in;
    size_t n, arity;
    unsigned tag;
    bool has = open_run(NULL, &in, bytes, len, NULL, &n) == 0
               && py_reader_get_byte(&in, &tag) == 0 && is_of_rows(&in, tag)
               && get_arity(&in, ARITY_MAX, &arity) == 0 && n > 0
               && n <= py_reader_left(&in) / arity;
    return has ? (Py_ssize_t)arity : 0;
}

int
py_decode_run(struct py_state *state, const uint8_t *bytes, size_t len,
              const struct cp_loan *loan, PyObject **slots)
{
    struct py_reader in;
    size_t n;
    int r = open_run(state, &in, bytes, len, loan, &n);
    bool held = hold_collector(&in);
    return finish(&in, held, r == 0 ? py_get_column(&in, n, slots, 1) : r);
}

int
py_decode_rows(struct py_state *state, const uint8_t *bytes, size_t len,
               const struct cp_loan *loan, PyObject **slots)
{
    struct py_reader in;
    size_t n, arity;
    unsigned tag;
    if (open_run(state, &in, bytes, len, loan, &n) < 0
        || py_reader_get_byte(&in, &tag) < 0 || !is_of_rows(&in, tag)
        || get_arity(&in, ARITY_MAX, &arity) < 0) {
        return CP_EPROTO;
    }
    in.depth = in.level = 1;
    bool held = hold_collector(&in);
    return finish(&in, held, py_get_rows(&in, n, arity, slots));
}

/* Get the values of a run as a list, to which no REF refers. */
static int
get_run(struct py_reader *in, PyObject **obj)
{
    size_t n;
    if (py_reader_get_size(in, 1, &n) < 0) {
        return CP_EPROTO;
    }
    PyObject **items = py_get_slots(n);
    if (items == NULL) {
        return -1;
    }
    int r = py_get_column(in, n, items, 1);
    if (r == 0) {
        *obj = py_get_list_of(items, n);
        r = *obj != NULL ? 0 : -1;
    }
    py_get_release(items, n);
    return r;
}

int
py_decode(struct py_state *state, const uint8_t *bytes, size_t len,
          const struct cp_loan *loan, PyObject **obj)
{
    *obj = NULL;
    struct py_reader in = py_reader_of(state, bytes, len, loan);
    unsigned tag = tag_of(bytes, len);
    if (tag == 0) {
        return CP_EPROTO;
    }
    in.at++;
    bool held = hold_collector(&in);
    int r = tag == TAG_RUN ? get_run(&in, obj) : get_with_tag(&in, tag, obj);
    r = finish(&in, held, r);
    if (r != 0) {
        Py_CLEAR(*obj);
    }
    return r;
}
