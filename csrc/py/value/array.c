/*
 * Arrays and scalars of numpy; see value/array.h. The parts of numpy's binary
 * interface that are used here are the same in numpy 1 and 2, except for one
 * field.
 */
#include "value/array.h"

#include "base/error.h"
#include "value/kind.h"
#include "value/text.h"

#include "core/base/mem.h"

/* ---- numpy's binary interface ---- */

/* Indexes of functions and types in numpy's table. */
#define API_VERSION 0
#define API_ARRAY_TYPE 2
#define API_DESCR_TYPE 3
#define API_DESCR_FROM_TYPE 45
#define API_SCALAR 60
#define API_SCALAR_AS_CTYPE 62
#define API_NEW_FROM_DESCR 94

/* Flags of arrays. */
#define C_CONTIGUOUS 0x0001
#define F_CONTIGUOUS 0x0002
#define WRITEABLE 0x0400

/* Numbers of dtypes. Those up to NUMBERS, and HALF, are numbers of a fixed
 * size; those from OBJECT on have any size, or hold objects. */
#define OBJECT 17
#define VOID 20
#define HALF 23
#define DTYPES 24

struct descr {
    PyObject_HEAD
    PyTypeObject *typeobj;
    char kind, type, byteorder, flags;
    int type_num;
    union {
        int v1;
        struct {
            uint64_t flags;
            Py_ssize_t elsize;
        } v2;
    } size;
};

struct array {
    PyObject_HEAD
    char *data;
    int nd;
    Py_ssize_t *dimensions, *strides;
    PyObject *base;
    struct descr *descr;
    int flags;
};

struct py_numpy {
    void **api;
    bool is_v1;
    struct descr *descrs[DTYPES]; /* of numeric dtypes; otherwise NULL */
};

typedef unsigned (*version_function)(void);
typedef struct descr *(*descr_function)(int);
typedef PyObject *(*scalar_function)(void *, struct descr *, PyObject *);
typedef void (*ctype_function)(PyObject *, void *);
typedef PyObject *(*handler_function)(PyObject *);
typedef PyObject *(*new_function)(PyTypeObject *, struct descr *, int,
                                  const Py_ssize_t *, const Py_ssize_t *,
                                  void *, int, PyObject *);

static bool
is_number(int type_num)
{
    return (type_num >= 0 && type_num < OBJECT) || type_num == HALF;
}

static void **
find_api(void)
{
    static const char *const MODULES[] = {"numpy._core._multiarray_umath",
                                          "numpy.core._multiarray_umath"};
    void **api = NULL;
    for (size_t i = 0; i < 2 && api == NULL; i++) {
        PyErr_Clear();
        PyObject *module = PyImport_ImportModule(MODULES[i]);
        PyObject *capsule = module != NULL
                                ? PyObject_GetAttrString(module, "_ARRAY_API")
                                : NULL;
        api = capsule != NULL ? PyCapsule_GetPointer(capsule, NULL) : NULL;
        Py_XDECREF(capsule);
        Py_XDECREF(module);
    }
    return api;
}

/* The tables of numpy, which the program has imported; or NULL with an
 * exception. */
static struct py_numpy *
numpy_of(struct py_state *state)
{
    struct py_numpy *numpy = atomic_load(&state->numpy), *none = NULL;
    if (numpy != NULL) {
        return numpy;
    }
    void **api = find_api();
    numpy = api != NULL ? PyMem_RawCalloc(1, sizeof(*numpy)) : NULL;
    if (numpy == NULL) {
        return api != NULL ? (struct py_numpy *)PyErr_NoMemory() : NULL;
    }
    numpy->api = api;
    numpy->is_v1 = ((version_function)api[API_VERSION])() < 0x02000000;
    for (int i = 0; i < DTYPES; i++) {
        numpy->descrs[i] =
            is_number(i) ? ((descr_function)api[API_DESCR_FROM_TYPE])(i) : NULL;
    }
    if (!atomic_compare_exchange_strong(&state->numpy, &none, numpy)) {
        PyMem_RawFree(numpy); /* another thread was first; dtypes are shared */
        numpy = none;
    }
    return numpy;
}

/* The same, but imports numpy if necessary. */
static struct py_numpy *
import_numpy(struct py_state *state)
{
    PyObject *module = atomic_load(&state->numpy) == NULL
                           ? PyImport_ImportModule("numpy")
                           : Py_NewRef(Py_None);
    Py_XDECREF(module);
    return module != NULL ? numpy_of(state) : NULL;
}

void
py_array_forget(struct py_state *state)
{
    struct py_numpy *numpy = atomic_exchange(&state->numpy, NULL);
    for (int i = 0; i < DTYPES && numpy != NULL; i++) {
        Py_XDECREF(numpy->descrs[i]);
    }
    PyMem_RawFree(numpy);
}

static size_t
size_of(const struct py_numpy *numpy, const struct descr *descr)
{
    return numpy->is_v1 ? (size_t)descr->size.v1
                        : (size_t)descr->size.v2.elsize;
}

/* The type number of scalars of this class, or -1. */
static int
scalar_number(const struct py_numpy *numpy, const PyTypeObject *type)
{
    for (int i = 0; i < DTYPES; i++) {
        if (numpy->descrs[i] != NULL && numpy->descrs[i]->typeobj == type) {
            return i;
        }
    }
    return -1;
}

enum py_array_kind
py_array_kind_of(struct py_state *state, const PyTypeObject *type)
{
    if (strncmp(type->tp_name, "numpy.", 6) != 0) {
        return PY_ARRAY_NONE;
    }
    const struct py_numpy *numpy = numpy_of(state);
    if (numpy == NULL) {
        PyErr_Clear();
        return PY_ARRAY_NONE;
    }
    if (type == numpy->api[API_ARRAY_TYPE]) {
        return PY_ARRAY_ARRAY;
    }
    return scalar_number(numpy, type) >= 0 ? PY_ARRAY_SCALAR : PY_ARRAY_NONE;
}

/* ---- dtypes ---- */

/* Is the attribute None? */
static bool
is_none(PyObject *obj, const char *name)
{
    PyObject *value = PyObject_GetAttrString(obj, name);
    PyErr_Clear();
    Py_XDECREF(value);
    return value == Py_None;
}

/* Does the text of a dtype describe it completely? True for strings, dates, and
 * numbers in the other byte order. */
static bool
is_told_by_text(struct descr *descr)
{
    PyObject *obj = (PyObject *)descr;
    int num = descr->type_num;
    return num >= 0 && num < DTYPES && num != OBJECT && num != VOID
           && is_none(obj, "fields") && is_none(obj, "metadata")
           && is_none(obj, "subdtype");
}

/* In place of a dtype's number: its text follows. */
#define BY_TEXT 255u

static int
put_dtype(struct py_writer *w, const struct py_numpy *numpy,
          struct descr *descr)
{
    int num = descr->type_num;
    bool known = is_number(num) && numpy->descrs[num] == descr;
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, known ? (unsigned)num : BY_TEXT);
    if (known) {
        return 1;
    }
    PyObject *text = PyObject_GetAttrString((PyObject *)descr, "str");
    if (text == NULL) {
        return -1;
    }
    int tag = PyUnicode_CheckExact(text) ? py_kind_of(text) : 0;
    int r = tag > 0 ? py_text_put(w, text, tag) : tag;
    Py_DECREF(text);
    return r;
}

static int
get_text_dtype(struct py_reader *in, const struct py_numpy *numpy,
               struct descr **descr)
{
    PyObject *text;
    unsigned tag;
    if (py_reader_get_byte(in, &tag) < 0 || tag != TAG_ASCII) {
        return CP_EPROTO;
    }
    int r = py_text_get(in, tag, &text);
    if (r != 0) {
        return r;
    }
    PyObject *made =
        PyObject_CallOneArg((PyObject *)numpy->api[API_DESCR_TYPE], text);
    Py_DECREF(text);
    if (made == NULL) {
        return -1;
    }
    *descr = (struct descr *)made;
    if (!PyObject_TypeCheck(made, (PyTypeObject *)numpy->api[API_DESCR_TYPE])
        || !is_told_by_text(*descr)) {
        Py_DECREF(made);
        return CP_EPROTO;
    }
    return 0;
}

/* Returns a new reference. */
static int
get_dtype(struct py_reader *in, const struct py_numpy *numpy,
          struct descr **descr)
{
    unsigned num;
    if (py_reader_get_byte(in, &num) < 0) {
        return CP_EPROTO;
    }
    if (num == BY_TEXT) {
        return get_text_dtype(in, numpy, descr);
    }
    if (num >= DTYPES || numpy->descrs[num] == NULL) {
        return CP_EPROTO;
    }
    *descr = (struct descr *)Py_NewRef((PyObject *)numpy->descrs[num]);
    return 0;
}

/* ---- arrays ---- */

#define DIMENSIONS 32 /* the most that numpy 1 allows */

/* How the numbers lie in memory, in one byte. */
#define IN_C 0u
#define IN_FORTRAN 1u
#define IN_PARTS 4u /* each array is a part of the body */
#define IN_BLOCK 8u /* all arrays together are one part */

static unsigned
layout_of(const struct array *array)
{
    bool c = (array->flags & C_CONTIGUOUS) != 0;
    bool f = (array->flags & F_CONTIGUOUS) != 0;
    return f && !c ? IN_FORTRAN : IN_C;
}

static bool
is_layout(unsigned layout)
{
    unsigned place = layout & ~IN_FORTRAN;
    return place == IN_C || place == IN_PARTS || place == IN_BLOCK;
}

static size_t
bytes_of(const struct py_numpy *numpy, const struct array *array)
{
    size_t n = size_of(numpy, array->descr);
    for (int i = 0; i < array->nd; i++) {
        n *= (size_t)array->dimensions[i];
    }
    return n;
}

bool
py_array_is_plain(struct py_state *state, PyObject *obj)
{
    struct array *array = (struct array *)obj;
    const struct py_numpy *numpy = numpy_of(state);
    int num = array->descr->type_num;
    return numpy != NULL && array->nd <= DIMENSIONS
           && size_of(numpy, array->descr) > 0
           && ((is_number(num) && numpy->descrs[num] == array->descr)
               || is_told_by_text(array->descr));
}

bool
py_array_are_alike(struct py_state *state, PyObject *const *items, Py_ssize_t n)
{
    const struct array *first = (struct array *)items[0];
    if (!py_array_is_plain(state, items[0])) {
        return false;
    }
    for (Py_ssize_t i = 1; i < n; i++) {
        const struct array *one = (struct array *)items[i];
        if (one->descr != first->descr || one->nd != first->nd
            || layout_of(one) != layout_of(first)
            || (one->nd > 0
                && memcmp(one->dimensions, first->dimensions,
                          (size_t)one->nd * sizeof(*one->dimensions))
                       != 0)) {
            return false;
        }
    }
    return true;
}

static struct cp_lease *lease_of(const struct py_numpy *numpy, PyObject *obj);

/* May one array of n bytes, which is too small to become a view of its block, be
 * a part? */
static bool
may_be_small_part(const struct py_writer *w, size_t n)
{
    return n >= CP_SMALL_MIN && n < CP_PART_MIN && w->out->parts != NULL
           && w->out->parts->heap != NULL;
}

/* Make a part of the array's bytes, which are contiguous: its number, or
 * NO_PART. is_copy: the array is freed right after. */
static uint32_t
put_part(struct py_writer *w, const struct py_numpy *numpy,
         const struct array *array, size_t n, bool is_copy)
{
    struct cp_lease *lease =
        w->out->parts->moves ? lease_of(numpy, (PyObject *)array) : NULL;
    int64_t number = lease != NULL
                         ? cp_parts_move(w->out->parts, lease, array->data, n)
                         : -1;
    if (number < 0 && n < CP_PART_MIN) {
        number = cp_parts_add_small(w->out->parts, array->data, n);
        return number >= 0 ? (uint32_t)number : NO_PART;
    }
    return number >= 0 ? (uint32_t)number
                       : py_writer_part(w, array->data, n,
                                        is_copy ? NULL : (PyObject *)array);
}

/* Put the bytes of one array; or, if the layout has the bit IN_PARTS, its
 * part. */
static int
put_bytes(struct py_writer *w, const struct py_numpy *numpy, PyObject *obj,
          size_t n, bool in_parts)
{
    const struct array *array = (struct array *)obj;
    PyObject *copy = NULL;
    if ((array->flags & (C_CONTIGUOUS | F_CONTIGUOUS)) == 0) {
        copy = PyObject_CallMethod(obj, "copy", "s", "C");
        array = (struct array *)copy;
    }
    uint32_t part = array != NULL && in_parts
                        ? put_part(w, numpy, array, n, copy != NULL)
                        : NO_PART;
    size_t inline_bytes = part == NO_PART ? n : 0;
    if (array == NULL
        || py_writer_reserve(w, sizeof(part) + inline_bytes) < 0) {
        Py_XDECREF(copy);
        return -1;
    }
    if (in_parts) {
        py_writer_add(w, &part, sizeof(part));
    }
    py_writer_add(w, array->data, inline_bytes);
    Py_XDECREF(copy);
    return 1;
}

/* Make one part of the bytes of all arrays, if that is worth it and there is
 * room. Returns its number, or NO_PART. */
static uint32_t
block_of(const struct py_writer *w, PyObject *const *items, size_t n,
         size_t each)
{
    size_t all;
    if (n < 2 || __builtin_mul_overflow(n, each, &all)
        || !py_writer_may_part(w, all)) {
        return NO_PART;
    }
    const void **pieces = PyMem_New(const void *, n);
    bool fits = pieces != NULL;
    for (size_t i = 0; i < n && fits; i++) {
        const struct array *array = (struct array *)items[i];
        pieces[i] = array->data;
        fits = (array->flags & (C_CONTIGUOUS | F_CONTIGUOUS)) != 0;
    }
    int64_t number =
        fits ? cp_parts_add_pieces(w->out->parts, pieces, n, each) : -1;
    PyMem_Free(pieces);
    return number >= 0 ? (uint32_t)number : NO_PART;
}

static int
put_block(struct py_writer *w, uint32_t block, size_t n)
{
    if (py_writer_reserve(w, sizeof(block) + n) < 0) {
        return -1;
    }
    py_writer_add(w, &block, sizeof(block));
    memset(cp_buf_tail(w->out), 0, n);
    cp_buf_add(w->out, n);
    return 1;
}

/* Make room for the bytes of all arrays at once: a buffer that grows with each
 * of them is copied several times. */
static int
reserve_all(struct py_writer *w, size_t n, size_t each)
{
    size_t all;
    if (__builtin_mul_overflow(n, each, &all)) {
        (void)PyErr_NoMemory();
        return -1;
    }
    return py_writer_reserve(w, all);
}

int
py_array_put(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    const struct array *first = (struct array *)items[0];
    const struct py_numpy *numpy = numpy_of(w->state);
    size_t fill, each;
    if (numpy == NULL || py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    w->flags |= HAS_CODE; /* decoding may have to import numpy */
    py_writer_add_byte(w, TAG_ARRAY);
    int r = put_dtype(w, numpy, first->descr);
    each = bytes_of(numpy, first);
    fill = each == 0 ? (size_t)n : 0;
    if (r != 1 || py_writer_reserve(w, 2 + DIMENSIONS * SIZE_ROOM + fill) < 0) {
        return r != 1 ? r : -1;
    }
    bool in_parts =
        py_writer_may_part(w, each) || (n == 1 && may_be_small_part(w, each));
    uint32_t block = in_parts ? NO_PART : block_of(w, items, (size_t)n, each);
    py_writer_add_byte(w, layout_of(first)
                              | (in_parts           ? IN_PARTS
                                 : block != NO_PART ? IN_BLOCK
                                                    : 0));
    py_writer_add_byte(w, (unsigned)first->nd);
    for (int i = 0; i < first->nd; i++) {
        py_writer_add_size(w, (size_t)first->dimensions[i]);
    }
    if (block != NO_PART) {
        return put_block(w, block, (size_t)n);
    }
    memset(cp_buf_tail(w->out), 0, fill);
    cp_buf_add(w->out, fill);
    if (!in_parts) {
        r = reserve_all(w, (size_t)n, each);
    }
    for (Py_ssize_t i = 0; i < n && each > 0 && r == 1; i++) {
        r = put_bytes(w, numpy, items[i], each, in_parts);
    }
    return r;
}

struct shape {
    struct descr *descr;
    unsigned layout, nd;
    Py_ssize_t dimensions[DIMENSIONS];
    size_t each; /* size of one array, in bytes */
};

/* Read a dimension: a size, but not one that the remaining bytes limit. */
static int
get_dimension(struct py_reader *in, Py_ssize_t *dimension)
{
    unsigned byte;
    const uint8_t *bytes;
    uint64_t wide;
    if (py_reader_get_byte(in, &byte) < 0) {
        return CP_EPROTO;
    }
    wide = byte;
    if (byte == WIDE) {
        if (py_reader_get_raw(in, sizeof(wide), &bytes) < 0) {
            return CP_EPROTO;
        }
        memcpy(&wide, bytes, sizeof(wide));
    }
    *dimension = (Py_ssize_t)wide;
    return wide <= PY_SSIZE_T_MAX ? 0 : CP_EPROTO;
}

static int
get_shape(struct py_reader *in, const struct py_numpy *numpy,
          struct shape *shape)
{
    if (py_reader_get_byte(in, &shape->layout) < 0
        || py_reader_get_byte(in, &shape->nd) < 0 || !is_layout(shape->layout)
        || shape->nd > DIMENSIONS) {
        return CP_EPROTO;
    }
    shape->each = size_of(numpy, shape->descr);
    bool fits = true;
    for (unsigned i = 0; i < shape->nd; i++) {
        if (get_dimension(in, &shape->dimensions[i]) < 0) {
            return CP_EPROTO;
        }
        fits &= !__builtin_mul_overflow(
            shape->each, (size_t)shape->dimensions[i], &shape->each);
    }
    return fits && size_of(numpy, shape->descr) > 0 ? 0 : CP_EPROTO;
}

/* Make one array from these bytes. */
static PyObject *
array_of(const struct py_numpy *numpy, const struct shape *shape,
         const uint8_t *bytes)
{
    Py_INCREF(shape->descr);
    PyObject *obj = ((new_function)numpy->api[API_NEW_FROM_DESCR])(
        (PyTypeObject *)numpy->api[API_ARRAY_TYPE], shape->descr,
        (int)shape->nd, shape->dimensions, NULL, NULL,
        (shape->layout & IN_FORTRAN) != 0 ? F_CONTIGUOUS : 0, NULL);
    if (obj != NULL && shape->each > 0) {
        struct array *array = (struct array *)obj;
        cp_mem_advise_huge(array->data, shape->each);
        memcpy(array->data, bytes, shape->each);
    }
    return obj;
}

/* ---- arrays on shared memory ---- */

/*
 * An array that is a view on a block looks like any other array that owns its
 * data. Numpy frees and resizes these data through functions that the array has
 * (numpy's NEP 49, from 1.22 on; with older versions arrays are copied).
 */
#define OWNDATA 0x0004
#define ALIGNED 0x0100
#define API_FEATURE_VERSION 211
#define API_SET_HANDLER 304
#define HAS_HANDLERS 0x0000000fu

struct modern_array {
    struct array array;
    PyObject *weakreflist;
    void *buffer_info;
    PyObject *mem_handler;
};

/* numpy's PyDataMem_Handler, for one array. */
struct handler {
    char name[127];
    uint8_t version;
    struct {
        void *ctx;
        void *(*malloc)(void *, size_t);
        void *(*calloc)(void *, size_t, size_t);
        void *(*realloc)(void *, void *, size_t);
        void (*free)(void *, void *, size_t);
    } allocator;
    struct cp_lease *lease; /* NULL: given back, when the array was resized */
    struct cp_heap *heap;   /* where its memory comes from, or NULL */
};

static bool
has_handlers(const struct py_numpy *numpy)
{
    return ((version_function)numpy->api[API_FEATURE_VERSION])()
           >= HAS_HANDLERS;
}

static void *
handler_malloc(void *ctx, size_t n)
{
    struct handler *handler = ctx;
    if (handler->heap != NULL && n >= CP_PART_MIN && handler->lease == NULL
        && cp_heap_take(handler->heap, n, &handler->lease) == 0) {
        cp_lease_show(handler->lease);
        return handler->lease->at;
    }
    return malloc(n);
}

static void *
handler_calloc(void *Py_UNUSED(ctx), size_t n, size_t each)
{
    return calloc(n, each);
}

static void
handler_free(void *ctx, void *data, size_t Py_UNUSED(n))
{
    struct handler *handler = ctx;
    if (handler->lease != NULL && data == handler->lease->at) {
        cp_lease_close(handler->lease);
        handler->lease = NULL;
    } else {
        free(data);
    }
}

static void *
handler_realloc(void *ctx, void *data, size_t n)
{
    struct handler *handler = ctx;
    if (handler->lease == NULL || data != handler->lease->at) {
        return realloc(data, n);
    }
    void *moved = malloc(n);
    if (moved != NULL) {
        memcpy(moved, data, n < handler->lease->len ? n : handler->lease->len);
        handler_free(ctx, data, n);
    }
    return moved;
}

static void
free_handler(PyObject *capsule)
{
    struct handler *handler = PyCapsule_GetPointer(capsule, "mem_handler");
    cp_lease_close(handler->lease);
    free(handler);
}

/* A capsule that holds a reference to the lease (NULL: to none yet); or NULL with
 * an exception. */
static PyObject *
handler_of(struct cp_lease *lease)
{
    struct handler *handler = calloc(1, sizeof(*handler));
    if (handler == NULL) {
        return PyErr_NoMemory();
    }
    memcpy(handler->name, "cpool", sizeof("cpool"));
    handler->version = 1;
    handler->allocator.ctx = handler;
    handler->allocator.malloc = handler_malloc;
    handler->allocator.calloc = handler_calloc;
    handler->allocator.realloc = handler_realloc;
    handler->allocator.free = handler_free;
    PyObject *capsule = PyCapsule_New(handler, "mem_handler", free_handler);
    if (capsule == NULL) {
        free(handler);
        return NULL;
    }
    if (lease != NULL) {
        cp_lease_ref(lease);
        cp_lease_show(lease);
        handler->lease = lease;
    }
    return capsule;
}

/* The lease in which the data of the array are, or of the array of which it is a
 * view; NULL: they are in none. */
static struct cp_lease *
lease_of(const struct py_numpy *numpy, PyObject *obj)
{
    PyTypeObject *type = numpy->api[API_ARRAY_TYPE];
    const struct array *array = (struct array *)obj;
    while ((array->flags & OWNDATA) == 0 && array->base != NULL
           && PyObject_TypeCheck(array->base, type)) {
        array = (struct array *)array->base;
    }
    if ((array->flags & OWNDATA) == 0 || !has_handlers(numpy)) {
        return NULL;
    }
    PyObject *capsule = ((const struct modern_array *)array)->mem_handler;
    if (capsule == NULL || !PyCapsule_IsValid(capsule, "mem_handler")) {
        return NULL;
    }
    const struct handler *handler =
        PyCapsule_GetPointer(capsule, "mem_handler");
    bool is_ours = handler->allocator.free == handler_free;
    return is_ours ? handler->lease : NULL;
}

PyObject *
py_array_empty(struct py_state *state, struct cp_heap *heap, PyObject *empty,
               PyObject *const *args, Py_ssize_t n)
{
    const struct py_numpy *numpy = import_numpy(state);
    if (numpy == NULL) {
        return NULL;
    }
    if (heap == NULL || !has_handlers(numpy)
        || !cp_region_may_keep(cp_heap_region(heap))) {
        return PyObject_Vectorcall(empty, args, (size_t)n, NULL);
    }
    PyObject *capsule = handler_of(NULL);
    if (capsule == NULL) {
        return NULL;
    }
    handler_function set = (handler_function)numpy->api[API_SET_HANDLER];
    struct handler *handler = PyCapsule_GetPointer(capsule, "mem_handler");
    PyObject *old = set(capsule);
    handler->heap = heap;
    PyObject *obj =
        old != NULL ? PyObject_Vectorcall(empty, args, (size_t)n, NULL) : NULL;
    handler->heap = NULL;
    if (old != NULL) {
        PyObject *exc = PyErr_Occurred() ? py_error_fetch() : NULL;
        PyObject *ours = set(old);
        Py_DECREF(old);
        if (exc != NULL) {
            py_error_restore(exc);
            Py_DECREF(exc);
        }
        if (ours == NULL) {
            Py_CLEAR(obj);
        }
        Py_XDECREF(ours);
    }
    Py_DECREF(capsule);
    return obj;
}

/* Make an array whose data are those of the lease. */
static PyObject *
view_of(const struct py_numpy *numpy, const struct shape *shape,
        struct cp_lease *lease)
{
    if (!has_handlers(numpy) || !cp_lease_may_keep(lease)) {
        return array_of(numpy, shape, lease->at);
    }
    PyObject *capsule = handler_of(lease);
    if (capsule == NULL) {
        return NULL;
    }
    bool fortran = (shape->layout & IN_FORTRAN) != 0;
    Py_INCREF(shape->descr);
    PyObject *obj = ((new_function)numpy->api[API_NEW_FROM_DESCR])(
        (PyTypeObject *)numpy->api[API_ARRAY_TYPE], shape->descr,
        (int)shape->nd, shape->dimensions, NULL, lease->at,
        ALIGNED | WRITEABLE | (fortran ? F_CONTIGUOUS : C_CONTIGUOUS), NULL);
    if (obj == NULL) {
        Py_DECREF(capsule);
        return NULL;
    }
    struct modern_array *array = (struct modern_array *)obj;
    array->mem_handler = capsule;
    array->array.flags |= OWNDATA;
    return obj;
}

/* Make one of the arrays with IN_PARTS. */
static int
get_part(struct py_reader *in, const struct py_numpy *numpy,
         const struct shape *shape, PyObject **obj)
{
    uint32_t number;
    struct cp_lease *lease;
    const uint8_t *bytes;
    if (py_reader_get_number(in, &number) < 0) {
        return CP_EPROTO;
    }
    if (number == NO_PART) {
        if (py_reader_get_raw(in, shape->each, &bytes) < 0) {
            return CP_EPROTO;
        }
        *obj = array_of(numpy, shape, bytes);
    } else {
        if (py_reader_find_part(in, number, &lease) < 0
            || lease->len != shape->each || shape->each == 0) {
            return CP_EPROTO;
        }
        *obj = shape->each < CP_PART_MIN ? array_of(numpy, shape, lease->at)
                                         : view_of(numpy, shape, lease);
    }
    return *obj != NULL ? py_reader_keep(in, *obj) : -1;
}

/* Find the bytes of n arrays with IN_BLOCK. */
static int
get_block(struct py_reader *in, size_t n, size_t each, const uint8_t **bytes)
{
    uint32_t number;
    struct cp_lease *lease;
    const uint8_t *fill;
    size_t all;
    if (py_reader_get_number(in, &number) < 0
        || py_reader_get_raw(in, n, &fill) < 0
        || py_reader_find_part(in, number, &lease) < 0 || each == 0
        || __builtin_mul_overflow(n, each, &all) || lease->len != all) {
        return CP_EPROTO;
    }
    *bytes = lease->at;
    return 0;
}

static int
get_arrays(struct py_reader *in, const struct py_numpy *numpy, size_t n,
           PyObject **slots, size_t stride)
{
    struct shape shape = {0};
    const uint8_t *bytes;
    int r = get_dtype(in, numpy, &shape.descr);
    if (r != 0) {
        return r;
    }
    r = get_shape(in, numpy, &shape);
    size_t step = shape.each > 0 ? shape.each : 1;
    bool in_block = (shape.layout & IN_BLOCK) != 0;
    bool in_parts = (shape.layout & IN_PARTS) != 0;
    for (size_t i = 0; i < n && r == 0 && in_parts; i++) {
        r = get_part(in, numpy, &shape, &slots[i * stride]);
    }
    if (in_parts) {
        Py_DECREF(shape.descr);
        return r;
    }
    if (r == 0 && in_block) {
        r = get_block(in, n, shape.each, &bytes);
    } else if (r == 0
               && (n > py_reader_left(in) / step
                   || py_reader_get_raw(in, n * step, &bytes) < 0)) {
        r = CP_EPROTO;
    }
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **slot = &slots[i * stride];
        *slot = array_of(numpy, &shape, bytes + i * step);
        r = *slot != NULL ? py_reader_keep(in, *slot) : -1;
    }
    Py_DECREF(shape.descr);
    return r;
}

int
py_array_get(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    if ((in->flags & HAS_CODE) == 0) {
        return CP_EPROTO;
    }
    const struct py_numpy *numpy = import_numpy(in->state);
    return numpy != NULL ? get_arrays(in, numpy, n, slots, stride) : -1;
}

/* ---- scalars ---- */

int
py_array_put_scalars(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    const struct py_numpy *numpy = numpy_of(w->state);
    int num = numpy != NULL ? scalar_number(numpy, Py_TYPE(items[0])) : -1;
    size_t each = num >= 0 ? size_of(numpy, numpy->descrs[num]) : 0;
    if (each == 0) {
        return numpy != NULL ? 0 : -1;
    }
    if (py_writer_reserve(w, 2 + each * (size_t)n) < 0) {
        return -1;
    }
    w->flags |= HAS_CODE;
    py_writer_add_byte(w, TAG_SCALAR);
    py_writer_add_byte(w, (unsigned)num);
    for (Py_ssize_t i = 0; i < n; i++) {
        char value[sizeof(long double) * 2] __attribute__((aligned(16)));
        memset(value, 0, sizeof(value));
        ((ctype_function)numpy->api[API_SCALAR_AS_CTYPE])(items[i], value);
        py_writer_add(w, value, each);
    }
    return 1;
}

int
py_array_get_scalars(struct py_reader *in, size_t n, PyObject **slots,
                     size_t stride)
{
    unsigned num;
    const uint8_t *bytes;
    if ((in->flags & HAS_CODE) == 0 || py_reader_get_byte(in, &num) < 0) {
        return CP_EPROTO;
    }
    const struct py_numpy *numpy = import_numpy(in->state);
    if (numpy == NULL) {
        return -1;
    }
    struct descr *descr = num < DTYPES ? numpy->descrs[num] : NULL;
    size_t each = descr != NULL ? size_of(numpy, descr) : 0;
    if (each == 0 || n > py_reader_left(in) / each
        || py_reader_get_raw(in, n * each, &bytes) < 0) {
        return CP_EPROTO;
    }
    for (size_t i = 0; i < n; i++) {
        char value[sizeof(long double) * 2] __attribute__((aligned(16)));
        memcpy(value, bytes + i * each, each);
        PyObject *made =
            ((scalar_function)numpy->api[API_SCALAR])(value, descr, NULL);
        slots[i * stride] = made;
        if (made == NULL) {
            return -1;
        }
    }
    return 0;
}
