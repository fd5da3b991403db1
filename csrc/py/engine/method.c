/* Methods whose usual case runs in C; see engine/method.h. */
#include "engine/method.h"

#include "base/dict.h"
#include "base/engine.h"
#include "base/error.h"
#include "base/word.h"
#include "engine/submit.h"
#include "job/lane.h"

#include <string.h>
#include <structmember.h> // PyMemberDef, before 3.12

/* func, args, kwds, callback and error_callback, as in apply_async(). */
#define CALL_ARGS 5

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    struct py_state *state;
    PyObject *slow, *kind;
    PyObject *no_args, *no_kwds; /* the defaults of apply_async() */
    PyObject *_Atomic get_loop;  /* asyncio._get_running_loop, or NULL */
    PyObject *weakrefs;
} MethodObject;

/* ---- apply_async() ---- */

/* Sort the arguments that follow `self`, all borrowed. False: they do not
 * fit. */
static bool
sort_arguments(const MethodObject *self, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames, PyObject **sorted)
{
    static const enum py_word names[CALL_ARGS] = {
        WORD_FUNC, WORD_ARGS, WORD_KWDS, WORD_CALLBACK, WORD_ERROR_CALLBACK};
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs > CALL_ARGS) {
        return false;
    }
    for (Py_ssize_t i = 0; i < CALL_ARGS; i++) {
        sorted[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t k = 0; k < nkw; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < CALL_ARGS && self->state->words[names[i]] != name) {
            i++; /* the names in a call are interned; others go to slow */
        }
        if (i == CALL_ARGS || sorted[i] != NULL) {
            return false;
        }
        sorted[i] = args[nargs + k];
    }
    if (sorted[0] == NULL) {
        return false;
    }
    PyObject *const defaults[CALL_ARGS] = {NULL, self->no_args, self->no_kwds,
                                           Py_None, Py_None};
    for (Py_ssize_t i = 1; i < CALL_ARGS; i++) {
        sorted[i] = sorted[i] != NULL ? sorted[i] : defaults[i];
    }
    return true;
}

/* The engine of a pool whose threads have been started, the helper last: a new
 * reference. NULL: there is none, without an exception. */
static PyObject *
engine_of(const MethodObject *self, PyObject *pool)
{
    PyObject *engine = PyObject_GetAttr(pool, self->state->words[WORD_ENGINE]);
    if (engine == NULL) {
        PyErr_Clear();
    } else if (!Py_IS_TYPE(engine, self->state->engine_type)
               || !atomic_load(&((EngineObject *)engine)->has_helper)) {
        Py_CLEAR(engine); /* None, or the wrapper of a serial engine */
    }
    return engine;
}

static PyObject *
apply_async(PyObject *op, PyObject *const *args, size_t nargsf,
            PyObject *kwnames)
{
    MethodObject *self = (MethodObject *)op;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    PyObject *sorted[CALL_ARGS];
    PyObject *engine = NULL;
    if (nargs > 0
        && sort_arguments(self, args + 1, nargs - 1, kwnames, sorted)) {
        engine = engine_of(self, args[0]);
    }
    if (engine == NULL) {
        return PyObject_Vectorcall(self->slow, args, nargsf, kwnames);
    }
    PyObject *const all[] = {self->kind, args[0],   sorted[0], sorted[1],
                             sorted[2],  sorted[3], sorted[4]};
    PyObject *result = py_submit_call(engine, all, 2 + CALL_ARGS);
    Py_DECREF(engine);
    return result;
}

/* ---- submit() ---- */

/* {name: value} of the keyword arguments: a new dict, or NULL. */
static PyObject *
dict_of(PyObject *const *values, PyObject *kwnames)
{
    PyObject *dict = PyDict_New();
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames) && dict != NULL; i++) {
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(kwnames, i), values[i]) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

/* The engine whose method `call` the executor's _call is: a new reference. NULL:
 * there is none, without an exception. */
static EngineObject *
engine_of_call(const MethodObject *self, PyObject *executor)
{
    PyObject *call =
        PyObject_GetAttr(executor, self->state->words[WORD_PRIVATE_CALL]);
    PyObject *engine = NULL;
    if (call != NULL && PyCFunction_CheckExact(call)) {
        engine = PyCFunction_GetSelf(call);
        if (engine != NULL && !Py_IS_TYPE(engine, self->state->engine_type)) {
            engine = NULL;
        }
        Py_XINCREF(engine);
    }
    if (call == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(call);
    return (EngineObject *)engine;
}

/* asyncio._get_running_loop: a new reference. NULL: asyncio is not imported,
 * without an exception. */
static PyObject *
loop_getter(MethodObject *self)
{
    PyObject *known = atomic_load(&self->get_loop);
    if (known != NULL) {
        return Py_NewRef(known);
    }
    PyObject *const *words = self->state->words;
    PyObject *modules = PyImport_GetModuleDict();
    PyObject *asyncio = PyDict_CheckExact(modules)
                            ? py_dict_get(modules, words[WORD_ASYNCIO_MODULE])
                            : NULL;
    PyObject *found = asyncio != NULL
                          ? PyObject_GetAttr(asyncio, words[WORD_RUNNING_LOOP])
                          : NULL;
    Py_XDECREF(asyncio);
    if (found == NULL) {
        PyErr_Clear(); /* perhaps it is just being imported */
        return NULL;
    }
    PyObject *nothing = NULL;
    if (atomic_compare_exchange_strong(&self->get_loop, &nothing, found)) {
        Py_INCREF(found);
    }
    return found;
}

/* If an event loop runs in this thread, have it poll the engine:
 * executor._submitted(loop). 0, or -1 with an exception. */
static int
tell_loop(MethodObject *self, PyObject *executor)
{
    PyObject *get_loop = loop_getter(self);
    if (get_loop == NULL) {
        return 0;
    }
    PyObject *loop = PyObject_CallNoArgs(get_loop);
    Py_DECREF(get_loop);
    PyObject *none = loop != NULL && loop != Py_None
                         ? PyObject_CallMethodOneArg(
                             executor, self->state->words[WORD_SUBMITTED], loop)
                         : Py_XNewRef(loop);
    Py_XDECREF(loop);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

/* No call was made, with or without an exception: executor._refused(exc), which
 * raises, may know a better one than ValueError. Returns NULL. */
static PyObject *
refuse(MethodObject *self, PyObject *executor)
{
    PyObject *exc = Py_NewRef(Py_None);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            Py_DECREF(exc);
            return NULL;
        }
        Py_SETREF(exc, py_error_fetch());
    }
    PyObject *none = PyObject_CallMethodOneArg(
        executor, self->state->words[WORD_REFUSED], exc);
    Py_DECREF(exc);
    Py_XDECREF(none);
    return NULL;
}

static PyObject *
submit(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    MethodObject *self = (MethodObject *)op;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    EngineObject *engine = nargs >= 2 ? engine_of_call(self, args[0]) : NULL;
    if (engine == NULL) {
        return PyObject_Vectorcall(self->slow, args, nargsf, kwnames);
    }
    bool has_kwds = kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0;
    struct py_lane_args given = {
        .items = args + 2,
        .n = nargs - 2,
        .kwds = has_kwds ? dict_of(args + nargs, kwnames) : NULL};
    PyObject *future = NULL;
    if (given.kwds != NULL || !has_kwds) {
        future = py_submit_future(engine, args[1], &given);
        if (future == NULL) {
            future = refuse(self, args[0]);
        } else if (!engine->threads && tell_loop(self, args[0]) < 0) {
            Py_CLEAR(future);
        }
    }
    Py_XDECREF(given.kwds);
    Py_DECREF(engine);
    return future;
}

/* ---- the type ---- */

static PyObject *
method_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"name", "slow", "kind", NULL};
    const char *name;
    PyObject *slow, *kind;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "sOO:Method", names, &name,
                                     &slow, &kind)) {
        return NULL;
    }
    bool submits = strcmp(name, "submit") == 0;
    if (!submits && strcmp(name, "apply_async") != 0) {
        PyErr_Format(PyExc_ValueError, "there is no fast method '%s'", name);
        return NULL;
    }
    MethodObject *self = (MethodObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = submits ? submit : apply_async;
    self->state = py_state_of_type(type);
    self->slow = Py_NewRef(slow);
    self->kind = Py_NewRef(kind);
    self->no_args = PyTuple_New(0);
    self->no_kwds = PyDict_New();
    if (self->no_args == NULL || self->no_kwds == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
method_traverse(PyObject *op, visitproc visit, void *arg)
{
    MethodObject *self = (MethodObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->slow);
    Py_VISIT(self->kind);
    Py_VISIT(self->no_args);
    Py_VISIT(self->no_kwds);
    Py_VISIT(atomic_load(&self->get_loop));
    return 0;
}

/* Keeps slow, so that it can be called until the end: slow clears itself. */
static int
method_clear(PyObject *op)
{
    MethodObject *self = (MethodObject *)op;
    Py_CLEAR(self->kind);
    Py_CLEAR(self->no_args);
    Py_CLEAR(self->no_kwds);
    PyObject *get_loop = atomic_exchange(&self->get_loop, NULL);
    Py_XDECREF(get_loop);
    return 0;
}

static void
method_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    (void)method_clear(op);
    Py_CLEAR(((MethodObject *)op)->slow);
    type->tp_free(op);
    Py_DECREF(type);
}

/* As functions do. */
static PyObject *
method_bind(PyObject *op, PyObject *instance, PyObject *Py_UNUSED(type))
{
    return instance == NULL || instance == Py_None ? Py_NewRef(op)
                                                   : PyMethod_New(op, instance);
}

/* Everything else is read from the Python method: its name, its docstring, its
 * annotations; and its class, since mock and inspect treat functions and other
 * objects differently. */
static PyObject *
method_getattro(PyObject *op, PyObject *name)
{
    static const char *const own[] = {"__get__", "__call__", "__reduce__",
                                      "__reduce_ex__"};
    MethodObject *self = (MethodObject *)op;
    if (PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0) {
        return Py_NewRef(self->slow);
    }
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(name, own[i]) == 0) {
            return PyObject_GenericGetAttr(op, name);
        }
    }
    return PyObject_GetAttr(self->slow, name);
}

/* Pickled by name, as functions are. */
static PyObject *
method_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyObject_GetAttrString(((MethodObject *)op)->slow, "__qualname__");
}

static PyObject *
method_repr(PyObject *op)
{
    return PyObject_Repr(((MethodObject *)op)->slow);
}

static PyMemberDef method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(MethodObject, vectorcall),
     READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(MethodObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef method_methods[] = {
    {"__reduce__", method_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot method_slots[] = {
    {Py_tp_new, method_new},
    {Py_tp_traverse, method_traverse},
    {Py_tp_clear, method_clear},
    {Py_tp_dealloc, method_dealloc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, method_bind},
    {Py_tp_getattro, method_getattro},
    {Py_tp_repr, method_repr},
    {Py_tp_members, method_members},
    {Py_tp_methods, method_methods},
    {0, NULL},
};

static PyType_Spec method_spec = {
    .name = "cpool._core.Method",
    .basicsize = sizeof(MethodObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = method_slots,
};

int
py_method_add_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &method_spec, NULL);
    int r = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return r;
}
