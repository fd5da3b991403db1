/* Imports by the pool's own threads; see base/imports.h. */
#include "base/imports.h"

#include "core/base/clock.h"

/* How long a thread of the pool waits for modules. */
#define PATIENCE (10 * CP_SECOND)
#define PAUSE CP_MS

static _Thread_local struct { /* lint-ok: of the thread */
    bool is_ours;             /* a thread of the pool */
    bool was_partial;         /* it took a module that was not complete */
    int64_t wait_until; /* deadline for complete modules; 0: do not wait */
} here;

/* Is the module still being imported? Asked in the interpreter's own way. */
static bool
is_partial(PyObject *module)
{
    PyObject *spec = PyObject_GetAttrString(module, "__spec__");
    PyObject *flag =
        spec != NULL ? PyObject_GetAttrString(spec, "_initializing") : NULL;
    int is = flag != NULL ? PyObject_IsTrue(flag) : 0;
    Py_XDECREF(flag);
    Py_XDECREF(spec);
    if (is < 0 || flag == NULL) {
        PyErr_Clear();
    }
    return is > 0;
}

/* Wait until the module is complete, or until here.wait_until. */
static void
await(PyObject *module)
{
    while (cp_now() < here.wait_until && is_partial(module)) {
        struct timespec pause = {.tv_nsec = PAUSE};
        Py_BEGIN_ALLOW_THREADS(void)
        nanosleep(&pause, NULL);
        Py_END_ALLOW_THREADS
    }
}

PyObject *
py_imports_import(PyObject *Py_UNUSED(self), PyObject *args, PyObject *kwds)
{
    PyObject *modules = PyImport_GetModuleDict();
    if (here.is_ours && PyTuple_GET_SIZE(args) > 0) {
        /* PyImport_GetModule() would wait. */
        PyObject *module = PyObject_GetItem(modules, PyTuple_GET_ITEM(args, 0));
        if (module != NULL && here.wait_until != 0) {
            await(module);
        }
        if (module != NULL && is_partial(module)) {
            here.was_partial = true;
            return module;
        }
        Py_XDECREF(module);
        PyErr_Clear();
    }
    PyObject *builtins = PyMapping_GetItemString(modules, "builtins");
    PyObject *import = builtins != NULL
                           ? PyObject_GetAttrString(builtins, "__import__")
                           : NULL;
    Py_XDECREF(builtins);
    PyObject *module =
        import != NULL ? PyObject_Call(import, args, kwds) : NULL;
    Py_XDECREF(import);
    return module;
}

PyObject *
py_imports_set(PyObject *Py_UNUSED(self), PyObject *arg)
{
    here.is_ours = arg == Py_True;
    Py_RETURN_NONE;
}

void
py_imports_begin(void)
{
    here.was_partial = false;
}

bool
py_imports_try_again(void)
{
    if (!here.was_partial || here.wait_until != 0
        || !PyErr_ExceptionMatches(PyExc_Exception)) {
        return false;
    }
    PyErr_Clear();
    here.wait_until = cp_now() + PATIENCE;
    return true;
}

void
py_imports_end(void)
{
    here.wait_until = 0;
}
