/* Reducers; see value/reducers.h. */
#include "value/reducers.h"

#include "base/dict.h"

/* The reducers that ForkingPickler would find at the time of pickling: those of
 * multiprocessing first, then those of copyreg. */
typedef struct {
    PyObject_HEAD
    PyObject *extra, *copyreg; /* dicts */
    PyObject *read_only;       /* reduce_read_only(), as an object; or NULL */
    PyObject *default_reduce;  /* object.__reduce_ex__ */
} TableObject;

/*
 * We pickle with protocol 5, in which large buffers are not copied, and
 * read-only ones arrive read-only. Up to 3.13 the stdlib pickles with protocol
 * 4, in which all of them arrive writable, and tasks may write to them. From
 * 3.14 on we do the same for arrays of numpy, which are the receiver's own.
 */
static PyObject *
reduce_read_only(PyObject *Py_UNUSED(module), PyObject *obj)
{
    int protocol = 5;
    Py_buffer view;
    if (PyObject_GetBuffer(obj, &view, PyBUF_FULL) == 0) {
        PyBuffer_Release(&view);
    } else {
        PyErr_Clear(); /* or it has no buffer of this kind */
        protocol = 4;
    }
    return PyObject_CallMethod(obj, "__reduce_ex__", "i", protocol);
}

/* May its instances arrive read-only, with the protocol of the stdlib? */
static bool
may_stay_read_only(const PyTypeObject *type)
{
#if PY_VERSION_HEX < 0x030E0000
    (void)type;
    return false;
#else
    while (type != NULL && strcmp(type->tp_name, "numpy.ndarray") != 0) {
        type = type->tp_base;
    }
    return type == NULL;
#endif
}

static PyMethodDef read_only_def = {"reduce_read_only", reduce_read_only,
                                    METH_O, NULL};

/* Does the type export buffers, and send them differently in other pickle
 * protocols, so that it needs reduce_read_only()? 1, 0, or -1 with an exception. */
static int
has_buffers(const TableObject *self, PyObject *type)
{
    const PyBufferProcs *procs =
        PyType_Check(type) ? ((PyTypeObject *)type)->tp_as_buffer : NULL;
    if (procs == NULL || procs->bf_getbuffer == NULL
        || may_stay_read_only((PyTypeObject *)type)) {
        return 0;
    }
    PyObject *reduce = PyObject_GetAttrString(type, "__reduce_ex__");
    Py_XDECREF(reduce);
    return reduce == NULL ? -1 : reduce != self->default_reduce;
}

static PyObject *
find(const TableObject *self, PyObject *type)
{
    PyObject *reducer = py_dict_get(self->extra, type);
    if (reducer == NULL && !PyErr_Occurred()) {
        reducer = py_dict_get(self->copyreg, type);
    }
    if (reducer == NULL && !PyErr_Occurred() && has_buffers(self, type) > 0) {
        return Py_NewRef(self->read_only);
    }
    return reducer;
}

int
py_reducers_find(struct py_state *state, PyTypeObject *type, PyObject **reducer)
{
    *reducer = find((TableObject *)state->reducers, (PyObject *)type);
    return *reducer == NULL && PyErr_Occurred() ? -1 : 0;
}

static PyObject *
table_subscript(PyObject *op, PyObject *type)
{
    PyObject *reducer = find((TableObject *)op, type);
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
py_reducers_add(PyObject *module, struct py_state *state)
{
    PyTypeObject *type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &table_spec, NULL);
    TableObject *table =
        type != NULL ? PyObject_GC_New(TableObject, type) : NULL;
    Py_XDECREF(type);
    if (table == NULL) {
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
