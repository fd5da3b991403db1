/*
 * Objects of all classes without a rule in encoder.c, as pickle would send
 * them: by name (classes and functions), or by what the reduce protocol says of
 * them. Of plain instances and named tuples that is known without asking. What
 * is wrong with an object is for pickle to tell: the body is left to it.
 */
#include "value/encode.h"

#include "base/word.h"
#include "value/array.h"
#include "value/gather.h"
#include "value/kind.h"
#include "value/named.h"
#include "value/reducers.h"
#include "value/replaced.h"

/* ---- what is known of a class ---- */

enum rule {
    RULE_NAME,        /* a class or function: its name */
    RULE_REDUCE,      /* ask the object */
    RULE_PLAIN,       /* object.__reduce_ex__() reads __dict__ and slots */
    RULE_NAMED_TUPLE, /* made of its items */
    RULE_ARRAY,       /* an array of numpy */
    RULE_SCALAR,      /* a number of numpy */
};

struct py_plan {
    struct py_plan *next;
    PyTypeObject *type;
    enum rule rule;
    bool small;        /* may be sent more than once, as strings may */
    bool runs_code;    /* asking an object runs code of the program */
    bool sees_state;   /* RULE_PLAIN: setting attributes runs such code */
    PyObject *reducer; /* that is registered for it; or NULL */
    PyObject *slots;   /* RULE_PLAIN: a list of names; or NULL */
};

static PyObject *
find(PyTypeObject *type, const struct py_state *state, enum py_word word)
{
    return _PyType_Lookup(type, state->words[word]); /* borrowed */
}

/* Does the class have object's own method? */
static bool
inherits(PyTypeObject *type, const struct py_state *state, enum py_word word)
{
    return find(type, state, word) == find(&PyBaseObject_Type, state, word);
}

static bool
has_dict(const PyTypeObject *type)
{
    return type->tp_dictoffset != 0
           || (type->tp_flags & Py_TPFLAGS_MANAGED_DICT) != 0;
}

/* Would object.__reduce_ex__() ask nothing of the class for its state? */
static bool
has_plain_state(PyTypeObject *type, const struct py_state *state)
{
    return type->tp_getattro == PyObject_GenericGetAttr
           && inherits(type, state, WORD_REDUCE_EX)
           && inherits(type, state, WORD_REDUCE)
           && inherits(type, state, WORD_GETSTATE)
           && find(type, state, WORD_GETNEWARGS_EX) == NULL;
}

/* Are __dict__ and slots all that an object has? */
static bool
has_no_more(const PyTypeObject *type, Py_ssize_t slots)
{
    Py_ssize_t own =
        (Py_ssize_t)sizeof(PyObject)
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
           && type->tp_basicsize == PyTuple_Type.tp_basicsize && !has_dict(type)
           && method != NULL && PyFunction_Check(method)
           && PyFunction_GET_CODE(method) == state->named_tuple_code;
}

/* Classes of small immutable objects. */
static bool
is_small(PyTypeObject *type, const struct py_state *state)
{
    static const char *const NAMES[] = {
        "complex",
        "range",
        "slice",
        "datetime.date",
        "datetime.time",
        "datetime.datetime",
        "datetime.timezone",
        "datetime.timedelta",
        "decimal.Decimal",
    };
    /* Of classes in Python tp_name has no module. */
    static const char *const PYTHON_NAMES[] = {
        "UUID",        "Fraction",      "ZoneInfo",        "PosixPath",
        "WindowsPath", "PurePosixPath", "PureWindowsPath",
    };
    static const char *const MODULES[] = {"uuid", "fractions", "zoneinfo",
                                          "pathlib", "pathlib._local"};
    bool named = false, from = false;
    if (Py_TYPE(type) == (PyTypeObject *)state->enum_type) {
        return true;
    }
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(*NAMES) && !named; i++) {
        named = strcmp(type->tp_name, NAMES[i]) == 0;
    }
    if (named) {
        return true;
    }
    for (size_t i = 0; i < sizeof(PYTHON_NAMES) / sizeof(*PYTHON_NAMES); i++) {
        named |= strcmp(type->tp_name, PYTHON_NAMES[i]) == 0;
    }
    PyObject *module = named ? find(type, state, WORD_MODULE) : NULL;
    for (size_t i = 0; i < sizeof(MODULES) / sizeof(*MODULES); i++) {
        from |= module != NULL && PyUnicode_CheckExact(module)
                && PyUnicode_CompareWithASCIIString(module, MODULES[i]) == 0;
    }
    return from;
}

/* Has the program registered a reducer for the class? */
static bool
registers(const struct py_state *state, PyTypeObject *type)
{
    PyObject *key = (PyObject *)type;
    bool has = PyDict_Contains(state->extra_reducers, key) != 0
               || PyDict_Contains(state->copyreg_table, key) != 0;
    PyErr_Clear();
    return has;
}

/* Find out the rule: 0, or -1 with an exception. */
static int
study(struct py_plan *plan, struct py_state *state)
{
    PyTypeObject *type = plan->type;
    plan->rule = RULE_NAME;
    if (type == &PyType_Type || type == &PyFunction_Type) {
        return 0;
    }
    if (py_reducers_find(state, type, &plan->reducer) < 0) {
        return -1;
    }
    if (plan->reducer == NULL && PyType_IsSubtype(type, &PyType_Type)) {
        return 0;
    }
    plan->rule = RULE_REDUCE;
    enum py_array_kind kind =
        registers(state, type) ? PY_ARRAY_NONE : py_array_kind_of(state, type);
    if (kind != PY_ARRAY_NONE) {
        plan->rule = kind == PY_ARRAY_ARRAY ? RULE_ARRAY : RULE_SCALAR;
        return 0;
    }
    plan->small = is_small(type, state);
    plan->runs_code = !plan->small
                      && (plan->reducer != NULL
                          || PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE));
    if (plan->reducer != NULL || !has_plain_state(type, state)) {
        return 0;
    }
    if (is_named_tuple(type, state)) {
        plan->rule = RULE_NAMED_TUPLE;
        return 0;
    }
    if (find(type, state, WORD_GETNEWARGS) != NULL || type->tp_new == NULL) {
        return 0;
    }
    if (find(type, state, WORD_SLOTS) != NULL) {
        plan->slots = PyObject_CallOneArg(state->slotnames, (PyObject *)type);
        if (plan->slots == NULL) {
            return -1;
        }
        if (!PyList_CheckExact(plan->slots)) {
            return 0;
        }
    }
    Py_ssize_t slots = plan->slots != NULL ? PyList_GET_SIZE(plan->slots) : 0;
    plan->rule = has_no_more(type, slots) ? RULE_PLAIN : RULE_REDUCE;
    plan->sees_state =
        find(type, state, WORD_SETSTATE) != NULL
        || (slots > 0 && type->tp_setattro != PyObject_GenericSetAttr);
    return 0;
}

static void
plan_free(struct py_plan *plan)
{
    Py_XDECREF(plan->type);
    Py_XDECREF(plan->reducer);
    Py_XDECREF(plan->slots);
    PyMem_Free(plan);
}

/* What is known of the class: 1; or 0 where a pickler of the program's is to be
 * used; or -1 with an exception. */
static int
find_plan(struct py_writer *w, PyTypeObject *type, const struct py_plan **found)
{
    struct py_plan **list = &w->plans[((uintptr_t)type >> 6) % PLANS];
    if (!w->planned) {
        memset(w->plans, 0, sizeof(w->plans));
        w->planned = true;
    }
    for (*found = *list; *found != NULL; *found = (*found)->next) {
        if ((*found)->type == type) {
            return 1;
        }
    }
    if (py_replaced_check(w->state) < 0) {
        return -1;
    }
    if (atomic_load(&w->state->replaced)) {
        return 0;
    }
    struct py_plan *plan = PyMem_Calloc(1, sizeof(*plan));
    if (plan == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    plan->type = (PyTypeObject *)Py_NewRef(type);
    if (study(plan, w->state) < 0) {
        plan_free(plan);
        return -1;
    }
    plan->next = *list;
    *list = plan;
    *found = plan;
    return 1;
}

void
py_reduce_forget(struct py_writer *w)
{
    for (size_t i = 0; i < PLANS; i++) {
        while (w->plans[i] != NULL) {
            struct py_plan *plan = w->plans[i];
            w->plans[i] = plan->next;
            plan_free(plan);
        }
    }
}

/* ---- what the protocol says of an object ---- */

struct reduced {
    PyObject *value; /* what the object answered; or NULL */
    unsigned how;    /* HOW_ bits */
    PyObject *callable;
    PyObject *const *args;
    Py_ssize_t arity;
    PyObject *list, *dict, *state, *setter; /* or NULL */
};

/* The answer was a string, the name of the object. */
#define IS_NAME 3

static PyObject *
item_of(PyObject *tuple, Py_ssize_t i)
{
    PyObject *item =
        i < PyTuple_GET_SIZE(tuple) ? PyTuple_GET_ITEM(tuple, i) : Py_None;
    return item != Py_None ? item : NULL;
}

static bool
is_called(PyObject *callable, const char *name)
{
    return PyFunction_Check(callable)
           && PyUnicode_CompareWithASCIIString(
                  ((PyFunctionObject *)callable)->func_name, name)
                  == 0;
}

/* copyreg's functions that stand for cls.__new__(cls, ...). */
static int
read_new(struct reduced *r, PyObject *obj)
{
    bool ex = is_called(r->callable, "__newobj_ex__");
    if (!ex && !is_called(r->callable, "__newobj__")) {
        return 1;
    }
    if (r->arity < 1 || r->args[0] != (PyObject *)Py_TYPE(obj)
        || Py_TYPE(obj)->tp_new == NULL
        || (ex
            && (r->arity != 3 || !PyTuple_CheckExact(r->args[1])
                || !PyDict_CheckExact(r->args[2])))) {
        return 0;
    }
    r->how |= HOW_NEW | (ex ? HOW_NEW_EX : 0);
    r->callable = r->args[0];
    r->args++;
    r->arity--;
    return 1;
}

static int
read_answer(struct reduced *r, PyObject *obj)
{
    PyObject *answer = r->value;
    if (PyUnicode_CheckExact(answer)) {
        return IS_NAME;
    }
    Py_ssize_t n = PyTuple_Check(answer) ? PyTuple_GET_SIZE(answer) : 0;
    if (n < 2 || n > 6 || !PyCallable_Check(PyTuple_GET_ITEM(answer, 0))
        || !PyTuple_CheckExact(PyTuple_GET_ITEM(answer, 1))) {
        return 0;
    }
    PyObject *args = PyTuple_GET_ITEM(answer, 1);
    r->callable = PyTuple_GET_ITEM(answer, 0);
    r->args = ((PyTupleObject *)args)->ob_item;
    r->arity = PyTuple_GET_SIZE(args);
    r->state = item_of(answer, 2);
    r->list = item_of(answer, 3);
    r->dict = item_of(answer, 4);
    r->setter = r->state != NULL ? item_of(answer, 5) : NULL;
    if ((r->list != NULL && !PyIter_Check(r->list))
        || (r->dict != NULL && !PyIter_Check(r->dict))
        || (r->setter != NULL && !PyCallable_Check(r->setter))) {
        return 0;
    }
    r->how = (r->state != NULL ? HOW_STATE : 0u)
             | (r->list != NULL ? HOW_LIST : 0u)
             | (r->dict != NULL ? HOW_DICT : 0u)
             | (r->setter != NULL ? HOW_SETTER : 0u);
    return read_new(r, obj);
}

/* 1, 0, -1, or IS_NAME. */
static int
reduce(struct py_writer *w, const struct py_plan *plan, PyObject *obj,
       struct reduced *r)
{
    if (plan->rule == RULE_NAMED_TUPLE) {
        *r = (struct reduced){.how = HOW_NEW,
                              .callable = (PyObject *)plan->type,
                              .args = ((PyTupleObject *)obj)->ob_item,
                              .arity = PyTuple_GET_SIZE(obj)};
        return 1;
    }
    if (plan->reducer != NULL) {
        r->value = PyObject_CallOneArg(plan->reducer, obj);
    } else {
        PyObject *method =
            PyObject_GetAttr(obj, w->state->words[WORD_REDUCE_EX]);
        PyObject *protocol = method != NULL ? PyLong_FromLong(5) : NULL;
        r->value =
            protocol != NULL ? PyObject_CallOneArg(method, protocol) : NULL;
        Py_XDECREF(method);
        Py_XDECREF(protocol);
    }
    return r->value == NULL ? -1 : read_answer(r, obj);
}

static bool
are_alike(const struct reduced *one, const struct reduced *two)
{
    return one->how == two->how && one->callable == two->callable
           && one->arity == two->arity && one->setter == two->setter;
}

/* ---- writing ---- */

/* An array of the i-th argument, or of the states, of n objects. */
#define COLUMN(array, n, r, what)             \
    for (Py_ssize_t i_ = 0; i_ < (n); i_++) { \
        (array)[i_] = (r)[i_].what;           \
    }

static int
put_callable(struct py_writer *w, PyObject *callable)
{
    w->flags |= HAS_CODE;
    w->depth++;
    int r = py_put_value(w, callable);
    w->depth--;
    return r;
}

/* What makes the objects: they cannot be referred to yet. */
static int
put_makers(struct py_writer *w, Py_ssize_t n, const struct reduced *r,
           PyObject **column)
{
    struct py_open open;
    size_t fill = r->arity == 0 ? (size_t)n : 0;
    py_writer_open(w, &open, n, NOT_MADE);
    w->calls++;
    int is_put = py_writer_reserve(w, 2);
    if (is_put == 1) {
        py_writer_add_byte(w, TAG_OBJECT);
        py_writer_add_byte(w, r->how);
        is_put = put_callable(w, r->callable);
    }
    is_put = is_put == 1 ? py_writer_reserve(w, SIZE_ROOM + fill) : is_put;
    if (is_put == 1) {
        py_writer_add_size(w, (size_t)r->arity);
        memset(cp_buf_tail(w->out), 0, fill);
        cp_buf_add(w->out, fill);
    }
    for (Py_ssize_t j = 0; j < r->arity && is_put == 1; j++) {
        COLUMN(column, n, r, args[j]);
        is_put = py_put_inner(w, column, n, true);
    }
    w->calls--;
    w->open = open.outer;
    return is_put;
}

static int
put_list_items(struct py_writer *w, PyObject *iterator)
{
    PyObject *items = PySequence_Tuple(iterator);
    if (items == NULL) {
        return -1;
    }
    int r = py_put_sized(w, ((PyTupleObject *)items)->ob_item,
                         PyTuple_GET_SIZE(items));
    Py_DECREF(items);
    return r;
}

static int
put_dict_items(struct py_writer *w, PyObject *iterator)
{
    PyObject *pairs = PySequence_Tuple(iterator);
    Py_ssize_t n = pairs != NULL ? PyTuple_GET_SIZE(pairs) : 0;
    PyObject **keys = pairs != NULL ? PyMem_New(PyObject *, 2 * n + 1) : NULL;
    if (keys == NULL) {
        if (pairs != NULL) {
            Py_DECREF(pairs);
            (void)PyErr_NoMemory();
        }
        return -1;
    }
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        PyObject *pair = PyTuple_GET_ITEM(pairs, i);
        if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
            keys[i] = PyTuple_GET_ITEM(pair, 0);
            keys[n + i] = PyTuple_GET_ITEM(pair, 1);
        } else {
            r = 0;
        }
    }
    r = r == 1 ? py_put_sized(w, keys, n) : r;
    r = r == 1 ? py_put_inner(w, keys + n, n, true) : r;
    PyMem_Free(keys);
    Py_DECREF(pairs);
    return r;
}

/* What is done to n objects that were made. Methods of theirs are called, of one
 * object after the other. */
static int
put_contents(struct py_writer *w, Py_ssize_t n, const struct reduced *r,
             PyObject **column)
{
    int is_put = 1;
    for (Py_ssize_t i = 0; i < n && r->list != NULL && is_put == 1; i++) {
        is_put = put_list_items(w, r[i].list);
    }
    for (Py_ssize_t i = 0; i < n && r->dict != NULL && is_put == 1; i++) {
        is_put = put_dict_items(w, r[i].dict);
    }
    if (r->setter != NULL && is_put == 1) {
        is_put = put_callable(w, r->setter);
    }
    if (r->state != NULL && is_put == 1) {
        COLUMN(column, n, r, state);
        is_put = py_put_inner(w, column, n, true);
    }
    return is_put;
}

/* n objects that have numbers, and that are alike. */
static int
put_alike(struct py_writer *w, Py_ssize_t n, const struct reduced *r)
{
    struct py_open open;
    PyObject *one[1];
    PyObject **column = n == 1 ? one : PyMem_New(PyObject *, n);
    if (column == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    py_writer_open(w, &open, n, NOT_FILLED);
    int is_put = put_makers(w, n, r, column);
    if (is_put == 1) {
        w->calls++;
        is_put = put_contents(w, n, r, column);
        w->calls--;
    }
    w->open = open.outer;
    if (column != one) {
        PyMem_Free(column);
    }
    return is_put;
}

static int
enter(struct py_writer *w, const struct py_plan *plan, PyObject *obj)
{
    int r = plan->small ? py_seen_add(&w->seen, obj) : py_writer_enter(w, obj);
    return plan->small && r == 0 ? OTHER_KIND : r;
}

/* One object, unless it was met meanwhile. */
static int
put_one(struct py_writer *w, const struct py_plan *plan, PyObject *obj,
        const struct reduced *r)
{
    size_t number = py_seen_find(&w->seen, obj);
    if (number != SEEN_NONE) {
        return py_writer_put_ref(w, number);
    }
    int is_put = enter(w, plan, obj);
    if (is_put != 1) {
        return is_put;
    }
    return r->callable == NULL ? py_named_put(w, obj, r->value)
                               : put_alike(w, 1, r);
}

/* Objects that were reduced, and turned out to be different. */
static int
put_each(struct py_writer *w, const struct py_plan *plan,
         PyObject *const *items, Py_ssize_t n, const struct reduced *r)
{
    if (py_writer_reserve(w, 1) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_MIXED);
    int is_put = 1, level = w->level;
    w->level = 0;
    for (Py_ssize_t i = 0; i < n && is_put == 1; i++) {
        is_put = put_one(w, plan, items[i], &r[i]);
    }
    w->level = level;
    return is_put;
}

static int
put_reduced(struct py_writer *w, const struct py_plan *plan,
            PyObject *const *items, Py_ssize_t n)
{
    size_t seen = w->seen.used, before = cp_buf_len(w->out);
    w->ran_code |= plan->runs_code && plan->rule == RULE_REDUCE;
    struct reduced *r = PyMem_Calloc((size_t)n, sizeof(*r));
    if (r == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    int is_put = 1;
    bool alike = true;
    for (Py_ssize_t i = 0; i < n && is_put == 1; i++) {
        is_put = enter(w, plan, items[i]);
    }
    for (Py_ssize_t i = 0; i < n && is_put == 1; i++) {
        is_put = reduce(w, plan, items[i], &r[i]);
        alike = alike && is_put == 1 && are_alike(&r[0], &r[i]);
        is_put = is_put == IS_NAME ? 1 : is_put;
    }
    alike = alike
            && (n == 1 || (w->retries <= RETRIES_MAX && py_writer_may_open(w)));
    if (is_put == 1 && alike) {
        is_put = put_alike(w, n, r);
        /* Iterators may have ended: those objects have to be asked again. */
        if (is_put == RETRY && w->retry == seen && r->list == NULL
            && r->dict == NULL) {
            w->retries++;
            w->out->end = w->out->start + before;
            alike = false;
            is_put = 1;
        }
    }
    if (is_put == 1 && !alike) {
        py_seen_forget(&w->seen, seen);
        is_put = n == 1 ? put_one(w, plan, items[0], r)
                        : put_each(w, plan, items, n, r);
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_XDECREF(r[i].value);
    }
    PyMem_Free(r);
    return is_put;
}

/* ---- plain instances ---- */

/* Attributes of n instances: the names, and a column of values for each. */
struct attrs {
    Py_ssize_t n_dict, n_slots;
    PyObject **names;  /* of n_dict + n_slots */
    PyObject **values; /* of n * (n_dict + n_slots) */
    Py_ssize_t room;   /* of both arrays together, in one block */
};

/* 1; 0 where an instance has no plain __dict__; -1 with an exception. */
static int
dict_of(PyObject *obj, PyObject **dict)
{
    *dict = PyObject_GenericGetDict(obj, NULL);
    return *dict == NULL ? -1 : PyDict_CheckExact(*dict);
}

/* May the attribute of an instance have this name, so that nobody would have
 * called it instead of a method of the class? */
static bool
is_plain_name(PyObject *name)
{
    return PyUnicode_CheckExact(name) && py_kind_make_ready(name) == 0
           && !(PyUnicode_GET_LENGTH(name) > 1
                && PyUnicode_READ_CHAR(name, 0) == '_'
                && PyUnicode_READ_CHAR(name, 1) == '_');
}

/* The dict's values of instance i: 1, 0, -1 or OTHER_KIND. */
static int
gather_dict(struct attrs *attrs, PyObject *obj, Py_ssize_t i, Py_ssize_t n)
{
    PyObject *dict;
    int r = dict_of(obj, &dict);
    if (r == 1) {
        r = py_gather_dict(dict, attrs->n_dict, i > 0 ? attrs->names : NULL,
                           i > 0 ? NULL : attrs->names, attrs->values + i, n)
                ? 1
                : OTHER_KIND;
    }
    Py_XDECREF(dict);
    for (Py_ssize_t j = 0; j < attrs->n_dict && i == 0 && r == 1; j++) {
        r = is_plain_name(attrs->names[j]);
    }
    return r;
}

/* The slots' values of instance i: the first instance says which slots are
 * filled. */
static int
gather_slots(struct attrs *attrs, PyObject *slots, PyObject *obj, Py_ssize_t i,
             Py_ssize_t n)
{
    Py_ssize_t found = 0;
    PyObject **names = attrs->names + attrs->n_dict;
    for (Py_ssize_t j = 0; j < PyList_GET_SIZE(slots); j++) {
        PyObject *name = PyList_GET_ITEM(slots, j); /* lint-ok: of the plan */
        PyObject *value = PyObject_GetAttr(obj, name);
        if (value == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        if (value == NULL) {
            continue;
        }
        if (i > 0 && (found == attrs->n_slots || names[found] != name)) {
            Py_DECREF(value);
            return OTHER_KIND;
        }
        if (i == 0) {
            names[found] = Py_NewRef(name);
        }
        attrs->values[(attrs->n_dict + found) * n + i] = value;
        found++;
    }
    if (i == 0) {
        attrs->n_slots = found;
    }
    return found == attrs->n_slots ? 1 : OTHER_KIND;
}

static int
gather_attrs(struct attrs *attrs, const struct py_plan *plan,
             PyObject *const *items, Py_ssize_t n)
{
    bool dicts = has_dict(plan->type);
    Py_ssize_t slots = plan->slots != NULL ? PyList_GET_SIZE(plan->slots) : 0;
    int r = 1;
    if (dicts) {
        PyObject *dict;
        r = dict_of(items[0], &dict);
        attrs->n_dict = r == 1 ? PyDict_GET_SIZE(dict) : 0;
        Py_XDECREF(dict);
    }
    if (r != 1 || attrs->n_dict > UINT8_MAX || slots > UINT8_MAX) {
        return r < 0 ? -1 : 0;
    }
    Py_ssize_t most = attrs->n_dict + slots;
    attrs->room = most * (1 + n);
    attrs->names = py_gather_new(attrs->room);
    if (attrs->names == NULL) {
        return -1;
    }
    attrs->values = attrs->names + most;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = dicts && attrs->n_dict > 0 ? gather_dict(attrs, items[i], i, n) : 1;
        if (r == 1 && dicts && attrs->n_dict == 0 && i > 0) {
            PyObject *dict;
            r = dict_of(items[i], &dict);
            r = r == 1 && PyDict_GET_SIZE(dict) > 0 ? OTHER_KIND : r;
            Py_XDECREF(dict);
        }
        r = r == 1 && slots > 0
                ? gather_slots(attrs, plan->slots, items[i], i, n)
                : r;
    }
    return r;
}

static int
put_attrs(struct py_writer *w, const struct attrs *attrs, Py_ssize_t n)
{
    Py_ssize_t count = attrs->n_dict + attrs->n_slots;
    if (py_writer_reserve(w, 2) < 0) {
        return -1;
    }
    py_writer_add_byte(w, (unsigned)attrs->n_dict);
    py_writer_add_byte(w, (unsigned)attrs->n_slots);
    int r = py_put_keys(w, attrs->names, count);
    for (Py_ssize_t j = 0; j < count && r == 1; j++) {
        r = py_put_inner(w, attrs->values + j * n, n, true);
    }
    return r;
}

/* Instances with attributes and nothing else: a column for each attribute. 0
 * with *ask: the objects have to be asked. */
static int
put_plain(struct py_writer *w, const struct py_plan *plan,
          PyObject *const *items, Py_ssize_t n, bool *ask)
{
    struct attrs attrs = {0};
    *ask = false;
    if (n > 1 && !py_writer_may_open(w)) {
        return OTHER_KIND;
    }
    int r = gather_attrs(&attrs, plan, items, n);
    if (r == OTHER_KIND && n == 1) {
        r = 0; /* another thread changes it right now */
    }
    *ask = r == 0;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = enter(w, plan, items[i]);
    }
    if (r == 1) {
        bool any = attrs.n_dict + attrs.n_slots > 0;
        struct reduced made = {.how = HOW_NEW | (any ? HOW_ATTRS : 0u),
                               .callable = (PyObject *)plan->type};
        struct py_open open;
        py_writer_open(w, &open, n, NOT_FILLED);
        r = put_makers(w, n, &made, NULL);
        w->calls += plan->sees_state;
        r = r == 1 && any ? put_attrs(w, &attrs, n) : r;
        w->calls -= plan->sees_state;
        w->open = open.outer;
    }
    py_gather_free(attrs.names, attrs.room);
    return r;
}

/* ---- any object ---- */

/* A buffer of the pickle protocol, as bytes or a bytearray. */
static int
put_buffer(struct py_writer *w, PyObject *obj)
{
    const Py_buffer *view = PyPickleBuffer_GetBuffer(obj);
    if (view == NULL) {
        return -1;
    }
    size_t n = (size_t)view->len;
    if (!PyBuffer_IsContiguous(view, 'A')) {
        return 0;
    }
    int r = view->readonly && n < LARGE ? 1 : py_writer_enter(w, obj);
    if (r != 1 || py_writer_reserve(w, 1 + SIZE_ROOM + n) < 0) {
        return r != 1 ? r : -1;
    }
    py_writer_add_byte(w, view->readonly ? TAG_BYTES : TAG_BYTEARRAY);
    py_writer_add_size(w, n);
    py_writer_add(w, view->buf, n);
    return 1;
}

static int
put_arrays(struct py_writer *w, const struct py_plan *plan,
           PyObject *const *items, Py_ssize_t n)
{
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = enter(w, plan, items[i]);
    }
    return r == 1 ? py_array_put(w, items, n) : r;
}

static int
put_planned(struct py_writer *w, const struct py_plan *plan,
            PyObject *const *items, Py_ssize_t n)
{
    if (plan->rule == RULE_NAME) {
        int r = n > 1 ? OTHER_KIND : py_seen_add(&w->seen, items[0]);
        w->ran_code |= PyType_HasFeature(plan->type, Py_TPFLAGS_HEAPTYPE);
        return r == 1 ? py_named_put(w, items[0], NULL) : r;
    }
    if (plan->rule == RULE_PLAIN) {
        bool ask;
        int r = put_plain(w, plan, items, n, &ask);
        if (!ask) {
            return r;
        }
    }
    if (plan->rule == RULE_SCALAR) {
        return py_array_put_scalars(w, items, n);
    }
    if (plan->rule == RULE_ARRAY) {
        if (py_array_are_alike(w->state, items, n)) {
            return put_arrays(w, plan, items, n);
        }
        if (n > 1) {
            return OTHER_KIND;
        }
    }
    return put_reduced(w, plan, items, n);
}

int
py_reduce_put(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    PyTypeObject *type = Py_TYPE(items[0]);
    const struct py_plan *plan;
    for (Py_ssize_t i = 1; i < n; i++) {
        if (Py_TYPE(items[i]) != type) {
            return OTHER_KIND;
        }
    }
    if (PyPickleBuffer_Check(items[0])) {
        return n == 1 ? put_buffer(w, items[0]) : OTHER_KIND;
    }
    if (w->depth == DEPTH_MAX) {
        return 0;
    }
    int r = find_plan(w, type, &plan);
    return r == 1 ? put_planned(w, plan, items, n) : r;
}
