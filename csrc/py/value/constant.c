/* None, False and True as bytes and back; see value/constant.h. */
#include "value/constant.h"

/* The tag; 0 if obj is none of the three. */
static unsigned
tag_of(PyObject *obj)
{
    return obj == Py_None    ? TAG_NONE
           : obj == Py_False ? TAG_FALSE
           : obj == Py_True  ? TAG_TRUE
                             : 0;
}

static PyObject *
constant_of(unsigned tag)
{
    return tag == TAG_NONE    ? Py_None
           : tag == TAG_FALSE ? Py_False
           : tag == TAG_TRUE  ? Py_True
                              : NULL;
}

int
py_constant_put(struct py_writer *w, PyObject *obj)
{
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, tag_of(obj));
    return 1;
}

int
py_constant_get(unsigned tag, PyObject **obj)
{
    *obj = Py_NewRef(constant_of(tag));
    return 0;
}

int
py_constant_put_column(struct py_writer *w, PyObject *const *items,
                       Py_ssize_t n)
{
    if (py_writer_reserve(w, 1 + (size_t)n) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_ONES);
    for (Py_ssize_t i = 0; i < n; i++) {
        unsigned tag = tag_of(items[i]);
        if (tag == 0) {
            return OTHER_KIND;
        }
        py_writer_add_byte(w, tag);
    }
    return 1;
}

int
py_constant_get_column(struct py_reader *in, size_t n, PyObject **slots,
                       size_t stride)
{
    const uint8_t *bytes;
    if (py_reader_get_raw(in, n, &bytes) < 0) {
        return CP_EPROTO;
    }
    for (size_t i = 0; i < n; i++) {
        PyObject *obj = constant_of(bytes[i]);
        if (obj == NULL) {
            return CP_EPROTO;
        }
        slots[i * stride] = Py_NewRef(obj);
    }
    return 0;
}
