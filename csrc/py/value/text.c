/* Strings and bytes as bytes and back; see value/text.h. */
#include "value/text.h"

#include "value/kind.h"

#include "core/base/mem.h"

/* ---- encoding ---- */

/* A size, and then the n bytes of a string or bytes object. A large object is
 * worth pickle's memo, which sends an object once however often it occurs: only
 * one such object is encoded here, unless it is known that it occurs once. */
static int
put_text(struct py_writer *w, PyObject *obj, const void *bytes, size_t size,
         size_t n)
{
    if (n >= LARGE && (w->alone ? py_writer_shares(w, obj) : w->large++ > 0)) {
        return 0;
    }
    if (py_writer_reserve(w, SIZE_ROOM + n) < 0) {
        return -1;
    }
    py_writer_add_size(w, size);
    py_writer_add(w, bytes, n);
    return 1;
}

static int
put_str(struct py_writer *w, PyObject *obj)
{
    size_t size = (size_t)PyUnicode_GET_LENGTH(obj);
    return put_text(w, obj, PyUnicode_DATA(obj), size,
                    size * (size_t)PyUnicode_KIND(obj));
}

static int
put_bytes(struct py_writer *w, PyObject *obj)
{
    size_t n = (size_t)PyBytes_GET_SIZE(obj);
    return put_text(w, obj, PyBytes_AS_STRING(obj), n, n);
}

/* The contents, without a tag. */
static int
put_contents(struct py_writer *w, PyObject *obj, int tag)
{
    return tag == TAG_BYTES ? put_bytes(w, obj) : put_str(w, obj);
}

int
py_text_put(struct py_writer *w, PyObject *obj, int tag)
{
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, (unsigned)tag);
    return put_contents(w, obj, tag);
}

int
py_text_put_column(struct py_writer *w, PyObject *const *items, Py_ssize_t n,
                   int tag)
{
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, (unsigned)tag);
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        int own = py_kind_of(items[i]);
        if (own != tag) {
            return own < 0 ? -1 : OTHER_KIND;
        }
        r = put_contents(w, items[i], tag);
    }
    return r;
}

/* ---- decoding ---- */

static int
made(PyObject *obj)
{
    return obj != NULL ? 0 : -1;
}

struct kind {
    size_t width;
    Py_UCS4 least, most; /* the range of the highest character */
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

/* The highest character, or a higher one of the same kind. */
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
get_str(struct py_reader *in, unsigned tag, PyObject **obj)
{
    struct kind kind = kind_of(tag);
    size_t n;
    const uint8_t *bytes;
    if (py_reader_get_size(in, kind.width, &n) < 0
        || py_reader_get_raw(in, n * kind.width, &bytes) < 0) {
        return CP_EPROTO;
    }
    if (n == 1 && kind.width == 1) { /* CPython has one object for each */
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
get_bytes(struct py_reader *in, PyObject **obj)
{
    size_t n;
    const uint8_t *bytes;
    if (py_reader_get_size(in, 1, &n) < 0
        || py_reader_get_raw(in, n, &bytes) < 0) {
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

int
py_text_get(struct py_reader *in, unsigned tag, PyObject **obj)
{
    return tag == TAG_BYTES ? get_bytes(in, obj) : get_str(in, tag, obj);
}

int
py_text_get_column(struct py_reader *in, unsigned tag, size_t n,
                   PyObject **slots, size_t stride)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **slot = &slots[i * stride];
        r = py_text_get(in, tag, slot);
    }
    return r;
}
