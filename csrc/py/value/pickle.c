/*
 * Pickling; see value/pickle.h. Making a pickler costs more than pickling a
 * small object, so one pickler is kept and used again, with its memo cleared
 * each time. A caller that finds the kept pickler busy (another thread, or a
 * reducer that pickles) makes its own.
 *
 * Clearing the memo takes time in proportion to the largest pickle that was
 * made, so a pickler is not kept after a large pickle.
 */
#include "value/pickle.h"

#include "base/error.h"
#include "base/imports.h"
#include "value/replaced.h"

/* A pickler is kept after pickles of up to this size. */
#define KEEP_PICKLER CP_KIB(4)

/* The file that a pickler writes to: appends to a cp_buf. */
typedef struct {
    PyObject_HEAD
    struct cp_buf *buf; /* borrowed, during one dump */
} SinkObject;

static PyObject *
sink_write(PyObject *op, PyObject *data)
{
    SinkObject *self = (SinkObject *)op;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int r = self->buf == NULL
                ? CP_ECLOSED
                : cp_buf_put(self->buf, view.buf, (size_t)view.len);
    Py_ssize_t n = view.len;
    PyBuffer_Release(&view);
    if (r == CP_ECLOSED) {
        PyErr_SetString(PyExc_ValueError, "the pickle is already complete");
        return NULL;
    }
    return r == 0 ? PyLong_FromSsize_t(n) : PyErr_NoMemory();
}

static void
sink_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef sink_methods[] = {
    {"write", sink_write, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sink_slots[] = {
    {Py_tp_dealloc, sink_dealloc},
    {Py_tp_methods, sink_methods},
    {0, NULL},
};

static PyType_Spec sink_spec = {
    .name = "cpool._core._Sink",
    .basicsize = sizeof(SinkObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sink_slots,
};

/* The reducers that ForkingPickler would find at the time of pickling: those of
 * multiprocessing first, then those of copyreg. */
typedef struct {
    PyObject_HEAD
    PyObject *extra, *copyreg; /* dicts */
    PyObject *read_only;       /* reduce_read_only(), as an object; or NULL */
    PyObject *default_reduce;  /* object.__reduce_ex__ */
} TableObject;

/* A new reference, or NULL: with an exception, or without where there is no
 * such key. */
static PyObject *
look_up(PyObject *dict, PyObject *key)
{
    PyObject *value;
#if PY_VERSION_HEX >= 0x030D0000
    (void)PyDict_GetItemRef(dict, key, &value);
#else
    value = PyDict_GetItemWithError(dict, key); /* lint-ok: held below */
    Py_XINCREF(value);
#endif
    return value;
}

/*
 * We pickle by protocol 5, in which large buffers are not copied: read-only ones
 * arrive read-only. Up to 3.13 the stdlib pickles by protocol 4: all of them
 * arrive writable, and tasks write to them.
 */
#if PY_VERSION_HEX < 0x030E0000
#    define STDLIB_PROTOCOL 4
#else
#    define STDLIB_PROTOCOL 5
#endif

static PyObject *
reduce_read_only(PyObject *Py_UNUSED(module), PyObject *obj)
{
    int protocol = 5;
    Py_buffer view;
    if (PyObject_GetBuffer(obj, &view, PyBUF_FULL) == 0) {
        PyBuffer_Release(&view);
    } else {
        PyErr_Clear(); /* it may also have no buffer of this kind */
        protocol = STDLIB_PROTOCOL;
    }
    return PyObject_CallMethod(obj, "__reduce_ex__", "i", protocol);
}

static PyMethodDef read_only_def = {"reduce_read_only", reduce_read_only,
                                    METH_O, NULL};

/* Does the type export buffers, and pickle otherwise by other protocols? 1, 0,
 * or -1 with an exception. */
static int
has_buffers(const TableObject *self, PyObject *type)
{
    const PyBufferProcs *procs =
        PyType_Check(type) ? ((PyTypeObject *)type)->tp_as_buffer : NULL;
    if (STDLIB_PROTOCOL == 5 || procs == NULL || procs->bf_getbuffer == NULL) {
        return 0;
    }
    PyObject *reduce = PyObject_GetAttrString(type, "__reduce_ex__");
    Py_XDECREF(reduce);
    return reduce == NULL ? -1 : reduce != self->default_reduce;
}

static PyObject *
table_subscript(PyObject *op, PyObject *type)
{
    TableObject *self = (TableObject *)op;
    PyObject *reducer = look_up(self->extra, type);
    if (reducer == NULL && !PyErr_Occurred()) {
        reducer = look_up(self->copyreg, type);
    }
    if (reducer == NULL && !PyErr_Occurred() && has_buffers(self, type) > 0) {
        return Py_NewRef(self->read_only);
    }
    if (reducer == NULL && !PyErr_Occurred()) {
        PyErr_SetObject(PyExc_KeyError, type);
    }
    return reducer;
}

static int
table_traverse(PyObject *op, visitproc visit, void *arg)
{
    TableObject *self = (TableObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->extra);
    Py_VISIT(self->copyreg);
    Py_VISIT(self->read_only);
    Py_VISIT(self->default_reduce);
    return 0;
}

static int
table_clear(PyObject *op)
{
    TableObject *self = (TableObject *)op;
    Py_CLEAR(self->extra);
    Py_CLEAR(self->copyreg);
    Py_CLEAR(self->read_only);
    Py_CLEAR(self->default_reduce);
    return 0;
}

static void
table_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)table_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot table_slots[] = {
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_traverse, table_traverse},
    {Py_tp_clear, table_clear},
    {Py_mp_subscript, table_subscript},
    {0, NULL},
};

static PyType_Spec table_spec = {
    .name = "cpool._core._Table",
    .basicsize = sizeof(TableObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = table_slots,
};

int
py_pickle_add_types(PyObject *module, struct py_state *state)
{
    state->sink_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &sink_spec, NULL);
    PyTypeObject *type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &table_spec, NULL);
    TableObject *table =
        type != NULL ? PyObject_GC_New(TableObject, type) : NULL;
    Py_XDECREF(type);
    if (table == NULL || state->sink_type == NULL) {
        Py_XDECREF(table);
        return -1;
    }
    table->extra = Py_NewRef(state->extra_reducers);
    table->copyreg = Py_NewRef(state->copyreg_table);
    table->read_only = PyCFunction_New(&read_only_def, NULL);
    table->default_reduce =
        PyObject_GetAttrString((PyObject *)&PyBaseObject_Type, "__reduce_ex__");
    PyObject_GC_Track(table);
    state->reducers = (PyObject *)table;
    return table->read_only != NULL && table->default_reduce != NULL ? 0 : -1;
}

void
py_pickler_clear(struct py_pickler *p)
{
    Py_CLEAR(p->pickler);
    Py_CLEAR(p->sink);
}

static int
make_pickler(struct py_state *state, struct py_pickler *p)
{
    SinkObject *sink = PyObject_New(SinkObject, state->sink_type);
    if (sink == NULL) {
        return -1;
    }
    sink->buf = NULL;
    p->sink = (PyObject *)sink;
    p->pickler = PyObject_CallFunction(state->pickler_class, "Oi", p->sink, 5);
    return p->pickler == NULL
                   || PyObject_SetAttr(p->pickler, state->str_dispatch_table,
                                       state->reducers)
                          < 0
               ? -1
               : 0;
}

static int
dump_with(struct py_state *state, struct py_pickler *p, PyObject *obj,
          struct cp_buf *out)
{
    if (p->pickler == NULL && make_pickler(state, p) < 0) {
        py_pickler_clear(p);
        return -1;
    }
    SinkObject *sink = (SinkObject *)p->sink;
    size_t before = cp_buf_len(out);
    sink->buf = out;
    PyObject *none =
        PyObject_CallMethodOneArg(p->pickler, state->str_dump, obj);
    sink->buf = NULL;
    if (none == NULL) {
        /* The pickler may be in any state: drop it. */
        out->end = out->start + before;
        PyObject *exc = py_error_fetch();
        py_pickler_clear(p);
        py_error_restore(exc);
        Py_DECREF(exc);
        return -1;
    }
    Py_DECREF(none);
    if (cp_buf_len(out) - before > KEEP_PICKLER) {
        py_pickler_clear(p);
        return 0;
    }
    none = PyObject_CallMethodNoArgs(p->pickler, state->str_clear_memo);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

static int
dump(struct py_state *state, PyObject *obj, struct cp_buf *out)
{
    if (py_replaced_check(state) < 0) {
        return -1;
    }
    if (atomic_load(&state->replaced)) {
        return py_replaced_dumps(state, obj, out);
    }
    int expected = 0;
    struct py_pickler *kept = &state->pickler;
    if (__atomic_compare_exchange_n(&kept->busy, &expected, 1, 0,
                                    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        int r = dump_with(state, kept, obj, out);
        __atomic_store_n(&kept->busy, 0, __ATOMIC_RELEASE);
        return r;
    }
    struct py_pickler own = {0};
    int r = dump_with(state, &own, obj, out);
    py_pickler_clear(&own);
    return r;
}

int
py_dumps(struct py_state *state, PyObject *obj, struct cp_buf *out)
{
    py_imports_begin();
    int r = dump(state, obj, out);
    if (r < 0 && py_imports_try_again()) {
        r = dump(state, obj, out);
        py_imports_end();
    }
    return r;
}

PyObject *
py_pickle_view(const uint8_t *bytes, size_t len)
{
    return PyMemoryView_FromMemory((char *)(uintptr_t)bytes, (Py_ssize_t)len,
                                   PyBUF_READ);
}

void
py_pickle_release_view(PyObject *view)
{
    /* Unpickling may have failed: keep its exception. */
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    PyObject *none = PyObject_CallMethod(view, "release", NULL);
    if (none == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(none);
    Py_DECREF(view);
    PyErr_Restore(type, value, tb);
}

PyObject *
py_loads(struct py_state *state, const uint8_t *bytes, size_t len)
{
    PyObject *view =
        py_replaced_check(state) == 0 ? py_pickle_view(bytes, len) : NULL;
    if (view == NULL) {
        return NULL;
    }
    py_imports_begin();
    PyObject *obj = PyObject_CallOneArg(state->pickle_loads, view);
    if (obj == NULL && py_imports_try_again()) {
        obj = PyObject_CallOneArg(state->pickle_loads, view);
        py_imports_end();
    }
    if (Py_REFCNT(view) == 1) {
        Py_DECREF(view); /* no code kept the view: the usual case */
    } else {
        py_pickle_release_view(view);
    }
    return obj;
}
