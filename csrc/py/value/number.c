/* Ints and floats as bytes and back; see value/number.h. */
#include "value/number.h"

/* ---- encoding ---- */

/* Does the int fit into 8 bytes? */
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

/* The narrowest tag for values whose int_bits(), or-ed together, are `bits`. */
static unsigned
int_tag(uint64_t bits)
{
    return bits < 0x80         ? TAG_INT1
           : bits < 0x8000     ? TAG_INT2
           : bits < 0x80000000 ? TAG_INT4
                               : TAG_INT8;
}

static void
add_int(struct py_writer *w, unsigned tag, int64_t value)
{
    int8_t v1 = (int8_t)value;
    int16_t v2 = (int16_t)value;
    int32_t v4 = (int32_t)value;
    switch (tag) {
        case TAG_INT1: py_writer_add(w, &v1, 1); break;
        case TAG_INT2: py_writer_add(w, &v2, 2); break;
        case TAG_INT4: py_writer_add(w, &v4, 4); break;
        default: py_writer_add(w, &value, 8); break;
    }
}

/* Bits that tell how wide the value is. */
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

/* How many bytes the int needs, including the sign; -1 with an exception. */
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
put_wide_int(struct py_writer *w, PyObject *obj)
{
    Py_ssize_t n = int_size(obj);
    if (n < 0 || py_writer_reserve(w, 1 + SIZE_ROOM + (size_t)n) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_INT);
    py_writer_add_size(w, (size_t)n);
    if (int_to_bytes(obj, cp_buf_tail(w->out), (size_t)n) < 0) {
        return -1;
    }
    cp_buf_add(w->out, (size_t)n);
    return 1;
}

bool
py_number_is_of_16_bytes(PyObject *obj)
{
    uint8_t bytes[17]; /* the last one has the sign */
    Py_ssize_t n = int_size(obj);
    bool is = n >= 0 && n <= (Py_ssize_t)sizeof(bytes)
              && int_to_bytes(obj, bytes, sizeof(bytes)) == 0
              && bytes[PY_LITTLE_ENDIAN ? 16 : 0] == 0;
    PyErr_Clear();
    return is;
}

int
py_number_put_int(struct py_writer *w, PyObject *obj)
{
    int64_t value;
    if (!fits_int8(obj, &value)) {
        return put_wide_int(w, obj);
    }
    unsigned tag = int_tag(int_bits(value));
    if (py_writer_reserve(w, 9) < 0) {
        return -1;
    }
    py_writer_add_byte(w, tag);
    add_int(w, tag, value);
    return 1;
}

static void
add_float(struct py_writer *w, PyObject *obj)
{
    py_writer_add(w, &((PyFloatObject *)obj)->ob_fval, 8);
}

int
py_number_put_float(struct py_writer *w, PyObject *obj)
{
    if (py_writer_reserve(w, 9) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_FLOAT);
    add_float(w, obj);
    return 1;
}

/* Narrow n values of 8 bytes in place. There is one loop for each width, so
 * that compilers vectorize them. */
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

/* The ints are written with 8 bytes each, and narrowed at the end. */
int
py_number_put_ints(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    if (py_writer_reserve(w, 1 + 8 * (size_t)n) < 0) {
        return -1;
    }
    uint8_t *to = cp_buf_tail(w->out) + 1; /* after the tag */
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
    py_writer_add_byte(w, tag);
    narrow(to, n, tag);
    cp_buf_add(w->out, (size_t)n << (tag - TAG_INT1));
    return 1;
}

int
py_number_put_floats(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    if (py_writer_reserve(w, 1 + 8 * (size_t)n) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_FLOAT);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyFloat_CheckExact(items[i])) {
            return OTHER_KIND;
        }
        add_float(w, items[i]);
    }
    return 1;
}

/* ---- decoding ---- */

static int
made(PyObject *obj)
{
    return obj != NULL ? 0 : -1;
}

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

int
py_number_get_wide(struct py_reader *in, PyObject **obj)
{
    size_t n;
    const uint8_t *bytes;
    if (py_reader_get_size(in, 1, &n) < 0
        || py_reader_get_raw(in, n, &bytes) < 0) {
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

int
py_number_get_column(struct py_reader *in, unsigned tag, size_t n,
                     PyObject **slots, size_t stride)
{
    size_t width = tag == TAG_FLOAT ? 8 : (size_t)1 << (tag - TAG_INT1);
    const uint8_t *bytes;
    if (n > py_reader_left(in) / width
        || py_reader_get_raw(in, n * width, &bytes) < 0) {
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
