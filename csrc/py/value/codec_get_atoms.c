/*
 * Decoding values that hold no others, one or a column of them; see value/codec.h and
 * value/codec_decoder.h.
 */
#include "value/codec_decoder.h"

#include "core/base/mem.h"

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

static int
get_wide_int(struct py_decoder *d, PyObject **obj)
{
    size_t n;
    const uint8_t *bytes;
    if (py_codec_get_size(d, 1, &n) < 0 || py_codec_get_raw(d, n, &bytes) < 0) {
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

struct kind {
    size_t width;
    Py_UCS4 least, most; /* between them lies the highest character */
};

static struct kind
kind_of(unsigned tag)
{
    switch (tag) {
        case TAG_ASCII: return (struct kind){1, 0, 0x7f};
        case TAG_UCS1: return (struct kind){1, 0x80, 0xff};
        case TAG_UCS2: return (struct kind){2, 0x100, 0xffff};
        default: return (struct kind){4, 0x10000, 0x10ffff};
    }
}

/* The highest character, or something of the same kind that is above it. */
static Py_UCS4
highest(const void *data, size_t width, size_t n)
{
    Py_UCS4 all = 0, most = 0;
    if (width == 1) {
        for (size_t i = 0; i < n; i++) {
            all |= ((const Py_UCS1 *)data)[i];
        }
    } else if (width == 2) {
        for (size_t i = 0; i < n; i++) {
            all |= ((const Py_UCS2 *)data)[i];
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            Py_UCS4 c = ((const Py_UCS4 *)data)[i];
            most = c > most ? c : most;
        }
    }
    return all | most;
}

static int
get_str(struct py_decoder *d, unsigned tag, PyObject **obj)
{
    struct kind kind = kind_of(tag);
    size_t n;
    const uint8_t *bytes;
    if (py_codec_get_size(d, kind.width, &n) < 0
        || py_codec_get_raw(d, n * kind.width, &bytes) < 0) {
        return CP_EPROTO;
    }
    if (n == 1 && kind.width == 1) { /* there is one object for each */
        if (*bytes > kind.most || *bytes < kind.least) {
            return CP_EPROTO;
        }
        *obj = PyUnicode_FromOrdinal(*bytes);
        return made(*obj);
    }
    if (n == 0 && tag != TAG_ASCII) {
        return CP_EPROTO;
    }
    PyObject *str = PyUnicode_New((Py_ssize_t)n, kind.most);
    if (str == NULL) {
        return -1;
    }
    if (n > 0) {
        cp_mem_advise_huge(PyUnicode_DATA(str), n * kind.width);
        memcpy(PyUnicode_DATA(str), bytes, n * kind.width);
        Py_UCS4 top = highest(PyUnicode_DATA(str), kind.width, n);
        if (top > kind.most || top < kind.least) {
            Py_DECREF(str);
            return CP_EPROTO;
        }
    }
    *obj = str;
    return 0;
}

static int
get_bytes(struct py_decoder *d, PyObject **obj)
{
    size_t n;
    const uint8_t *bytes;
    if (py_codec_get_size(d, 1, &n) < 0 || py_codec_get_raw(d, n, &bytes) < 0) {
        return CP_EPROTO;
    }
    if (n < CP_MEM_HUGE_MIN) {
        *obj = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)n);
        return made(*obj);
    }
    *obj = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (*obj == NULL) {
        return -1;
    }
    cp_mem_advise_huge(PyBytes_AS_STRING(*obj), n);
    memcpy(PyBytes_AS_STRING(*obj), bytes, n);
    return 0;
}

static PyObject *
one_of(unsigned tag)
{
    return tag == TAG_NONE    ? Py_None
           : tag == TAG_FALSE ? Py_False
           : tag == TAG_TRUE  ? Py_True
                              : NULL;
}

/* Ints of one width, or floats. */
static int
get_numbers(struct py_decoder *d, unsigned tag, size_t n, PyObject **slots,
            size_t stride)
{
    size_t width = tag == TAG_FLOAT ? 8 : (size_t)1 << (tag - TAG_INT1);
    const uint8_t *bytes;
    if (n > py_codec_left(d) / width
        || py_codec_get_raw(d, n * width, &bytes) < 0) {
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

static int
get_ones(struct py_decoder *d, size_t n, PyObject **slots, size_t stride)
{
    const uint8_t *bytes;
    if (py_codec_get_raw(d, n, &bytes) < 0) {
        return CP_EPROTO;
    }
    for (size_t i = 0; i < n; i++) {
        PyObject *one = one_of(bytes[i]);
        if (one == NULL) {
            return CP_EPROTO;
        }
        slots[i * stride] = Py_NewRef(one);
    }
    return 0;
}

int
py_codec_get_atom(struct py_decoder *d, unsigned tag, PyObject **obj)
{
    switch (tag) {
        case TAG_NONE:
        case TAG_FALSE:
        case TAG_TRUE: *obj = Py_NewRef(one_of(tag)); return 0;
        case TAG_INT1:
        case TAG_INT2:
        case TAG_INT4:
        case TAG_INT8:
        case TAG_FLOAT: return get_numbers(d, tag, 1, obj, 1);
        case TAG_INT: return get_wide_int(d, obj);
        case TAG_ASCII:
        case TAG_UCS1:
        case TAG_UCS2:
        case TAG_UCS4: return get_str(d, tag, obj);
        case TAG_BYTES: return get_bytes(d, obj);
        default: return CP_EPROTO;
    }
}

static int
get_texts(struct py_decoder *d, unsigned tag, size_t n, PyObject **slots,
          size_t stride)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **slot = &slots[i * stride];
        r = tag == TAG_BYTES ? get_bytes(d, slot) : get_str(d, tag, slot);
    }
    return r;
}

int
py_codec_get_atoms(struct py_decoder *d, unsigned tag, size_t n,
                   PyObject **slots, size_t stride)
{
    switch (tag) {
        case TAG_INT1:
        case TAG_INT2:
        case TAG_INT4:
        case TAG_INT8:
        case TAG_FLOAT: return get_numbers(d, tag, n, slots, stride);
        case TAG_ONES: return get_ones(d, n, slots, stride);
        case TAG_ASCII:
        case TAG_UCS1:
        case TAG_UCS2:
        case TAG_UCS4:
        case TAG_BYTES: return get_texts(d, tag, n, slots, stride);
        default: return CP_EPROTO;
    }
}
