/*
 * Encoding values that hold no others, one or a column of them; see value/codec.h and
 * value/codec_encoder.h.
 */
#include "value/codec_encoder.h"

/* Pickle sends an object once, however often it stands in a chunk, and all of
 * them are one object after. From here on a string is worth that. */
#define LARGE 256

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
add_int(struct py_encoder *e, unsigned tag, int64_t value)
{
    int8_t v1 = (int8_t)value;
    int16_t v2 = (int16_t)value;
    int32_t v4 = (int32_t)value;
    switch (tag) {
        case TAG_INT1: py_codec_add(e, &v1, 1); break;
        case TAG_INT2: py_codec_add(e, &v2, 2); break;
        case TAG_INT4: py_codec_add(e, &v4, 4); break;
        default: py_codec_add(e, &value, 8); break;
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
put_wide_int(struct py_encoder *e, PyObject *obj)
{
    Py_ssize_t n = int_size(obj);
    if (n < 0 || py_codec_room(e, 1 + SIZE_ROOM + (size_t)n) < 0) {
        return -1;
    }
    py_codec_add_byte(e, TAG_INT);
    py_codec_add_size(e, (size_t)n);
    if (int_to_bytes(obj, cp_buf_tail(e->out), (size_t)n) < 0) {
        return -1;
    }
    cp_buf_add(e->out, (size_t)n);
    return 1;
}

static int
put_int(struct py_encoder *e, PyObject *obj)
{
    int64_t value;
    if (!fits_int8(obj, &value)) {
        return put_wide_int(e, obj);
    }
    unsigned tag = int_tag(int_bits(value));
    if (py_codec_room(e, 9) < 0) {
        return -1;
    }
    py_codec_add_byte(e, tag);
    add_int(e, tag, value);
    return 1;
}

static void
add_float(struct py_encoder *e, PyObject *obj)
{
    py_codec_add(e, &((PyFloatObject *)obj)->ob_fval, 8);
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
put_text(struct py_encoder *e, const void *bytes, size_t size, size_t n)
{
    if (n >= LARGE && e->large++ > 0) {
        return 0;
    }
    if (py_codec_room(e, SIZE_ROOM + n) < 0) {
        return -1;
    }
    py_codec_add_size(e, size);
    py_codec_add(e, bytes, n);
    return 1;
}

static int
put_str(struct py_encoder *e, PyObject *obj)
{
    size_t size = (size_t)PyUnicode_GET_LENGTH(obj);
    return put_text(e, PyUnicode_DATA(obj), size,
                    size * (size_t)PyUnicode_KIND(obj));
}

static int
put_bytes(struct py_encoder *e, PyObject *obj)
{
    size_t n = (size_t)PyBytes_GET_SIZE(obj);
    return put_text(e, PyBytes_AS_STRING(obj), n, n);
}

int
py_codec_tag_of(PyObject *obj)
{
    if (PyLong_CheckExact(obj)) {
        return TAG_INT8;
    }
    if (PyUnicode_CheckExact(obj)) {
        return py_codec_is_ready(obj) < 0 ? -1 : (int)str_tag(obj);
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
    if (PyDict_CheckExact(obj)) {
        return TAG_DICT;
    }
    if (PyList_CheckExact(obj)) {
        return TAG_LIST;
    }
    return PyBytes_CheckExact(obj) ? TAG_BYTES : 0;
}

static unsigned
one_tag(PyObject *obj)
{
    return obj == Py_None    ? TAG_NONE
           : obj == Py_False ? TAG_FALSE
           : obj == Py_True  ? TAG_TRUE
                             : 0;
}

int
py_codec_put_atom(struct py_encoder *e, PyObject *obj, int tag)
{
    if (tag == TAG_INT8) {
        return put_int(e, obj);
    }
    if (py_codec_room(e, 9) < 0) {
        return -1;
    }
    py_codec_add_byte(e, tag == TAG_ONES ? one_tag(obj) : (unsigned)tag);
    switch (tag) {
        case TAG_ONES: return 1;
        case TAG_FLOAT: add_float(e, obj); return 1;
        case TAG_BYTES: return put_bytes(e, obj);
        default: return put_str(e, obj);
    }
}

/* ---- columns ---- */

/* Values of 8 bytes become narrower ones, where they stand. A loop for each width,
 * so that compilers make vectors of them. */
static void
narrow(uint8_t *at, Py_ssize_t n, unsigned tag)
{
#define NARROW(type)                                                    \
    for (Py_ssize_t i = 0; i < n; i++) {                                \
        int64_t value;                                                  \
        memcpy(&value, at + 8 * i, 8);                                  \
        type narrower = (type)value;                                    \
        memcpy(at + sizeof(type) * (size_t)i, &narrower, sizeof(type)); \
    }
    switch (tag) {
        case TAG_INT1: NARROW(int8_t); break;
        case TAG_INT2: NARROW(int16_t); break;
        case TAG_INT4: NARROW(int32_t); break;
        default: break;
    }
#undef NARROW
}

/* They are written at full width, and then moved together. */
static int
put_ints(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (py_codec_room(e, 1 + 8 * (size_t)n) < 0) {
        return -1;
    }
    uint8_t *to = cp_buf_tail(e->out) + 1; /* after the tag */
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
    py_codec_add_byte(e, tag);
    narrow(to, n, tag);
    cp_buf_add(e->out, (size_t)n << (tag - TAG_INT1));
    return 1;
}

static int
put_floats(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (py_codec_room(e, 1 + 8 * (size_t)n) < 0) {
        return -1;
    }
    py_codec_add_byte(e, TAG_FLOAT);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyFloat_CheckExact(items[i])) {
            return OTHER_KIND;
        }
        add_float(e, items[i]);
    }
    return 1;
}

static int
put_ones(struct py_encoder *e, PyObject *const *items, Py_ssize_t n)
{
    if (py_codec_room(e, 1 + (size_t)n) < 0) {
        return -1;
    }
    py_codec_add_byte(e, TAG_ONES);
    for (Py_ssize_t i = 0; i < n; i++) {
        unsigned tag = one_tag(items[i]);
        if (tag == 0) {
            return OTHER_KIND;
        }
        py_codec_add_byte(e, tag);
    }
    return 1;
}

static int
put_texts(struct py_encoder *e, PyObject *const *items, Py_ssize_t n, int tag)
{
    if (py_codec_room(e, 1) < 0) {
        return -1;
    }
    py_codec_add_byte(e, (unsigned)tag);
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        int own = py_codec_tag_of(items[i]);
        if (own != tag) {
            return own < 0 ? -1 : OTHER_KIND;
        }
        r = tag == TAG_BYTES ? put_bytes(e, items[i]) : put_str(e, items[i]);
    }
    return r;
}

int
py_codec_put_atoms(struct py_encoder *e, PyObject *const *items, Py_ssize_t n,
                   int tag)
{
    switch (tag) {
        case TAG_INT8: return put_ints(e, items, n);
        case TAG_FLOAT: return put_floats(e, items, n);
        case TAG_ONES: return put_ones(e, items, n);
        default: return put_texts(e, items, n, tag);
    }
}
