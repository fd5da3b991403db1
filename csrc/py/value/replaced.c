/* See value/replaced.h. cpool/_base/pickling.py knows what the pickler is. */
#include "value/replaced.h"

#include "base/dict.h"

/* The modules whose picklers the stdlib's pool uses. */
static const char *const MODULES[PY_PICKLERS] = {
    "multiprocessing.connection",
    "multiprocessing.queues",
};

static PyObject *
module_of(struct py_state *state, int i)
{
    PyObject *module = atomic_load(&state->with_pickler[i]);
    if (module == NULL) {
        PyObject *none = NULL;
        module = PyImport_ImportModule(MODULES[i]);
        if (module != NULL
            && !atomic_compare_exchange_strong(&state->with_pickler[i], &none,
                                               module)) {
            Py_DECREF(module);
            module = none;
        }
    }
    return module;
}

/* The pickler of the module: a new reference, or NULL with an exception. Called
 * for each task, so it is looked up only if the module has changed. */
static PyObject *
pickler_of(struct py_state *state, int i, PyObject *module)
{
    PyObject *dict = PyModule_Check(module) ? PyModule_GetDict(module) : NULL;
    uint64_t version = dict != NULL ? py_dict_version(dict) : 0;
    if (version != 0 && version == state->seen_version[i]) {
        return Py_NewRef(state->seen_pickler[i]);
    }
    PyObject *cls = PyObject_GetAttr(module, state->str_forking_pickler);
    if (version != 0 && cls != NULL) {
        PyObject *name = state->str_forking_pickler;
        PyObject *own =
            PyDict_GetItemWithError(dict, name); /* lint-ok: only compared */
        state->seen_dict[i] = dict;
        state->seen_pickler[i] = own;
        state->seen_version[i] = own == cls && PyType_Check(cls) ? version : 0;
    }
    return cls;
}

/* A mark of the class: made of its address and its version, which changes with
 * each of its attributes. 0: changes of the class cannot be noticed. */
static inline uintptr_t
mark_of(PyObject *cls)
{
    unsigned version = __atomic_load_n(&((PyTypeObject *)cls)->tp_version_tag,
                                       __ATOMIC_ACQUIRE);
    return version == 0 ? 0 : (uintptr_t)cls ^ version;
}

/* The mark of the module's pickler, or 0 if that is not a class. -1 with an
 * exception. */
static int
look_at(struct py_state *state, int i, uintptr_t *seen)
{
    PyObject *module = module_of(state, i);
    PyObject *cls = module != NULL ? pickler_of(state, i, module) : NULL;
    if (cls == NULL) {
        return -1;
    }
    *seen = PyType_Check(cls) ? mark_of(cls) : 0;
    Py_DECREF(cls);
    return 0;
}

/* Has nothing changed since the last check? Only known if dicts have versions.
 * This is done for each task. */
static inline bool
is_unchanged(struct py_state *state)
{
    for (int i = 0; i < PY_PICKLERS; i++) {
        if (state->seen_version[i] == 0
            || py_dict_version(state->seen_dict[i]) != state->seen_version[i]) {
            return false;
        }
        uintptr_t mark = mark_of(state->seen_pickler[i]);
        if (mark == 0 || mark != atomic_load(&state->known_pickler[i])) {
            return false;
        }
    }
    return true;
}

int
py_replaced_check(struct py_state *state)
{
    uintptr_t seen[PY_PICKLERS];
    bool known = true;
    if (is_unchanged(state)) {
        return 0;
    }
    for (int i = 0; i < PY_PICKLERS; i++) {
        if (look_at(state, i, &seen[i]) < 0) {
            return -1;
        }
        known &=
            seen[i] != 0 && seen[i] == atomic_load(&state->known_pickler[i]);
    }
    if (known) {
        return 0;
    }
    PyObject *answer =
        PyObject_CallMethod(state->failures, "is_replaced", NULL);
    if (answer == NULL) {
        return -1;
    }
    atomic_store(&state->replaced, answer == Py_True);
    Py_DECREF(answer);
    /* Only now do the classes have versions. A change that happened meanwhile
     * is noticed the next time. */
    for (int i = 0; i < PY_PICKLERS; i++) {
        uintptr_t now;
        if (look_at(state, i, &now) < 0) {
            return -1;
        }
        atomic_store(&state->known_pickler[i],
                     seen[i] == 0 || seen[i] == now ? now : 0);
    }
    return 0;
}

int
py_replaced_put_take(struct cp_buf *out, PyObject *bytes)
{
    int r = cp_buf_put(out, PyBytes_AS_STRING(bytes),
                       (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    if (r != 0) {
        (void)PyErr_NoMemory();
    }
    return r != 0 ? -1 : 0;
}

int
py_replaced_dumps(struct py_state *state, PyObject *obj, struct cp_buf *out)
{
    PyObject *bytes =
        PyObject_CallMethod(state->failures, "replaced_dumps", "(O)", obj);
    return bytes != NULL ? py_replaced_put_take(out, bytes) : -1;
}
