/* The callable of a job; see task/func.h. */
#include "task/func.h"

#include "base/error.h"
#include "value/pickle.h"
#include "value/replaced.h"

#include <string.h>

/* Does it pickle as a name, so that one unpickled object can serve all tasks?
 * 1, 0, or -1 with an exception. */
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

/* May it be one that is sent by value, or have one within it? Not a function of another
 * module that has a name there, and nothing that is written in C. */
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

/* Append what the sender has made of a callable, (bytes, what is known of it), and release
 * that; *flags: of CP_FUNC. 0, or -1 with an exception. */
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

/* Do workers have another function or class of this name, or none? Then append it by
 * value: 1; 0 where not; or -1 with an exception. */
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

/* Pickle the callable, or else send it by value (cloudpickle). *flags: of CP_FUNC. 0, or -1 with an exception. */
static int
dump_func(EngineObject *engine, PyObject *func, struct cp_buf *out,
          uint16_t *flags)
{
    struct py_state *state = engine->state;
    int r = put_unknown(engine, func, out, flags);
    if (r != 0) {
        return r < 0 ? -1 : 0;
    }
    int immutable = is_immutable(state, func);
    *flags = immutable > 0 ? CP_KEEP : 0;
    if (immutable >= 0 && py_dumps(state, func, out) == 0) {
        return 0;
    }
    *flags = 0;
    bool named = immutable > 0;
    if (py_error_leaves_call(state)
        || PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1; /* no reason to pickle by value, which takes more memory */
    }
    PyObject *exc = py_error_fetch();
    /* Where pickle has no memory for it, a name is "not found". */
    if (named && py_dumps(state, func, out) == 0) {
        *flags = CP_KEEP;
        Py_DECREF(exc);
        return 0;
    }
    PyErr_Clear();
    PyObject *made =
        PyObject_CallMethod(engine->sender, "dump_callable", "OO", func, exc);
    Py_DECREF(exc);
    if (made == NULL || put_by_value_take(out, made, flags) < 0) {
        return -1;
    }
    if (atomic_load(&state->replaced)) {
        *flags = 0; /* as with the program's own pickler */
    }
    return 0;
}

/* Give the job the callable that was pickled last, if that is func, and pickle
 * would find func again. */
static bool
set_seen(EngineObject *engine, struct cp_job *job, PyObject *func)
{
    bool seen;
    Py_BEGIN_CRITICAL_SECTION(engine);
    /* Of a plain name, so that no Python code runs. */
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
        return true; /* each task has a reference to its own */
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

/* Keep the callable for the next job; consumes the reference to core. */
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
    struct cp_buf buf = {0};
    uint16_t flags;
    int r = 0;
    if (dump_func(in->engine, in->func, &buf, &flags) < 0) {
        cp_buf_fini(&buf);
        return -1;
    }
    uint64_t len = cp_buf_len(&buf);
    if (len != sent->len || memcmp(cp_buf_head(&buf), sent->bytes, len) != 0) {
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
        return 0; /* each task has a reference to it */
    }
    if (py_replaced_check(state) < 0) {
        return -1;
    }
    if (!atomic_load(&state->replaced) && set_seen(engine, in->job, func)) {
        return 0;
    }
    struct cp_buf buf = {0};
    uint16_t flags;
    if (dump_func(engine, func, &buf, &flags) < 0) {
        cp_buf_fini(&buf);
        if (py_error_leaves_call(state)) {
            return -1;
        }
        in->func_error = py_error_fetch();
        return 0;
    }
    struct cp_func *core =
        cp_func_open(engine->pool, cp_buf_head(&buf), cp_buf_len(&buf), flags);
    cp_buf_fini(&buf);
    if (core == NULL) {
        (void)PyErr_NoMemory();
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
