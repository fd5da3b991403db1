/* Bytearrays on shared memory; see value/view.h. */
#include "value/view.h"

typedef struct {
    PyByteArrayObject bytes;
    /* NULL: its memory is its own. Otherwise one of the exported buffers that
     * bytes.ob_exports counts stands for the lease: code that does not know of
     * it cannot resize the object. */
    struct cp_lease *lease;
    /* What an empty bytearray had there. */
    Py_ssize_t alloc;
    char *memory, *start;
} ViewObject;

static void
set_memory(ViewObject *self, Py_ssize_t n, char *at)
{
    Py_SET_SIZE(&self->bytes, n);
    self->bytes.ob_alloc = n + 1;
    self->bytes.ob_bytes = self->bytes.ob_start = at;
    self->bytes.ob_exports = 1;
}

/* Make it an empty bytearray, without the lease. */
static void
set_empty(ViewObject *self)
{
    Py_SET_SIZE(&self->bytes, 0);
    self->bytes.ob_alloc = self->alloc;
    self->bytes.ob_bytes = self->memory;
    self->bytes.ob_start = self->start;
    self->bytes.ob_exports = 0;
}

bool
py_view_is_possible(const struct py_state *state, const struct cp_lease *lease)
{
    return state->view_type != NULL && lease->sheet == NULL
           && cp_lease_may_keep(lease)
           && lease->offset + lease->len < cp_block_size(lease->size_class);
}

PyObject *
py_view_new(struct py_state *state, struct cp_lease *lease)
{
    PyObject *none = PyTuple_New(0);
    PyObject *obj = none != NULL
                        ? PyByteArray_Type.tp_new(state->view_type, none, NULL)
                        : NULL;
    Py_XDECREF(none);
    if (obj == NULL) {
        return NULL;
    }
    ViewObject *self = (ViewObject *)obj;
    self->alloc = self->bytes.ob_alloc;
    self->memory = self->bytes.ob_bytes;
    self->start = self->bytes.ob_start;
    cp_lease_ref(lease);
    cp_lease_show(lease);
    self->lease = lease;
    set_memory(self, (Py_ssize_t)lease->len, (char *)lease->at);
    return obj;
}

/* Copy the bytes to memory of its own, in a critical section. */
static int
move_out(PyObject *op)
{
    ViewObject *self = (ViewObject *)op;
    struct cp_lease *lease = self->lease;
    Py_ssize_t n = Py_SIZE(&self->bytes);
    if (lease == NULL || self->bytes.ob_exports != 1) {
        return 0;
    }
    set_empty(self);
    if (PyByteArray_Resize(op, n) < 0) {
        set_memory(self, n, (char *)lease->at);
        return -1;
    }
    memcpy(PyByteArray_AS_STRING(op), lease->at, (size_t)n);
    self->lease = NULL;
    cp_lease_close(lease);
    return 0;
}

/* The size is about to change: copy the bytes to memory of its own. If a buffer
 * is exported, a bytearray raises the error. Without the GIL, two threads may
 * do so at once. 0, or -1 with an exception. */
static int
own(PyObject *op)
{
    int r;
    Py_BEGIN_CRITICAL_SECTION(op);
    r = move_out(op);
    Py_END_CRITICAL_SECTION();
    return r;
}

static void
view_dealloc(PyObject *op)
{
    ViewObject *self = (ViewObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->lease != NULL) {
        set_empty(self);
        cp_lease_close(self->lease);
        self->lease = NULL;
    }
    PyByteArray_Type.tp_dealloc(op);
    Py_DECREF(type);
}

static int
view_init(PyObject *op, PyObject *args, PyObject *kwds)
{
    return own(op) < 0 ? -1 : PyByteArray_Type.tp_init(op, args, kwds);
}

static int
view_set_item(PyObject *op, Py_ssize_t i, PyObject *value)
{
    if (value == NULL && own(op) < 0) {
        return -1;
    }
    return PyByteArray_Type.tp_as_sequence->sq_ass_item(op, i, value);
}

static int
view_set(PyObject *op, PyObject *key, PyObject *value)
{
    objobjargproc set = PyByteArray_Type.tp_as_mapping->mp_ass_subscript;
    bool keeps_size = value != NULL && PyIndex_Check(key);
    if (!keeps_size && value != NULL && PyObject_CheckBuffer(value)) {
        int r = set(op, key, value);
        if (r == 0 || !PyErr_ExceptionMatches(PyExc_BufferError)) {
            return r;
        }
        /* It has another size, and nothing is changed yet. The lease may be all
         * that is in the way, also if another thread has just closed it. */
        PyErr_Clear();
    }
    return !keeps_size && own(op) < 0 ? -1 : set(op, key, value);
}

static PyObject *
view_add(PyObject *op, PyObject *other)
{
    return own(op) < 0
               ? NULL
               : PyByteArray_Type.tp_as_sequence->sq_inplace_concat(op, other);
}

static PyObject *
view_repeat(PyObject *op, Py_ssize_t n)
{
    return own(op) < 0
               ? NULL
               : PyByteArray_Type.tp_as_sequence->sq_inplace_repeat(op, n);
}

/* Call the method of bytearray. */
static PyObject *
call(PyObject *op, const char *name, PyObject *args, PyObject *kwds)
{
    PyObject *self = own(op) == 0 ? PyTuple_Pack(1, op) : NULL;
    PyObject *all = self != NULL ? PySequence_Concat(self, args) : NULL;
    PyObject *method = all != NULL ? PyObject_GetAttrString(
                           (PyObject *)&PyByteArray_Type, name)
                                   : NULL;
    PyObject *result = method != NULL ? PyObject_Call(method, all, kwds) : NULL;
    Py_XDECREF(method);
    Py_XDECREF(all);
    Py_XDECREF(self);
    return result;
}

static PyObject *
view_append(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "append", args, kwds);
}

static PyObject *
view_clear(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "clear", args, kwds);
}

static PyObject *
view_extend(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "extend", args, kwds);
}

static PyObject *
view_insert(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "insert", args, kwds);
}

static PyObject *
view_pop(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "pop", args, kwds);
}

static PyObject *
view_remove(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "remove", args, kwds);
}

#if PY_VERSION_HEX >= 0x030E0000
static PyObject *
view_resize(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "resize", args, kwds);
}
#endif

#if PY_VERSION_HEX >= 0x030F0000
static PyObject *
view_take_bytes(PyObject *op, PyObject *args, PyObject *kwds)
{
    return call(op, "take_bytes", args, kwds);
}
#endif

/* As a bytearray. Without the GIL, another thread may move the bytes out. */
static PyObject *
view_reduce(PyObject *op, PyObject *Py_UNUSED(protocol))
{
    PyObject *bytes;
    Py_BEGIN_CRITICAL_SECTION(op);
    bytes = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(op),
                                      PyByteArray_GET_SIZE(op));
    Py_END_CRITICAL_SECTION();
    return Py_BuildValue("(O(N))", (PyObject *)&PyByteArray_Type, bytes);
}

static PyMethodDef view_methods[] = {
    {"append", (PyCFunction)(void (*)(void))view_append,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"clear", (PyCFunction)(void (*)(void))view_clear,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"extend", (PyCFunction)(void (*)(void))view_extend,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"insert", (PyCFunction)(void (*)(void))view_insert,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"pop", (PyCFunction)(void (*)(void))view_pop, METH_VARARGS | METH_KEYWORDS,
     NULL},
    {"remove", (PyCFunction)(void (*)(void))view_remove,
     METH_VARARGS | METH_KEYWORDS, NULL},
#if PY_VERSION_HEX >= 0x030E0000
    {"resize", (PyCFunction)(void (*)(void))view_resize,
     METH_VARARGS | METH_KEYWORDS, NULL},
#endif
#if PY_VERSION_HEX >= 0x030F0000
    {"take_bytes", (PyCFunction)(void (*)(void))view_take_bytes,
     METH_VARARGS | METH_KEYWORDS, NULL},
#endif
    {"__reduce__", view_reduce, METH_NOARGS, NULL},
    {"__reduce_ex__", view_reduce, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_dealloc, view_dealloc},       {Py_tp_init, view_init},
    {Py_tp_methods, view_methods},       {Py_sq_ass_item, view_set_item},
    {Py_mp_ass_subscript, view_set},     {Py_sq_inplace_concat, view_add},
    {Py_sq_inplace_repeat, view_repeat}, {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "cpool._core.bytearray", /* for repr() */
    .basicsize = sizeof(ViewObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = view_slots,
};

int
py_view_add_type(PyObject *module, struct py_state *state)
{
    PyObject *bases = PyTuple_Pack(1, (PyObject *)&PyByteArray_Type);
    state->view_type = bases != NULL ? (PyTypeObject *)PyType_FromModuleAndSpec(
                           module, &view_spec, bases)
                                     : NULL;
    Py_XDECREF(bases);
    return state->view_type != NULL ? 0 : -1;
}
