/* The decoded objects by their numbers; see value/reader.h. */
#include "value/reader.h"

int
py_reader_number(struct py_reader *in, size_t n, size_t *first)
{
    *first = in->numbered;
    if ((in->flags & HAS_REFS) == 0 || n == 0) {
        return 0;
    }
    if (n > in->cap - in->numbered) {
        size_t cap = 2 * in->cap + n + 16;
        PyObject **objects = in->objects;
        PyMem_Resize(objects, PyObject *, cap);
        if (objects == NULL) {
            (void)PyErr_NoMemory();
            return -1;
        }
        in->objects = objects;
        in->cap = cap;
    }
    memset(in->objects + in->numbered, 0, n * sizeof(*in->objects));
    in->numbered += n;
    return 0;
}

int
py_reader_get_ref(struct py_reader *in, unsigned tag, PyObject **obj)
{
    size_t width = tag == TAG_REF1 ? 1 : tag == TAG_REF2 ? 2 : 4;
    const uint8_t *bytes;
    uint32_t number = 0;
    if (py_reader_get_raw(in, width, &bytes) < 0) {
        return CP_EPROTO;
    }
#if PY_LITTLE_ENDIAN
    memcpy(&number, bytes, width);
#else
    memcpy((uint8_t *)&number + 4 - width, bytes, width);
#endif
    if (number >= in->numbered || (in->flags & HAS_REFS) == 0
        || in->objects[number] == NULL) {
        return CP_EPROTO;
    }
    *obj = Py_NewRef(in->objects[number]);
    return 0;
}

void
py_reader_fini(struct py_reader *in)
{
    for (size_t i = 0; i < in->numbered && in->objects != NULL; i++) {
        Py_XDECREF(in->objects[i]);
    }
    PyMem_Free(in->objects);
}
