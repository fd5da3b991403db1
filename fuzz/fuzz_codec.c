/*
 * Decode arbitrary bytes. Decoding must not crash, must not allocate more than
 * the bytes can fill, and must fail with a code and no exception. A decoded
 * value must survive another round trip: as a value, as a run, and as the rows
 * of a run.
 */
#include "value/decoder.h"
#include "value/encoder.h"

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Use malloc() for objects, so that the sanitizer sees their bounds. */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    PyPreConfig pre;
    PyPreConfig_InitIsolatedConfig(&pre);
    pre.allocator = PYMEM_ALLOCATOR_MALLOC;
    FUZZ_CHECK(!PyStatus_Exception(Py_PreInitialize(&pre)));
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    FUZZ_CHECK(!PyStatus_Exception(Py_InitializeFromConfig(&config)));
    PyConfig_Clear(&config);
    return 0;
}

static bool same(PyObject *one, PyObject *two);

static bool
same_items(PyObject *one, PyObject *two)
{
    Py_ssize_t n = PySequence_Size(one);
    bool r = n == PySequence_Size(two);
    for (Py_ssize_t i = 0; i < n && r; i++) {
        PyObject *a = PySequence_GetItem(one, i);
        PyObject *b = PySequence_GetItem(two, i);
        r = same(a, b);
        Py_DECREF(a);
        Py_DECREF(b);
    }
    return r;
}

/* Same type, and equal bit for bit. */
static bool
same(PyObject *one, PyObject *two)
{
    if (Py_TYPE(one) != Py_TYPE(two)) {
        return false;
    }
    if (PyTuple_Check(one) || PyList_Check(one)) {
        return same_items(one, two);
    }
    if (PyDict_Check(one)) {
        PyObject *a = PyDict_Items(one), *b = PyDict_Items(two);
        bool r = same_items(a, b);
        Py_DECREF(a);
        Py_DECREF(b);
        return r;
    }
    if (PyFloat_Check(one)) {
        double a = PyFloat_AS_DOUBLE(one), b = PyFloat_AS_DOUBLE(two);
        return memcmp(&a, &b, sizeof(a)) == 0;
    }
    return PyObject_RichCompareBool(one, two, Py_EQ) == 1;
}

/* 1 if encoded, 0 if the value is left to pickle. */
static int
encode(struct cp_buf *buf, PyObject *obj)
{
    if (!PyList_Check(obj)) {
        return py_encode(buf, obj);
    }
    PyObject *items = PyList_AsTuple(obj);
    FUZZ_CHECK(items != NULL);
    int r = py_encode_run(buf, ((PyTupleObject *)items)->ob_item,
                          PyTuple_GET_SIZE(items));
    Py_DECREF(items);
    return r;
}

static void
check_round_trip(PyObject *obj)
{
    struct cp_buf buf = {0};
    int r = encode(&buf, obj);
    FUZZ_CHECK(r >= 0);
    if (r == 1) {
        PyObject *again;
        FUZZ_CHECK(py_decode_owns(cp_buf_head(&buf), cp_buf_len(&buf)));
        FUZZ_CHECK(py_decode(cp_buf_head(&buf), cp_buf_len(&buf), &again) == 0);
        FUZZ_CHECK(same(obj, again));
        Py_DECREF(again);
    }
    cp_buf_fini(&buf);
}

/* Item i of the list or, with a width, item j of that item. New reference. */
static PyObject *
item_of(PyObject *list, Py_ssize_t i, Py_ssize_t width, Py_ssize_t j)
{
    PyObject *item = PySequence_GetItem(list, i);
    if (width == 0) {
        return item;
    }
    PyObject *inner = PySequence_GetItem(item, j);
    Py_DECREF(item);
    return inner;
}

/* Decoding a run into slots gives the same objects as decoding it to a list. */
static void
check_run(const uint8_t *data, size_t size, PyObject *list, bool rows)
{
    Py_ssize_t n = py_decode_run_length(data, size);
    Py_ssize_t width = rows ? py_decode_row_width(data, size) : 0;
    Py_ssize_t each = width > 0 ? width : 1;
    if (n < 0 || (rows && width == 0)) {
        FUZZ_CHECK(rows || list == NULL);
        return;
    }
    PyObject **slots = calloc((size_t)(n * each) + 1, sizeof(*slots));
    FUZZ_CHECK(slots != NULL);
    int r = rows ? py_decode_rows(data, size, slots)
                 : py_decode_run(data, size, slots);
    FUZZ_CHECK((r == 0) == (list != NULL));
    for (Py_ssize_t i = 0; i < n * each; i++) {
        if (r == 0) {
            PyObject *item = item_of(list, i / each, width, i % each);
            FUZZ_CHECK(same(slots[i], item));
            Py_DECREF(item);
        }
        Py_XDECREF(slots[i]);
    }
    free(slots);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!py_decode_owns(data, size)) {
        return 0;
    }
    PyObject *obj;
    int r = py_decode(data, size, &obj);
    FUZZ_CHECK(r == 0 || r == CP_EPROTO);
    FUZZ_CHECK(PyErr_Occurred() == NULL && (r == 0) == (obj != NULL));
    bool is_run = py_decode_run_length(data, size) >= 0;
    PyObject *list = r == 0 && is_run ? obj : NULL;
    if (r < 0 || is_run) {
        check_run(data, size, list, false);
        check_run(data, size, list, true);
    }
    if (r == 0) {
        check_round_trip(obj);
        Py_DECREF(obj);
    }
    return 0;
}
