/*
 * From values to bytes; see value/encoder.h. A column is encoded in one pass:
 * the type of the first value is taken for the type of all. If a value of
 * another type turns up, the column is encoded again as mixed values.
 */
#include "value/encoder.h"

#include "value/constant.h"
#include "value/frozen.h"
#include "value/kind.h"
#include "value/number.h"
#include "value/repeats.h"
#include "value/text.h"
#include "value/writer.h"

/* Up to this many keys of dicts are written one by one. With more, pickle is
 * better, since it writes equal keys once. */
#define KEYS_ALONE 64

static int put_value(struct py_writer *w, PyObject *obj);
static int put_column(struct py_writer *w, PyObject *const *items,
                      Py_ssize_t n);

static int
no_memory(void)
{
    (void)PyErr_NoMemory();
    return -1;
}

/* A list or dict may be met only once: 1, and 0 where one was met before. The
 * same goes for tuples that hold containers or more than ARITY_MAX items, since
 * a tuple that is written each time it is met can multiply the output. */
static int
all_new(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = py_writer_shares(w, items[i]) ? 0 : py_seen_add(&w->seen, items[i]);
    }
    return r;
}

/* Are these tuples with other references? Small ones may be sent more than
 * once, but not large objects in them. */
static bool
are_shared_tuples(const struct py_writer *w, PyObject *const *items,
                  Py_ssize_t n)
{
    bool shared = false;
    for (Py_ssize_t i = 0; i < n && w->alone && !shared; i++) {
        shared = PyTuple_CheckExact(items[i]) && py_writer_shares(w, items[i]);
    }
    return shared;
}

/* ---- columns of a few objects ---- */

/* Each object is written once, and is one object again after decoding. */
static int
put_picked(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    PyObject *picked[PICK_MAX];
    uint8_t *which = PyMem_Malloc((size_t)n);
    if (which == NULL) {
        return no_memory();
    }
    unsigned count = py_repeats_pick(items, n, picked, which);
    int r = count == 0 ? 0 : py_writer_reserve(w, 2);
    if (r == 1) {
        py_writer_add_byte(w, TAG_PICK);
        py_writer_add_byte(w, count);
        r = put_column(w, picked, (Py_ssize_t)count);
    }
    r = r == 1 ? py_writer_reserve(w, (size_t)n) : r;
    if (r == 1) {
        py_writer_add(w, which, (size_t)n);
    }
    PyMem_Free(which);
    return r;
}

/* ---- columns of containers ---- */

/* A column of the values of containers, which may have been copied. */
static int
put_inner(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
          bool copied)
{
    bool before = w->copied;
    w->copied = copied;
    int r = put_column(w, items, n);
    w->copied = before;
    return r;
}

static PyObject *const *
items_of(PyObject *sequence)
{
    return PyTuple_Check(sequence) ? ((PyTupleObject *)sequence)->ob_item
                                   : ((PyListObject *)sequence)->ob_item;
}

/* Tuples or lists of one length: a column of their first items, a column of
 * their second items, and so on. rows: the items themselves, or copies of
 * them. */
static int
put_frozen_rows(struct py_writer *w, PyObject *const *items,
                PyObject *const *rows, Py_ssize_t n, int tag)
{
    Py_ssize_t arity = Py_SIZE(rows[0]);
    if (arity == 0 || arity > ARITY_MAX) {
        return OTHER_KIND;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (Py_TYPE(rows[i]) != Py_TYPE(rows[0]) || Py_SIZE(rows[i]) != arity) {
            return OTHER_KIND;
        }
    }
    size_t held = w->held++;
    int r = tag == TAG_LIST ? all_new(w, items, n) : 1;
    PyObject **column = r == 1 ? PyMem_New(PyObject *, n) : NULL;
    if (r != 1 || column == NULL || py_writer_reserve(w, 2) < 0) {
        PyMem_Free(column);
        return r != 1 ? r : no_memory();
    }
    int shared = are_shared_tuples(w, items, n);
    w->under += shared;
    py_writer_add_byte(w, (unsigned)tag);
    py_writer_add_byte(w, (unsigned)arity);
    for (Py_ssize_t j = 0; j < arity && r == 1; j++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            column[i] = items_of(rows[i])[j];
        }
        r = put_inner(w, column, n, rows != items);
    }
    w->under -= shared;
    PyMem_Free(column);
    return r == 1 && tag == TAG_TUPLE && w->held > held + 1
               ? all_new(w, items, n)
               : r;
}

static int
put_rows(struct py_writer *w, PyObject *const *items, Py_ssize_t n, int tag)
{
    PyObject **copies;
    int r = py_frozen_copy(items, n, &copies);
    if (r == 1) {
        r = put_frozen_rows(w, items, copies != NULL ? copies : items, n, tag);
    }
    py_frozen_release(copies, n);
    return r;
}

static bool
is_same_key(PyObject *a, PyObject *b)
{
    return a == b
           || (PyUnicode_CheckExact(a) && PyUnicode_CheckExact(b)
               && py_kind_make_ready(a) == 0 && py_kind_make_ready(b) == 0
               && PyUnicode_Compare(a, b) == 0);
}

/* Copy at most n keys of a dict, and its values into every stride-th place.
 * Returns how many. */
static Py_ssize_t
items_of_dict(PyObject *dict, Py_ssize_t n, PyObject **keys, PyObject **values,
              Py_ssize_t stride)
{
    Py_ssize_t at = 0, i = 0;
    PyObject *key, *value;
    while (i < n
           && PyDict_Next(dict, &at, &key, &value)) { /* lint-ok: frozen */
        keys[i] = key;
        values[i++ * stride] = value;
    }
    return i;
}

/* Copy the values of n dicts, as columns; OTHER_KIND where the dicts have other
 * keys. */
static int
collect_dicts(PyObject *const *items, Py_ssize_t n, Py_ssize_t arity,
              PyObject **keys, PyObject **values)
{
    PyObject *own[KEYS_MAX];
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyDict_CheckExact(items[i])
            || PyDict_GET_SIZE(items[i]) != arity) {
            return OTHER_KIND;
        }
        (void)items_of_dict(items[i], arity, i == 0 ? keys : own, values + i,
                            n);
        for (Py_ssize_t j = 0; j < arity && i > 0; j++) {
            if (!is_same_key(keys[j], own[j])) {
                return OTHER_KIND;
            }
        }
    }
    return 1;
}

/* Dicts of the same keys in the same order: the keys once, then columns of
 * values. dicts: the items themselves, or copies of them. */
static int
put_frozen_dicts(struct py_writer *w, PyObject *const *items,
                 PyObject *const *dicts, Py_ssize_t n)
{
    Py_ssize_t arity = PyDict_GET_SIZE(dicts[0]);
    PyObject *keys[KEYS_MAX];
    if (arity == 0 || arity > KEYS_MAX) {
        return OTHER_KIND;
    }
    w->held++;
    PyObject **values = PyMem_New(PyObject *, n * arity);
    if (values == NULL || py_writer_reserve(w, 2) < 0) {
        PyMem_Free(values);
        return no_memory();
    }
    int r = collect_dicts(dicts, n, arity, keys, values);
    r = r == 1 ? all_new(w, items, n) : r;
    if (r == 1) {
        py_writer_add_byte(w, TAG_DICT);
        py_writer_add_byte(w, (unsigned)arity);
        r = put_column(w, keys, arity);
    }
    for (Py_ssize_t j = 0; j < arity && r == 1; j++) {
        r = put_inner(w, values + j * n, n, dicts != items);
    }
    PyMem_Free(values);
    return r;
}

static int
put_dicts(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    PyObject **copies;
    int r = py_frozen_copy(items, n, &copies);
    if (r == 1) {
        r = put_frozen_dicts(w, items, copies != NULL ? copies : items, n);
    }
    py_frozen_release(copies, n);
    return r;
}

/* ---- any column ---- */

static int
put_mixed(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_MIXED);
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = put_value(w, items[i]);
    }
    return r;
}

/* Numbers and constants are so small that repeated ones are not searched
 * for. */
static bool
is_small(int tag)
{
    return tag == TAG_INT8 || tag == TAG_FLOAT || tag == TAG_ONES;
}

/* All of the kind of tag, or else OTHER_KIND. */
static int
put_alike(struct py_writer *w, PyObject *const *items, Py_ssize_t n, int tag)
{
    switch (tag) {
        case TAG_INT8: return py_number_put_ints(w, items, n);
        case TAG_FLOAT: return py_number_put_floats(w, items, n);
        case TAG_ONES: return py_constant_put_column(w, items, n);
        default: break;
    }
    if (n >= REPEATS_FROM && py_repeats_are_likely(items, n)) {
        return put_picked(w, items, n);
    }
    switch (tag) {
        case TAG_TUPLE:
        case TAG_LIST: return put_rows(w, items, n, tag);
        case TAG_DICT: return put_dicts(w, items, n);
        default: return py_text_put_column(w, items, n, tag);
    }
}

static int
put_column(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    size_t before = cp_buf_len(w->out);
    int large = w->large;
    int tag = n > 0 ? py_kind_of(items[0]) : TAG_MIXED;
    if (tag <= 0) {
        return tag;
    }
    if (w->depth == DEPTH_MAX) {
        return 0;
    }
    w->depth++;
    int r = n > 1 ? put_alike(w, items, n, tag) : OTHER_KIND;
    if (r == OTHER_KIND) {
        w->out->end = w->out->start + before;
        w->large = large;
        bool few = is_small(tag) && n >= REPEATS_FROM
                   && py_repeats_are_likely(items, n);
        r = few ? put_picked(w, items, n) : put_mixed(w, items, n);
    }
    w->depth--;
    return r;
}

/* ---- values ---- */

/* frozen: the sequence itself, or a copy of it. */
static int
put_sequence(struct py_writer *w, PyObject *obj, PyObject *frozen, int tag)
{
    size_t held = w->held++;
    Py_ssize_t n = Py_SIZE(frozen);
    bool is_once = tag == TAG_LIST || n > ARITY_MAX;
    int r = is_once ? all_new(w, &obj, 1) : 1;
    if (r != 1 || py_writer_reserve(w, 1 + SIZE_ROOM) < 0) {
        return r != 1 ? r : -1;
    }
    py_writer_add_byte(w, (unsigned)tag);
    py_writer_add_size(w, (size_t)n);
    int shared = are_shared_tuples(w, &obj, 1);
    w->under += shared;
    r = put_inner(w, items_of(frozen), n, frozen != obj);
    w->under -= shared;
    return r == 1 && !is_once && w->held > held + 1 ? all_new(w, &obj, 1) : r;
}

static int
put_dict(struct py_writer *w, PyObject *obj, PyObject *frozen)
{
    PyObject *few[2 * ARITY_MAX];
    Py_ssize_t n = PyDict_GET_SIZE(frozen);
    int r = all_new(w, &obj, 1);
    if (r != 1 || py_writer_reserve(w, 1 + SIZE_ROOM) < 0) {
        return r != 1 ? r : -1;
    }
    w->held++;
    PyObject **items = n <= ARITY_MAX ? few : PyMem_New(PyObject *, 2 * n);
    if (items == NULL) {
        return no_memory();
    }
    r = items_of_dict(frozen, n, items, items + n, 1) == n; /* nothing else */
    if (r == 1 && n > 0 && PyUnicode_CheckExact(items[0])) {
        r = w->keys > KEYS_ALONE ? 0 : 1;
        w->keys += n;
    }
    py_writer_add_byte(w, TAG_DICT);
    py_writer_add_size(w, (size_t)n);
    r = r == 1 ? put_inner(w, items, n, frozen != obj) : r;
    r = r == 1 ? put_inner(w, items + n, n, frozen != obj) : r;
    if (items != few) {
        PyMem_Free(items);
    }
    return r;
}

static int
put_container(struct py_writer *w, PyObject *obj, int tag)
{
    PyObject **copies;
    if (py_frozen_copy(&obj, 1, &copies) < 0) {
        return -1;
    }
    PyObject *frozen = copies != NULL ? copies[0] : obj;
    int r = tag == TAG_DICT ? put_dict(w, obj, frozen)
                            : put_sequence(w, obj, frozen, tag);
    py_frozen_release(copies, 1);
    return r;
}

static int
put_value(struct py_writer *w, PyObject *obj)
{
    int tag = py_kind_of(obj);
    switch (tag) {
        case TAG_TUPLE:
        case TAG_LIST:
        case TAG_DICT: return put_container(w, obj, tag);
        case TAG_INT8: return py_number_put_int(w, obj);
        case TAG_FLOAT: return py_number_put_float(w, obj);
        case TAG_ONES: return py_constant_put(w, obj);
        default: return tag > 0 ? py_text_put(w, obj, tag) : tag;
    }
}

/* Remove what was written, unless all of it was. */
static int
finish(struct py_writer *w, size_t before, int r)
{
    if (r != 1) {
        w->out->end = w->out->start + before;
    }
    py_seen_fini(&w->seen);
    return r;
}

int
py_encode(struct cp_buf *out, PyObject *obj)
{
    struct py_writer w = {.out = out};
    size_t before = cp_buf_len(out);
    return finish(&w, before, put_value(&w, obj));
}

static int
put_run(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    size_t before = cp_buf_len(w->out);
    int r = py_writer_reserve(w, 1 + SIZE_ROOM);
    if (r == 1) {
        py_writer_add_byte(w, TAG_RUN);
        py_writer_add_size(w, (size_t)n);
        r = put_column(w, items, n);
    }
    return finish(w, before, r);
}

int
py_encode_run(struct cp_buf *out, PyObject *const *items, Py_ssize_t n)
{
    struct py_writer w = {.out = out};
    return put_run(&w, items, n);
}

int
py_encode_run_alone(struct cp_buf *out, PyObject *const *items, Py_ssize_t n,
                    Py_ssize_t refs)
{
    struct py_writer w = {.out = out, .alone = true, .refs = refs};
    return put_run(&w, items, n);
}
