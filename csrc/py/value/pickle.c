/*
 * Pickling; see value/pickle.h. Making a pickler costs more than pickling a
 * small object, so one pickler is kept and reused, with its memo cleared each
 * time. A caller that finds the kept pickler in use (by another thread, or by a
 * reducer that pickles) makes its own.
 *
 * Clearing the memo takes time in proportion to the largest pickle so far, so a
 * pickler is not kept after a large pickle.
 */
#include "value/pickle.h"

#include "base/error.h"
#include "base/imports.h"
#include "value/reducers.h"
#include "value/replaced.h"
#include "value/uses.h"

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

int
py_pickle_add_types(PyObject *module, struct py_state *state)
{
    state->sink_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &sink_spec, NULL);
    return state->sink_type != NULL ? py_reducers_add(module, state) : -1;
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
    struct py_uses before = py_uses_begin(out->parts, NULL);
    py_imports_begin();
    int r = dump(state, obj, out);
    if (r < 0 && py_imports_try_again()) {
        r = dump(state, obj, out);
        py_imports_end();
    }
    py_uses_end(before);
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
