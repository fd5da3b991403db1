/* Objects that pickle as a name; see base/name.h. */
#include "base/name.h"

#include "base/dict.h"

/* Does the dict have this value for the key? Keys are strings, so that no
 * Python code runs. *seen: the last version of the dict that had it, or 0. This
 * is done once for each task, so an exception is only cleared if there may be
 * one. */
static bool
find_item(PyObject *dict, PyObject *key, const PyObject *value, uint64_t *seen)
{
    uint64_t version = py_dict_version(dict);
    PyObject *found = py_dict_get(dict, key);
    if (found == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(found); /* only its address is compared */
    if (found == value) {
        *seen = version;
    }
    return found == value;
}

static inline bool
has_item(PyObject *dict, PyObject *key, const PyObject *value, uint64_t *seen)
{
    uint64_t version = py_dict_version(dict);
    return (version != 0 && version == *seen)
           || find_item(dict, key, value, seen);
}

PyObject *
py_name_module(PyObject *module_name)
{
    return py_dict_get(PyImport_GetModuleDict(), module_name);
}

PyObject *
py_name_direct(PyObject *module_name, PyObject *name)
{
    PyObject *module = py_name_module(module_name);
    PyObject *found = module != NULL && PyModule_CheckExact(module)
                          ? py_dict_get(PyModule_GetDict(module), name)
                          : NULL;
    Py_XDECREF(module);
    return found;
}

PyObject *
py_name_walk(PyObject *module, PyObject *name)
{
    Py_ssize_t n = PyUnicode_GET_LENGTH(name);
    if (PyUnicode_FindChar(name, '.', 0, n, 1) < 0) {
        return PyObject_GetAttr(module, name);
    }
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
py_name_leads_to(struct py_name *name, PyObject *obj)
{
    if (name->name == NULL) {
        return false;
    }
    if (!has_item(PyImport_GetModuleDict(), name->module_name, name->module,
                  &name->seen_modules)) {
        return false;
    }
    if (name->plain) {
        return has_item(PyModule_GetDict(name->module), name->name, obj,
                        &name->seen_names);
    }
    PyObject *found = py_name_walk(name->module, name->name);
    bool same = found == obj;
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
        name->module = py_name_module(name->module_name);
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
    name->seen_modules = name->seen_names = 0;
}
