/* The module cpool._core: its state, its types, and the hook that runs in
 * forked copies. */
#include "base/error.h"
#include "base/imports.h"
#include "base/word.h"
#include "engine/engine.h"
#include "engine/begin.h"
#include "engine/late.h"
#include "engine/method.h"
#include "engine/share.h"
#include "job/condition.h"
#include "job/lane.h"
#include "job/result.h"
#include "job/stream.h"
#include "task/mode.h"
#include "value/arena.h"
#include "value/array.h"
#include "value/decoder.h"
#include "value/encoder.h"
#include "value/known.h"
#include "value/pickle.h"
#include "value/plan.h"
#include "value/tags.h"
#include "value/view.h"
#include "worker/serve.h"
#include "worker/stack.h"
#include "worker/worker.h"

#include "core/link/serve.h"
#include "core/os/fd.h"

/* _after_fork_in_child(): a hook of each fork. If other code forked, the pools
 * in this process are copies of the parent's. A forked worker copies the pages
 * of each function that it calls, so this one is in C. */
static PyObject *
module_after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct py_state *state = py_state_of_module(module);
    py_arena_in_child();
    if (state->forked < 0) {
        Py_RETURN_NONE;
    }
    /* Close the copies of the pools' descriptors: otherwise workers would not
     * see end-of-file when the owner of the pool exits. */
    state->forked = 1;
    cp_fd_in_child(NULL, 0);
    return PyObject_CallMethod(state->failures, "forget_workers", NULL);
}

/* _copy_context(): contextvars.copy_context(), without importing a module. */
static PyObject *
module_copy_context(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyContext_CopyCurrent();
}

/* _tasks_done(): how many tasks this worker process has run. */
static PyObject *
module_tasks_done(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct py_state *state = py_state_of_module(module);
    return PyLong_FromUnsignedLongLong(
        atomic_load_explicit(&state->tasks_done, memory_order_relaxed));
}

/* _take_stop(): has the pool asked the current task of this worker process to
 * stop? True once for each request. */
static PyObject *
module_take_stop(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct py_state *state = py_state_of_module(module);
    return PyBool_FromLong(state->may_stop && state->forked <= 0
                           && state->serving != NULL
                           && cp_serve_take_stop(state->serving->row));
}

/* _exiting(): this thread ends the interpreter. */
static PyObject *
module_exiting(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    py_state_of_module(module)->exit_thread = PyThread_get_thread_ident();
    Py_RETURN_NONE;
}

/* _encode(obj): the encoding of an object, or of a list as a run; None if it is
 * left to pickle. For the reports of exceptions, tests and measurements. */
static PyObject *
module_encode(PyObject *module, PyObject *obj)
{
    struct py_state *state = py_state_of_module(module);
    struct cp_buf buf = {0};
    int r;
    if (PyList_CheckExact(obj)) {
        PyObject *items = PyList_AsTuple(obj);
        r = items == NULL
                ? -1
                : py_encode_run(state, &buf, ((PyTupleObject *)items)->ob_item,
                                PyTuple_GET_SIZE(items), NULL);
        Py_XDECREF(items);
    } else {
        r = py_encode(state, &buf, obj, NULL);
    }
    PyObject *bytes =
        r < 0    ? NULL
        : r == 0 ? Py_NewRef(Py_None)
                 : PyBytes_FromStringAndSize((char *)cp_buf_head(&buf),
                                             (Py_ssize_t)cp_buf_len(&buf));
    cp_buf_fini(&buf);
    return bytes;
}

/* _decode(bytes): the object in these bytes; likewise. */
static PyObject *
module_decode(PyObject *module, PyObject *bytes)
{
    if (!PyBytes_CheckExact(bytes)) {
        PyErr_SetString(PyExc_TypeError, "_decode() takes bytes");
        return NULL;
    }
    PyObject *obj;
    struct py_state *state = py_state_of_module(module);
    int r = py_decode(state, (const uint8_t *)PyBytes_AS_STRING(bytes),
                      (size_t)PyBytes_GET_SIZE(bytes), NULL, &obj);
    return r == 0 ? obj : py_raise(state, r);
}

/* _loads(bytes): unpickle, in the same way as results of tasks. */
static PyObject *
module_loads(PyObject *module, PyObject *bytes)
{
    if (!PyBytes_CheckExact(bytes)) {
        PyErr_SetString(PyExc_TypeError, "_loads() takes bytes");
        return NULL;
    }
    return py_loads(py_state_of_module(module),
                    (const uint8_t *)PyBytes_AS_STRING(bytes),
                    (size_t)PyBytes_GET_SIZE(bytes));
}

static PyMethodDef module_methods[] = {
    {"_encode", module_encode, METH_O, NULL},
    {"_decode", module_decode, METH_O, NULL},
    {"_loads", module_loads, METH_O, NULL},
    {"_import", (PyCFunction)(void (*)(void))py_imports_import,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_import_without_waiting", py_imports_set, METH_O, NULL},
    {"_tasks_done", module_tasks_done, METH_NOARGS, NULL},
    {"_shared", py_serve_shared, METH_O, NULL},
    {"_load_shared", py_share_load, METH_O, NULL},
    {"_empty", (PyCFunction)(void (*)(void))py_serve_empty, METH_FASTCALL,
     NULL},
    {"_take_stop", module_take_stop, METH_NOARGS, NULL},
    {"_watch_stack", py_stack_watch, METH_VARARGS, NULL},
    {"_exiting", module_exiting, METH_NOARGS, NULL},
    {"_start_late", py_late_start, METH_O, NULL},
    {"_fork_all", py_worker_fork_all, METH_VARARGS, NULL},
    {"_attach", py_worker_attach, METH_VARARGS, NULL},
    {"_copy_context", module_copy_context, METH_NOARGS, NULL},
    {"_after_fork_in_child", module_after_fork, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *
attribute_of(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *value =
        module != NULL ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return value;
}

static int
import_enum(struct py_state *state)
{
    PyObject *base = attribute_of("enum", "Enum");
    state->enum_type = attribute_of("enum", "EnumMeta");
    if (base != NULL && state->enum_type != NULL) {
        state->enum_reduce = PyObject_GetAttrString(base, "__reduce_ex__");
        state->enum_new = PyObject_GetAttrString(base, "__new__");
        state->enum_call = PyObject_GetAttrString(state->enum_type, "__call__");
    }
    Py_XDECREF(base);
    return state->enum_reduce != NULL && state->enum_new != NULL
                   && state->enum_call != NULL
               ? 0
               : -1;
}

#ifdef Py_GIL_DISABLED
static int
import_gc(struct py_state *state)
{
    state->freeze_count = attribute_of("gc", "get_freeze_count");
    state->freeze = attribute_of("gc", "freeze");
    state->unfreeze = attribute_of("gc", "unfreeze");
    return state->freeze_count != NULL && state->freeze != NULL
                   && state->unfreeze != NULL
               ? 0
               : -1;
}
#else
#    define import_gc(state) 0
#endif

static int
import_needed(struct py_state *state)
{
    PyObject *forking =
        attribute_of("multiprocessing.reduction", "ForkingPickler");
    if (forking == NULL) {
        return -1;
    }
    state->extra_reducers = PyObject_GetAttrString(forking, "_extra_reducers");
    Py_DECREF(forking);
    state->copyreg_table = attribute_of("copyreg", "dispatch_table");
    state->complex_reducer = attribute_of("copyreg", "pickle_complex");
    PyErr_Clear(); /* without it, complex numbers have no reducer */
    state->pickle_loads = attribute_of("pickle", "loads");
    state->pickler_class = attribute_of("_pickle", "Pickler");
    state->slotnames = attribute_of("copyreg", "_slotnames");
    state->failures = PyImport_ImportModule("cpool._base.failures");
    state->named_tuple_code =
        attribute_of("cpool._base.pickling", "named_tuple_code");
    state->named_tuple_new =
        attribute_of("cpool._base.pickling", "named_tuple_new");
    state->str_dump = PyUnicode_InternFromString("dump");
    state->str_clear_memo = PyUnicode_InternFromString("clear_memo");
    state->str_dispatch_table = PyUnicode_InternFromString("dispatch_table");
    state->str_forking_pickler = PyUnicode_InternFromString("_ForkingPickler");
    return state->extra_reducers != NULL && state->copyreg_table != NULL
                   && state->pickle_loads != NULL
                   && state->pickler_class != NULL && state->failures != NULL
                   && state->str_dump != NULL && state->str_clear_memo != NULL
                   && state->str_dispatch_table != NULL
                   && state->str_forking_pickler != NULL
                   && state->slotnames != NULL && import_enum(state) == 0
                   && import_gc(state) == 0 && state->named_tuple_code != NULL
                   && state->named_tuple_new != NULL && py_word_add(state) == 0
               ? 0
               : -1;
}

static int
add_constants(PyObject *module)
{
    return PyModule_AddIntConstant(module, "MAP", PY_MAP) < 0
                   || PyModule_AddIntConstant(module, "STAR", PY_STAR) < 0
                   || PyModule_AddIntConstant(module, "MAP_ONE", PY_MAP_ONE) < 0
                   || PyModule_AddIntConstant(module, "STAR_ONE", PY_STAR_ONE)
                          < 0
                   || PyModule_AddIntConstant(module, "LISTED", PY_LISTED) < 0
                   || PyModule_AddIntConstant(module, "FIT", PY_FIT) < 0
                   || PyModule_AddIntConstant(module, "TASKS", PY_TASKS) < 0
                   || PyModule_AddIntConstant(module, "TAG_NAME", TAG_NAME) < 0
                   || PyModule_AddIntConstant(module, "TAG_ASCII", TAG_ASCII)
                          < 0
               ? -1
               : 0;
}

static int
module_exec(PyObject *module)
{
    struct py_state *state = py_state_of_module(module);
    if (import_needed(state) < 0 || add_constants(module) < 0
        || py_pickle_add_types(module, state) < 0
        || py_view_add_type(module, state) < 0
        || py_worker_add_type(module, state) < 0
        || py_result_add_type(module, state) < 0
        || py_stream_add_type(module, state) < 0
        || py_lane_add_type(module, state) < 0
        || py_condition_add_type(module, state) < 0
        || py_engine_add_type(module, state) < 0
        || py_share_add_type(module, state) < 0 || py_begin_add_type(module) < 0
        || py_method_add_type(module) < 0) {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct py_state *state = PyModule_GetState(module);
    if (state == NULL) {
        return 0;
    }
    Py_VISIT(state->engine_type);
    Py_VISIT(state->worker_type);
    Py_VISIT(state->result_type);
    Py_VISIT(state->stream_type);
    Py_VISIT(state->sink_type);
    Py_VISIT(state->view_type);
    Py_VISIT(state->lane_type);
    Py_VISIT(state->condition_type);
    Py_VISIT(state->share_type);
    Py_VISIT(state->shared);
    Py_VISIT(atomic_load(&state->handle_type));
    Py_VISIT(state->pickle_loads);
    Py_VISIT(state->pickler_class);
    Py_VISIT(state->copyreg_table);
    Py_VISIT(state->extra_reducers);
    Py_VISIT(state->reducers);
    Py_VISIT(state->failures);
#ifdef Py_GIL_DISABLED
    Py_VISIT(state->freeze_count);
    Py_VISIT(state->freeze);
    Py_VISIT(state->unfreeze);
#endif
    Py_VISIT(state->slotnames);
    Py_VISIT(state->enum_type);
    Py_VISIT(state->enum_reduce);
    Py_VISIT(state->enum_new);
    Py_VISIT(state->enum_call);
    Py_VISIT(state->complex_reducer);
    Py_VISIT(state->named_tuple_code);
    Py_VISIT(state->named_tuple_new);
    for (int i = 0; i < PY_PICKLERS; i++) {
        Py_VISIT(atomic_load(&state->with_pickler[i]));
    }
    Py_VISIT(state->pickler.pickler);
    Py_VISIT(state->pickler.sink);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct py_state *state = PyModule_GetState(module);
    if (state == NULL) {
        return 0;
    }
    Py_CLEAR(state->engine_type);
    Py_CLEAR(state->worker_type);
    Py_CLEAR(state->result_type);
    Py_CLEAR(state->stream_type);
    Py_CLEAR(state->sink_type);
    Py_CLEAR(state->view_type);
    Py_CLEAR(state->lane_type);
    Py_CLEAR(state->condition_type);
    Py_CLEAR(state->share_type);
    Py_CLEAR(state->shared);
    Py_XDECREF((PyObject *)atomic_exchange(&state->handle_type, NULL));
    py_futures_end(state);
    Py_CLEAR(state->pickle_loads);
    Py_CLEAR(state->pickler_class);
    Py_CLEAR(state->copyreg_table);
    Py_CLEAR(state->extra_reducers);
    Py_CLEAR(state->reducers);
    Py_CLEAR(state->failures);
#ifdef Py_GIL_DISABLED
    Py_CLEAR(state->freeze_count);
    Py_CLEAR(state->freeze);
    Py_CLEAR(state->unfreeze);
#endif
    Py_CLEAR(state->slotnames);
    Py_CLEAR(state->enum_type);
    Py_CLEAR(state->enum_reduce);
    Py_CLEAR(state->enum_new);
    Py_CLEAR(state->enum_call);
    Py_CLEAR(state->complex_reducer);
    Py_CLEAR(state->named_tuple_code);
    Py_CLEAR(state->named_tuple_new);
    for (int i = 0; i < PY_WORDS; i++) {
        Py_CLEAR(state->words[i]);
    }
    Py_CLEAR(state->str_dump);
    Py_CLEAR(state->str_clear_memo);
    Py_CLEAR(state->str_dispatch_table);
    Py_CLEAR(state->str_forking_pickler);
    for (int i = 0; i < PY_PICKLERS; i++) {
        PyObject *kept = atomic_exchange(&state->with_pickler[i], NULL);
        Py_XDECREF(kept);
    }
    py_pickler_clear(&state->pickler);
    py_array_forget(state);
    py_plan_forget(state);
    py_known_forget(state);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED}, /* docs/threads.md says why */
#endif
    {0, NULL},
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    py_module_def.m_methods = module_methods;
    py_module_def.m_slots = module_slots;
    py_module_def.m_traverse = module_traverse;
    py_module_def.m_clear = module_clear;
    py_module_def.m_free = module_free;
    return PyModuleDef_Init(&py_module_def);
}
