/* Whether a thread has begun; see engine/begin.h. */
#include "engine/begin.h"

/* How often a waiting thread looks for signals. */
#define SIGNAL_TICK_US 100000

enum { STARTING, BEGUN, FAILED };

typedef struct {
    PyObject_HEAD
    PyObject *bootstrap, *target;
    PyThread_type_lock decided; /* locked until the outcome is known */
    _Atomic int state;
} BeginObject;

/* Record the outcome. Allocates nothing. */
static void
decide(BeginObject *self, int outcome)
{
    int starting = STARTING;
    if (atomic_compare_exchange_strong(&self->state, &starting, outcome)) {
        PyThread_release_lock(self->decided);
    }
}

static PyObject *
begin_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"bootstrap", "target", NULL};
    PyObject *bootstrap, *target;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "OO:Begin", names, &bootstrap,
                                     &target)) {
        return NULL;
    }
    BeginObject *self = (BeginObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->bootstrap = Py_NewRef(bootstrap);
    self->target = Py_NewRef(target);
    self->decided = PyThread_allocate_lock();
    if (self->decided == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    (void)PyThread_acquire_lock(self->decided, WAIT_LOCK);
    return (PyObject *)self;
}

static int
begin_traverse(PyObject *op, visitproc visit, void *arg)
{
    BeginObject *self = (BeginObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->bootstrap);
    Py_VISIT(self->target);
    return 0;
}

static int
begin_clear(PyObject *op)
{
    BeginObject *self = (BeginObject *)op;
    Py_CLEAR(self->bootstrap);
    Py_CLEAR(self->target);
    return 0;
}

static void
begin_dealloc(PyObject *op)
{
    BeginObject *self = (BeginObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)begin_clear(op);
    if (self->decided != NULL) {
        decide(self, FAILED); /* a locked lock must not be freed */
        PyThread_free_lock(self->decided);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
begin_call(PyObject *op, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwds))
{
    BeginObject *self = (BeginObject *)op;
    PyObject *bootstrap = Py_NewRef(self->bootstrap);
    PyObject *none = PyObject_CallNoArgs(bootstrap);
    Py_DECREF(bootstrap);
    if (none == NULL && atomic_load(&self->state) == BEGUN) {
        PyErr_WriteUnraisable(NULL); /* Thread has reported those of run() */
    }
    PyErr_Clear(); /* or the thread that started this one would get it */
    Py_XDECREF(none);
    decide(self, FAILED);
    Py_RETURN_NONE;
}

static PyObject *
begin_run(PyObject *op, PyObject *args, PyObject *kwds)
{
    BeginObject *self = (BeginObject *)op;
    PyObject *target = self->target;
    self->target = NULL;
    if (target == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the thread has begun already");
        return NULL;
    }
    decide(self, BEGUN);
    PyObject *value = PyObject_Call(target, args, kwds);
    Py_DECREF(target);
    return value;
}

static PyObject *
begin_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BeginObject *self = (BeginObject *)op;
    while (atomic_load(&self->state) == STARTING) {
        PyLockStatus r;
        Py_BEGIN_ALLOW_THREADS
        r = PyThread_acquire_lock_timed(self->decided, SIGNAL_TICK_US, 1);
        Py_END_ALLOW_THREADS
        if (r == PY_LOCK_ACQUIRED) {
            PyThread_release_lock(self->decided);
        } else if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    return PyBool_FromLong(atomic_load(&self->state) == BEGUN);
}

static PyMethodDef begin_methods[] = {
    {"run", (PyCFunction)(void (*)(void))begin_run,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"wait", begin_wait, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot begin_slots[] = {
    {Py_tp_new, begin_new},
    {Py_tp_traverse, begin_traverse},
    {Py_tp_clear, begin_clear},
    {Py_tp_dealloc, begin_dealloc},
    {Py_tp_call, begin_call},
    {Py_tp_methods, begin_methods},
    {0, NULL},
};

static PyType_Spec begin_spec = {
    .name = "cpool._core.Begin",
    .basicsize = sizeof(BeginObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = begin_slots,
};

int
py_begin_add_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &begin_spec, NULL);
    int r = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return r;
}
