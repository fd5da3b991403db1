/* What every layer may do with an engine; see base/engine.h. */
#include "base/engine.h"

#include "base/error.h"

int
py_engine_check(EngineObject *engine)
{
    if (engine->pool == NULL || !cp_pool_is_ours(engine->pool)) {
        PyObject *none =
            PyObject_CallMethod(engine->state->failures, "raise_foreign", NULL);
        Py_XDECREF(none);
        return -1;
    }
    return 0;
}

bool
py_is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

bool
py_engine_stands_still(const EngineObject *engine)
{
    return engine->threads != 0 && py_is_finalizing();
}

PyObject *
py_engine_init_error(EngineObject *engine)
{
    PyObject *error;
    Py_BEGIN_CRITICAL_SECTION(engine);
    error = Py_XNewRef(engine->init_error);
    Py_END_CRITICAL_SECTION();
    return error;
}

int
py_engine_attend(EngineObject *engine)
{
    if (engine->threads || atomic_load(&engine->is_attended)
        || atomic_exchange(&engine->is_attended, 1) != 0) {
        return 0;
    }
    PyObject *owner = PyObject_CallNoArgs(engine->owner);
    PyObject *none = NULL;
    if (owner != NULL && owner != Py_None) {
        none = PyObject_CallMethod(owner, "_start_threads", NULL);
    }
    int r = 0;
    if (PyErr_Occurred()) {
        r = py_error_leaves_call(engine->state) ? -1 : 0;
    }
    if (r < 0) {
        atomic_store(&engine->is_attended, 0);
    } else {
        PyErr_Clear();
    }
    Py_XDECREF(none);
    Py_XDECREF(owner);
    return r;
}

int
py_engine_step(EngineObject *engine, PyObject *stream)
{
    PyObject *owner = PyObject_CallNoArgs(engine->owner);
    if (owner == NULL || owner == Py_None) {
        Py_XDECREF(owner);
        return owner != NULL ? 0 : -1;
    }
    PyObject *more = PyObject_CallMethod(owner, "_step", "O", stream);
    Py_DECREF(owner);
    int r = more != NULL ? PyObject_IsTrue(more) : -1;
    Py_XDECREF(more);
    return r;
}

int
py_engine_replace_workers(EngineObject *engine)
{
    PyObject *owner = PyObject_CallNoArgs(engine->owner);
    if (owner == NULL || owner == Py_None) {
        Py_XDECREF(owner);
        return owner != NULL ? 0 : -1;
    }
    PyObject *none = PyObject_CallMethod(owner, "_replace_workers", NULL);
    Py_DECREF(owner);
    if (none == NULL) {
        cp_pool_report_start_failure(
            engine->pool); /* the pool asks again later */
        return -1;
    }
    Py_DECREF(none);
    return 0;
}
