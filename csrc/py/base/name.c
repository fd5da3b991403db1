/* Objects that pickle as a name; see base/name.h. */
#include "base/name.h"

/* The value of the key, as a new reference, or NULL without an exception. The
 * keys are strings, so that no Python code runs. */
static PyObject *
look_up(PyObject *dict, PyObject *key)
{
    PyObject *value;
#if PY_VERSION_HEX >= 0x030D0000
    (void)PyDict_GetItemRef(dict, key, &value);
#else
    value = PyDict_GetItemWithError(dict, key); /* lint-ok: held below */
    Py_XINCREF(value);
#endif
    PyErr_Clear();
    return value;
}

/* The module of this name, as a new reference, or NULL without an exception. */
static PyObject *
module_of(PyObject *module_name)
{
    return look_up(PyImport_GetModuleDict(), module_name);
}

/* What a qualified name with dots leads to, or NULL with an exception. */
static PyObject *
walk(PyObject *module, PyObject *name)
{
    PyObject *dot = PyUnicode_FromString(".");
    PyObject *parts = dot != NULL ? PyUnicode_Split(name, dot, -1) : NULL;
    PyObject *at = parts != NULL ? Py_NewRef(module) : NULL;
    Py_XDECREF(dot);
    for (Py_ssize_t i = 0; at != NULL && i < PyList_GET_SIZE(parts); i++) {
        PyObject *part = PyList_GET_ITEM(parts, i); /* lint-ok: ours */
        Py_SETREF(at, PyObject_GetAttr(at, part));
    }
    Py_XDECREF(parts);
    return at;
}

bool
py_name_leads_to(const struct py_name *name, PyObject *obj)
{
    if (name->name == NULL) {
        return false;
    }
    PyObject *module = module_of(name->module_name);
    bool same = module == name->module;
    Py_XDECREF(module);
    if (!same) {
        return false;
    }
    PyObject *found = name->plain
                          ? look_up(PyModule_GetDict(name->module), name->name)
                          : walk(name->module, name->name);
    same = found == obj;
    Py_XDECREF(found);
    PyErr_Clear();
    return same;
}

void
py_name_find(struct py_name *name, PyObject *obj)
{
    name->module_name = PyObject_GetAttrString(obj, "__module__");
    name->name = name->module_name != NULL
                     ? PyObject_GetAttrString(obj, "__qualname__")
                     : NULL;
    if (name->name != NULL && PyUnicode_CheckExact(name->name)
        && PyUnicode_CheckExact(name->module_name)) {
        Py_ssize_t n = PyUnicode_GET_LENGTH(name->name);
        name->module = module_of(name->module_name);
        name->plain = name->module != NULL && PyModule_CheckExact(name->module)
                      && PyUnicode_FindChar(name->name, '.', 0, n, 1) == -1;
    }
    PyErr_Clear();
    if (name->module == NULL || !py_name_leads_to(name, obj)) {
        py_name_clear(name);
    }
}

void
py_name_clear(struct py_name *name)
{
    Py_CLEAR(name->module_name);
    Py_CLEAR(name->module);
    Py_CLEAR(name->name);
}
