/* Objects that are shared; see engine/share.h. */
#include "engine/share.h"

#include "base/error.h"
#include "engine/kept.h"
#include "value/body.h"
#include "value/uses.h"

#include "core/link/wire.h"
#include "core/pool/pool.h"

typedef struct {
    PyObject_HEAD
    EngineObject *engine;
    PyObject *handles;        /* of shared objects within the object, a list */
    struct cp_func *func;     /* in the pool; NULL: closed */
    struct cp_sealed *sealed; /* the object; NULL: closed */
    unsigned long number;     /* its slot in the pool; written once */
    bool is_closing;          /* only calls that are kept may still use it */
    struct py_kept_end end;   /* closes it when these are encoded */
} ShareObject;

static PyObject *
raise_closed(void)
{
    PyErr_SetString(PyExc_ValueError, "the shared object is closed");
    return NULL;
}

static int64_t
use(PyObject *op, PyObject *handle)
{
    ShareObject *self = (ShareObject *)op;
    struct cp_pool *pool = self->engine->pool;
    const struct py_uses *uses = py_uses_now();
    if (uses->parts == NULL || uses->parts->pool != pool) {
        PyErr_SetString(PyExc_ValueError,
                        uses->parts == NULL
                            ? "what Pool.share() returns can only be given to "
                              "tasks of its pool: it cannot be pickled"
                            : "this was made by share() of another pool: each "
                              "pool needs a share() of its own");
        return -1;
    }
    int r = CP_ECLOSED;
    Py_BEGIN_CRITICAL_SECTION(op); /* another thread may close it */
    if (self->func != NULL
        && (!self->is_closing || py_kept_is_caller(self->engine))) {
        r = cp_func_use(pool, self->func, uses->parts);
    }
    Py_END_CRITICAL_SECTION();
    if (r != 0) {
        (void)(r == CP_ECLOSED ? raise_closed()
                               : py_raise(self->engine->state, r));
        return -1;
    }
    if (uses->handles != NULL && PyList_Append(uses->handles, handle) < 0) {
        return -1;
    }
    return (int64_t)self->number;
}

/* use(handle): the handle occurs in the body that this thread encodes. Returns
 * the callable and the arguments that become the object in a worker. For
 * pickle; the encoder calls use() itself, once it knows the class. */
static PyObject *
share_use(PyObject *op, PyObject *handle)
{
    struct py_state *state = ((ShareObject *)op)->engine->state;
    int64_t number = use(op, handle);
    PyTypeObject *none = NULL;
    if (number < 0) {
        return NULL;
    }
    if (atomic_load(&state->handle_type) == NULL) {
        PyTypeObject *type = (PyTypeObject *)Py_NewRef(Py_TYPE(handle));
        if (!atomic_compare_exchange_strong(&state->handle_type, &none, type)) {
            Py_DECREF(type); /* another thread was faster */
        }
    }
    return Py_BuildValue("(O(L))", state->shared, (long long)number);
}

/* The object in shared memory: a new reference; NULL: it is closed. */
static struct cp_sealed *
sealed_of(ShareObject *self)
{
    struct cp_sealed *sealed;
    Py_BEGIN_CRITICAL_SECTION(self);
    sealed = self->sealed;
    if (sealed != NULL) {
        cp_sealed_ref(sealed);
    }
    Py_END_CRITICAL_SECTION();
    return sealed;
}

/* load(): decode a new object, as each worker does. */
static PyObject *
share_load(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ShareObject *self = (ShareObject *)op;
    struct cp_sealed *sealed = sealed_of(self);
    if (sealed == NULL) {
        return raise_closed();
    }
    PyObject *handles = Py_NewRef(self->handles);
    struct py_uses before = py_uses_begin(NULL, handles);
    PyObject *obj = py_body_of_sealed(self->engine->state, sealed);
    py_uses_end(before);
    cp_sealed_unref(sealed);
    Py_DECREF(handles);
    return obj;
}

static void
close_share(ShareObject *self)
{
    struct cp_func *func;
    struct cp_sealed *sealed;
    Py_BEGIN_CRITICAL_SECTION(self);
    func = self->func;
    sealed = self->sealed;
    self->func = NULL;
    self->sealed = NULL;
    Py_END_CRITICAL_SECTION();
    if (func != NULL && cp_pool_is_ours(self->engine->pool)) {
        cp_share_close_take(self->engine->pool, func);
    }
    cp_sealed_unref(sealed);
}

static void
close_later(struct py_kept_end *end)
{
    ShareObject *self =
        (ShareObject *)((char *)end - offsetof(ShareObject, end));
    close_share(self);
    Py_DECREF(self);
}

/* close(): no new call may use the object. */
static PyObject *
share_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ShareObject *self = (ShareObject *)op;
    bool begins;
    Py_BEGIN_CRITICAL_SECTION(op);
    begins = !self->is_closing;
    self->is_closing = true;
    Py_END_CRITICAL_SECTION();
    if (begins) {
        Py_INCREF(op);
        if (!cp_pool_is_ours(self->engine->pool)
            || !py_kept_defer(self->engine, &self->end)) {
            close_later(&self->end);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
share_number(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((ShareObject *)op)->number);
}

static PyObject *
share_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    struct cp_sealed *sealed = sealed_of((ShareObject *)op);
    unsigned long long n = sealed != NULL ? cp_sealed_size(sealed) : 0;
    cp_sealed_unref(sealed);
    return PyLong_FromUnsignedLongLong(n);
}

static PyObject *
share_fd(PyObject *op, void *Py_UNUSED(closure))
{
    struct cp_sealed *sealed = sealed_of((ShareObject *)op);
    int fd = sealed != NULL ? cp_sealed_fd(sealed) : -1;
    cp_sealed_unref(sealed);
    return PyLong_FromLong(fd);
}

/* Encode the object into these parts, which go to a sealed file. Most bytes are
 * written afterwards, while other threads may run. 0, a code of the core, or -1
 * with an exception. */
static int
write_object(EngineObject *engine, PyObject *obj, struct cp_parts *parts,
             PyObject *handles)
{
    struct cp_buf body = {.parts = parts};
    PyObject *owners =
        cp_sealed_has_file(parts->sealed) ? PyList_New(0) : Py_NewRef(Py_None);
    if (owners == NULL) {
        return -1;
    }
    struct py_uses before =
        py_uses_begin_late(parts, handles, owners != Py_None ? owners : NULL);
    int r = py_body_put(engine->state, obj, &body, NULL);
    py_uses_end(before);
    if (r == 0) {
        Py_BEGIN_ALLOW_THREADS
        r = cp_sealed_write(parts->sealed);
        Py_END_ALLOW_THREADS
    }
    Py_DECREF(owners);
    if (r == 0) {
        r = cp_sealed_end(parts->sealed, cp_buf_head(&body), cp_buf_len(&body));
    }
    cp_buf_fini(&body);
    return r;
}

/* Write the object, and fill self. Returns as write_object(). */
static int
fill(ShareObject *self, PyObject *obj)
{
    EngineObject *engine = self->engine;
    struct cp_parts parts = {.pool = engine->pool};
    int r = cp_sealed_begin(cp_pool_region(engine->pool), &parts.sealed);
    r = r == 0 ? write_object(engine, obj, &parts, self->handles) : r;
    if (r == 0) {
        self->sealed = parts.sealed;
        cp_sealed_ref(self->sealed);
        self->func =
            cp_func_open_sealed(engine->pool, &parts, NULL, 0, CP_SHARED);
        r = self->func != NULL ? 0 : CP_ENOMEM;
        self->number = r == 0 ? self->func->slot : 0;
    }
    cp_use_end_all(&parts);
    cp_sealed_unref(parts.sealed);
    cp_parts_fini(&parts);
    return r;
}

PyObject *
py_share_object(PyObject *op, PyObject *obj)
{
    EngineObject *engine = (EngineObject *)op;
    if (py_engine_check(engine) < 0) {
        return NULL;
    }
    ShareObject *self = PyObject_GC_New(ShareObject, engine->state->share_type);
    if (self == NULL) {
        return NULL;
    }
    self->engine = (EngineObject *)Py_NewRef(op);
    self->func = NULL;
    self->sealed = NULL;
    self->is_closing = false;
    self->end = (struct py_kept_end){.run = close_later};
    self->handles = PyList_New(0);
    PyObject_GC_Track(self);
    int r = self->handles != NULL ? fill(self, obj) : -1;
    if (r == 0) {
        return (PyObject *)self;
    }
    Py_DECREF(self);
    if (r == CP_ENOMEM) {
        PyErr_SetString(PyExc_MemoryError,
                        "share(): the object takes more memory than there is, "
                        "or than is left of the pool's shared_memory_limit");
        return NULL;
    }
    return py_raise(engine->state, r);
}

PyObject *
py_share_load(PyObject *module, PyObject *arg)
{
    struct py_state *state = py_state_of_module(module);
    struct cp_sealed *sealed;
    long fd = PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int r = fd < 0 || fd > INT_MAX ? CP_ERRNO(EBADF)
                                   : cp_sealed_attach((int)fd, &sealed);
    if (r != 0) {
        return py_raise(state, r);
    }
    PyObject *obj = py_body_of_sealed(state, sealed);
    cp_sealed_unref(sealed);
    return obj;
}

static int
share_traverse(PyObject *op, visitproc visit, void *arg)
{
    ShareObject *self = (ShareObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->engine);
    Py_VISIT(self->handles);
    return 0;
}

static int
share_clear(PyObject *op)
{
    Py_CLEAR(((ShareObject *)op)->handles);
    return 0;
}

static void
share_dealloc(PyObject *op)
{
    ShareObject *self = (ShareObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    close_share(self);
    (void)share_clear(op);
    Py_DECREF(self->engine);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef share_methods[] = {
    {"use", share_use, METH_O, NULL},
    {"load", share_load, METH_NOARGS, NULL},
    {"close", share_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef share_getset[] = {
    {"number", share_number, NULL, NULL, NULL},
    {"nbytes", share_nbytes, NULL, NULL, NULL},
    {"fd", share_fd, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot share_slots[] = {
    {Py_tp_traverse, share_traverse}, {Py_tp_clear, share_clear},
    {Py_tp_dealloc, share_dealloc},   {Py_tp_methods, share_methods},
    {Py_tp_getset, share_getset},     {0, NULL},
};

static PyType_Spec share_spec = {
    .name = "cpool._core.Share",
    .basicsize = sizeof(ShareObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = share_slots,
};

int
py_share_add_type(PyObject *module, struct py_state *state)
{
    state->share_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &share_spec, NULL);
    state->shared = PyObject_GetAttrString(module, "_shared");
    state->share_use = use;
    return state->share_type == NULL || state->shared == NULL ? -1 : 0;
}
