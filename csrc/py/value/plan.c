/*
 * Plans of classes; see value/plan.h. A class has a version, which the
 * interpreter changes when an attribute or a base of the class changes; no two
 * classes ever have the same. So an address and a version tell whether a class
 * is the one that was studied. The tables of reducers are not part of the
 * class, so they are looked at for each body.
 */
#include "value/plan.h"

#include "base/dict.h"
#include "base/word.h"
#include "value/reducers.h"
#include "value/replaced.h"

#include <string.h>

#define PLACES 64u
/* How many plans are kept from body to body. */
#define KEPT_MAX 256u

struct py_plans {
    size_t count;
    struct py_plan *used; /* in this body; each has a reference to its class */
    struct py_plan *places[PLACES];
};

/* ---- a class ---- */

static PyObject *
find(PyTypeObject *type, const struct py_state *state, enum py_word word)
{
    return _PyType_Lookup(type, state->words[word]); /* borrowed */
}

/* Does the class inherit this method from object? */
static bool
inherits(PyTypeObject *type, const struct py_state *state, enum py_word word)
{
    return find(type, state, word) == find(&PyBaseObject_Type, state, word);
}

/* Would object.__reduce_ex__() take the state of an instance without calling
 * methods of the class? */
static bool
has_plain_state(PyTypeObject *type, const struct py_state *state)
{
    return type->tp_getattro == PyObject_GenericGetAttr
           && inherits(type, state, WORD_REDUCE_EX)
           && inherits(type, state, WORD_REDUCE)
           && inherits(type, state, WORD_GETSTATE)
           && find(type, state, WORD_GETNEWARGS_EX) == NULL;
}

/* Does an instance have only a __dict__ and slots, besides what one of the base
 * has? */
static bool
has_no_more(const PyTypeObject *type, const PyTypeObject *base,
            Py_ssize_t slots)
{
    Py_ssize_t own =
        base->tp_basicsize
        + (type->tp_dictoffset > 0) * (Py_ssize_t)sizeof(void *)
        + (type->tp_weaklistoffset > 0) * (Py_ssize_t)sizeof(void *)
        + slots * (Py_ssize_t)sizeof(void *);
    return type->tp_itemsize == 0 && type->tp_basicsize <= own;
}

static bool
is_named_tuple(PyTypeObject *type, const struct py_state *state)
{
    PyObject *method = find(type, state, WORD_GETNEWARGS);
    return PyType_HasFeature(type, Py_TPFLAGS_TUPLE_SUBCLASS)
           && type->tp_basicsize == PyTuple_Type.tp_basicsize
           && !py_plan_has_dict(type) && method != NULL
           && PyFunction_Check(method)
           && PyFunction_GET_CODE(method) == state->named_tuple_code;
}

/* Which items pickle would iterate over. *known is false if the class has its
 * own way to do that. */
static enum py_held
held_by(PyTypeObject *type, const struct py_state *state, bool *known)
{
    *known = true;
    if (PyType_HasFeature(type, Py_TPFLAGS_LIST_SUBCLASS)) {
        *known = type->tp_iter == PyList_Type.tp_iter;
        return HELD_ITEMS;
    }
    if (PyType_HasFeature(type, Py_TPFLAGS_DICT_SUBCLASS)) {
        *known = find(type, state, WORD_ITEMS)
                 == find(&PyDict_Type, state, WORD_ITEMS);
        return HELD_PAIRS;
    }
    return HELD_NOTHING;
}

static PyTypeObject *
base_of(enum py_held held)
{
    return held == HELD_ITEMS   ? &PyList_Type
           : held == HELD_PAIRS ? &PyDict_Type
                                : &PyBaseObject_Type;
}

/* Would object.__reduce_ex__() only call BaseException.__reduce__()? */
static bool
is_exception(PyTypeObject *type, const struct py_state *state)
{
    return PyType_HasFeature(type, Py_TPFLAGS_BASE_EXC_SUBCLASS)
           && type->tp_getattro == PyObject_GenericGetAttr
           && inherits(type, state, WORD_REDUCE_EX)
           && find(type, state, WORD_REDUCE)
                  == find((PyTypeObject *)PyExc_BaseException, state,
                          WORD_REDUCE);
}

/* Would an object of the class be reduced by Enum.__reduce_ex__()? */
static bool
is_of_enum(PyTypeObject *type, const struct py_state *state)
{
    return Py_TYPE(type) == (PyTypeObject *)state->enum_type
           && find(type, state, WORD_REDUCE_EX) == state->enum_reduce;
}

/* Classes of small immutable objects, by their modules. */
static const char *const SMALL[][2] = {
    {"datetime", "date"},
    {"datetime", "time"},
    {"datetime", "datetime"},
    {"datetime", "timezone"},
    {"datetime", "timedelta"},
    {"decimal", "Decimal"},
    {"uuid", "UUID"},
    {"fractions", "Fraction"},
    {"zoneinfo", "ZoneInfo"},
    {"pathlib", "PosixPath"},
    {"pathlib", "WindowsPath"},
    {"pathlib", "PurePosixPath"},
    {"pathlib", "PureWindowsPath"},
};

/* Is it the class that the module, if it is loaded, has under this name? */
static bool
is_of_module(PyTypeObject *type, const char *module_name, const char *name)
{
    PyObject *str = PyUnicode_FromString(module_name);
    PyObject *module =
        str != NULL ? py_dict_get(PyImport_GetModuleDict(), str) : NULL;
    PyObject *found = module != NULL && PyModule_CheckExact(module)
                          ? PyObject_GetAttrString(module, name)
                          : NULL;
    Py_XDECREF(str);
    Py_XDECREF(module);
    Py_XDECREF(found); /* only its address is compared */
    PyErr_Clear();
    return found == (PyObject *)type;
}

/* Is it a class of small immutable objects? Its name only tells where to look,
 * since a class of the program may have the same name. */
static bool
is_small(PyTypeObject *type, const struct py_state *state)
{
    if (type == &PyComplex_Type || type == &PyRange_Type
        || type == &PySlice_Type
        || Py_TYPE(type) == (PyTypeObject *)state->enum_type) {
        return true;
    }
    const char *dot = strrchr(type->tp_name, '.');
    const char *name = dot != NULL ? dot + 1 : type->tp_name;
    bool small = false;
    for (size_t i = 0; i < sizeof(SMALL) / sizeof(*SMALL) && !small; i++) {
        small = strcmp(name, SMALL[i][1]) == 0
                && is_of_module(type, SMALL[i][0], SMALL[i][1]);
    }
    return small;
}

/* Is it this class of the module, with a __reduce__() written in C? */
static bool
is_of_c(PyTypeObject *type, const struct py_state *state,
        const char *module_name, const char *name)
{
    const char *dot = strrchr(type->tp_name, '.');
    PyObject *method = find(type, state, WORD_REDUCE);
    return strcmp(dot != NULL ? dot + 1 : type->tp_name, name) == 0
           && method != NULL && Py_IS_TYPE(method, &PyMethodDescr_Type)
           && inherits(type, state, WORD_REDUCE_EX)
           && is_of_module(type, module_name, name);
}

/* ---- the rule of a class ---- */

/* Find the slots of the class, as a tuple of our own: 1; 0 if we cannot read
 * them; or -1 with an exception. */
static int
find_slots(struct py_plan *plan, const struct py_state *state)
{
    if (find(plan->type, state, WORD_SLOTS) == NULL) {
        return 1;
    }
    PyObject *list =
        PyObject_CallOneArg(state->slotnames, (PyObject *)plan->type);
    if (list == NULL) {
        return -1;
    }
    bool sound = PyList_CheckExact(list);
    plan->slots = sound ? PyList_AsTuple(list) : NULL;
    Py_DECREF(list);
    if (sound && plan->slots == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; sound && i < PyTuple_GET_SIZE(plan->slots); i++) {
        sound = PyUnicode_CheckExact(PyTuple_GET_ITEM(plan->slots, i));
    }
    return sound;
}

/* Find out the rule of the class: 0, or -1 with an exception. */
static int
study(struct py_plan *plan, struct py_state *state)
{
    PyTypeObject *type = plan->type;
    plan->rule = RULE_NAME;
    if (type == &PyType_Type || type == &PyFunction_Type) {
        return 0;
    }
    if (!plan->registered && type != &PyComplex_Type
        && py_reducers_find(state, type, &plan->reducer) < 0) {
        return -1;
    }
    if (plan->reducer == NULL && PyType_IsSubtype(type, &PyType_Type)) {
        return 0;
    }
    plan->rule = RULE_REDUCE;
    enum py_array_kind kind =
        plan->registered ? PY_ARRAY_NONE : py_array_kind_of(state, type);
    if (kind != PY_ARRAY_NONE) {
        plan->rule = kind == PY_ARRAY_ARRAY ? RULE_ARRAY : RULE_SCALAR;
        return 0;
    }
    plan->small = is_small(type, state);
    plan->runs_code = !plan->small
                      && (plan->reducer != NULL
                          || PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE));
    if (plan->reducer != NULL) {
        return 0;
    }
    plan->standard = py_standard_kind_of(state, type);
    if (plan->standard != PY_STANDARD_NONE) {
        plan->rule = RULE_STANDARD;
        return 0;
    }
    if (type == &PyODict_Type) {
        plan->rule = RULE_PLAIN;
        plan->held = HELD_ORDERED_PAIRS;
        return 0;
    }
    if (is_of_c(type, state, "collections", "defaultdict")) {
        plan->rule = RULE_PLAIN;
        plan->held = HELD_DEFAULTS;
        return 0;
    }
    if (is_of_c(type, state, "collections", "deque")) {
        plan->rule = RULE_PLAIN;
        plan->held = HELD_QUEUED;
        return 0;
    }
    if (is_exception(type, state)) {
        plan->rule = RULE_EXCEPTION;
        return 0;
    }
    if (is_of_enum(type, state)) {
        plan->rule = RULE_MEMBER;
        return 0;
    }
    if (!has_plain_state(type, state)) {
        return 0;
    }
    if (is_named_tuple(type, state)) {
        plan->rule = RULE_NAMED_TUPLE;
        return 0;
    }
    bool known;
    plan->held = held_by(type, state, &known);
    if (find(type, state, WORD_GETNEWARGS) != NULL || type->tp_new == NULL
        || !known) {
        return 0;
    }
    int r = find_slots(plan, state);
    if (r != 1) {
        return r;
    }
    Py_ssize_t slots = plan->slots != NULL ? PyTuple_GET_SIZE(plan->slots) : 0;
    plan->rule = has_no_more(type, base_of(plan->held), slots) ? RULE_PLAIN
                                                               : RULE_REDUCE;
    plan->sees_state =
        find(type, state, WORD_SETSTATE) != NULL
        || (slots > 0 && type->tp_setattro != PyObject_GenericSetAttr);
    return 0;
}

/* ---- keeping plans ---- */

/* Forget everything that was found out about the class. */
static void
reset(struct py_plan *plan)
{
    plan->rule = RULE_UNKNOWN;
    plan->held = HELD_NOTHING;
    plan->standard = PY_STANDARD_NONE;
    plan->small = plan->runs_code = plan->sees_state = false;
    Py_CLEAR(plan->reducer);
    Py_CLEAR(plan->slots);
    py_named_forget(&plan->own_name);
}

static void
free_plans(struct py_plans *plans)
{
    for (size_t i = 0; i < PLACES; i++) {
        while (plans->places[i] != NULL) {
            struct py_plan *plan = plans->places[i];
            plans->places[i] = plan->next;
            reset(plan);
            PyMem_RawFree(plan);
        }
    }
    PyMem_RawFree(plans);
}

/* Take the plans from the state, so that only this body uses them: 1, 0 or
 * -1. */
static int
take(struct py_writer *w)
{
    if (w->plans != NULL) {
        return 1;
    }
    if (py_replaced_check(w->state) < 0) {
        return -1;
    }
    if (atomic_load(&w->state->replaced)) {
        return 0;
    }
    w->plans = atomic_exchange(&w->state->plans, NULL);
    if (w->plans == NULL) {
        w->plans = PyMem_RawCalloc(1, sizeof(*w->plans));
    }
    if (w->plans == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    return 1;
}

/* The reducer that the program has registered for the class, if any. copyreg's
 * own reducer of complex numbers does what our rule does. */
static int
find_registered(const struct py_state *state, PyTypeObject *type,
                PyObject **reducer)
{
    *reducer = py_dict_get(state->extra_reducers, (PyObject *)type);
    if (*reducer == NULL && !PyErr_Occurred()) {
        *reducer = py_dict_get(state->copyreg_table, (PyObject *)type);
    }
    if (*reducer != NULL && type == &PyComplex_Type
        && *reducer == state->complex_reducer) {
        Py_CLEAR(*reducer);
    }
    return *reducer == NULL && PyErr_Occurred() ? -1 : 0;
}

/* Prepare a plan at its first use in this body. */
static int
begin(struct py_writer *w, struct py_plan *plan, PyTypeObject *type)
{
    PyObject *reducer;
    (void)find(type, w->state, WORD_REDUCE_EX); /* gives it a version */
    unsigned version = py_class_version(type);
    if (find_registered(w->state, type, &reducer) < 0) {
        return -1;
    }
    bool registered = reducer != NULL;
    if (version == 0 || version != plan->version
        || registered != plan->registered) {
        reset(plan);
    }
    plan->version = version;
    plan->registered = registered;
    if (registered) {
        Py_XSETREF(plan->reducer, reducer);
    }
    plan->type = (PyTypeObject *)Py_NewRef(type);
    plan->used = true;
    plan->next_used = w->plans->used;
    w->plans->used = plan;
    return 1;
}

int
py_plan_of_class(struct py_writer *w, PyTypeObject *type,
                 struct py_plan **found)
{
    int r = take(w);
    if (r != 1) {
        return r;
    }
    struct py_plan **list = &w->plans->places[((uintptr_t)type >> 6) % PLACES];
    struct py_plan *plan = *list;
    while (plan != NULL && plan->type != type) {
        plan = plan->next;
    }
    if (plan == NULL) {
        plan = PyMem_RawCalloc(1, sizeof(*plan));
        if (plan == NULL) {
            (void)PyErr_NoMemory();
            return -1;
        }
        plan->type = type;
        plan->next = *list;
        *list = plan;
        w->plans->count++;
    }
    *found = plan;
    return plan->used ? 1 : begin(w, plan, type);
}

int
py_plan_find(struct py_writer *w, PyTypeObject *type, struct py_plan **found)
{
    int r = py_plan_of_class(w, type, found);
    if (r == 1 && (*found)->rule == RULE_UNKNOWN
        && study(*found, w->state) < 0) {
        (*found)->version = 0;
        reset(*found);
        return -1;
    }
    return r;
}

void
py_plan_leave(struct py_writer *w)
{
    struct py_plans *plans = w->plans, *none = NULL;
    while (plans->used != NULL) {
        struct py_plan *plan = plans->used;
        plans->used = plan->next_used;
        plan->used = false;
        if (plan->registered) {
            Py_CLEAR(plan->reducer); /* it may not be registered any more */
        }
        Py_DECREF(plan->type);
    }
    w->plans = NULL;
    if (plans->count > KEPT_MAX
        || !atomic_compare_exchange_strong(&w->state->plans, &none, plans)) {
        free_plans(plans);
    }
}

void
py_plan_forget(struct py_state *state)
{
    struct py_plans *plans = atomic_exchange(&state->plans, NULL);
    if (plans != NULL) {
        free_plans(plans);
    }
}
