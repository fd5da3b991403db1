/* The callable of a job; see task/func.h. */
#include "task/func.h"

#include "base/error.h"
#include "value/body.h"
#include "value/encoder.h"
#include "value/pickle.h"
#include "value/replaced.h"
#include "value/uses.h"

#include <string.h>

/* Does the callable pickle as a name, so that one unpickled object can serve
 * all tasks? 1, 0, or -1 with an exception. */
static int
is_immutable(struct py_state *state, PyObject *func)
{
    PyTypeObject *type = Py_TYPE(func);
    bool named = PyFunction_Check(func) || type == &PyType_Type
                 || (PyCFunction_CheckExact(func)
                     && (PyCFunction_GET_SELF(func) == NULL
                         || PyModule_Check(PyCFunction_GET_SELF(func))));
    if (!named || atomic_load(&state->replaced)) {
        return 0;
    }
    int r = PyDict_Contains(state->extra_reducers, (PyObject *)type);
    return r < 0 ? -1 : !r;
}

/* Might the callable be sent by value, or contain an object that is? That
 * excludes functions that other modules have under their own names, and
 * everything written in C. */
static bool
may_be_by_value(PyObject *func)
{
    if (PyType_Check(func)) {
        return PyType_HasFeature((PyTypeObject *)func, Py_TPFLAGS_HEAPTYPE);
    }
    if (!PyFunction_Check(func)) {
        return !PyCFunction_Check(func);
    }
    PyObject *module = ((PyFunctionObject *)func)->func_module;
    PyObject *name = ((PyFunctionObject *)func)->func_qualname;
    if (module != NULL && PyUnicode_Check(module)
        && PyUnicode_CompareWithASCIIString(module, "__main__") == 0) {
        return true;
    }
    Py_ssize_t len = PyUnicode_GET_LENGTH(name);
    return PyUnicode_FindChar(name, '<', 0, len, 1)
           >= 0; /* <locals>, <lambda> */
}

/* Append the sender's bytes of a callable. made: a tuple of the bytes and of
 * what is known of the callable; it is released. *flags: of CP_FUNC. 0, or -1
 * with an exception. */
static int
put_by_value_take(struct cp_buf *out, PyObject *made, uint16_t *flags)
{
    static const uint16_t known[] = {0, CP_KEEP | CP_BY_VALUE,
                                     CP_KEEP | CP_BY_VALUE | CP_KEPT};
    PyObject *bytes;
    int stays;
    if (!PyArg_ParseTuple(made, "Si", &bytes, &stays)) {
        Py_DECREF(made);
        return -1;
    }
    *flags = known[stays];
    Py_INCREF(bytes);
    Py_DECREF(made);
    return py_replaced_put_take(out, bytes);
}

/* Would workers find another function or class under this name, or none? Then
 * append this one by value: 1. Otherwise 0; or -1 with an exception. */
static int
put_unknown(EngineObject *engine, PyObject *func, struct cp_buf *out,
            uint16_t *flags)
{
    if (!may_be_by_value(func) || atomic_load(&engine->state->replaced)) {
        return 0;
    }
    PyObject *made =
        PyObject_CallMethod(engine->sender, "dump_unknown", "O", func);
    if (made == NULL || made == Py_None) {
        Py_XDECREF(made);
        return made != NULL ? 0 : -1;
    }
    return put_by_value_take(out, made, flags) < 0 ? -1 : 1;
}

/* Append the encoding of a callable that has a state: an instance, a method, a
 * partial. All of its bytes go into the callable itself, since it has no loan
 * where it is decoded. 1; 0: pickle has to send it; or -1 with an exception. */
static int
encode_func(EngineObject *engine, PyObject *func, struct cp_buf *out)
{
    struct cp_heap *heap = NULL;
    if (atomic_load(&engine->state->replaced)) {
        return 0;
    }
    if (out->parts != NULL) {
        heap = out->parts->heap;
        out->parts->heap = NULL;
    }
    int r = py_encode(engine->state, out, func, NULL);
    if (out->parts != NULL) {
        out->parts->heap = heap;
    }
    return r;
}

/* Encode or pickle the callable, or else send it by value (cloudpickle). *flags:
 * of CP_FUNC. 0, or -1 with an exception. */
static int
dump_func(EngineObject *engine, PyObject *func, struct cp_buf *out,
          uint16_t *flags)
{
    struct py_state *state = engine->state;
    struct py_uses uses = py_uses_begin(out->parts, NULL);
    int r = put_unknown(engine, func, out, flags);
    py_uses_end(uses);
    if (r != 0) {
        return r < 0 ? -1 : 0;
    }
    int immutable = is_immutable(state, func);
    *flags = immutable > 0 ? CP_KEEP : 0;
    r = immutable == 0  ? encode_func(engine, func, out)
        : immutable < 0 ? -1
                        : 0;
    if (r == 1 || (r == 0 && py_dumps(state, func, out) == 0)) {
        return 0;
    }
    *flags = 0;
    bool named = immutable > 0;
    if (py_error_leaves_call(state)
        || PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1; /* pickling by value takes more memory still */
    }
    PyObject *exc = py_error_fetch();
    /* If memory is out, pickle's error is that the name is "not found". */
    if (named && py_dumps(state, func, out) == 0) {
        *flags = CP_KEEP;
        Py_DECREF(exc);
        return 0;
    }
    PyErr_Clear();
    uses = py_uses_begin(out->parts, NULL);
    PyObject *made =
        PyObject_CallMethod(engine->sender, "dump_callable", "OO", func, exc);
    py_uses_end(uses);
    Py_DECREF(exc);
    if (made == NULL || put_by_value_take(out, made, flags) < 0) {
        return -1;
    }
    if (atomic_load(&state->replaced)) {
        *flags = 0; /* as with the program's own pickler */
    }
    return 0;
}

/* ---- large data that are bound to a callable ---- */

/* How many objects are looked at, and how deep. */
#define LOOK_MAX 256
#define LOOK_DEPTH 6

static bool holds_large(PyObject *obj, int depth, int *left);

/* Does one of the values of a dict, or of the items of a sequence, hold large
 * data? Releases items. NULL: drop the exception. */
static bool
hold_large_take(PyObject *items, int depth, int *left)
{
    bool found = false;
    PyObject *fast =
        items != NULL ? PySequence_Tuple(items) : NULL; /* a list may change */
    PyErr_Clear();
    Py_ssize_t n = fast != NULL ? PyTuple_GET_SIZE(fast) : 0;
    for (Py_ssize_t i = 0; i < n && !found && *left > 0; i++) {
        found = holds_large(PyTuple_GET_ITEM(fast, i), depth, left);
    }
    Py_XDECREF(fast);
    Py_XDECREF(items);
    return found;
}

static bool
is_large_buffer(PyObject *obj)
{
    Py_buffer view;
    if (PyObject_GetBuffer(obj, &view, PyBUF_FULL_RO) < 0) {
        PyErr_Clear();
        return false;
    }
    bool large = view.len >= (Py_ssize_t)CP_PART_MIN;
    PyBuffer_Release(&view);
    return large;
}

/* Does the object hold data that are worth a file? Only plain data are
 * searched, so no code of the program runs. Data that are not found go through
 * the pipes. */
static bool
holds_large(PyObject *obj, int depth, int *left)
{
    PyTypeObject *type = Py_TYPE(obj);
    --*left;
    if (PyUnicode_CheckExact(obj)) {
        return PyUnicode_GET_LENGTH(obj) >= (Py_ssize_t)CP_PART_MIN;
    }
    if (type->tp_as_buffer != NULL
        && type->tp_as_buffer->bf_getbuffer != NULL) {
        return !PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)
               && is_large_buffer(obj);
    }
    if (depth == 0 || PyType_Check(obj) || PyFunction_Check(obj)
        || PyModule_Check(obj) || PyLong_Check(obj) || obj == Py_None) {
        return false;
    }
    if (PyMethod_Check(obj)) {
        return holds_large(PyMethod_GET_SELF(obj), depth - 1, left);
    }
    if (PyCFunction_Check(obj)) {
        PyObject *self = PyCFunction_GET_SELF(obj);
        return self != NULL && holds_large(self, depth - 1, left);
    }
    if (PyTuple_CheckExact(obj) || PyList_CheckExact(obj)) {
        return hold_large_take(Py_NewRef(obj), depth - 1, left);
    }
    if (PyDict_CheckExact(obj)) {
        return hold_large_take(PyDict_Values(obj), depth - 1, left);
    }
    static const char *const places[] = {"func", "args", "keywords"};
    bool is_partial = strcmp(type->tp_name, "functools.partial") == 0;
    for (size_t i = 0; i < 3 && is_partial; i++) {
        PyObject *name = PyUnicode_FromString(places[i]);
        PyObject *part =
            name != NULL ? PyObject_GenericGetAttr(obj, name) : NULL;
        bool found = part != NULL && holds_large(part, depth - 1, left);
        Py_XDECREF(name);
        Py_XDECREF(part);
        PyErr_Clear();
        if (found) {
            return true;
        }
    }
    PyObject *dict =
        type->tp_dictoffset != 0 ? PyObject_GenericGetDict(obj, NULL) : NULL;
    PyErr_Clear();
    bool found = dict != NULL && PyDict_CheckExact(dict)
                 && hold_large_take(PyDict_Values(dict), depth - 1, left);
    Py_XDECREF(dict);
    return found;
}

/* Append the callable. Its large parts go to parts->sealed, or are compared
 * with those of parts->like. 0, or -1 with an exception. */
static int
put_large(EngineObject *engine, PyObject *func, struct cp_parts *parts,
          struct cp_buf *body)
{
    parts->pool = engine->pool;
    body->parts = parts;
    return py_body_put(engine->state, func, body, NULL);
}

/* Open what was written, under the name of the callable; NULL: no memory. */
static struct cp_func *
open_named(EngineObject *engine, PyObject *func, struct cp_parts *parts)
{
    PyObject *name = PyObject_CallMethod(engine->state->failures,
                                         "pickle_of_name_of", "O", func);
    const char *bytes = "";
    Py_ssize_t len = 0;
    if (name != NULL && PyBytes_Check(name)) {
        bytes = PyBytes_AS_STRING(name);
        len = PyBytes_GET_SIZE(name);
    }
    PyErr_Clear(); /* it has no name */
    struct cp_func *core =
        cp_func_open_sealed(engine->pool, parts, bytes, (size_t)len, 0);
    Py_XDECREF(name);
    return core;
}

/* Write the callable to a file that all workers map. 1, and *core is set; 0:
 * this is not possible here; -1 with an exception. */
static int
seal_func(EngineObject *engine, PyObject *func, struct cp_func **core)
{
    struct cp_parts parts = {0};
    struct cp_buf body = {0};
    int r = cp_sealed_begin(cp_pool_region(engine->pool), &parts.sealed);
    r = r == 0 && !cp_sealed_has_file(parts.sealed) ? CP_ENOMEM : r;
    r = r == 0 ? put_large(engine, func, &parts, &body) : r;
    if (r == 0) {
        r = cp_sealed_end(parts.sealed, cp_buf_head(&body), cp_buf_len(&body));
    }
    if (r == 0) {
        *core = open_named(engine, func, &parts);
        r = *core != NULL ? 0 : CP_ENOMEM;
    }
    cp_buf_fini(&body);
    cp_use_end_all(&parts);
    cp_sealed_unref(parts.sealed);
    cp_parts_fini(&parts);
    if (r != -1) {
        /* Out of memory, or at the limit: then the pipes may still do. */
        CP_ASSERT(r == 0 || r == CP_ENOMEM || CP_ERRNO_OF(r) != 0);
        return r == 0 ? 1 : 0;
    }
    if (py_error_leaves_call(engine->state)) {
        return -1;
    }
    PyErr_Clear(); /* pickle reports what is wrong with it */
    return 0;
}

/* Does the callable differ from the one that was written to the file? 1, 0, or
 * -1 with an exception. */
static int
is_unlike(EngineObject *engine, PyObject *func, const struct cp_func *sent)
{
    struct cp_parts parts = {.like = sent->sealed};
    struct cp_buf body = {0};
    int r = put_large(engine, func, &parts, &body);
    if (r == 0) {
        r = parts.differs
            || !cp_sealed_has_body(sent->sealed, cp_buf_head(&body),
                                   cp_buf_len(&body));
    }
    cp_buf_fini(&body);
    cp_use_end_all(&parts);
    cp_parts_fini(&parts);
    return r;
}

/* If func is the callable that was pickled last, and pickle would find it
 * again, give it to the job. */
static bool
set_seen(EngineObject *engine, struct cp_job *job, PyObject *func)
{
    bool seen;
    Py_BEGIN_CRITICAL_SECTION(engine);
    /* Only by a plain name, so that no Python code runs. */
    seen =
        engine->last_func == func && py_name_leads_to(&engine->last_name, func);
    if (seen) {
        cp_job_set_func(job, engine->last_func_core);
    }
    Py_END_CRITICAL_SECTION();
    return seen;
}

bool
py_func_is_same(const struct py_input *in, PyObject *func)
{
    EngineObject *engine = in->engine;
    bool same;
    if (engine->threads) {
        return true; /* each task has a reference to its callable */
    }
    if (in->func != func || in->func_error != NULL
        || (in->job->func->flags & CP_KEEP) == 0
        || py_replaced_check(engine->state) < 0) {
        PyErr_Clear();
        return false;
    }
    Py_BEGIN_CRITICAL_SECTION(engine);
    same = !atomic_load(&engine->state->replaced) && engine->last_func == func
           && py_name_leads_to(&engine->last_name, func);
    Py_END_CRITICAL_SECTION();
    return same;
}

/* Remember the callable for the next job; consumes the reference to core. */
static void
keep_seen_take(EngineObject *engine, PyObject *func, struct cp_func *core)
{
    PyObject *old;
    struct cp_func *old_core;
    struct py_name name = {0}, old_name;
    py_name_find(&name, func);
    if (!name.plain) {
        py_name_clear(&name);
    }
    Py_BEGIN_CRITICAL_SECTION(engine);
    old = engine->last_func;
    old_core = engine->last_func_core;
    old_name = engine->last_name;
    engine->last_func = Py_NewRef(func);
    engine->last_func_core = core;
    engine->last_name = name;
    if (old != func) {
        engine->last_results = PY_RESULTS_NEW;
    }
    Py_END_CRITICAL_SECTION();
    if (old_core != NULL) {
        cp_func_close(engine->pool, old_core);
    }
    Py_XDECREF(old);
    py_name_clear(&old_name);
}

int
py_func_put_changed(const struct py_input *in, struct cp_buf *out)
{
    const struct cp_func *sent = in->job->func;
    struct cp_buf buf = {.parts = out->parts};
    uint16_t flags;
    int r = sent->sealed != NULL ? is_unlike(in->engine, in->func, sent) : 1;
    if (r <= 0) {
        return r;
    }
    r = 0;
    if (dump_func(in->engine, in->func, &buf, &flags) < 0) {
        cp_buf_fini(&buf);
        return -1;
    }
    uint64_t len = cp_buf_len(&buf);
    if (sent->sealed != NULL || len != sent->len
        || memcmp(cp_buf_head(&buf), sent->bytes, len) != 0) {
        r = 1;
        if (cp_buf_put(out, &len, sizeof(len)) != 0
            || cp_buf_put(out, cp_buf_head(&buf), len) != 0) {
            (void)PyErr_NoMemory();
            r = -1;
        }
    }
    cp_buf_fini(&buf);
    return r;
}

enum py_results
py_func_results(const struct py_input *in)
{
    EngineObject *engine = in->engine;
    enum py_results results = PY_RESULTS_NEW;
    Py_BEGIN_CRITICAL_SECTION(engine);
    if (engine->last_func == in->func) {
        results = (enum py_results)engine->last_results;
    }
    Py_END_CRITICAL_SECTION();
    return results;
}

void
py_func_note_results(const struct py_input *in)
{
    EngineObject *engine = in->engine;
    if (!in->was_resizable) {
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(engine);
    if (engine->last_func == in->func) {
        engine->last_results =
            cp_job_is_marked(in->job) ? PY_RESULTS_SHARE : PY_RESULTS_ALONE;
    }
    Py_END_CRITICAL_SECTION();
}

int
py_func_set(struct py_input *in, PyObject *func)
{
    EngineObject *engine = in->engine;
    struct py_state *state = engine->state;
    in->func = Py_NewRef(func);
    if (engine->threads) {
        return 0; /* each task has a reference to its callable */
    }
    if (py_replaced_check(state) < 0) {
        return -1;
    }
    if (!atomic_load(&state->replaced) && set_seen(engine, in->job, func)) {
        return 0;
    }
    struct cp_parts parts = {.pool = engine->pool};
    struct cp_buf buf = {.parts = &parts};
    uint16_t flags;
    struct cp_func *core = NULL;
    int left = LOOK_MAX;
    int r = 0;
    flags = 0;
    if (!PyFunction_Check(func) && cp_pool_region(engine->pool) != NULL
        && !atomic_load(&state->replaced)
        && holds_large(func, LOOK_DEPTH, &left)) {
        r = seal_func(engine, func, &core);
    }
    r = r == 0 ? dump_func(engine, func, &buf, &flags) : r < 0 ? -1 : 1;
    bool is_raised = r < 0;
    if (r == 0) {
        if (parts.n_uses > 0) {
            flags &= (uint16_t)~CP_KEPT; /* or it would keep shared objects */
        }
        core = cp_func_open(engine->pool, cp_buf_head(&buf), cp_buf_len(&buf),
                            flags);
        if (core != NULL && parts.n_uses > 0) {
            cp_func_set_uses_take(core, &parts);
        }
    }
    cp_buf_fini(&buf);
    cp_use_end_all(&parts);
    cp_parts_fini(&parts);
    if (is_raised && !py_error_leaves_call(state)) {
        in->func_error = py_error_fetch();
        return 0;
    }
    if (core == NULL) {
        if (!is_raised) {
            (void)PyErr_NoMemory();
        }
        return -1;
    }
    cp_job_set_func(in->job, core);
    if (flags == CP_KEEP) {
        keep_seen_take(engine, func, core);
    } else {
        cp_func_close(engine->pool, core);
    }
    return 0;
}
