/*
 * What value/array.c uses of numpy, without numpy: its binary interface, with
 * arrays and scalars that only hold their bytes. The sanitizer sees the bounds of
 * these bytes, and no array may be larger than the bytes of an input, or of a part,
 * can fill.
 */
#ifndef FUZZ_NUMPY_H
#define FUZZ_NUMPY_H

#include "base/state.h"

#include "fuzz.h"

#include <stdio.h>

#define NUMPY_DTYPES 24
#define NUMPY_DIMENSIONS 32
#define NUMPY_C 1
#define NUMPY_FORTRAN 2
#define NUMPY_WRITEABLE 0x400
#define NUMPY_STRING 18
/* No input is as long as this, and no part. */
#define NUMPY_MOST (1u << 20)

struct numpy_dtype {
    PyObject_HEAD
    PyTypeObject *typeobj;
    char kind, type, byteorder, flags;
    int type_num;
    uint64_t more_flags;
    Py_ssize_t elsize;
    PyObject *text;
};

struct numpy_array {
    PyObject_HEAD
    char *data;
    int nd;
    Py_ssize_t *dimensions, *strides;
    PyObject *base;
    struct numpy_dtype *descr;
    int flags;
    Py_ssize_t sizes[NUMPY_DIMENSIONS];
    size_t bytes;
};

struct numpy_scalar {
    PyObject_HEAD
    char value[32];
};

/* Of dtypes by their numbers; 0: not a number of a fixed size. */
static const Py_ssize_t numpy_sizes[NUMPY_DTYPES] = {
    1, 1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 4, 8, 16, 8, 16, 32, [23] = 2};
static PyTypeObject *numpy_array_type, *numpy_dtype_type;
static PyTypeObject *numpy_scalar_types[NUMPY_DTYPES];
static struct numpy_dtype *numpy_dtypes[NUMPY_DTYPES];
static void *numpy_api[310];

/* ---- dtypes ---- */

/* dtype("S7"): strings of 7 bytes. */
static PyObject *
numpy_dtype_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwds))
{
    PyObject *text;
    int size;
    char more;
    if (!PyArg_ParseTuple(args, "U", &text)) {
        return NULL;
    }
    const char *chars = PyUnicode_AsUTF8(text);
    if (chars == NULL || sscanf(chars, "S%5d%c", &size, &more) != 1
        || size < 0) {
        PyErr_SetString(PyExc_TypeError, "no such dtype");
        return NULL;
    }
    struct numpy_dtype *self = (struct numpy_dtype *)type->tp_alloc(type, 0);
    FUZZ_CHECK(self != NULL);
    self->type_num = NUMPY_STRING;
    self->elsize = size;
    self->text = Py_NewRef(text);
    return (PyObject *)self;
}

static void
numpy_dtype_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    Py_XDECREF(((struct numpy_dtype *)op)->text);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
numpy_dtype_str(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((struct numpy_dtype *)op)->text);
}

static PyObject *
numpy_none(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    Py_RETURN_NONE;
}

static PyGetSetDef numpy_dtype_attributes[] = {
    {"str", numpy_dtype_str, NULL, NULL, NULL},
    {"fields", numpy_none, NULL, NULL, NULL},
    {"metadata", numpy_none, NULL, NULL, NULL},
    {"subdtype", numpy_none, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot numpy_dtype_slots[] = {
    {Py_tp_new, numpy_dtype_new},
    {Py_tp_dealloc, numpy_dtype_dealloc},
    {Py_tp_getset, numpy_dtype_attributes},
    {0, NULL}};
static PyType_Spec numpy_dtype_spec = {.name = "numpy.dtype",
                                       .basicsize = sizeof(struct numpy_dtype),
                                       .flags = Py_TPFLAGS_DEFAULT,
                                       .slots = numpy_dtype_slots};

static PyObject *
numpy_dtype_of(int num)
{
    return Py_NewRef((PyObject *)numpy_dtypes[num]);
}

/* ---- arrays ---- */

/* PyArray_NewFromDescr(): steals the dtype. */
static PyObject *
numpy_new(PyTypeObject *type, struct numpy_dtype *descr, int nd,
          const Py_ssize_t *dimensions, const Py_ssize_t *strides, void *data,
          int flags, PyObject *obj)
{
    FUZZ_CHECK(type == numpy_array_type && nd >= 0 && nd <= NUMPY_DIMENSIONS);
    FUZZ_CHECK(strides == NULL && data == NULL && obj == NULL);
    size_t bytes = (size_t)descr->elsize;
    struct numpy_array *self = (struct numpy_array *)type->tp_alloc(type, 0);
    FUZZ_CHECK(self != NULL);
    for (int i = 0; i < nd; i++) {
        FUZZ_CHECK(
            !__builtin_mul_overflow(bytes, (size_t)dimensions[i], &bytes));
        self->sizes[i] = dimensions[i];
    }
    FUZZ_CHECK(bytes <= NUMPY_MOST);
    self->data = malloc(bytes > 0 ? bytes : 1);
    FUZZ_CHECK(self->data != NULL);
    self->nd = nd;
    self->dimensions = self->sizes;
    self->descr = descr;
    self->bytes = bytes;
    self->flags = NUMPY_WRITEABLE
                  | (nd < 2                         ? NUMPY_C | NUMPY_FORTRAN
                     : (flags & NUMPY_FORTRAN) != 0 ? NUMPY_FORTRAN
                                                    : NUMPY_C);
    return (PyObject *)self;
}

static void
numpy_array_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    free(((struct numpy_array *)op)->data);
    Py_DECREF(((struct numpy_array *)op)->descr);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot numpy_array_slots[] = {{Py_tp_dealloc, numpy_array_dealloc},
                                          {0, NULL}};
static PyType_Spec numpy_array_spec = {
    .name = "numpy.ndarray",
    .basicsize = sizeof(struct numpy_array),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = numpy_array_slots};

/* Do both arrays have the same dtype, shape, order and bytes? Not all versions of
 * Python keep arrays read-only. */
static bool
numpy_same(PyObject *op, PyObject *other)
{
    const struct numpy_array *one = (struct numpy_array *)op;
    const struct numpy_array *two = (struct numpy_array *)other;
    return one->descr->type_num == two->descr->type_num
           && one->descr->elsize == two->descr->elsize && one->nd == two->nd
           && ((one->flags ^ two->flags) & ~NUMPY_WRITEABLE) == 0
           && one->bytes == two->bytes
           && memcmp(one->sizes, two->sizes, sizeof(one->sizes)) == 0
           && memcmp(one->data, two->data, one->bytes) == 0;
}

/* ---- scalars ---- */

static PyObject *
numpy_scalar(const void *value, struct numpy_dtype *descr, PyObject *base)
{
    FUZZ_CHECK(base == NULL);
    PyTypeObject *type = descr->typeobj;
    struct numpy_scalar *self = (struct numpy_scalar *)type->tp_alloc(type, 0);
    FUZZ_CHECK(self != NULL);
    memcpy(self->value, value, (size_t)descr->elsize);
    return (PyObject *)self;
}

static void
numpy_scalar_as_ctype(PyObject *op, void *value)
{
    for (int i = 0; i < NUMPY_DTYPES; i++) {
        if (Py_IS_TYPE(op, numpy_scalar_types[i])) {
            memcpy(value, ((struct numpy_scalar *)op)->value,
                   (size_t)numpy_sizes[i]);
        }
    }
}

static PyType_Slot numpy_scalar_slots[] = {{0, NULL}};

/* ---- the module ---- */

/* A version of 2; and one of its features without handlers of memory. */
static unsigned
numpy_version(void)
{
    return 0x02000000;
}

static unsigned
numpy_features(void)
{
    return 0;
}

static PyTypeObject *
numpy_type(PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);
    FUZZ_CHECK(type != NULL);
    return type;
}

/* Make numpy, and put it among the modules. */
static void
numpy_install(void)
{
    static char names[NUMPY_DTYPES][24];
    numpy_array_type = numpy_type(&numpy_array_spec);
    numpy_dtype_type = numpy_type(&numpy_dtype_spec);
    for (int i = 0; i < NUMPY_DTYPES; i++) {
        if (numpy_sizes[i] == 0) {
            continue;
        }
        (void)snprintf(names[i], sizeof(names[i]), "numpy.scalar%d", i);
        PyType_Spec spec = {.name = names[i],
                            .basicsize = sizeof(struct numpy_scalar),
                            .flags = Py_TPFLAGS_DEFAULT,
                            .slots = numpy_scalar_slots};
        numpy_scalar_types[i] = numpy_type(&spec);
        struct numpy_dtype *descr =
            (struct numpy_dtype *)numpy_dtype_type->tp_alloc(numpy_dtype_type,
                                                             0);
        FUZZ_CHECK(descr != NULL);
        descr->typeobj = numpy_scalar_types[i];
        descr->type_num = i;
        descr->elsize = numpy_sizes[i];
        descr->text = PyUnicode_FromString("number");
        numpy_dtypes[i] = descr;
    }
    numpy_api[0] = (void *)numpy_version;
    numpy_api[2] = numpy_array_type;
    numpy_api[3] = numpy_dtype_type;
    numpy_api[45] = (void *)numpy_dtype_of;
    numpy_api[60] = (void *)numpy_scalar;
    numpy_api[62] = (void *)numpy_scalar_as_ctype;
    numpy_api[94] = (void *)numpy_new;
    numpy_api[211] = (void *)numpy_features;
    PyObject *capsule = PyCapsule_New(numpy_api, NULL, NULL);
    PyObject *module =
        PyImport_AddModule("numpy._core._multiarray_umath"); /* borrowed */
    FUZZ_CHECK(capsule != NULL && module != NULL
               && PyImport_AddModule("numpy") != NULL
               && PyImport_AddModule("numpy._core") != NULL
               && PyObject_SetAttrString(module, "_ARRAY_API", capsule) == 0);
    Py_DECREF(capsule);
}

#endif
