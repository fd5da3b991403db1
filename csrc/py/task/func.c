/* The callable of a job; see task/func.h. */
#include "task/func.h"

#include "base/error.h"
#include "value/pickle.h"
#include "value/replaced.h"

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

/* Pickle the callable, or else use the fallback of cpool._base.failures
 * (cloudpickle). 0, or -1 with an exception. */
static int
dump_func(struct py_state *state, PyObject *func, struct cp_buf *out,
          int *immutable)
{
    *immutable = is_immutable(state, func);
    if (*immutable >= 0 && py_dumps(state, func, out) == 0) {
        return 0;
    }
    *immutable = 0;
    if (py_error_leaves_call(state)) {
        return -1;
    }
    PyObject *exc = py_error_fetch();
    PyObject *bytes =
        PyObject_CallMethod(state->failures, "dump_callable", "OO", func, exc);
    Py_DECREF(exc);
    if (bytes == NULL) {
        return -1;
    }
    int r = cp_buf_put(out, PyBytes_AS_STRING(bytes),
                       (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    if (r != 0) {
        (void)PyErr_NoMemory();
    }
    return r != 0 ? -1 : 0;
}

/* Give the job the callable that was pickled last, if that is func. */
static bool
set_seen(EngineObject *engine, struct cp_job *job, PyObject *func)
{
    bool seen;
    Py_BEGIN_CRITICAL_SECTION(engine);
    seen = engine->last_func == func;
    if (seen) {
        cp_job_set_func(job, engine->last_func_core);
    }
    Py_END_CRITICAL_SECTION();
    return seen;
}

/* Keep the callable for the next job; consumes the reference to core. */
static void
keep_seen_take(EngineObject *engine, PyObject *func, struct cp_func *core)
{
    PyObject *old;
    struct cp_func *old_core;
    Py_BEGIN_CRITICAL_SECTION(engine);
    old = engine->last_func;
    old_core = engine->last_func_core;
    engine->last_func = Py_NewRef(func);
    engine->last_func_core = core;
    Py_END_CRITICAL_SECTION();
    if (old_core != NULL) {
        cp_func_close(engine->pool, old_core);
    }
    Py_XDECREF(old);
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
    int immutable;
    if (dump_func(state, func, &buf, &immutable) < 0) {
        cp_buf_fini(&buf);
        if (py_error_leaves_call(state)) {
            return -1;
        }
        in->func_error = py_error_fetch();
        return 0;
    }
    struct cp_func *core =
        cp_func_open(engine->pool, cp_buf_head(&buf), cp_buf_len(&buf),
                     immutable ? CP_KEEP : 0);
    cp_buf_fini(&buf);
    if (core == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    cp_job_set_func(in->job, core);
    if (immutable) {
        keep_seen_take(engine, func, core);
    } else {
        cp_func_close(engine->pool, core);
    }
    return 0;
}
