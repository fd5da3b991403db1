/* Strings and bytes as bytes and back; see value/text.h. */
#include "value/text.h"

#include "value/kind.h"
#include "value/known.h"
#include "value/spare.h"
#include "value/view.h"

#include "core/base/mem.h"

/* ---- encoding ---- */

/* How many bytes the contents have. */
static size_t
bytes_of(PyObject *obj, int tag)
{
    return tag == TAG_BYTES ? (size_t)PyBytes_GET_SIZE(obj)
                            : (size_t)PyUnicode_GET_LENGTH(obj)
                                  * (size_t)PyUnicode_KIND(obj);
}

/* Put the contents without a tag: a size, and the bytes. */
static int
put_contents(struct py_writer *w, PyObject *obj, int tag, size_t n)
{
    if (py_writer_reserve(w, SIZE_ROOM + n) < 0) {
        return -1;
    }
    if (tag == TAG_BYTES) {
        py_writer_add_size(w, n);
        py_writer_add(w, PyBytes_AS_STRING(obj), n);
    } else {
        py_writer_add_size(w, (size_t)PyUnicode_GET_LENGTH(obj));
        py_writer_add(w, PyUnicode_DATA(obj), n);
    }
    return 1;
}

/* Put the value as a part of the body: 1, 0 or -1. */
static int
put_part(struct py_writer *w, PyObject *obj, int tag, size_t n)
{
    return tag == TAG_BYTES
               ? py_writer_put_part(w, TAG_BYTES, obj, PyBytes_AS_STRING(obj),
                                    n, n)
               : py_writer_put_part(w, (unsigned)tag, obj, PyUnicode_DATA(obj),
                                    n, (size_t)PyUnicode_GET_LENGTH(obj));
}

int
py_text_put(struct py_writer *w, PyObject *obj, int tag)
{
    size_t n = bytes_of(obj, tag);
    if (n >= LARGE) {
        size_t number = py_seen_find(&w->seen, obj);
        int r = number != SEEN_NONE ? OTHER_KIND : py_writer_enter(w, obj);
        if (r != 1) {
            return r == OTHER_KIND ? py_writer_put_ref(w, number) : r;
        }
    }
    int r = py_writer_may_part(w, n) ? put_part(w, obj, tag, n) : 0;
    if (r != 0) {
        return r;
    }
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, (unsigned)tag);
    return put_contents(w, obj, tag, n);
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
        size_t size = bytes_of(items[i], tag);
        if (py_writer_may_part(w, size)) {
            return OTHER_KIND; /* parts are whole values */
        }
        r = size >= LARGE ? py_writer_enter(w, items[i]) : 1;
        r = r == 1 ? put_contents(w, items[i], tag, size) : r;
    }
    return r;
}

int
py_text_put_keys(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_KEYS);
    for (Py_ssize_t i = 0; i < n; i++) {
        int tag = PyUnicode_CheckExact(items[i]) ? py_kind_of(items[i]) : 0;
        if (tag <= 0 || bytes_of(items[i], tag) >= LARGE) {
            return tag < 0 ? -1 : OTHER_KIND;
        }
        size_t number = py_seen_find(&w->seen, items[i]);
        int r = number != SEEN_NONE ? py_writer_put_ref(w, number)
                                    : py_seen_add(&w->seen, items[i]);
        if (r == 1 && number == SEEN_NONE) {
            r = py_text_put(w, items[i], tag);
        }
        if (r != 1) {
            return r;
        }
    }
    return 1;
}

/* ---- decoding ---- */

static int
made(PyObject *obj)
{
    return obj != NULL ? 0 : -1;
}

struct kind {
    size_t width;
    Py_UCS4 least, most; /* the range that the highest character must be in */
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

/* The highest character, or a higher one of the same width. */
static Py_UCS4
highest(const void *data, size_t width, size_t n)
{
    Py_UCS4 all = 0, most = 0;
    if (width == 1) {
        size_t i = 0;
        uint64_t words = 0, word;
        for (; n - i >= sizeof(word); i += sizeof(word)) {
            memcpy(&word, (const Py_UCS1 *)data + i, sizeof(word));
            words |= word;
        }
        words |= words >> 32;
        words |= words >> 16;
        all = (Py_UCS4)((words | words >> 8) & 0xff);
        for (; i < n; i++) {
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

/* So much of a string is copied and then looked at while it is in a cache. */
#define AT_ONCE CP_KIB(32)

/* Copy n characters; returns the same as highest(). */
static Py_UCS4
copy_chars(void *to, const void *from, size_t width, size_t n)
{
    Py_UCS4 found = 0;
    for (size_t i = 0; i < n; i += AT_ONCE / width) {
        size_t some = n - i < AT_ONCE / width ? n - i : AT_ONCE / width;
        uint8_t *at = (uint8_t *)to + i * width;
        memcpy(at, (const uint8_t *)from + i * width, some * width);
        Py_UCS4 top = highest(at, width, some);
        found = top > found ? top : found;
    }
    return found;
}

/* A string of n characters. */
static int
make_str(struct py_state *state, unsigned tag, const uint8_t *bytes, size_t n,
         PyObject **obj)
{
    struct kind kind = kind_of(tag);
    if (n == 1 && kind.width == 1) { /* CPython shares such strings */
        if (*bytes > kind.most || *bytes < kind.least) {
            return CP_EPROTO;
        }
        *obj = PyUnicode_FromOrdinal(*bytes);
        return made(*obj);
    }
    if (n == 0 && tag != TAG_ASCII) {
        return CP_EPROTO;
    }
    bool is_large = n * kind.width >= CP_MEM_HUGE_MIN;
    PyObject *str = is_large ? py_spare_str(state, n, kind.most) : NULL;
    if (str == NULL) {
        str = PyUnicode_New((Py_ssize_t)n, kind.most);
        if (str == NULL) {
            return -1;
        }
        cp_mem_advise_huge(PyUnicode_DATA(str), n * kind.width);
    }
    if (n > 0) {
        Py_UCS4 top = copy_chars(PyUnicode_DATA(str), bytes, kind.width, n);
        if (top > kind.most || top < kind.least) {
            Py_DECREF(str);
            return CP_EPROTO;
        }
    }
    if (is_large) {
        py_spare_note(state, str);
    }
    *obj = str;
    return 0;
}

static int
get_str(struct py_reader *in, unsigned tag, PyObject **obj)
{
    size_t n, width = kind_of(tag).width;
    const uint8_t *bytes;
    if (py_reader_get_size(in, width, &n) < 0
        || py_reader_get_raw(in, n * width, &bytes) < 0) {
        return CP_EPROTO;
    }
    return make_str(in->state, tag, bytes, n, obj);
}

/* Get a string that is likely to have occurred before. */
static int
get_known(struct py_reader *in, unsigned tag, bool interned, PyObject **str)
{
    size_t n = py_reader_left(in) > 0 ? *in->at : 0;
    if (tag != TAG_ASCII || n < 2 || n > PY_KNOWN_LONGEST
        || n >= py_reader_left(in)
        || highest(in->at + 1, 1, n) > kind_of(tag).most) {
        return get_str(in, tag, str);
    }
    const uint8_t *bytes = in->at + 1;
    in->at += 1 + n;
    return py_known_get(in, bytes, n, interned, str);
}

int
py_text_get_name(struct py_reader *in, unsigned tag, PyObject **str)
{
    int r = get_known(in, tag, true, str);
    return r == 0 && (in->flags & HAS_REFS) != 0
                   && bytes_of(*str, (int)tag) >= LARGE
               ? py_reader_keep(in, *str)
               : r;
}

/* A cache is smaller than that: fetching its lines would only cost time. */
#define LARGER_THAN_CACHE (CP_KIB(32) << 10)

static void
copy_bytes(void *to, const uint8_t *from, size_t n)
{
    if (n < LARGER_THAN_CACHE) {
        memcpy(to, from, n);
    } else {
        cp_mem_stream(to, from, n);
        cp_mem_stream_end();
    }
}

static int
make_bytearray(const uint8_t *bytes, size_t n, PyObject **obj)
{
    *obj = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (*obj == NULL) {
        return -1;
    }
    cp_mem_advise_huge(PyByteArray_AS_STRING(*obj), n);
    copy_bytes(PyByteArray_AS_STRING(*obj), bytes, n);
    return 0;
}

static int
make_bytes(struct py_state *state, const uint8_t *bytes, size_t n,
           PyObject **obj)
{
    if (n < CP_MEM_HUGE_MIN) {
        *obj = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)n);
        return made(*obj);
    }
    *obj = py_spare_bytes(state, n);
    if (*obj == NULL) {
        *obj = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
        if (*obj == NULL) {
            return -1;
        }
        cp_mem_advise_huge(PyBytes_AS_STRING(*obj), n);
    }
    copy_bytes(PyBytes_AS_STRING(*obj), bytes, n);
    py_spare_note(state, *obj);
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
    return make_bytes(in->state, bytes, n, obj);
}

int
py_text_get_part(struct py_reader *in, PyObject **obj)
{
    unsigned tag;
    uint32_t number;
    struct cp_lease *lease;
    const uint8_t *bytes;
    uint64_t size;
    if (py_reader_get_byte(in, &tag) < 0
        || py_reader_get_number(in, &number) < 0
        || py_reader_find_part(in, number, &lease) < 0
        || py_reader_get_raw(in, sizeof(size), &bytes) < 0) {
        return CP_EPROTO;
    }
    memcpy(&size, bytes, sizeof(size));
    bool is_str = tag >= TAG_ASCII && tag <= TAG_UCS4;
    size_t width = is_str ? kind_of(tag).width : 1;
    if ((!is_str && tag != TAG_BYTES && tag != TAG_BYTEARRAY
         && tag != TAG_BUFFER)
        || lease->len < LARGE || lease->len % width != 0
        || lease->len / width != size) {
        return CP_EPROTO;
    }
    int r = 0;
    if (tag == TAG_BUFFER && py_view_is_possible(in->state, lease)) {
        *obj = py_view_new(in->state, lease);
        r = made(*obj);
    } else {
        r = is_str ? make_str(in->state, tag, lease->at, (size_t)size, obj)
            : tag == TAG_BYTES
                ? make_bytes(in->state, lease->at, lease->len, obj)
                : make_bytearray(lease->at, lease->len, obj);
    }
    return r == 0 ? py_reader_keep(in, *obj) : r;
}

int
py_text_get_bytearray(struct py_reader *in, PyObject **obj)
{
    size_t n;
    const uint8_t *bytes;
    if (py_reader_get_size(in, 1, &n) < 0
        || py_reader_get_raw(in, n, &bytes) < 0) {
        return CP_EPROTO;
    }
    int r = make_bytearray(bytes, n, obj);
    return r == 0 ? py_reader_keep(in, *obj) : r;
}

static int
get_contents(struct py_reader *in, unsigned tag, PyObject **obj)
{
    return tag == TAG_BYTES ? get_bytes(in, obj) : get_str(in, tag, obj);
}

int
py_text_get(struct py_reader *in, unsigned tag, PyObject **obj)
{
    int r = get_contents(in, tag, obj);
    return r == 0 && (in->flags & HAS_REFS) != 0
                   && bytes_of(*obj, (int)tag) >= LARGE
               ? py_reader_keep(in, *obj)
               : r;
}

/* Up to this many keys at once may be names that occur again; more are data. */
#define KNOWN_KEYS 32

int
py_text_get_keys(struct py_reader *in, size_t n, PyObject **slots)
{
    bool few = n <= KNOWN_KEYS;
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        unsigned tag;
        if (py_reader_get_byte(in, &tag) < 0) {
            return CP_EPROTO;
        }
        if (tag == TAG_REF1 || tag == TAG_REF2 || tag == TAG_REF4) {
            r = py_reader_get_ref(in, tag, &slots[i]);
        } else if (tag >= TAG_ASCII && tag <= TAG_UCS4) {
            r = few ? get_known(in, tag, in->interns, &slots[i])
                    : get_str(in, tag, &slots[i]);
            r = r == 0 ? py_reader_keep(in, slots[i]) : r;
        } else {
            r = CP_EPROTO;
        }
        if (r == 0 && !PyUnicode_CheckExact(slots[i])) {
            r = CP_EPROTO;
        }
    }
    return r;
}

int
py_text_get_column(struct py_reader *in, unsigned tag, size_t n,
                   PyObject **slots, size_t stride)
{
    int (*get)(struct py_reader *, unsigned, PyObject **) =
        (in->flags & HAS_REFS) != 0 ? py_text_get : get_contents;
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        r = get(in, tag, &slots[i * stride]);
    }
    return r;
}
