/* Dates, complex numbers, decimals, UUIDs, paths; see value/standard.h. */
#include "value/standard.h"

#include "base/dict.h"
#include "base/name.h"
#include "base/word.h"
#include "value/named.h"
#include "value/number.h"

#include <datetime.h>
#include <structmember.h>
#include <string.h>

/* ---- objects of bytes ---- */

#define DATE_SIZE 4u
#define TIME_SIZE 6u
#define DELTA_SIZE 12u
#define COMPLEX_SIZE 16u
#define FOLD 0x80u /* a flag in the byte of the hour */

#define DAYS_MAX 999999999 /* of a timedelta */
#define SECONDS_A_DAY (24 * 3600)
#define MICROSECONDS 1000000

/* The C functions of the module datetime, which any thread may load; or NULL
 * with an exception. */
static PyDateTime_CAPI *
dates(void)
{
    PyDateTime_CAPI *api = __atomic_load_n(&PyDateTimeAPI, __ATOMIC_ACQUIRE);
    if (api == NULL) {
        api = PyCapsule_Import(PyDateTime_CAPSULE_NAME, 0);
        __atomic_store_n(&PyDateTimeAPI, api, __ATOMIC_RELEASE);
    }
    return api;
}

int
py_standard_begin(unsigned kind)
{
    return kind == PY_STANDARD_COMPLEX || dates() != NULL ? 0 : -1;
}

static enum py_standard
date_kind_of(const PyTypeObject *type)
{
    if (strncmp(type->tp_name, "datetime.", 9) != 0) {
        return PY_STANDARD_NONE;
    }
    const PyDateTime_CAPI *api = dates();
    if (api == NULL) {
        PyErr_Clear();
        return PY_STANDARD_NONE;
    }
    return type == api->DateTimeType ? PY_STANDARD_DATETIME
           : type == api->DateType   ? PY_STANDARD_DATE
           : type == api->TimeType   ? PY_STANDARD_TIME
           : type == api->DeltaType  ? PY_STANDARD_TIMEDELTA
                                     : PY_STANDARD_NONE;
}

size_t
py_standard_size(unsigned kind)
{
    switch (kind) {
        case PY_STANDARD_DATE: return DATE_SIZE;
        case PY_STANDARD_TIME:
        case PY_STANDARD_ZONED_TIME: return TIME_SIZE;
        case PY_STANDARD_TIMEDELTA: return DELTA_SIZE;
        case PY_STANDARD_COMPLEX: return COMPLEX_SIZE;
        default: return DATE_SIZE + TIME_SIZE;
    }
}

PyObject *
py_standard_zone(PyObject *obj)
{
    const _PyDateTime_BaseTZInfo *base = (const _PyDateTime_BaseTZInfo *)obj;
    const PyDateTime_CAPI *api = dates();
    if (!base->hastzinfo) {
        return Py_None;
    }
    return Py_IS_TYPE(obj, api->TimeType)
               ? ((const PyDateTime_Time *)obj)->tzinfo
               : ((const PyDateTime_DateTime *)obj)->tzinfo;
}

void
py_standard_put_bytes(unsigned kind, PyObject *obj, uint8_t *to)
{
    if (kind == PY_STANDARD_COMPLEX) {
        Py_complex value = ((const PyComplexObject *)obj)->cval;
        memcpy(to, &value.real, sizeof(double));
        memcpy(to + sizeof(double), &value.imag, sizeof(double));
        return;
    }
    if (kind == PY_STANDARD_TIMEDELTA) {
        int32_t delta[3] = {PyDateTime_DELTA_GET_DAYS(obj),
                            PyDateTime_DELTA_GET_SECONDS(obj),
                            PyDateTime_DELTA_GET_MICROSECONDS(obj)};
        memcpy(to, delta, DELTA_SIZE);
        return;
    }
    const uint8_t *data;
    unsigned fold = 0;
    size_t hour = 0; /* offset of the hour */
    if (kind == PY_STANDARD_DATE) {
        data = ((const PyDateTime_Date *)obj)->data;
    } else if (kind == PY_STANDARD_TIME || kind == PY_STANDARD_ZONED_TIME) {
        data = ((const PyDateTime_Time *)obj)->data;
        fold = ((const PyDateTime_Time *)obj)->fold;
    } else {
        data = ((const PyDateTime_DateTime *)obj)->data;
        fold = ((const PyDateTime_DateTime *)obj)->fold;
        hour = DATE_SIZE;
    }
    memcpy(to, data, py_standard_size(kind));
    if (fold != 0) {
        to[hour] |= FOLD;
    }
}

static PyObject *
delta_of(const PyDateTime_CAPI *api, const uint8_t *from)
{
    int32_t delta[3];
    memcpy(delta, from, DELTA_SIZE);
    if (delta[0] < -DAYS_MAX || delta[0] > DAYS_MAX || delta[1] < 0
        || delta[1] >= SECONDS_A_DAY || delta[2] < 0
        || delta[2] >= MICROSECONDS) {
        return NULL;
    }
    return api->Delta_FromDelta(delta[0], delta[1], delta[2], 0,
                                api->DeltaType);
}

static PyObject *
complex_of(const uint8_t *from)
{
    double real, imag;
    memcpy(&real, from, sizeof(double));
    memcpy(&imag, from + sizeof(double), sizeof(double));
    return PyComplex_FromDoubles(real, imag);
}

static PyObject *
time_of(const PyDateTime_CAPI *api, const uint8_t *t, PyObject *zone)
{
    return api->Time_FromTimeAndFold(t[0] & ~FOLD, t[1], t[2],
                                     t[3] << 16 | t[4] << 8 | t[5], zone,
                                     (t[0] & FOLD) != 0, api->TimeType);
}

static PyObject *
datetime_of(const PyDateTime_CAPI *api, const uint8_t *d, PyObject *zone)
{
    const uint8_t *t = d + DATE_SIZE;
    return api->DateTime_FromDateAndTimeAndFold(
        d[0] << 8 | d[1], d[2], d[3], t[0] & ~FOLD, t[1], t[2],
        t[3] << 16 | t[4] << 8 | t[5], zone, (t[0] & FOLD) != 0,
        api->DateTimeType);
}

int
py_standard_get_bytes(unsigned kind, const uint8_t *from, PyObject *zone,
                      PyObject **obj)
{
    if (kind == PY_STANDARD_COMPLEX) {
        *obj = complex_of(from);
        return *obj != NULL ? 0 : -1;
    }
    const PyDateTime_CAPI *api = dates();
    if (zone != Py_None && !PyObject_TypeCheck(zone, api->TZInfoType)) {
        return CP_EPROTO;
    }
    switch (kind) {
        case PY_STANDARD_TIMEDELTA: *obj = delta_of(api, from); break;
        case PY_STANDARD_DATE:
            *obj = api->Date_FromDate(from[0] << 8 | from[1], from[2], from[3],
                                      api->DateType);
            break;
        case PY_STANDARD_TIME:
        case PY_STANDARD_ZONED_TIME: *obj = time_of(api, from, zone); break;
        default: *obj = datetime_of(api, from, zone); break;
    }
    if (*obj != NULL) {
        return 0;
    }
    if (PyErr_Occurred() != NULL && !PyErr_ExceptionMatches(PyExc_ValueError)) {
        return -1;
    }
    PyErr_Clear();
    return CP_EPROTO;
}

/* ---- classes ---- */

/* The module and the name of the class of a kind. */
static void
name_of(const struct py_state *state, unsigned kind, PyObject **module_name,
        PyObject **name)
{
    static const enum py_word WORDS[PY_STANDARD_END][2] = {
        [PY_STANDARD_DECIMAL] = {WORD_DECIMAL_MODULE, WORD_DECIMAL},
        [PY_STANDARD_UUID] = {WORD_UUID_MODULE, WORD_UUID},
        [PY_STANDARD_PATH] = {WORD_PATH_MODULE, WORD_POSIX_PATH},
        [PY_STANDARD_PURE_PATH] = {WORD_PATH_MODULE, WORD_PURE_POSIX_PATH},
        [PY_STANDARD_COUNTER] = {WORD_COLLECTIONS_MODULE, WORD_COUNTER},
    };
    *module_name = state->words[WORDS[kind][0]];
    *name = state->words[WORDS[kind][1]];
}

/* The object of this name in a module, if the module is loaded: a new
 * reference. Otherwise NULL without an exception. */
static PyObject *
follow(PyObject *module_name, PyObject *name)
{
    PyObject *found = py_name_direct(module_name, name);
    PyErr_Clear();
    return found;
}

/* Is it the method that the standard library has for this class, and is the
 * class no subclass in another module? A function that a program has put in the
 * method's place has the globals of another module. */
static bool
is_own_method(const struct py_state *state, PyTypeObject *type,
              enum py_word word)
{
    PyObject *method = _PyType_Lookup(type, state->words[word]);
    PyObject *own = _PyType_Lookup(type, state->words[WORD_MODULE]);
    if (method == NULL || !PyFunction_Check(method) || own == NULL
        || !PyUnicode_CheckExact(own)) {
        return false;
    }
    PyObject *module = py_name_module(own);
    bool is = module != NULL && PyModule_CheckExact(module)
              && PyFunction_GET_GLOBALS(method) == PyModule_GetDict(module);
    Py_XDECREF(module);
    PyErr_Clear();
    return is;
}

static bool
is_of_object(const struct py_state *state, PyTypeObject *type,
             enum py_word word)
{
    return _PyType_Lookup(type, state->words[word])
           == _PyType_Lookup(&PyBaseObject_Type, state->words[word]);
}

/* The descriptor of a slot, borrowed; or NULL. */
static PyObject *
slot_of(const struct py_state *state, PyTypeObject *type, enum py_word word)
{
    PyObject *member = _PyType_Lookup(type, state->words[word]);
    return member != NULL && Py_IS_TYPE(member, &PyMemberDescr_Type) ? member
                                                                     : NULL;
}

static struct PyMemberDef *
member_of(PyObject *descriptor)
{
    return ((PyMemberDescrObject *)descriptor)->d_member;
}

/* Is it the Decimal that is written in C? */
static bool
is_decimal(const struct py_state *state, PyTypeObject *type)
{
    PyObject *method = _PyType_Lookup(type, state->words[WORD_REDUCE]);
    return method != NULL && Py_IS_TYPE(method, &PyMethodDescr_Type)
           && is_of_object(state, type, WORD_REDUCE_EX);
}

static bool
is_uuid(const struct py_state *state, struct py_standard_class *cls, bool known)
{
    PyTypeObject *type = cls->type;
    cls->members[0] = slot_of(state, type, WORD_INT);
    cls->members[1] = slot_of(state, type, WORD_IS_SAFE);
    if (cls->members[0] == NULL || cls->members[1] == NULL
        || (!known
            && (type->tp_dictoffset != 0
                || !is_of_object(state, type, WORD_REDUCE_EX)
                || !is_of_object(state, type, WORD_REDUCE)
                || !is_own_method(state, type, WORD_GETSTATE)
                || !is_own_method(state, type, WORD_SETSTATE)))) {
        return false;
    }
    PyObject *safe =
        follow(state->words[WORD_UUID_MODULE], state->words[WORD_SAFE_UUID]);
    cls->unknown = safe != NULL
                       ? PyObject_GetAttr(safe, state->words[WORD_UNKNOWN])
                       : NULL;
    Py_XDECREF(safe);
    PyErr_Clear();
    return cls->unknown != NULL;
}

/* What a path consists of: up to 3.11 a list of its parts, and which of them is
 * the root; since then the strings that it was made from. Future versions may
 * change that. */
#if PY_VERSION_HEX < 0x030C0000
#    define IS_PARSED 1
#else
#    define IS_PARSED 0
#endif

static bool
is_path(const struct py_state *state, struct py_standard_class *cls, bool known)
{
    PyTypeObject *type = cls->type;
    bool has_slots;
    if (IS_PARSED) {
        cls->members[0] = slot_of(state, type, WORD_PARTS);
        cls->members[1] = slot_of(state, type, WORD_DRIVE);
        cls->members[2] = slot_of(state, type, WORD_ROOT);
        has_slots = cls->members[1] != NULL && cls->members[2] != NULL;
    } else {
        cls->members[0] = slot_of(state, type, WORD_RAW_PATHS);
        has_slots = PY_VERSION_HEX < 0x03100000;
    }
    return has_slots && cls->members[0] != NULL
           && (known
               || (type->tp_dictoffset == 0
                   && (type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0
                   && is_of_object(state, type, WORD_REDUCE_EX)
                   && is_of_object(state, type, WORD_GETSTATE)
                   && _PyType_Lookup(type, state->words[WORD_SETSTATE]) == NULL
                   && is_own_method(state, type, WORD_REDUCE)));
}

static bool
is_counter(const struct py_state *state, PyTypeObject *type)
{
    return PyType_HasFeature(type, Py_TPFLAGS_DICT_SUBCLASS)
           && type->tp_new == PyDict_Type.tp_new
           && is_of_object(state, type, WORD_REDUCE_EX)
           && is_own_method(state, type, WORD_REDUCE)
           && is_own_method(state, type, WORD_INIT);
}

/* Check whether the class is as we know it, but only once for each version of
 * the class. */
static void
study(struct py_state *state, struct py_standard_class *cls)
{
    (void)_PyType_Lookup(cls->type, state->words[WORD_REDUCE_EX]);
    unsigned version = py_class_version(cls->type);
    bool known = version != 0
                 && version == atomic_load(&state->plain_version[cls->kind]);
    switch (cls->kind) {
        case PY_STANDARD_DECIMAL:
            cls->plain = known || is_decimal(state, cls->type);
            break;
        case PY_STANDARD_UUID: cls->plain = is_uuid(state, cls, known); break;
        case PY_STANDARD_COUNTER:
            cls->plain = known || is_counter(state, cls->type);
            break;
        default: cls->plain = is_path(state, cls, known); break;
    }
    if (cls->plain && !known) {
        atomic_store(&state->plain_version[cls->kind], version);
    }
}

enum py_standard
py_standard_kind_of(struct py_state *state, PyTypeObject *type)
{
    enum py_standard kind =
        type == &PyComplex_Type ? PY_STANDARD_COMPLEX : date_kind_of(type);
    const char *dot = strrchr(type->tp_name, '.');
    const char *text = dot != NULL ? dot + 1 : type->tp_name;
    for (unsigned i = PY_STANDARD_DECIMAL;
         i < PY_STANDARD_END && kind == PY_STANDARD_NONE; i++) {
        PyObject *module_name, *name;
        name_of(state, i, &module_name, &name);
        if (PyUnicode_CompareWithASCIIString(name, text) != 0) {
            continue;
        }
        struct py_standard_class cls = {.kind = i, .type = type};
        PyObject *found = follow(module_name, name);
        if (found == (PyObject *)type) {
            study(state, &cls);
        }
        Py_XDECREF(found);
        Py_XDECREF(cls.unknown);
        kind = cls.plain ? (enum py_standard)i : kind;
    }
    return kind;
}

int
py_standard_find(struct py_state *state, unsigned kind,
                 struct py_standard_class *found)
{
    PyObject *module_name, *name;
    name_of(state, kind, &module_name, &name);
    PyObject *type = py_named_find(state, module_name, name);
    *found =
        (struct py_standard_class){.kind = kind, .type = (PyTypeObject *)type};
    if (type == NULL) {
        return -1;
    }
    if (PyType_Check(type)) {
        study(state, found);
    }
    return 0;
}

void
py_standard_release(struct py_standard_class *found)
{
    Py_XDECREF(found->unknown);
    Py_XDECREF(found->type);
}

/* ---- from objects to parts ---- */

static PyObject *
get_slot(const struct py_standard_class *cls, int i, PyObject *obj)
{
    return PyMember_GetOne((const char *)obj, member_of(cls->members[i]));
}

static PyObject *
uuid_part(const struct py_standard_class *cls, PyObject *obj)
{
    PyObject *safe = get_slot(cls, 1, obj);
    PyObject *number = safe == cls->unknown ? get_slot(cls, 0, obj) : NULL;
    Py_XDECREF(safe);
    if (number != NULL
        && (!PyLong_CheckExact(number) || !py_number_is_of_16_bytes(number))) {
        Py_CLEAR(number);
    }
    return number;
}

static PyObject *
path_part(const struct py_standard_class *cls, PyObject *obj)
{
    PyObject *list = get_slot(cls, 0, obj);
    PyObject *parts =
        list != NULL && PyList_CheckExact(list) ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    for (Py_ssize_t i = 0; parts != NULL && i < PyTuple_GET_SIZE(parts); i++) {
        if (!PyUnicode_CheckExact(PyTuple_GET_ITEM(parts, i))) {
            Py_CLEAR(parts);
        }
    }
    return parts;
}

/* dict(obj), as in Counter.__reduce__(). */
static PyObject *
counter_part(PyObject *obj)
{
    PyObject *dict = PyDict_New();
    if (dict != NULL && PyDict_Update(dict, obj) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

int
py_standard_part(const struct py_standard_class *cls, PyObject *obj,
                 PyObject **part)
{
    if (!cls->plain || Py_TYPE(obj) != cls->type) {
        return 0;
    }
    switch (cls->kind) {
        case PY_STANDARD_DECIMAL: *part = PyObject_Str(obj); break;
        case PY_STANDARD_UUID: *part = uuid_part(cls, obj); break;
        case PY_STANDARD_COUNTER: *part = counter_part(obj); break;
        default: *part = path_part(cls, obj); break;
    }
    if (*part != NULL) {
        return 1;
    }
    if (PyErr_Occurred() != NULL
        && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear(); /* a slot is empty */
    return 0;
}

/* ---- from parts to objects ---- */

/* What object.__new__(cls) returns. */
static PyObject *
bare(const struct py_standard_class *cls)
{
    return cls->type->tp_alloc(cls->type, 0);
}

static int
set_slot(const struct py_standard_class *cls, int i, PyObject *obj,
         PyObject *value)
{
    return PyMember_SetOne((char *)obj, member_of(cls->members[i]), value);
}

static PyObject *
make_uuid(const struct py_standard_class *cls, PyObject *number)
{
    PyObject *obj = cls->plain ? bare(cls) : NULL;
    if (!cls->plain) {
        PyObject *args = PyTuple_New(0);
        PyObject *kwds = Py_BuildValue("{sO}", "int", number);
        obj = args != NULL && kwds != NULL
                  ? PyObject_Call((PyObject *)cls->type, args, kwds)
                  : NULL;
        Py_XDECREF(args);
        Py_XDECREF(kwds);
    } else if (obj != NULL
               && (set_slot(cls, 0, obj, number) < 0
                   || set_slot(cls, 1, obj, cls->unknown) < 0)) {
        Py_CLEAR(obj);
    }
    return obj;
}

#if IS_PARSED
static bool
is_text(PyObject *part, const char *text)
{
    return PyUnicode_CompareWithASCIIString(part, text) == 0;
}

/* The root of a path with these parts, borrowed. NULL: no path has such parts,
 * or there is an exception. */
static PyObject *
root_of(PyObject *parts, PyObject *none)
{
    PyObject *root = none;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts); i++) {
        PyObject *part = PyTuple_GET_ITEM(parts, i);
        Py_ssize_t n = PyUnicode_GET_LENGTH(part);
        if (i == 0 && (is_text(part, "/") || is_text(part, "//"))) {
            root = part;
        } else if (n == 0 || is_text(part, ".")
                   || PyUnicode_FindChar(part, '/', 0, n, 1) != -1) {
            return NULL;
        }
    }
    return root;
}

static int
set_path(const struct py_standard_class *cls, PyObject *obj, PyObject *parts)
{
    PyObject *none = PyUnicode_New(0, 0); /* "", which exists once */
    PyObject *root = none != NULL ? root_of(parts, none) : NULL;
    int r = root != NULL ? 0 : CP_EPROTO;
    PyObject *list = r == 0 ? PySequence_List(parts) : NULL;
    if (r == 0) {
        r = list == NULL || set_slot(cls, 0, obj, list) < 0
                    || set_slot(cls, 1, obj, none) < 0
                    || set_slot(cls, 2, obj, root) < 0
                ? -1
                : 0;
    }
    Py_XDECREF(list);
    Py_XDECREF(none);
    return r;
}
#else
static int
set_path(const struct py_standard_class *cls, PyObject *obj, PyObject *parts)
{
    PyObject *list = PySequence_List(parts);
    int r = list != NULL ? set_slot(cls, 0, obj, list) : -1;
    Py_XDECREF(list);
    return r;
}
#endif

/* Make a path by setting its slots; by calling the class if its slots are
 * unknown or the parts are unusual. */
static PyObject *
make_path(const struct py_standard_class *cls, PyObject *parts)
{
    PyObject *obj = cls->plain ? bare(cls) : NULL;
    int r = obj != NULL ? set_path(cls, obj, parts) : CP_EPROTO;
    if (r != 0) {
        Py_CLEAR(obj);
    }
    return r == CP_EPROTO && PyErr_Occurred() == NULL
               ? PyObject_Call((PyObject *)cls->type, parts, NULL)
               : obj;
}

/* Counter(dict), without its __init__(), which is a Python function. */
static PyObject *
make_counter(const struct py_standard_class *cls, PyObject *dict)
{
    if (!cls->plain) {
        return PyObject_CallOneArg((PyObject *)cls->type, dict);
    }
    PyObject *args = PyTuple_New(0);
    PyObject *obj =
        args != NULL ? cls->type->tp_new(cls->type, args, NULL) : NULL;
    Py_XDECREF(args);
    if (obj != NULL && PyDict_Update(obj, dict) < 0) {
        Py_CLEAR(obj);
    }
    return obj;
}

static bool
are_strings(PyObject *part)
{
    bool are = PyTuple_CheckExact(part);
    for (Py_ssize_t i = 0; are && i < PyTuple_GET_SIZE(part); i++) {
        are = PyUnicode_CheckExact(PyTuple_GET_ITEM(part, i));
    }
    return are;
}

int
py_standard_make(const struct py_standard_class *cls, PyObject *part,
                 PyObject **obj)
{
    switch (cls->kind) {
        case PY_STANDARD_DECIMAL:
            if (!PyUnicode_CheckExact(part)) {
                return CP_EPROTO;
            }
            *obj = PyObject_CallOneArg((PyObject *)cls->type, part);
            break;
        case PY_STANDARD_UUID:
            if (!PyLong_CheckExact(part) || !py_number_is_of_16_bytes(part)) {
                return CP_EPROTO;
            }
            *obj = make_uuid(cls, part);
            break;
        case PY_STANDARD_COUNTER:
            if (!PyDict_CheckExact(part)) {
                return CP_EPROTO;
            }
            *obj = make_counter(cls, part);
            break;
        default:
            if (!are_strings(part)) {
                return CP_EPROTO;
            }
            *obj = make_path(cls, part);
            break;
    }
    return *obj != NULL ? 0 : -1;
}
