/*
 * Decode arbitrary bytes. Decoding must not crash, must not allocate more than
 * the bytes can fill, and must fail with a code and no exception; or with an
 * exception, where the bytes may call code. A decoded value must survive another
 * round trip: as a value, as a run, and as the rows of a run.
 *
 * A name in the bytes stands for one of a few harmless classes and functions:
 * value/named.c, which would import anything, is replaced here, and so is numpy.
 * Each body comes with the same few parts.
 */
#include "base/word.h"
#include "value/decoder.h"
#include "value/encoder.h"
#include "value/named.h"
#include "value/reducers.h"
#include "value/replaced.h"
#include "value/text.h"

#include "core/share/loan.h"

#include "fuzz.h"
#include "numpy.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct py_state state;

/* What names stand for. */
static const char SOURCE[] =
    "import collections\n"
    "import enum\n"
    "class Plain: pass\n"
    "class Slots: __slots__ = 'a', 'b'\n"
    "class State(Plain):\n"
    "    def __getstate__(self): return vars(self).get('state', 1)\n"
    "    def __setstate__(self, state): self.state = state\n"
    "class Items(list): pass\n"
    "class Table(dict): pass\n"
    "class Row(tuple): pass\n"
    "class Hidden(Plain):\n"
    "    def __getattr__(self, name): raise AttributeError(name)\n"
    "def pair(*args): return args\n"
    "def fail(*args): raise KeyError(args)\n"
    "def slotnames(cls): return ['a', 'b'] if cls is Slots else []\n"
    "Two = collections.namedtuple('Two', 'a b')\n"
    "def new(n): return collections.namedtuple('N', "
    "[f'f{i}' for i in range(n)]).__new__.__code__\n"
    "class Color(enum.Enum): RED = 1; BLUE = 'b'; LIST = [1]\n"
    "Meta = enum.EnumMeta\n"
    "reduce, new_member = Color.__reduce_ex__, enum.Enum.__new__\n"
    "call_meta = Meta.__call__\n"
    "def code(self): pass\n"
    "named = [Plain, Slots, State, Items, Table, Row, Hidden, pair, fail,"
    " list, dict, set, frozenset, complex, tuple, object, Two, Color]\n";
static PyObject *named; /* the list */

/* The parts of each body: the bytes of a few small arrays or of a text. */
static const size_t part_sizes[] = {64, 240, 24, 7, 0};
#define PARTS (sizeof(part_sizes) / sizeof(part_sizes[0]))
static struct cp_loan *loan;

static void
make_loan(void)
{
    loan = calloc(1, sizeof(*loan) + PARTS * sizeof(*loan->leases));
    FUZZ_CHECK(loan != NULL);
    for (; loan->n < PARTS; loan->n++) {
        size_t size = part_sizes[loan->n];
        uint8_t *bytes = malloc(size > 0 ? size : 1);
        FUZZ_CHECK(bytes != NULL);
        memset(bytes, 'a', size);
        struct cp_sheet *sheet = cp_sheet_of_take(bytes, size);
        FUZZ_CHECK(sheet != NULL
                   && cp_lease_on(sheet, 0, size, &loan->leases[loan->n]) == 0);
        cp_sheet_unref(sheet);
    }
}

int
py_replaced_check(struct py_state *Py_UNUSED(unused))
{
    return 0;
}

int
py_named_get(struct py_reader *in, PyObject **obj)
{
    PyObject *name = NULL;
    unsigned tag;
    size_t number;
    if ((in->flags & HAS_CODE) == 0) {
        return CP_EPROTO;
    }
    if (py_reader_number(in, 1, &number) < 0) {
        return -1;
    }
    if (py_reader_get_byte(in, &tag) < 0 || tag != TAG_ASCII
        || py_text_get(in, tag, &name) != 0) {
        Py_XDECREF(name);
        return CP_EPROTO;
    }
    Py_ssize_t n = PyUnicode_GET_LENGTH(name);
    Py_DECREF(name);
    if (n >= PyList_GET_SIZE(named)) {
        return CP_EPROTO;
    }
    *obj = Py_NewRef(PyList_GET_ITEM(named, n));
    py_reader_set(in, number, *obj);
    return 0;
}

int
py_named_put(struct py_writer *w, PyObject *obj, PyObject *Py_UNUSED(name))
{
    Py_ssize_t at = PySequence_Index(named, obj);
    if (at < 0) {
        PyErr_Clear();
        return 0;
    }
    PyObject *text = PyUnicode_New(at, 127);
    FUZZ_CHECK(text != NULL && py_writer_reserve(w, 1) == 1);
    memset(PyUnicode_DATA(text), 'x', (size_t)at);
    py_writer_add_byte(w, TAG_NAME);
    w->flags |= HAS_CODE;
    int r = py_text_put(w, text, TAG_ASCII);
    Py_DECREF(text);
    return r;
}

int
py_named_put_class(struct py_writer *w, PyTypeObject *cls,
                   struct py_class_name *Py_UNUSED(known))
{
    return py_named_put(w, (PyObject *)cls, NULL);
}

/* Only classes of the standard library are looked for. */
PyObject *
py_named_find(struct py_state *Py_UNUSED(unused), PyObject *module_name,
              PyObject *name)
{
    PyObject *module = PyImport_Import(module_name);
    PyObject *found = module != NULL ? PyObject_GetAttr(module, name) : NULL;
    Py_XDECREF(module);
    return found;
}

void
py_named_forget(struct py_class_name *Py_UNUSED(known))
{
}

static void
make_state(void)
{
    PyObject *module = PyImport_AddModule("__main__");
    FUZZ_CHECK(PyRun_SimpleString(SOURCE) == 0);
    numpy_install();
    make_loan();
    named = PyObject_GetAttrString(module, "named");
    state.slotnames = PyObject_GetAttrString(module, "slotnames");
    state.enum_type = PyObject_GetAttrString(module, "Meta");
    state.enum_reduce = PyObject_GetAttrString(module, "reduce");
    state.enum_new = PyObject_GetAttrString(module, "new_member");
    state.enum_call = PyObject_GetAttrString(module, "call_meta");
    PyObject *function = PyObject_GetAttrString(module, "code");
    state.named_tuple_code = PyFunction_GetCode(function);
    state.named_tuple_new = PyObject_GetAttrString(module, "new");
    state.extra_reducers = PyDict_New();
    state.copyreg_table = PyDict_New();
    FUZZ_CHECK(py_word_add(&state) == 0);
    FUZZ_CHECK(py_reducers_add(module, &state) == 0);
}

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
    make_state();
    return 0;
}

/* How much of two graphs is compared: they may have cycles. */
static int to_compare;

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

/* Same type, and equal bit for bit. Of other objects the type has to do. */
static bool
same(PyObject *one, PyObject *two)
{
    if (Py_TYPE(one) != Py_TYPE(two)) {
        return false;
    }
    if (to_compare-- <= 0) {
        return true;
    }
    if (PyTuple_CheckExact(one) || PyList_CheckExact(one)) {
        return same_items(one, two);
    }
    if (PyAnySet_Check(one)) {
        return PySet_GET_SIZE(one) == PySet_GET_SIZE(two);
    }
    if (PyDict_CheckExact(one)) {
        PyObject *a = PyDict_Items(one), *b = PyDict_Items(two);
        bool r = same_items(a, b);
        Py_DECREF(a);
        Py_DECREF(b);
        return r;
    }
    if (Py_IS_TYPE(one, numpy_array_type)) {
        return numpy_same(one, two);
    }
    if (PyFloat_Check(one)) {
        double a = PyFloat_AS_DOUBLE(one), b = PyFloat_AS_DOUBLE(two);
        return memcmp(&a, &b, sizeof(a)) == 0;
    }
    bool plain = PyLong_CheckExact(one) || PyUnicode_CheckExact(one)
                 || PyBytes_CheckExact(one) || PyByteArray_CheckExact(one)
                 || one == Py_None || PyBool_Check(one);
    return !plain || PyObject_RichCompareBool(one, two, Py_EQ) == 1;
}

/* 1 if encoded, 0 if the value is left to pickle. */
static int
encode(struct cp_buf *buf, PyObject *obj)
{
    if (!PyList_CheckExact(obj)) {
        return py_encode(&state, buf, obj, NULL);
    }
    PyObject *items = PyList_AsTuple(obj);
    FUZZ_CHECK(items != NULL);
    int r = py_encode_run(&state, buf, ((PyTupleObject *)items)->ob_item,
                          PyTuple_GET_SIZE(items), NULL);
    Py_DECREF(items);
    return r;
}

static void
check_round_trip(PyObject *obj)
{
    struct cp_buf buf = {0};
    int r = encode(&buf, obj);
    FUZZ_CHECK(r == 0 || r == 1 || (r == -1 && PyErr_Occurred() != NULL));
    PyErr_Clear(); /* an object of the bytes that cannot be reduced */
    if (r == 1) {
        PyObject *again;
        FUZZ_CHECK(py_decode_owns(cp_buf_head(&buf), cp_buf_len(&buf)));
        r = py_decode(&state, cp_buf_head(&buf), cp_buf_len(&buf), NULL,
                      &again);
        FUZZ_CHECK(
            r == 0
            || (r == -1 && PyErr_Occurred() != NULL
                && py_decode_runs_code(cp_buf_head(&buf), cp_buf_len(&buf))));
        PyErr_Clear();
        to_compare = 10000;
        FUZZ_CHECK(r != 0 || same(obj, again));
        Py_XDECREF(again);
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
    int r = rows ? py_decode_rows(&state, data, size, loan, slots)
                 : py_decode_run(&state, data, size, loan, slots);
    FUZZ_CHECK((r == 0) == (list != NULL));
    PyErr_Clear();
    to_compare = 10000;
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
    int r = py_decode(&state, data, size, loan, &obj);
    bool raised = PyErr_Occurred() != NULL;
    FUZZ_CHECK((r == 0) == (obj != NULL) && (r == -1) == raised);
    FUZZ_CHECK(r == 0 || r == CP_EPROTO || py_decode_runs_code(data, size));
    PyErr_Clear();
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
