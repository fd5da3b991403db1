/*
 * Objects of all classes without a rule in decoder.c, made as pickle would make
 * them: by name; or by a callable, followed by changes to the new object. Runs
 * code of the program.
 */
#include "value/decode.h"

#include "base/dict.h"
#include "base/word.h"
#include "value/standard.h"
#include "value/uses.h"

/* The callable or class that makes n objects, and their arguments. */
struct maker {
    unsigned how; /* HOW_ bits */
    PyObject *callable;
    size_t arity;
    PyObject **args;     /* of n * arity */
    bool is_named_tuple; /* the class makes tuples of its arguments */
    PyObject *members;   /* an Enum's members by their values; or NULL */
};

/* ---- making objects ---- */

/* cls.__new__(cls, *args, **kwds). Consumes the items of args. */
static PyObject *
make_bare(const struct maker *maker, PyObject **args)
{
    PyTypeObject *cls = (PyTypeObject *)maker->callable;
    if ((maker->how & HOW_NEW_EX) != 0) {
        return cls->tp_new(cls, args[0], args[1]);
    }
    PyObject *tuple = py_get_tuple_of(args, maker->arity);
    PyObject *obj = tuple != NULL ? cls->tp_new(cls, tuple, NULL) : NULL;
    Py_XDECREF(tuple);
    return obj;
}

static bool
is_sound(const struct maker *maker, size_t n)
{
    unsigned how = maker->how;
    bool is_class = PyType_Check(maker->callable)
                    && ((PyTypeObject *)maker->callable)->tp_new != NULL;
    bool ex = (how & HOW_NEW_EX) != 0;
    bool sound = ((how & HOW_NEW) == 0 || is_class)
                 && (!ex || ((how & HOW_NEW) != 0 && maker->arity == 2))
                 && ((how & HOW_SETTER) == 0 || (how & HOW_STATE) != 0)
                 && ((how & HOW_ATTRS) == 0 || (how & HOW_STATE) == 0)
                 && ((how & HOW_ROWS) == 0
                     || ((how & HOW_LIST) != 0) != ((how & HOW_DICT) != 0));
    for (size_t i = 0; i < n && ex && sound; i++) {
        sound = PyTuple_CheckExact(maker->args[2 * i])
                && PyDict_CheckExact(maker->args[2 * i + 1]);
    }
    return sound;
}

/* ---- named tuples ---- */

/* For named tuples with more fields, nothing is remembered. */
#define FIELDS_MAX 64u

/* The function behind cls.__new__, looked up as the class itself would: a new
 * reference; or NULL. */
static PyObject *
new_of(const struct py_state *state, PyTypeObject *cls)
{
    PyObject *method = _PyType_Lookup(cls, state->words[WORD_NEW]);
    if (method == NULL || Py_TYPE(cls) != &PyType_Type
        || Py_TYPE(method) != &PyStaticMethod_Type) {
        return NULL;
    }
    Py_INCREF(method);
    PyObject *function =
        PyStaticMethod_Type.tp_descr_get(method, NULL, (PyObject *)cls);
    Py_DECREF(method);
    if (function != NULL && !PyFunction_Check(function)) {
        Py_CLEAR(function);
    }
    return function;
}

/* Do both code objects take equally many arguments and do the same with
 * them? */
static int
is_same_code(PyCodeObject *one, PyCodeObject *two)
{
    PyObject *first = PyCode_GetCode(one);
    PyObject *second = first != NULL ? PyCode_GetCode(two) : NULL;
    int same =
        second != NULL ? PyObject_RichCompareBool(first, second, Py_EQ) : -1;
    Py_XDECREF(first);
    Py_XDECREF(second);
    if (same != 1 || one->co_argcount != two->co_argcount
        || one->co_kwonlyargcount != two->co_kwonlyargcount
        || one->co_flags != two->co_flags) {
        return same < 0 ? -1 : 0;
    }
    return PyObject_RichCompareBool(one->co_names, two->co_names, Py_EQ);
}

/* Is it the function that collections.namedtuple() generates for this number of
 * fields, which calls tuple.__new__()? */
static int
is_new_of_tuple(const struct py_state *state, PyObject *function, size_t arity)
{
    PyObject *size = PyLong_FromSize_t(arity);
    PyObject *code =
        size != NULL ? PyObject_CallOneArg(state->named_tuple_new, size) : NULL;
    int same = code != NULL
                   ? is_same_code((PyCodeObject *)PyFunction_GET_CODE(function),
                                  (PyCodeObject *)code)
                   : -1;
    Py_XDECREF(size);
    Py_XDECREF(code);
    if (same != 1) {
        return same;
    }
    PyObject *called = py_dict_get(PyFunction_GET_GLOBALS(function),
                                   state->words[WORD_TUPLE_NEW]);
    Py_XDECREF(called); /* only its address is compared */
    return called == NULL && PyErr_Occurred() != NULL
               ? -1
               : called
                     == _PyType_Lookup(&PyTuple_Type, state->words[WORD_NEW]);
}

/* Would cls.__new__(cls, ...) only call tuple.__new__(cls, (...))? Then it can
 * be skipped: it is a Python function, which takes longer than everything else.
 * 1; 0: no, or unknown; or -1 with an interrupt. */
static int
is_named_tuple(const struct py_state *state, PyTypeObject *cls, size_t arity)
{
    const PyTypeObject *base = cls;
    if (arity > FIELDS_MAX || !PyType_HasFeature(cls, Py_TPFLAGS_TUPLE_SUBCLASS)
        || cls->tp_alloc != PyType_GenericAlloc) {
        return 0;
    }
    while (base != NULL && base->tp_new == cls->tp_new) {
        base = base->tp_base;
    }
    PyObject *function = base == &PyTuple_Type ? new_of(state, cls) : NULL;
    int is = function != NULL ? is_new_of_tuple(state, function, arity) : 0;
    Py_XDECREF(function);
    if (PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* no memory, for example: call the function then */
        is = 0;
    }
    return PyErr_Occurred() != NULL ? -1 : is;
}

/* tuple.__new__(cls, args), without the two tuples that this takes. Consumes the
 * items of args. */
static PyObject *
make_named_tuple(PyTypeObject *cls, PyObject **args, size_t arity)
{
    PyObject *obj = cls->tp_alloc(cls, (Py_ssize_t)arity);
    if (obj == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)obj)->ob_hash = -1; /* not computed yet */
#endif
    for (size_t i = 0; i < arity; i++) {
        PyTuple_SET_ITEM(obj, (Py_ssize_t)i, args[i]);
        args[i] = NULL;
    }
    return obj;
}

/* ---- members of an Enum ---- */

/* If calling the class with a value only looks the value up in a dict: that
 * dict, a new reference. Otherwise NULL: it is no Enum, or one that finds its
 * members in another way. */
static PyObject *
members_of(const struct py_state *state, PyObject *cls)
{
    PyTypeObject *meta = (PyTypeObject *)state->enum_type;
    if (Py_TYPE(cls) != meta
        || _PyType_Lookup(meta, state->words[WORD_CALL]) != state->enum_call
        || _PyType_Lookup(meta, state->words[WORD_MEMBER_OF_VALUE]) != NULL) {
        return NULL;
    }
    /* Each Enum has its own entry, to which the function is set as it is. */
    PyTypeObject *type = (PyTypeObject *)cls;
    PyObject *members =
        _PyType_Lookup(type, state->words[WORD_NEW]) == state->enum_new
            ? _PyType_Lookup(type, state->words[WORD_MEMBER_OF_VALUE])
            : NULL;
    return members != NULL && PyDict_CheckExact(members) ? Py_NewRef(members)
                                                         : NULL;
}

/* cls(value), for the class of an Enum. */
static PyObject *
member_of(const struct maker *maker, PyObject *value)
{
    PyObject *found = Py_TYPE(value) != (PyTypeObject *)maker->callable
                          ? py_dict_get(maker->members, value)
                          : NULL;
    if (found == NULL
        && (PyErr_Occurred() == NULL
            || PyErr_ExceptionMatches(PyExc_TypeError))) {
        PyErr_Clear(); /* no member, or its value cannot be hashed */
        found = PyObject_CallOneArg(maker->callable, value);
    }
    return found;
}

/* ---- any objects ---- */

static PyObject *
make_one(const struct maker *maker, PyObject **args)
{
    if (maker->is_named_tuple) {
        return make_named_tuple((PyTypeObject *)maker->callable, args,
                                maker->arity);
    }
    if (maker->members != NULL) {
        return member_of(maker, args[0]);
    }
    return (maker->how & HOW_NEW) != 0
               ? make_bare(maker, args)
               : PyObject_Vectorcall(maker->callable, args, maker->arity, NULL);
}

#if PY_VERSION_HEX < 0x030C0000
/* Fewer objects matter too little to garbage collection. */
#    define HOLD_FROM 64u

/* Does making an object run no code of the program? */
static bool
is_plain(const struct maker *maker)
{
    const PyTypeObject *cls = (PyTypeObject *)maker->callable;
    return maker->is_named_tuple
           || ((maker->how & (HOW_NEW | HOW_NEW_EX)) == HOW_NEW
               && maker->arity == 0 && cls->tp_new == PyBaseObject_Type.tp_new
               && cls->tp_alloc == PyType_GenericAlloc
               && (cls->tp_flags & Py_TPFLAGS_IS_ABSTRACT) == 0);
}
#endif

/* Disable garbage collection while n objects are made; true if it was enabled.
 * From 3.12 on, no collection starts before we return to the interpreter. */
static bool
hold_collector(const struct maker *maker, size_t n)
{
#if PY_VERSION_HEX >= 0x030C0000
    (void)maker;
    (void)n;
    return false;
#else
    return n >= HOLD_FROM && is_plain(maker) && PyGC_Disable() == 1;
#endif
}

/* Make n objects, with numbers from this one on. */
static int
make(struct py_reader *in, struct maker *maker, size_t n, PyObject **slots,
     size_t stride, size_t number)
{
    if (!is_sound(maker, n)) {
        return CP_EPROTO;
    }
    if (n > 1 && (maker->how & (HOW_NEW | HOW_NEW_EX)) == HOW_NEW) {
        int is = is_named_tuple(in->state, (PyTypeObject *)maker->callable,
                                maker->arity);
        if (is < 0) {
            return -1;
        }
        maker->is_named_tuple = is;
    }
    if ((maker->how & HOW_NEW) == 0 && maker->arity == 1) {
        maker->members = members_of(in->state, maker->callable);
    }
    bool held = hold_collector(maker, n);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject **args = maker->args + i * maker->arity;
        PyObject *obj = make_one(maker, args);
        slots[i * stride] = obj;
        if (obj != NULL) {
            py_reader_set(in, number + i, obj);
        } else {
            r = -1;
        }
    }
    if (held) {
        (void)PyGC_Enable();
    }
    return r;
}

/* Get a callable that belongs to n objects. */
static int
get_callable(struct py_reader *in, size_t n, PyObject **callable)
{
    if (in->depth == DEPTH_MAX) {
        return CP_EPROTO;
    }
    in->depth++;
    in->owed += n;
    int r = py_get_value(in, callable);
    in->owed -= n;
    in->depth--;
    return r;
}

/* Get what makes the objects, and make them. */
static int
get_made(struct py_reader *in, size_t n, PyObject **slots, size_t stride,
         unsigned *how)
{
    struct maker maker = {0};
    const uint8_t *fill;
    size_t number;
    if ((in->flags & HAS_CODE) == 0 || py_reader_get_byte(in, &maker.how) < 0) {
        return CP_EPROTO;
    }
    *how = maker.how;
    int r = py_reader_number(in, n, &number);
    r = r == 0 ? get_callable(in, n, &maker.callable) : r;
    r = r == 0 ? py_reader_get_size(in, 1, &maker.arity) : r;
    if (r == 0
        && (maker.arity > 0 ? n > py_reader_left(in) / maker.arity
                                  || !py_reader_has(in, n * maker.arity)
                            : py_reader_get_raw(in, n, &fill) < 0)) {
        r = CP_EPROTO;
    }
    size_t count = r == 0 ? n * maker.arity : 0;
    if (r == 0) {
        maker.args = py_get_slots(count);
        r = maker.args != NULL ? py_get_rows(in, n, maker.arity, maker.args)
                               : -1;
    }
    r = r == 0 ? make(in, &maker, n, slots, stride, number) : r;
    py_get_release(maker.args, count);
    Py_XDECREF(maker.members);
    Py_XDECREF(maker.callable);
    return r;
}

/* ---- items ---- */

/* The value of an attribute, as a new reference: 0, and NULL if there is no
 * such attribute; or -1 with an exception. */
static int
look_up(PyObject *obj, PyObject *name, PyObject **value)
{
    *value = PyObject_GetAttr(obj, name);
    if (*value == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return 0;
}

/* Get the values that belong to one object; *n: how many there are. */
static int
get_sized(struct py_reader *in, size_t each, size_t *n, PyObject ***items)
{
    if (py_reader_get_size(in, each, n) < 0 || !py_reader_has(in, *n * each)) {
        return CP_EPROTO;
    }
    *items = py_get_slots(*n * each);
    return *items == NULL ? -1 : py_get_column(in, *n, *items, 1);
}

/* Would obj.extend() be list.extend()? A __new__() of the class may have set
 * another one on the object. */
static bool
is_plain_list(const struct py_reader *in, PyObject *obj)
{
    PyObject *extend = in->state->words[WORD_EXTEND];
    PyTypeObject *type = Py_TYPE(obj);
    return PyList_CheckExact(obj)
           || (PyList_Check(obj) && type->tp_new == PyList_Type.tp_new
               && type->tp_getattro == PyObject_GenericGetAttr
               && _PyType_Lookup(type, extend)
                      == _PyType_Lookup(&PyList_Type, extend));
}

/* function(list of the items), which move into the list. */
static int
call_with_list(PyObject *function, PyObject **items, size_t n)
{
    PyObject *list = py_get_list_of(items, n);
    PyObject *done = list != NULL ? PyObject_CallOneArg(function, list) : NULL;
    Py_XDECREF(list);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* obj.extend(items), or obj.append() for each item. May consume the items. */
static int
append(const struct py_reader *in, PyObject *obj, PyObject **items, size_t n)
{
    PyObject *const *words = in->state->words;
    if (is_plain_list(in, obj)) {
        PyObject *tuple = py_get_tuple_of(items, n);
        int r = tuple != NULL ? PyList_SetSlice(obj, PY_SSIZE_T_MAX,
                                                PY_SSIZE_T_MAX, tuple)
                              : -1;
        Py_XDECREF(tuple);
        return r;
    }
    PyObject *extend;
    int r = look_up(obj, words[WORD_EXTEND], &extend);
    if (extend != NULL) {
        r = call_with_list(extend, items, n);
        Py_DECREF(extend);
        return r;
    }
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject *done =
            PyObject_CallMethodOneArg(obj, words[WORD_APPEND], items[i]);
        r = done != NULL ? 0 : -1;
        Py_XDECREF(done);
    }
    return r;
}

static int
get_list_items(struct py_reader *in, PyObject *obj)
{
    size_t n = 0;
    PyObject **items = NULL;
    int r = get_sized(in, 1, &n, &items);
    /* Without items nothing is called, as in pickle. */
    r = r == 0 && n > 0 ? append(in, obj, items, n) : r;
    py_get_release(items, n);
    return r;
}

static int
get_dict_items(struct py_reader *in, PyObject *obj)
{
    size_t n = 0;
    PyObject **items = NULL;
    int r = get_sized(in, 2, &n, &items);
    r = r == 0 ? py_get_column(in, n, items + n, 1) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        r = PyDict_CheckExact(obj)
                ? PyDict_SetItem(obj, items[i], items[n + i])
                : PyObject_SetItem(obj, items[i], items[n + i]);
    }
    py_get_release(items, 2 * n);
    return r;
}

/* Get the items of n objects, all of which have the same number of them. */
static int
get_held_rows(struct py_reader *in, size_t n, PyObject **slots, size_t stride,
              bool lists)
{
    unsigned arity;
    if (py_reader_get_byte(in, &arity) < 0 || arity == 0
        || (lists && arity > ARITY_MAX) || n > py_reader_left(in) / arity
        || !py_reader_has(in, n * arity)) {
        return CP_EPROTO;
    }
    size_t more = lists ? 0 : arity;
    PyObject **keys = py_get_slots(more + n * arity);
    if (keys == NULL) {
        return -1;
    }
    PyObject **rows = keys + more;
    in->owed += n * arity;
    int r = more > 0 ? py_get_column(in, more, keys, 1) : 0;
    in->owed -= n * arity;
    r = r == 0 ? py_get_rows(in, n, arity, rows) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject *obj = slots[i * stride], **row = rows + i * arity;
        r = lists ? append(in, obj, row, arity) : 0;
        for (size_t j = 0; j < more && r == 0; j++) {
            r = PyObject_SetItem(obj, keys[j], row[j]);
        }
    }
    py_get_release(keys, more + n * arity);
    return r;
}

/* ---- state ---- */

/* The key as pickle would use it, that is, with strings interned. A new
 * reference. */
static PyObject *
key_of(PyObject *key)
{
    Py_INCREF(key);
    if (PyUnicode_CheckExact(key)) {
        PyUnicode_InternInPlace(&key);
    }
    return key;
}

/* Raise pickle's exception for an invalid state, which is an error of the
 * program. Returns -1. */
static int
raise_bad_state(const char *text)
{
    PyObject *pickle = PyImport_ImportModule("pickle");
    PyObject *error = pickle != NULL
                          ? PyObject_GetAttrString(pickle, "UnpicklingError")
                          : NULL;
    if (error != NULL) {
        PyErr_SetString(error, text);
    }
    Py_XDECREF(error);
    Py_XDECREF(pickle);
    return -1;
}

/* For each item of the dict `from`, which may be of a subclass: to[key] = value,
 * or setattr(). */
static int
copy_items(PyObject *from, PyObject *to,
           int (*set)(PyObject *, PyObject *, PyObject *))
{
    PyObject *items = PyDict_Items(from);
    int r = items != NULL ? 0 : -1;
    for (Py_ssize_t i = 0; r == 0 && i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = PyList_GET_ITEM(items, i); /* lint-ok: ours */
        PyObject *key = key_of(PyTuple_GET_ITEM(pair, 0));
        r = set(to, key, PyTuple_GET_ITEM(pair, 1));
        Py_DECREF(key);
    }
    Py_XDECREF(items);
    return r;
}

static int
update_dict(const struct py_reader *in, PyObject *obj, PyObject *state)
{
    if (!PyDict_Check(state)) {
        return raise_bad_state("state is not a dictionary");
    }
    PyObject *dict = PyObject_GetAttr(obj, in->state->words[WORD_DICT]);
    int r = dict == NULL ? -1 : copy_items(state, dict, PyObject_SetItem);
    Py_XDECREF(dict);
    return r;
}

/* Do what pickle does with a state: obj.__setstate__(state); otherwise the
 * state is the dict of the object, or a pair of that dict and of the slots. */
static int
set_state(const struct py_reader *in, PyObject *obj, PyObject *state)
{
    PyObject *method, *slots = NULL;
    if (look_up(obj, in->state->words[WORD_SETSTATE], &method) < 0) {
        return -1;
    }
    if (method != NULL) {
        PyObject *none = PyObject_CallOneArg(method, state);
        Py_DECREF(method);
        Py_XDECREF(none);
        return none != NULL ? 0 : -1;
    }
    if (PyTuple_Check(state) && PyTuple_GET_SIZE(state) == 2) {
        slots = PyTuple_GET_ITEM(state, 1);
        state = PyTuple_GET_ITEM(state, 0);
    }
    int r = state != Py_None ? update_dict(in, obj, state) : 0;
    if (r != 0 || slots == NULL || slots == Py_None) {
        return r;
    }
    return PyDict_Check(slots)
               ? copy_items(slots, obj, PyObject_SetAttr)
               : raise_bad_state("slot state is not a dictionary");
}

static int
get_states(struct py_reader *in, size_t n, PyObject **slots, size_t stride,
           bool has_setter)
{
    PyObject *function = NULL;
    PyObject **states = py_get_slots(n);
    int r = states != NULL ? 0 : -1;
    r = r == 0 && has_setter ? get_callable(in, n, &function) : r;
    r = r == 0 ? py_get_column(in, n, states, 1) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        PyObject *obj = slots[i * stride];
        if (function == NULL) {
            r = set_state(in, obj, states[i]);
        } else {
            PyObject *none =
                PyObject_CallFunctionObjArgs(function, obj, states[i], NULL);
            r = none != NULL ? 0 : -1;
            Py_XDECREF(none);
        }
    }
    py_get_release(states, n);
    Py_XDECREF(function);
    return r;
}

/* ---- attributes ---- */

struct attrs {
    size_t n_dict, n_slots;
    PyObject **names;    /* of n_dict + n_slots */
    PyTypeObject *plain; /* can_set() was true of this class */
};

/* Would object.__setattr__() for these names do the same as writing to
 * __dict__? */
static bool
can_set(const struct py_reader *in, struct attrs *attrs, PyTypeObject *type)
{
    PyObject *const *words = in->state->words;
    if (type == attrs->plain) {
        return true;
    }
    bool can = type->tp_getattro == PyObject_GenericGetAttr
               && _PyType_Lookup(type, words[WORD_SETSTATE]) == NULL
               && (attrs->n_dict == 0 || type->tp_dictoffset != 0
                   || (type->tp_flags & Py_TPFLAGS_MANAGED_DICT) != 0);
    for (size_t j = 0; j < attrs->n_dict && can; j++) {
        PyObject *own = _PyType_Lookup(type, attrs->names[j]);
        can = own == NULL || Py_TYPE(own)->tp_descr_set == NULL;
    }
    attrs->plain = can ? type : NULL;
    return can;
}

/* The attributes in the form of the state that pickle would have sent. */
static PyObject *
state_of(const struct attrs *attrs, PyObject *const *values)
{
    PyObject *dict = attrs->n_dict > 0 ? PyDict_New() : Py_NewRef(Py_None);
    PyObject *slots = attrs->n_slots > 0 ? PyDict_New() : Py_NewRef(Py_None);
    int r = dict != NULL && slots != NULL ? 0 : -1;
    for (size_t j = 0; j < attrs->n_dict + attrs->n_slots && r == 0; j++) {
        r = PyDict_SetItem(j < attrs->n_dict ? dict : slots, attrs->names[j],
                           values[j]);
    }
    PyObject *state = r < 0                ? NULL
                      : attrs->n_slots > 0 ? PyTuple_Pack(2, dict, slots)
                                           : Py_NewRef(dict);
    Py_XDECREF(dict);
    Py_XDECREF(slots);
    return state;
}

static int
set_attrs(const struct py_reader *in, struct attrs *attrs, PyObject *obj,
          PyObject *const *values)
{
    int r = 0;
    if (!can_set(in, attrs, Py_TYPE(obj))) {
        PyObject *state = state_of(attrs, values);
        r = state != NULL ? set_state(in, obj, state) : -1;
        Py_XDECREF(state);
        return r;
    }
    for (size_t j = 0; j < attrs->n_dict && r == 0; j++) {
        r = PyObject_GenericSetAttr(obj, attrs->names[j], values[j]);
    }
    for (size_t j = 0; j < attrs->n_slots && r == 0; j++) {
        size_t at = attrs->n_dict + j;
        r = PyObject_SetAttr(obj, attrs->names[at], values[at]);
    }
    return r;
}

/* Get the names of the attributes, interned. */
static int
get_names(struct py_reader *in, size_t n, size_t count, PyObject **names)
{
    in->owed += n * count;
    in->interns = true;
    int r = py_get_column(in, count, names, 1);
    in->interns = false;
    in->owed -= n * count;
    for (size_t j = 0; j < count && r == 0; j++) {
        if (!PyUnicode_CheckExact(names[j])) {
            return CP_EPROTO;
        }
        PyUnicode_InternInPlace(&names[j]);
    }
    return r;
}

static int
get_attrs(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    unsigned n_dict, n_slots;
    if (py_reader_get_byte(in, &n_dict) < 0
        || py_reader_get_byte(in, &n_slots) < 0) {
        return CP_EPROTO;
    }
    size_t count = n_dict + n_slots;
    if (count == 0 || n > py_reader_left(in) / count
        || !py_reader_has(in, n * count)) {
        return CP_EPROTO;
    }
    PyObject **names = py_get_slots(count + n * count);
    if (names == NULL) {
        return -1;
    }
    PyObject **values = names + count;
    struct attrs attrs = {.n_dict = n_dict, .n_slots = n_slots, .names = names};
    int r = get_names(in, n, count, names);
    r = r == 0 ? py_get_rows(in, n, count, values) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        r = set_attrs(in, &attrs, slots[i * stride], values + i * count);
    }
    py_get_release(names, count + n * count);
    return r;
}

/* ---- objects ---- */

int
py_rebuild_get(struct py_reader *in, size_t n, PyObject **slots, size_t stride)
{
    unsigned how = 0;
    int r = get_made(in, n, slots, stride, &how);
    if (r == 0 && (how & HOW_ROWS) != 0) {
        r = get_held_rows(in, n, slots, stride, (how & HOW_LIST) != 0);
        how &= ~(unsigned)(HOW_LIST | HOW_DICT);
    }
    for (size_t i = 0; i < n && r == 0 && (how & HOW_LIST) != 0; i++) {
        r = get_list_items(in, slots[i * stride]);
    }
    for (size_t i = 0; i < n && r == 0 && (how & HOW_DICT) != 0; i++) {
        r = get_dict_items(in, slots[i * stride]);
    }
    if (r == 0 && (how & HOW_ATTRS) != 0) {
        r = get_attrs(in, n, slots, stride);
    }
    return r == 0 && (how & HOW_STATE) != 0
               ? get_states(in, n, slots, stride, (how & HOW_SETTER) != 0)
               : r;
}

/* ---- objects of the standard library ---- */

/* Record the numbers of n objects that are made. */
static void
set_all(struct py_reader *in, size_t number, size_t n, PyObject **slots,
        size_t stride)
{
    for (size_t i = 0; i < n; i++) {
        py_reader_set(in, number + i, slots[i * stride]);
    }
}

static int
get_fixed(struct py_reader *in, unsigned kind, size_t n, PyObject **slots,
          size_t stride)
{
    size_t size = py_standard_size(kind);
    const uint8_t *bytes;
    if (n > py_reader_left(in) / size
        || py_reader_get_raw(in, n * size, &bytes) < 0
        || (py_standard_has_zones(kind) && !py_reader_has(in, n))) {
        return CP_EPROTO;
    }
    PyObject **zones = py_standard_has_zones(kind) ? py_get_slots(n) : NULL;
    int r = zones != NULL                 ? py_get_column(in, n, zones, 1)
            : py_standard_has_zones(kind) ? -1
                                          : 0;
    r = r == 0 ? py_standard_begin(kind) : r;
    for (size_t i = 0; i < n && r == 0; i++) {
        r = py_standard_get_bytes(kind, bytes + i * size,
                                  zones != NULL ? zones[i] : Py_None,
                                  &slots[i * stride]);
    }
    py_get_release(zones, n);
    return r;
}

static int
get_parts(struct py_reader *in, unsigned kind, size_t n, PyObject **slots,
          size_t stride)
{
    struct py_standard_class cls;
    if ((in->flags & HAS_CODE) == 0) {
        return CP_EPROTO;
    }
    PyObject **parts = py_get_slots(n);
    if (parts == NULL) {
        return -1;
    }
    int r = py_get_column(in, n, parts, 1);
    if (r == 0) {
        r = py_standard_find(in->state, kind, &cls);
        for (size_t i = 0; i < n && r == 0; i++) {
            r = py_standard_make(&cls, parts[i], &slots[i * stride]);
        }
        py_standard_release(&cls);
    }
    py_get_release(parts, n);
    return r;
}

int
py_rebuild_get_shared(struct py_reader *in, PyObject **obj)
{
    uint32_t number;
    /* Only a worker finds it, or share(), for handles within an object. */
    bool may_find =
        in->state->serving != NULL || py_uses_now()->handles != NULL;
    if (!may_find || py_reader_get_number(in, &number) < 0) {
        return CP_EPROTO;
    }
    PyObject *arg = PyLong_FromUnsignedLong(number);
    *obj = arg != NULL ? PyObject_CallOneArg(in->state->shared, arg) : NULL;
    Py_XDECREF(arg);
    return *obj != NULL ? 0 : -1;
}

int
py_rebuild_get_standard(struct py_reader *in, size_t n, PyObject **slots,
                        size_t stride)
{
    unsigned kind;
    size_t number;
    if (py_reader_get_byte(in, &kind) < 0 || kind == PY_STANDARD_NONE
        || kind >= PY_STANDARD_END) {
        return CP_EPROTO;
    }
    if (py_reader_number(in, n, &number) < 0) {
        return -1;
    }
    int r = py_standard_has_parts(kind) ? get_parts(in, kind, n, slots, stride)
                                        : get_fixed(in, kind, n, slots, stride);
    if (r == 0) {
        set_all(in, number, n, slots, stride);
    }
    return r;
}
