/* Objects by name; see value/named.h. Pickle knows more ways to find an object,
 * and has better error messages: an object that is not found at once is left to
 * pickle. */
#include "value/named.h"

#include "base/imports.h"
#include "base/name.h"
#include "base/word.h"
#include "value/kind.h"
#include "value/text.h"

/* ---- encoding ---- */

/* The object of this name: a new reference; or NULL, perhaps with an
 * exception. */
static PyObject *
follow(PyObject *module_name, PyObject *name)
{
    PyObject *found = py_name_direct(module_name, name);
    if (found != NULL || PyErr_Occurred() != NULL) {
        return found;
    }
    PyObject *module = py_name_module(module_name);
    if (module != NULL) {
        found = py_name_walk(module, name);
        Py_DECREF(module);
    }
    return found;
}

/* Does the name lead to obj? An error counts as no; its exception stays set. */
static bool
leads_to(PyObject *module_name, PyObject *name, const PyObject *obj)
{
    PyObject *found = follow(module_name, name);
    Py_XDECREF(found); /* only its address is compared */
    return found == obj;
}

static int
put_string(struct py_writer *w, PyObject *str)
{
    int tag = py_kind_of(str);
    return tag < 0 ? -1 : py_text_put(w, str, tag);
}

static int
put_strings(struct py_writer *w, PyObject *module_name, PyObject *name)
{
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_NAME);
    w->flags |= HAS_CODE;
    int r = put_string(w, module_name);
    return r == 1 ? put_string(w, name) : r;
}

/* For objects whose own name leads nowhere: another name that leads to them. */
static const char *
other_name(PyObject *obj, const char **module_name)
{
    *module_name = "types";
    if (obj == (PyObject *)Py_TYPE(Py_None)) {
        return "NoneType";
    }
    if (obj == (PyObject *)Py_TYPE(Py_Ellipsis)) {
        return "EllipsisType";
    }
    if (obj == (PyObject *)Py_TYPE(Py_NotImplemented)) {
        return "NotImplementedType";
    }
    *module_name = "builtins";
    return obj == Py_Ellipsis         ? "Ellipsis"
           : obj == Py_NotImplemented ? "NotImplemented"
                                      : NULL;
}

/* Pickle reports what is wrong with a name: drop the exception, and return 0.
 * But -1 with an interrupt. */
static int
left_to_pickle(void)
{
    if (PyErr_Occurred() != NULL && !PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

int
py_named_put(struct py_writer *w, PyObject *obj, PyObject *name)
{
    PyObject *const *words = w->state->words;
    const char *module_text, *text = other_name(obj, &module_text);
    PyObject *module_name = text != NULL
                                ? PyUnicode_FromString(module_text)
                                : PyObject_GetAttr(obj, words[WORD_MODULE]);
    PyObject *own = module_name == NULL ? NULL
                    : text != NULL      ? PyUnicode_FromString(text)
                    : name != NULL
                        ? Py_NewRef(name)
                        : PyObject_GetAttr(obj, words[WORD_QUALNAME]);
    int r = 0;
    if (own != NULL && PyUnicode_CheckExact(own)
        && PyUnicode_CheckExact(module_name)
        && (text != NULL || leads_to(module_name, own, obj))) {
        r = put_strings(w, module_name, own);
    } else {
        r = left_to_pickle();
    }
    Py_XDECREF(module_name);
    Py_XDECREF(own);
    return r;
}

void
py_named_forget(struct py_class_name *known)
{
    Py_CLEAR(known->module_name);
    Py_CLEAR(known->name);
}

/* Does the class have the same name as before? Setting its __module__ gives the
 * class a new version, but setting its __qualname__ does not. */
static bool
is_still(const struct py_class_name *known, const PyTypeObject *cls)
{
    return known->name != NULL
           && (!PyType_HasFeature((PyTypeObject *)(uintptr_t)cls,
                                  Py_TPFLAGS_HEAPTYPE)
               || ((const PyHeapTypeObject *)cls)->ht_qualname == known->name);
}

/* Read the name of a class whose metaclass does not interfere. */
static void
look_up_name(const struct py_state *state, PyTypeObject *cls,
             struct py_class_name *known)
{
    PyTypeObject *meta = Py_TYPE(cls);
    PyObject *module = _PyType_Lookup(meta, state->words[WORD_MODULE]);
    const char *text;
    if (meta != &PyType_Type
        && (module == NULL || !PyUnicode_CheckExact(module)
            || _PyType_Lookup(meta, state->words[WORD_QUALNAME])
                   != _PyType_Lookup(&PyType_Type,
                                     state->words[WORD_QUALNAME]))) {
        return;
    }
    if (other_name((PyObject *)cls, &text) != NULL) {
        return;
    }
    known->module_name =
        PyObject_GetAttr((PyObject *)cls, state->words[WORD_MODULE]);
    if (known->module_name != NULL) {
        known->name =
            PyObject_GetAttr((PyObject *)cls, state->words[WORD_QUALNAME]);
    }
    PyErr_Clear();
    if (known->name == NULL || !PyUnicode_CheckExact(known->name)
        || !PyUnicode_CheckExact(known->module_name)) {
        py_named_forget(known);
    }
}

int
py_named_put_class(struct py_writer *w, PyTypeObject *cls,
                   struct py_class_name *known)
{
    PyObject *obj = (PyObject *)cls;
    if (!is_still(known, cls)) {
        py_named_forget(known);
        look_up_name(w->state, cls, known);
    }
    if (known->name != NULL && leads_to(known->module_name, known->name, obj)) {
        return put_strings(w, known->module_name, known->name);
    }
    py_named_forget(known);
    return left_to_pickle() < 0 ? -1 : py_named_put(w, obj, NULL);
}

/* ---- decoding ---- */

/* Find the object with pickle's code, for pickle's exceptions. */
static PyObject *
find_by_pickle(struct py_state *state, PyObject *module_name, PyObject *name)
{
    PyObject *pickle = PyObject_CallMethod(state->failures, "pickle_of_name",
                                           "OO", module_name, name);
    if (pickle == NULL) {
        return NULL;
    }
    py_imports_begin();
    PyObject *obj = PyObject_CallOneArg(state->pickle_loads, pickle);
    if (obj == NULL && py_imports_try_again()) {
        obj = PyObject_CallOneArg(state->pickle_loads, pickle);
        py_imports_end();
    }
    Py_DECREF(pickle);
    return obj;
}

PyObject *
py_named_find(struct py_state *state, PyObject *module_name, PyObject *name)
{
    if (PySys_Audit("pickle.find_class", "OO", module_name, name) < 0) {
        return NULL;
    }
    PyObject *found = follow(module_name, name);
    if (found == NULL
        && (PyErr_Occurred() == NULL
            || PyErr_ExceptionMatches(PyExc_Exception))) {
        PyErr_Clear();
        found = find_by_pickle(state, module_name, name);
    }
    return found;
}

/* Get a string; a long one may be a REF to one that was met before. */
static int
get_string(struct py_reader *in, PyObject **str)
{
    unsigned tag;
    if (py_reader_get_byte(in, &tag) < 0) {
        return CP_EPROTO;
    }
    if (tag == TAG_REF1 || tag == TAG_REF2 || tag == TAG_REF4) {
        int r = py_reader_get_ref(in, tag, str);
        return r == 0 && !PyUnicode_CheckExact(*str) ? CP_EPROTO : r;
    }
    if (tag == TAG_PART) {
        int r = py_text_get_part(in, str);
        if (r == 0 && !PyUnicode_CheckExact(*str)) {
            Py_CLEAR(*str);
            r = CP_EPROTO;
        }
        return r;
    }
    return tag >= TAG_ASCII && tag <= TAG_UCS4 ? py_text_get_name(in, tag, str)
                                               : CP_EPROTO;
}

int
py_named_get(struct py_reader *in, PyObject **obj)
{
    PyObject *module_name = NULL, *name = NULL;
    size_t number;
    if ((in->flags & HAS_CODE) == 0) {
        return CP_EPROTO;
    }
    int r = py_reader_number(in, 1, &number);
    r = r == 0 ? get_string(in, &module_name) : r;
    r = r == 0 ? get_string(in, &name) : r;
    if (r == 0) {
        *obj = py_named_find(in->state, module_name, name);
        r = *obj != NULL ? 0 : -1;
    }
    if (r == 0) {
        py_reader_set(in, number, *obj);
    }
    Py_XDECREF(module_name);
    Py_XDECREF(name);
    return r;
}
