/*
 * From values to bytes; see value/codec.h. One pass over the values of a column: it
 * takes the type of the first for that of all, and starts again, as a column of
 * mixed values, where one is of another.
 */
#include "value/codec_encoder.h"

/* Look for the same object among the last so many, */
#define RECENT 256u
/* where a column has so many; if one in so many is the same, it is one of a few. */
#define RECENT_FROM 8
#define RECENT_SHARE 4
/* So many keys are written one by one; with more, pickle's memo of strings tells. */
#define KEYS_ALONE 64
/* Of a table for PICK_MAX objects; a power of two. */
#define PLACES ((size_t)1024)

static int put_value(struct py_encoder *e, PyObject *obj);
static int put_column(struct py_encoder *e, PyObject *const *items,
                      Py_ssize_t n);

static int
no_memory(void)
{
    (void)PyErr_NoMemory();
    return -1;
}

/* Lists and dicts may be met once; and so may tuples that have more than ARITY_MAX
 * items or hold others, since written again and again they multiply. */
static int
all_new(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = py_codec_seen_add(&e->seen, items[i]);
    }
    return r;
}

/* ---- columns of few objects ---- */

static bool
is_number(int tag)
{
    return tag == TAG_INT8 || tag == TAG_FLOAT || tag == TAG_ONES;
}

/* Is there nothing to gain by writing it once only? */
static bool
is_small(PyObject *obj)
{
    return PyLong_CheckExact(obj) || PyFloat_CheckExact(obj) || obj == Py_None
           || PyBool_Check(obj);
}

static bool
are_repeated(PyObject *const *items, Py_ssize_t n)
{
    const PyObject *recent[RECENT] = {NULL};
    Py_ssize_t same = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const PyObject **slot = &recent[((uintptr_t)items[i] >> 4) % RECENT];
        same += *slot == items[i] && !is_small(items[i]);
        *slot = items[i];
    }
    return same > n / RECENT_SHARE;
}

/* The objects, each once, and which of them each item is; how many, or 0 where
 * they are more than PICK_MAX. */
static unsigned
pick(PyObject *const *items, Py_ssize_t n, PyObject **picked, uint8_t *which)
{
    uint16_t table[PLACES] = {0}; /* 1 + number */
    unsigned count = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        size_t at = ((uintptr_t)items[i] >> 4) % PLACES;
        while (table[at] != 0 && picked[table[at] - 1] != items[i]) {
            at = (at + 1) % PLACES;
        }
        if (table[at] == 0) {
            if (count == PICK_MAX) {
                return 0;
            }
            picked[count++] = items[i];
            table[at] = (uint16_t)count;
        }
        which[i] = (uint8_t)(table[at] - 1);
    }
    return count;
}

/* Each object once, as pickle would send it; after, they are the same ones again. */
static int
put_picked(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    PyObject *picked[PICK_MAX];
    uint8_t *which = PyMem_Malloc((size_t)n);
    if (which == NULL) {
        return no_memory();
    }
    unsigned count = pick(items, n, picked, which);
    int r = count == 0 ? 0 : py_codec_room(e, 2);
    if (r == 1) {
        py_codec_add_byte(e, TAG_PICK);
        py_codec_add_byte(e, count);
        r = put_column(e, picked, (Py_ssize_t)count);
    }
    r = r == 1 ? py_codec_room(e, (size_t)n) : r;
    if (r == 1) {
        py_codec_add(e, which, (size_t)n);
    }
    PyMem_Free(which);
    return r;
}

/* ---- what another thread may change meanwhile ---- */

#ifdef Py_GIL_DISABLED
/* A list as a tuple, or a dict as another: what it holds now, and is kept alive. */
static PyObject *
copy_of(PyObject *obj)
{
    return PyList_CheckExact(obj) ? PyList_AsTuple(obj) : PyDict_Copy(obj);
}

static Py_ssize_t
size_of(PyObject *obj)
{
    return PyList_CheckExact(obj) ? PyList_GET_SIZE(obj) : PyDict_GET_SIZE(obj);
}
#endif

static void
thaw(PyObject **copies, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; copies != NULL && i < n; i++) {
        Py_DECREF(copies[i]);
    }
    PyMem_Free(copies);
}

/* Where there is no GIL, copies of the lists or dicts; else, and of tuples, none,
 * which is NULL: there nothing changes. 1, OTHER_KIND where they are not of one
 * type and length, or -1 with MemoryError. */
static int
freeze(PyObject *const *items, Py_ssize_t n, PyObject ***copies)
{
    *copies = NULL;
#ifdef Py_GIL_DISABLED
    if (PyTuple_CheckExact(items[0])) {
        return 1;
    }
    PyObject **made = PyMem_New(PyObject *, n);
    if (made == NULL) {
        return no_memory();
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        bool alike = Py_TYPE(items[i]) == Py_TYPE(items[0])
                     && size_of(items[i]) == size_of(items[0]);
        made[i] = alike ? copy_of(items[i]) : NULL;
        if (made[i] == NULL) {
            thaw(made, i);
            return alike ? -1 : OTHER_KIND;
        }
    }
    *copies = made;
#else
    (void)items;
    (void)n;
#endif
    return 1;
}

/* ---- columns of what holds others ---- */

static PyObject *const *
items_of(PyObject *sequence)
{
    return PyTuple_Check(sequence) ? ((PyTupleObject *)sequence)->ob_item
                                   : ((PyListObject *)sequence)->ob_item;
}

/* Tuples or lists of one length: their first items, their second ones, and so
 * on. rows: they, or copies. */
static int
put_frozen_rows(struct py_encoder *e, PyObject *const *items,
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
    size_t held = e->held++;
    int r = tag == TAG_LIST ? all_new(e, items, n) : 1;
    PyObject **column = r == 1 ? PyMem_New(PyObject *, n) : NULL;
    if (r != 1 || column == NULL || py_codec_room(e, 2) < 0) {
        PyMem_Free(column);
        return r != 1 ? r : no_memory();
    }
    py_codec_add_byte(e, (unsigned)tag);
    py_codec_add_byte(e, (unsigned)arity);
    for (Py_ssize_t j = 0; j < arity && r == 1; j++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            column[i] = items_of(rows[i])[j];
        }
        r = put_column(e, column, n);
    }
    PyMem_Free(column);
    return r == 1 && tag == TAG_TUPLE && e->held > held + 1
               ? all_new(e, items, n)
               : r;
}

static int
put_rows(struct py_encoder *e, PyObject *const *items, Py_ssize_t n, int tag)
{
    PyObject **copies;
    int r = freeze(items, n, &copies);
    if (r == 1) {
        r = put_frozen_rows(e, items, copies != NULL ? copies : items, n, tag);
    }
    thaw(copies, n);
    return r;
}

static bool
is_same_key(PyObject *a, PyObject *b)
{
    return a == b
           || (PyUnicode_CheckExact(a) && PyUnicode_CheckExact(b)
               && py_codec_is_ready(a) == 0 && py_codec_is_ready(b) == 0
               && PyUnicode_Compare(a, b) == 0);
}

/* The keys and values of a dict, every stride-th; at most n, and how many. */
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

/* The values of n dicts, as columns; OTHER_KIND where the keys differ. */
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

/* Dicts of the same keys in the same order: these once, then columns. dicts: the
 * items, or copies. */
static int
put_frozen_dicts(struct py_encoder *e, PyObject *const *items,
                 PyObject *const *dicts, Py_ssize_t n)
{
    Py_ssize_t arity = PyDict_GET_SIZE(dicts[0]);
    PyObject *keys[KEYS_MAX];
    if (arity == 0 || arity > KEYS_MAX) {
        return OTHER_KIND;
    }
    e->held++;
    PyObject **values = PyMem_New(PyObject *, n * arity);
    if (values == NULL || py_codec_room(e, 2) < 0) {
        PyMem_Free(values);
        return no_memory();
    }
    int r = collect_dicts(dicts, n, arity, keys, values);
    r = r == 1 ? all_new(e, items, n) : r;
    if (r == 1) {
        py_codec_add_byte(e, TAG_DICT);
        py_codec_add_byte(e, (unsigned)arity);
        r = put_column(e, keys, arity);
    }
    for (Py_ssize_t j = 0; j < arity && r == 1; j++) {
        r = put_column(e, values + j * n, n);
    }
    PyMem_Free(values);
    return r;
}

static int
put_dicts(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    PyObject **copies;
    int r = freeze(items, n, &copies);
    if (r == 1) {
        r = put_frozen_dicts(e, items, copies != NULL ? copies : items, n);
    }
    thaw(copies, n);
    return r;
}

/* ---- any column ---- */

static int
put_mixed(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (py_codec_room(e, 1) < 0) {
        return -1;
    }
    py_codec_add_byte(e, TAG_MIXED);
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = put_value(e, items[i]);
    }
    return r;
}

static int
put_alike(struct py_encoder *e, PyObject *const *items, Py_ssize_t n, int tag)
{
    if (is_number(tag)) {
        return py_codec_put_atoms(e, items, n, tag);
    }
    if (n >= RECENT_FROM && are_repeated(items, n)) {
        return put_picked(e, items, n);
    }
    switch (tag) {
        case TAG_TUPLE:
        case TAG_LIST: return put_rows(e, items, n, tag);
        case TAG_DICT: return put_dicts(e, items, n);
        default: return py_codec_put_atoms(e, items, n, tag);
    }
}

static int
put_column(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    size_t before = cp_buf_len(e->out);
    int large = e->large;
    int tag = n > 0 ? py_codec_tag_of(items[0]) : TAG_MIXED;
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
        bool few = is_number(tag) && n >= RECENT_FROM && are_repeated(items, n);
        r = few ? put_picked(e, items, n) : put_mixed(e, items, n);
    }
    e->depth--;
    return r;
}

/* ---- values ---- */

/* frozen: the sequence, or a copy. */
static int
put_sequence(struct py_encoder *e, PyObject *obj, PyObject *frozen, int tag)
{
    size_t held = e->held++;
    Py_ssize_t n = Py_SIZE(frozen);
    bool is_once = tag == TAG_LIST || n > ARITY_MAX;
    int r = is_once ? all_new(e, &obj, 1) : 1;
    if (r != 1 || py_codec_room(e, 1 + SIZE_ROOM) < 0) {
        return r != 1 ? r : -1;
    }
    py_codec_add_byte(e, (unsigned)tag);
    py_codec_add_size(e, (size_t)n);
    r = put_column(e, items_of(frozen), n);
    return r == 1 && !is_once && e->held > held + 1 ? all_new(e, &obj, 1) : r;
}

static int
put_dict(struct py_encoder *e, PyObject *obj, PyObject *frozen)
{
    PyObject *few[2 * ARITY_MAX];
    Py_ssize_t n = PyDict_GET_SIZE(frozen);
    int r = all_new(e, &obj, 1);
    if (r != 1 || py_codec_room(e, 1 + SIZE_ROOM) < 0) {
        return r != 1 ? r : -1;
    }
    e->held++;
    PyObject **items = n <= ARITY_MAX ? few : PyMem_New(PyObject *, 2 * n);
    if (items == NULL) {
        return no_memory();
    }
    r = items_of_dict(frozen, n, items, items + n, 1) == n; /* nothing else */
    if (r == 1 && n > 0 && PyUnicode_CheckExact(items[0])) {
        r = e->keys > KEYS_ALONE ? 0 : 1;
        e->keys += n;
    }
    py_codec_add_byte(e, TAG_DICT);
    py_codec_add_size(e, (size_t)n);
    r = r == 1 ? put_column(e, items, n) : r;
    r = r == 1 ? put_column(e, items + n, n) : r;
    if (items != few) {
        PyMem_Free(items);
    }
    return r;
}

static int
put_holder(struct py_encoder *e, PyObject *obj, int tag)
{
    PyObject **copies;
    if (freeze(&obj, 1, &copies) < 0) {
        return -1;
    }
    PyObject *frozen = copies != NULL ? copies[0] : obj;
    int r = tag == TAG_DICT ? put_dict(e, obj, frozen)
                            : put_sequence(e, obj, frozen, tag);
    thaw(copies, 1);
    return r;
}

static int
put_value(struct py_encoder *e, PyObject *obj)
{
    int tag = py_codec_tag_of(obj);
    switch (tag) {
        case TAG_TUPLE:
        case TAG_LIST:
        case TAG_DICT: return put_holder(e, obj, tag);
        default: return tag > 0 ? py_codec_put_atom(e, obj, tag) : tag;
    }
}

/* What was put stays only if all of it was. */
static int
finish(struct py_encoder *e, size_t before, int r)
{
    if (r != 1) {
        e->out->end = e->out->start + before;
    }
    py_codec_seen_fini(&e->seen);
    return r;
}

int
py_codec_put(struct cp_buf *out, PyObject *obj)
{
    struct py_encoder e = {.out = out};
    size_t before = cp_buf_len(out);
    return finish(&e, before, put_value(&e, obj));
}

int
py_codec_put_run(struct cp_buf *out, PyObject *const *items, Py_ssize_t n)
{
    struct py_encoder e = {.out = out};
    size_t before = cp_buf_len(out);
    int r = py_codec_room(&e, 1 + SIZE_ROOM);
    if (r == 1) {
        py_codec_add_byte(&e, TAG_RUN);
        py_codec_add_size(&e, (size_t)n);
        r = put_column(&e, items, n);
    }
    return finish(&e, before, r);
}
