/*
 * Pickling. Making a pickler costs more than pickling a small object, so one
 * is kept and used again, its memo cleared each time; whoever finds it busy
 * (another thread, or a reducer that comes back to us) makes one for itself.
 */
#include "py_pickle.h"

#include "py_error.h"

#include <string.h>

/* Where a pickler writes to: appends to a cp_buf. */
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
                ? CP_EREMOVED
                : cp_buf_put(self->buf, view.buf, (size_t)view.len);
    Py_ssize_t n = view.len;
    PyBuffer_Release(&view);
    if (r == CP_EREMOVED) {
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

int
py_pickle_add_types(PyObject *module, struct py_state *state)
{
    state->sink_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &sink_spec, NULL);
    return state->sink_type != NULL ? 0 : -1;
}

void
py_pickler_clear(struct py_pickler *p)
{
    Py_CLEAR(p->pickler);
    Py_CLEAR(p->sink);
    Py_CLEAR(p->copyreg_seen);
    Py_CLEAR(p->extra_seen);
}

/* Give the pickler the table that ForkingPickler would have. */
static int
set_table(struct py_state *state, struct py_pickler *p)
{
    PyObject *copyreg = PyDict_Copy(state->copyreg_table);
    PyObject *extra = PyDict_Copy(state->extra_reducers);
    PyObject *table = copyreg != NULL ? PyDict_Copy(copyreg) : NULL;
    int r = -1;
    if (table != NULL && extra != NULL && PyDict_Update(table, extra) == 0
        && PyObject_SetAttr(p->pickler, state->str_dispatch_table, table)
               == 0) {
        Py_XSETREF(p->copyreg_seen, Py_NewRef(copyreg));
        Py_XSETREF(p->extra_seen, Py_NewRef(extra));
        r = 0;
    }
    Py_XDECREF(copyreg);
    Py_XDECREF(extra);
    Py_XDECREF(table);
    return r;
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
    return p->pickler != NULL ? set_table(state, p) : -1;
}

/* Reducers may be registered at any time. */
static int
refresh(struct py_state *state, struct py_pickler *p)
{
    int same =
        PyObject_RichCompareBool(p->copyreg_seen, state->copyreg_table, Py_EQ);
    if (same == 1) {
        same = PyObject_RichCompareBool(p->extra_seen, state->extra_reducers,
                                        Py_EQ);
    }
    if (same < 0) {
        return -1;
    }
    return same == 1 ? 0 : set_table(state, p);
}

static int
dump_with(struct py_state *state, struct py_pickler *p, PyObject *obj,
          struct cp_buf *out)
{
    if (p->pickler == NULL ? make_pickler(state, p) < 0
                           : refresh(state, p) < 0) {
        return -1;
    }
    SinkObject *sink = (SinkObject *)p->sink;
    size_t before = cp_buf_len(out);
    sink->buf = out;
    PyObject *none =
        PyObject_CallMethodOneArg(p->pickler, state->str_dump, obj);
    sink->buf = NULL;
    if (none == NULL) {
        /* It may be in any state: a fresh one is made next time. */
        out->end = out->start + before;
        PyObject *exc = py_error_fetch();
        py_pickler_clear(p);
        py_error_restore(exc);
        Py_DECREF(exc);
        return -1;
    }
    Py_DECREF(none);
    none = PyObject_CallMethodNoArgs(p->pickler, state->str_clear_memo);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

int
py_dumps(struct py_state *state, PyObject *obj, struct cp_buf *out)
{
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
    PyObject *view = py_pickle_view(bytes, len);
    if (view == NULL) {
        return NULL;
    }
    PyObject *obj = PyObject_CallOneArg(state->pickle_loads, view);
    if (Py_REFCNT(view) == 1) {
        Py_DECREF(view); /* nobody kept it: the usual case */
    } else {
        py_pickle_release_view(view);
    }
    return obj;
}
