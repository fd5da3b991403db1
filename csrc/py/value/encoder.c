/*
 * From values to bytes; see value/encoder.h. A column is encoded in one pass:
 * the type of the first value is assumed to be the type of all. If a value of
 * another type turns up, the column is encoded again as mixed values.
 *
 * Encoding an object may run code of the program. Whatever that code may change
 * (lists, dicts) is read before, into arrays with references of their own
 * (value/gather.h).
 */
#include "value/encoder.h"

#include "value/constant.h"
#include "value/encode.h"
#include "value/gather.h"
#include "value/kind.h"
#include "value/number.h"
#include "value/plan.h"
#include "value/repeats.h"
#include "value/text.h"
#include "value/uses.h"

/* Assign numbers to all of them: 1, 0, -1; or OTHER_KIND if one has a number
 * already. */
static int
enter_all(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    int r = py_seen_reserve(&w->seen, (size_t)n) < 0 ? -1 : 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = py_writer_enter(w, items[i]);
    }
    return r;
}

/* Is one of these a tuple to which other objects may refer? Such tuples get no
 * numbers: small ones may be sent more than once, but not large objects in
 * them. */
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

/* Does the tuple need a number? Writing a large tuple each time it is met could
 * multiply the output. */
static bool
is_kept(PyObject *tuple)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    bool kept = n > ARITY_MAX;
    for (Py_ssize_t i = 0; i < n && !kept; i++) {
        kept = !py_kind_is_atom(PyTuple_GET_ITEM(tuple, i));
    }
    return kept;
}

/* Does any of these tuples need a number? */
static bool
hold_others(PyObject *const *items, Py_ssize_t n)
{
    bool kept = false;
    for (Py_ssize_t i = 0; i < n && !kept; i++) {
        kept = is_kept(items[i]);
    }
    return kept;
}

/* ---- columns of a few objects ---- */

/* Are these few members of Enums, among n items? Constants may be among them. */
static bool
are_few_members(const struct py_writer *w, PyObject *const *picked,
                unsigned count, Py_ssize_t n)
{
    bool are = count <= n / 2;
    for (unsigned i = 0; i < count && are; i++) {
        are = py_plan_is_member(w, picked[i]) || picked[i] == Py_None
              || PyBool_Check(picked[i]);
    }
    return are;
}

/* Write each object of the column once; after decoding it is one object again.
 * members: OTHER_KIND unless they are a few members of Enums. */
static int
put_picked(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
           bool members)
{
    PyObject **picked = PyMem_Malloc(PICK_MAX * sizeof(PyObject *) + (size_t)n);
    if (picked == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    uint8_t *which = (uint8_t *)(picked + PICK_MAX);
    unsigned count = py_repeats_pick(items, n, picked, which);
    int r = count == 0 || (members && !are_few_members(w, picked, count, n))
                ? OTHER_KIND
                : py_writer_reserve(w, 2);
    if (r == 1) {
        py_writer_add_byte(w, TAG_PICK);
        py_writer_add_byte(w, count);
        r = py_put_column(w, picked, (Py_ssize_t)count);
    }
    r = r == 1 ? py_writer_reserve(w, (size_t)n) : r;
    if (r == 1) {
        py_writer_add(w, which, (size_t)n);
    }
    PyMem_Free(picked);
    return r;
}

/* ---- columns of containers ---- */

int
py_put_inner(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
             bool copied)
{
    bool before = w->copied;
    w->copied = copied;
    int r = py_put_column(w, items, n);
    w->copied = before;
    return r;
}

int
py_put_keys(struct py_writer *w, PyObject *const *keys, Py_ssize_t n)
{
    struct py_mark before = py_writer_mark(w);
    int r = n <= KEYS_MAX ? py_text_put_keys(w, keys, n) : OTHER_KIND;
    if (r == OTHER_KIND) {
        py_writer_back(w, &before);
        w->calls++; /* decoding calls __hash__() and __eq__() */
        r = py_put_inner(w, keys, n, true);
        w->calls--;
    }
    return r;
}

int
py_put_sized(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    if (py_writer_reserve(w, SIZE_ROOM) < 0) {
        return -1;
    }
    py_writer_add_size(w, (size_t)n);
    return py_put_inner(w, items, n, true);
}

/* Do all items have the same type, and this length? */
static bool
are_alike(PyObject *const *items, Py_ssize_t n, Py_ssize_t length)
{
    bool alike = true;
    for (Py_ssize_t i = 0; i < n && alike; i++) {
        alike = Py_TYPE(items[i]) == Py_TYPE(items[0])
                && Py_SIZE(items[i]) == length;
    }
    return alike;
}

static int
add_rows_head(struct py_writer *w, int tag, Py_ssize_t arity)
{
    if (py_writer_reserve(w, 2) < 0) {
        return -1;
    }
    py_writer_add_byte(w, (unsigned)tag);
    py_writer_add_byte(w, (unsigned)arity);
    return 1;
}

/* Put a column of all first items, a column of all second items, and so on. */
static int
put_tuple_columns(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
                  Py_ssize_t arity)
{
    PyObject **column = PyMem_New(PyObject *, n);
    if (column == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    int r = 1;
    for (Py_ssize_t j = 0; j < arity && r == 1; j++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            column[i] = PyTuple_GET_ITEM(items[i], j);
        }
        r = py_put_inner(w, column, n, false);
    }
    PyMem_Free(column);
    return r;
}

static int
put_kept_tuples(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
                Py_ssize_t arity)
{
    int r = enter_all(w, items, n);
    if (r != 1 || w->retries > RETRIES_MAX) {
        return r == 1 ? OTHER_KIND : r;
    }
    struct py_open open;
    py_writer_open(w, &open, n, NOT_MADE);
    r = add_rows_head(w, TAG_KEPT_TUPLE, arity);
    r = r == 1 ? put_tuple_columns(w, items, n, arity) : r;
    w->open = open.outer;
    return r;
}

static int
put_plain_tuples(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
                 Py_ssize_t arity)
{
    int shared = are_shared_tuples(w, items, n);
    w->under += shared;
    int r = add_rows_head(w, TAG_TUPLE, arity);
    r = r == 1 ? put_tuple_columns(w, items, n, arity) : r;
    w->under -= shared;
    return r;
}

/* Put tuples of one length. Whether they need numbers depends on all of them;
 * but in most columns the first one decides, and looking at all would take half
 * as long as encoding them. */
static int
put_tuples(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    Py_ssize_t arity = PyTuple_GET_SIZE(items[0]);
    if (arity == 0 || arity > ARITY_MAX || !are_alike(items, n, arity)) {
        return OTHER_KIND;
    }
    bool kept = is_kept(items[0])
                || (w->retries > RETRIES_MAX && hold_others(items, n));
    struct py_mark before = py_writer_mark(w);
    size_t held = w->held;
    int r = kept ? OTHER_KIND : put_plain_tuples(w, items, n, arity);
    if (!kept && (r != 1 || w->held == held)) {
        return r;
    }
    if (!kept) {
        w->retries++;
        py_writer_back(w, &before);
    }
    return put_kept_tuples(w, items, n, arity);
}

/* Put columns of the values that were gathered from n containers. */
static int
put_gathered(struct py_writer *w, PyObject *const *values, Py_ssize_t n,
             Py_ssize_t arity)
{
    int r = 1;
    for (Py_ssize_t j = 0; j < arity && r == 1; j++) {
        r = py_put_inner(w, values + j * n, n, true);
    }
    return r;
}

static int
put_lists(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    Py_ssize_t arity = PyList_GET_SIZE(items[0]);
    if (arity == 0 || arity > ARITY_MAX || !are_alike(items, n, arity)
        || !py_writer_may_open(w)) {
        return OTHER_KIND;
    }
    PyObject **values = py_gather_new(n * arity);
    int r = values != NULL ? 1 : -1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = py_gather_items(items[i], arity, values + i, n) ? 1 : OTHER_KIND;
    }
    r = r == 1 ? enter_all(w, items, n) : r;
    if (r == 1) {
        struct py_open open;
        py_writer_open(w, &open, n, cp_buf_len(w->out));
        r = add_rows_head(w, TAG_LIST, arity);
        r = r == 1 ? put_gathered(w, values, n, arity) : r;
        w->open = open.outer;
    }
    py_gather_free(values, n * arity);
    return r;
}

/* Put dicts with the same keys in the same order: the keys once, then columns
 * of values. */
static int
put_dicts(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    Py_ssize_t arity = PyDict_GET_SIZE(items[0]);
    if (arity == 0 || arity > KEYS_MAX || !py_writer_may_open(w)) {
        return OTHER_KIND;
    }
    for (Py_ssize_t i = 1; i < n; i++) {
        if (!PyDict_CheckExact(items[i])
            || PyDict_GET_SIZE(items[i]) != arity) {
            return OTHER_KIND;
        }
    }
    PyObject **keys = py_gather_new(arity * (1 + n));
    if (keys == NULL) {
        return -1;
    }
    PyObject **values = keys + arity;
    bool fits = py_gather_dict(items[0], arity, NULL, keys, values, n);
    for (Py_ssize_t i = 1; i < n && fits; i++) {
        fits = py_gather_dict(items[i], arity, keys, NULL, values + i, n);
    }
    int r = fits ? enter_all(w, items, n) : OTHER_KIND;
    if (r == 1) {
        struct py_open open;
        py_writer_open(w, &open, n, NOT_FILLED);
        r = add_rows_head(w, TAG_DICT, arity);
        r = r == 1 ? py_put_keys(w, keys, arity) : r;
        r = r == 1 ? put_gathered(w, values, n, arity) : r;
        w->open = open.outer;
    }
    py_gather_free(keys, arity * (1 + n));
    return r;
}

/* Gather the items of n sets into one array; or NULL, and *r is OTHER_KIND or
 * -1. */
static PyObject **
gather_sets(PyObject *const *items, Py_ssize_t n, Py_ssize_t *sizes,
            Py_ssize_t *total, int *r)
{
    *total = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        sizes[i] = PySet_GET_SIZE(items[i]);
        *total += sizes[i];
    }
    PyObject **all = py_gather_new(*total), **to = all;
    *r = all != NULL ? 1 : -1;
    for (Py_ssize_t i = 0; i < n && *r == 1; i++) {
        *r = py_gather_set(items[i], sizes[i], to) ? 1 : OTHER_KIND;
        to += sizes[i];
    }
    if (*r != 1) {
        py_gather_free(all, *total); /* another thread changes one */
        return NULL;
    }
    return all;
}

/* Put sets of these sizes, which have numbers already. */
static int
put_gathered_sets(struct py_writer *w, int tag, Py_ssize_t n,
                  const Py_ssize_t *sizes, PyObject *const *all,
                  Py_ssize_t total)
{
    struct py_open open;
    py_writer_open(w, &open, n, tag == TAG_SET ? NOT_FILLED : NOT_MADE);
    w->calls++; /* decoding calls __hash__() and __eq__() */
    int r = py_writer_reserve(w, 1 + SIZE_ROOM * (size_t)n);
    if (r == 1) {
        py_writer_add_byte(w, (unsigned)tag);
        for (Py_ssize_t i = 0; i < n; i++) {
            py_writer_add_size(w, (size_t)sizes[i]);
        }
        r = py_put_inner(w, all, total, true);
    }
    w->calls--;
    w->open = open.outer;
    return r;
}

/* Put sets of different sizes: all sizes, then one column of all items. */
static int
put_sets(struct py_writer *w, PyObject *const *items, Py_ssize_t n, int tag)
{
    for (Py_ssize_t i = 1; i < n; i++) {
        if (Py_TYPE(items[i]) != Py_TYPE(items[0])) {
            return OTHER_KIND;
        }
    }
    if (!py_writer_may_open(w) || w->retries > RETRIES_MAX) {
        return OTHER_KIND;
    }
    Py_ssize_t total, *sizes = PyMem_New(Py_ssize_t, n);
    if (sizes == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    int r;
    PyObject **all = gather_sets(items, n, sizes, &total, &r);
    if (all != NULL) {
        r = enter_all(w, items, n);
        r = r == 1 ? put_gathered_sets(w, tag, n, sizes, all, total) : r;
        py_gather_free(all, total);
    }
    PyMem_Free(sizes);
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
        r = py_put_value(w, items[i]);
    }
    return r;
}

/* Numbers and constants are so small that searching for repeated ones does not
 * pay. */
static bool
is_small(int tag)
{
    return tag == TAG_INT8 || tag == TAG_FLOAT || tag == TAG_ONES;
}

static bool
is_text(int tag)
{
    return tag >= TAG_ASCII && tag <= TAG_BYTES;
}

/* Put a column whose values all have the kind of this tag; or OTHER_KIND. */
static int
put_alike(struct py_writer *w, PyObject *const *items, Py_ssize_t n, int tag)
{
    switch (tag) {
        case TAG_INT8: return py_number_put_ints(w, items, n);
        case TAG_FLOAT: return py_number_put_floats(w, items, n);
        case TAG_ONES: return py_constant_put_column(w, items, n);
        default: break;
    }
    if (n >= REPEATS_FROM && tag == TAG_OBJECT
        && py_plan_is_member(w, items[0])) {
        int r = put_picked(w, items, n, true); /* most Enums have few */
        if (r != OTHER_KIND) {
            return r;
        }
    }
    if (n >= REPEATS_FROM && py_repeats_are_likely(items, n)) {
        /* If chunks are encoded alone, each one has its own copy of a repeated
         * object, which takes time to make. Members of an Enum are never
         * copied. */
        return w->alone && tag == TAG_OBJECT && !py_plan_is_member(w, items[0])
                   ? 0
                   : put_picked(w, items, n, false);
    }
    w->held += !is_text(tag);
    switch (tag) {
        case TAG_TUPLE: return put_tuples(w, items, n);
        case TAG_LIST: return put_lists(w, items, n);
        case TAG_DICT: return put_dicts(w, items, n);
        case TAG_SET:
        case TAG_FROZENSET: return put_sets(w, items, n, tag);
        case TAG_OBJECT: return py_reduce_put(w, items, n);
        default:
            return is_text(tag) ? py_text_put_column(w, items, n, tag)
                                : OTHER_KIND;
    }
}

int
py_put_column(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    struct py_mark before = py_writer_mark(w);
    int tag = n > 0 ? py_kind_of(items[0]) : TAG_MIXED;
    if (tag < 0) {
        return -1;
    }
    if (w->depth == DEPTH_MAX) {
        return 0;
    }
    w->depth++;
    w->level++;
    bool fits = n > 1 && w->level <= LEVEL_MAX;
    int r = fits ? put_alike(w, items, n, tag) : OTHER_KIND;
    if (r == RETRY && w->retry == before.seen) {
        w->retries++;
        r = OTHER_KIND;
    }
    if (r == OTHER_KIND) {
        py_writer_back(w, &before);
        bool few = fits && is_small(tag) && n >= REPEATS_FROM
                   && py_repeats_are_likely(items, n);
        r = few ? put_picked(w, items, n, false) : OTHER_KIND;
        if (r == OTHER_KIND) {
            py_writer_back(w, &before);
            r = put_mixed(w, items, n);
        }
    }
    w->level--;
    w->depth--;
    return r;
}

/* ---- values ---- */

static int
add_head(struct py_writer *w, int tag, Py_ssize_t n)
{
    if (py_writer_reserve(w, 1 + SIZE_ROOM) < 0) {
        return -1;
    }
    py_writer_add_byte(w, (unsigned)tag);
    py_writer_add_size(w, (size_t)n);
    return 1;
}

static int
put_tuple(struct py_writer *w, PyObject *obj, bool kept)
{
    struct py_open open, *outer = w->open;
    Py_ssize_t n = PyTuple_GET_SIZE(obj);
    if (kept) {
        py_writer_open(w, &open, 1, NOT_MADE);
    }
    int shared = kept ? 0 : are_shared_tuples(w, &obj, 1);
    w->under += shared;
    int r = add_head(w, kept ? TAG_KEPT_TUPLE : TAG_TUPLE, n);
    PyObject *const *items = ((PyTupleObject *)obj)->ob_item;
    r = r == 1 ? py_put_inner(w, items, n, false) : r;
    w->under -= shared;
    w->open = outer;
    return r;
}

#ifndef Py_GIL_DISABLED
/* Put a column of numbers, constants or text straight from the list, since no
 * other code runs meanwhile; or OTHER_KIND. */
static int
put_atoms(struct py_writer *w, PyObject *list)
{
    PyObject **items = ((PyListObject *)list)->ob_item;
    Py_ssize_t n = PyList_GET_SIZE(list);
    int tag = n > 1 ? py_kind_of(items[0]) : 0;
    bool fits = is_small(tag)
                || (is_text(tag)
                    && !(n >= REPEATS_FROM && py_repeats_are_likely(items, n)));
    if (!fits || w->depth == DEPTH_MAX || w->level >= LEVEL_MAX) {
        return tag < 0 ? -1 : OTHER_KIND;
    }
    struct py_mark before = py_writer_mark(w);
    bool copied = w->copied;
    w->copied = false;
    w->depth++;
    int r = put_alike(w, items, n, tag);
    w->depth--;
    w->copied = copied;
    if (r == OTHER_KIND) {
        py_writer_back(w, &before);
    }
    return r;
}
#else
#    define put_atoms(w, list) OTHER_KIND
#endif

/* How often to read a container again that another thread keeps changing. After
 * that it is left to pickle, which may fail, as in the stdlib. */
#define TRIES_MAX 1000

static int
put_list(struct py_writer *w, PyObject *obj)
{
    struct py_open open;
    size_t tag_at = cp_buf_len(w->out);
    Py_ssize_t n = PyList_GET_SIZE(obj);
    int r = add_head(w, TAG_LIST, n);
    r = r == 1 ? put_atoms(w, obj) : r;
    if (r != OTHER_KIND) {
        return r;
    }
    PyObject **items;
    Py_ssize_t said = n;
    bool fits;
    for (int tries = 0;; tries++) {
        n = PyList_GET_SIZE(obj);
        items = py_gather_new(n);
        if (items == NULL) {
            return -1;
        }
        fits = py_gather_items(obj, n, items, 1);
        if (fits || tries == TRIES_MAX) {
            break;
        }
        py_gather_free(items, n); /* another thread has changed it */
    }
    if (n != said) {
        w->out->end = w->out->start + tag_at;
        r = add_head(w, TAG_LIST, n);
    } else {
        r = 1;
    }
    py_writer_open(w, &open, 1, tag_at);
    r = r == 1 && !fits ? 0 : r;
    r = r == 1 ? py_put_inner(w, items, n, true) : r;
    w->open = open.outer;
    py_gather_free(items, n);
    return r;
}

static int
put_dict(struct py_writer *w, PyObject *obj)
{
    Py_ssize_t n;
    PyObject **keys;
    bool fits = false;
    for (int tries = 0;; tries++) {
        n = PyDict_GET_SIZE(obj);
        keys = py_gather_new(2 * n);
        if (keys == NULL) {
            return -1;
        }
        fits = py_gather_dict(obj, n, NULL, keys, keys + n, 1);
        if (fits || tries == TRIES_MAX) {
            break;
        }
        py_gather_free(keys, 2 * n); /* another thread has changed it */
    }
    int r = fits ? add_head(w, TAG_DICT, n) : 0;
    r = r == 1 ? py_put_keys(w, keys, n) : r;
    r = r == 1 ? py_put_inner(w, keys + n, n, true) : r;
    py_gather_free(keys, 2 * n);
    return r;
}

static int
put_set(struct py_writer *w, PyObject *obj, int tag)
{
    struct py_open open, *outer = w->open;
    Py_ssize_t n;
    PyObject **items;
    bool fits;
    for (int tries = 0;; tries++) {
        n = PySet_GET_SIZE(obj);
        items = py_gather_new(n);
        if (items == NULL) {
            return -1;
        }
        fits = py_gather_set(obj, n, items);
        if (fits || tries == TRIES_MAX) {
            break;
        }
        py_gather_free(items, n); /* another thread has changed it */
    }
    if (tag == TAG_FROZENSET) {
        py_writer_open(w, &open, 1, NOT_MADE);
    }
    int r = fits ? add_head(w, tag, n) : 0;
    w->calls++; /* decoding calls __hash__() and __eq__() */
    r = r == 1 ? py_put_inner(w, items, n, true) : r;
    w->calls--;
    w->open = outer;
    py_gather_free(items, n);
    return r;
}

static int
put_bytearray(struct py_writer *w, PyObject *obj)
{
    int r, parted;
    Py_BEGIN_CRITICAL_SECTION(obj);
    size_t n = (size_t)PyByteArray_GET_SIZE(obj);
    parted = py_writer_put_part(w, TAG_BYTEARRAY, NULL,
                                PyByteArray_AS_STRING(obj), n, n);
    r = parted == 0 ? cp_buf_reserve(w->out, 1 + SIZE_ROOM + n) : 0;
    if (r == 0 && parted == 0) {
        py_writer_add_byte(w, TAG_BYTEARRAY);
        py_writer_add_size(w, n);
        py_writer_add(w, PyByteArray_AS_STRING(obj), n);
    }
    Py_END_CRITICAL_SECTION();
    if (r != 0) {
        (void)PyErr_NoMemory();
    }
    return r == 0 && parted >= 0 ? 1 : -1;
}

/* Put an object that needs a number; a REF if it was met before. */
static int
put_numbered(struct py_writer *w, PyObject *obj, int tag)
{
    size_t number = py_seen_find(&w->seen, obj);
    if (number != SEEN_NONE) {
        return py_writer_put_ref(w, number);
    }
    if (tag == TAG_OBJECT) {
        return py_reduce_put(w, &obj, 1);
    }
    int r = py_writer_enter(w, obj);
    if (r != 1) {
        return r;
    }
    switch (tag) {
        case TAG_TUPLE: return put_tuple(w, obj, true);
        case TAG_LIST: return put_list(w, obj);
        case TAG_DICT: return put_dict(w, obj);
        case TAG_BYTEARRAY: return put_bytearray(w, obj);
        default: return put_set(w, obj, tag);
    }
}

int
py_put_value(struct py_writer *w, PyObject *obj)
{
    int tag = py_kind_of(obj);
    switch (tag) {
        case TAG_INT8: return py_number_put_int(w, obj);
        case TAG_FLOAT: return py_number_put_float(w, obj);
        case TAG_ONES: return py_constant_put(w, obj);
        default: break;
    }
    if (tag < 0 || is_text(tag)) {
        return tag < 0 ? -1 : py_text_put(w, obj, tag);
    }
    int level = w->level;
    w->level = 0;
    w->held++;
    int r = tag == TAG_TUPLE && !is_kept(obj) ? put_tuple(w, obj, false)
                                              : put_numbered(w, obj, tag);
    w->level = level;
    return r;
}

/* ---- bodies ---- */

/* Set the flags in the first byte. If not everything was written, remove what
 * was. */
static int
finish(struct py_writer *w, size_t before, int r, bool *ran_code)
{
    if (ran_code != NULL && w->ran_code) {
        *ran_code = true;
    }
    if (r != 1) {
        w->out->end = w->out->start + before;
        if (w->out->parts != NULL) {
            cp_parts_back(w->out->parts, 0);
        }
    } else {
        cp_buf_head(w->out)[before] |= (uint8_t)w->flags;
    }
    if (w->seen.cap > 0) {
        py_seen_fini(&w->seen);
    }
    if (w->plans != NULL) {
        py_plan_leave(w);
    }
    return r;
}

int
py_encode(struct py_state *state, struct cp_buf *out, PyObject *obj,
          bool *ran_code)
{
    struct py_writer w;
    py_writer_init(&w, state, out);
    size_t before = cp_buf_len(out);
    struct py_uses uses = py_uses_begin(out->parts, NULL);
    w.owners = py_uses_now()->owners;
    int r = py_put_value(&w, obj);
    py_uses_end(uses);
    return finish(&w, before, r, ran_code);
}

static int
put_run(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
        bool *ran_code)
{
    size_t before = cp_buf_len(w->out);
    int r = py_writer_reserve(w, 1 + SIZE_ROOM);
    if (r == 1) {
        py_writer_add_byte(w, TAG_RUN);
        py_writer_add_size(w, (size_t)n);
        struct py_uses uses = py_uses_begin(w->out->parts, NULL);
        r = py_put_column(w, items, n);
        py_uses_end(uses);
    }
    return finish(w, before, r, ran_code);
}

int
py_encode_run(struct py_state *state, struct cp_buf *out,
              PyObject *const *items, Py_ssize_t n, bool *ran_code)
{
    struct py_writer w;
    py_writer_init(&w, state, out);
    return put_run(&w, items, n, ran_code);
}

int
py_encode_run_alone(struct py_state *state, struct cp_buf *out,
                    PyObject *const *items, Py_ssize_t n, Py_ssize_t refs,
                    bool *ran_code)
{
    struct py_writer w;
    py_writer_init(&w, state, out);
    w.alone = true;
    w.refs = refs;
    return put_run(&w, items, n, ran_code);
}
