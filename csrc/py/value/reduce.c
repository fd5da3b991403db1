/*
 * Objects of all classes without a rule in encoder.c, as pickle would send
 * them: by name (classes and functions), or by what the reduce protocol returns
 * for them. Plain instances and named tuples need not be asked for that. If
 * anything is wrong with an object, the body is left to pickle, which reports
 * it.
 */
#include "value/encode.h"

#include "base/word.h"
#include "value/array.h"
#include "value/gather.h"
#include "value/kind.h"
#include "value/named.h"
#include "value/plan.h"

/* ---- what the reduce protocol says of an object ---- */

struct reduced {
    PyObject *value; /* the object's answer; or NULL */
    unsigned how;    /* HOW_ bits */
    PyObject *callable;
    PyObject *const *args;
    Py_ssize_t arity;
    PyObject *list, *dict, *state, *setter; /* or NULL */
};

/* The answer is a string, the name of the object. */
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

/* Recognize copyreg's functions that stand for cls.__new__(cls, ...). 0: they
 * have other arguments than we know. */
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

/* If obj is an exception without a __dict__, which is made from its args:
 * true. */
static bool
read_exception(PyObject *obj, struct reduced *r)
{
    PyBaseExceptionObject *exc = (PyBaseExceptionObject *)obj;
    PyObject *args = NULL;
    Py_BEGIN_CRITICAL_SECTION(obj);
    if (exc->dict == NULL && exc->args != NULL
        && PyTuple_CheckExact(exc->args)) {
        args = Py_NewRef(exc->args);
    }
    Py_END_CRITICAL_SECTION();
    if (args != NULL) {
        *r = (struct reduced){.value = args,
                              .callable = (PyObject *)Py_TYPE(obj),
                              .args = ((PyTupleObject *)args)->ob_item,
                              .arity = PyTuple_GET_SIZE(args)};
    }
    return args != NULL;
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
    if (plan->rule == RULE_MEMBER) {
        *r = (struct reduced){
            .value = PyObject_GetAttr(obj, w->state->words[WORD_VALUE]),
            .callable = (PyObject *)plan->type,
            .args = &r->value,
            .arity = 1};
        return r->value != NULL ? 1 : -1;
    }
    if (plan->rule == RULE_EXCEPTION && read_exception(obj, r)) {
        return 1;
    }
    if (plan->reducer != NULL) {
        r->value = PyObject_CallOneArg(plan->reducer, obj);
    } else {
        PyObject *call[] = {NULL, obj, PyLong_FromLong(5)};
        r->value =
            PyObject_VectorcallMethod(w->state->words[WORD_REDUCE_EX], call + 1,
                                      2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        Py_DECREF(call[2]);
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

/* Make an array of the i-th arguments, or of the states, of n objects. */
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

/* Put what makes the objects. Nothing can refer to the objects yet. */
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

/* Put what is done to n objects after they were made. Their methods are called
 * for one object after the other. */
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

/* Put n objects that have numbers, and are made and filled in the same way. */
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

static int
enter_all(struct py_writer *w, const struct py_plan *plan,
          PyObject *const *items, Py_ssize_t n)
{
    int r = py_seen_reserve(&w->seen, (size_t)n) < 0 ? -1 : 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = enter(w, plan, items[i]);
    }
    return r;
}

/* Put one object; a REF if it was met meanwhile. */
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

/* Put objects one by one that turned out to differ after they were asked. */
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
    struct py_mark before = py_writer_mark(w);
    w->ran_code |=
        plan->runs_code
        && (plan->rule == RULE_REDUCE || plan->rule == RULE_EXCEPTION);
    struct reduced *r = PyMem_Calloc((size_t)n, sizeof(*r));
    if (r == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    w->made++;
    int is_put = enter_all(w, plan, items, n);
    bool alike = true;
    for (Py_ssize_t i = 0; i < n && is_put == 1; i++) {
        is_put = reduce(w, plan, items[i], &r[i]);
        alike = alike && is_put == 1 && are_alike(&r[0], &r[i]);
        is_put = is_put == IS_NAME ? 1 : is_put;
    }
    alike = alike
            && (n == 1 || (w->retries <= RETRIES_MAX && py_writer_may_open(w)));
    if (is_put == 1 && alike) {
        is_put = put_alike(w, n, r);
        /* Their iterators may be exhausted: ask these objects again. */
        if (is_put == RETRY && w->retry == before.seen && r->list == NULL
            && r->dict == NULL) {
            w->retries++;
            alike = false;
            is_put = 1;
        }
    }
    if (is_put == 1 && !alike) {
        py_writer_back(w, &before);
        is_put = n == 1 ? put_one(w, plan, items[0], r)
                        : put_each(w, plan, items, n, r);
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_XDECREF(r[i].value);
    }
    w->made--;
    PyMem_Free(r);
    return is_put;
}

/* ---- plain instances ---- */

/* The attributes of n instances: the names, and a column of values for each
 * name. */
struct attrs {
    enum py_held held;
    Py_ssize_t n_dict, n_slots;
    PyObject **names;  /* of n_dict + n_slots */
    PyObject **values; /* of n * (n_dict + n_slots) */
    Py_ssize_t room;   /* of both arrays together, in one block */
};

/* Get the __dict__ of an instance: 1; 0 if it is not a plain dict; -1 with an
 * exception. *dict is NULL if there is no dict yet, which counts as empty:
 * making one would take memory. */
static int
dict_of(PyObject *obj, PyObject **dict)
{
#ifndef Py_GIL_DISABLED
    Py_ssize_t offset = Py_TYPE(obj)->tp_dictoffset;
    if (offset > 0) {
        *dict = *(PyObject **)(void *)((char *)obj + offset);
        Py_XINCREF(*dict);
        return *dict == NULL || PyDict_CheckExact(*dict);
    }
#endif
    *dict = PyObject_GenericGetDict(obj, NULL);
    return *dict == NULL ? -1 : PyDict_CheckExact(*dict);
}

/* May an instance have an attribute of this name? Not a special name (__x__):
 * someone could call the attribute instead of the class's method. */
static bool
is_plain_name(PyObject *name)
{
    return PyUnicode_CheckExact(name) && py_kind_make_ready(name) == 0
           && !(PyUnicode_GET_LENGTH(name) > 1
                && PyUnicode_READ_CHAR(name, 0) == '_'
                && PyUnicode_READ_CHAR(name, 1) == '_');
}

/* Gather the values of instance i from its dict: 1, 0, -1 or OTHER_KIND. */
static int
gather_dict(struct attrs *attrs, PyObject *obj, Py_ssize_t i, Py_ssize_t n)
{
    PyObject *dict;
    int r = dict_of(obj, &dict);
    if (r == 1 && dict == NULL) {
        r = OTHER_KIND; /* the instances have different attributes */
    }
    if (r == 1) {
        r = py_gather_dict(dict, attrs->n_dict, i > 0 ? attrs->names : NULL,
                           i > 0 ? NULL : attrs->names, attrs->values + i, n)
                ? 1
                : OTHER_KIND;
    }
    Py_XDECREF(dict);
    for (Py_ssize_t j = 0; j < attrs->n_dict && i == 0 && r == 1; j++) {
        r = is_plain_name(attrs->names[j])
            && (attrs->held == HELD_NOTHING
                || PyUnicode_CompareWithASCIIString(attrs->names[j], "items")
                       != 0);
    }
    return r;
}

/* Gather the values of instance i from its slots. The first instance determines
 * which slots are filled. */
static int
gather_slots(struct attrs *attrs, PyObject *slots, PyObject *obj, Py_ssize_t i,
             Py_ssize_t n)
{
    Py_ssize_t found = 0;
    PyObject **names = attrs->names + attrs->n_dict;
    for (Py_ssize_t j = 0; j < PyTuple_GET_SIZE(slots); j++) {
        PyObject *name = PyTuple_GET_ITEM(slots, j);
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
    bool dicts = py_plan_has_dict(plan->type);
    Py_ssize_t slots = plan->slots != NULL ? PyTuple_GET_SIZE(plan->slots) : 0;
    int r = 1;
    if (dicts) {
        PyObject *dict;
        r = dict_of(items[0], &dict);
        attrs->n_dict = r == 1 && dict != NULL ? PyDict_GET_SIZE(dict) : 0;
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
            r = r == 1 && dict != NULL && PyDict_GET_SIZE(dict) > 0 ? OTHER_KIND
                                                                    : r;
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

/* ---- the items of instances ---- */

/* The items of n lists (instances of subclasses) or deques, or the pairs of n
 * dicts, as columns. Only if all have the same number of them, and dicts the same
 * keys. */
struct rows {
    Py_ssize_t arity;  /* 0: they cannot be columns */
    PyObject **keys;   /* of dicts; followed by the values */
    PyObject **values; /* arity columns of n */
    Py_ssize_t room;
};

static Py_ssize_t
size_of(PyObject *obj)
{
    return PyList_Check(obj)   ? PyList_GET_SIZE(obj)
           : PyDict_Check(obj) ? PyDict_GET_SIZE(obj)
                               : PyObject_Size(obj);
}

/* Gather the n items of a deque into every stride-th place. false: another thread
 * is changing it. */
static bool
gather_queued(PyObject *deque, Py_ssize_t n, PyObject **to, Py_ssize_t stride)
{
    PyObject *iterator = PyObject_GetIter(deque);
    PyObject *item = iterator != NULL ? PyIter_Next(iterator) : NULL;
    Py_ssize_t i = 0;
    while (item != NULL && i < n) {
        to[i++ * stride] = item;
        item = PyIter_Next(iterator);
    }
    bool fits =
        iterator != NULL && i == n && item == NULL && PyErr_Occurred() == NULL;
    PyErr_Clear();
    Py_XDECREF(item);
    Py_XDECREF(iterator);
    return fits;
}

static bool
gather_items(PyObject *obj, Py_ssize_t n, PyObject **to, Py_ssize_t stride)
{
    return PyList_Check(obj) ? py_gather_items(obj, n, to, stride)
                             : gather_queued(obj, n, to, stride);
}

/* 1; OTHER_KIND if they cannot be columns; or -1 with an exception. */
static int
gather_rows(struct rows *rows, PyObject *const *items, Py_ssize_t n)
{
    bool lists = !PyDict_Check(items[0]);
    Py_ssize_t arity = size_of(items[0]), more = lists ? 0 : arity;
    bool fits = n > 1 && arity > 0 && arity <= (lists ? ARITY_MAX : KEYS_MAX);
    for (Py_ssize_t i = 1; i < n && fits; i++) {
        fits = size_of(items[i]) == arity;
    }
    if (!fits) {
        return OTHER_KIND;
    }
    rows->room = more + n * arity;
    rows->keys = py_gather_new(rows->room);
    if (rows->keys == NULL) {
        return -1;
    }
    rows->values = rows->keys + more;
    for (Py_ssize_t i = 0; i < n && fits; i++) {
        fits = lists ? gather_items(items[i], arity, rows->values + i, n)
                     : py_gather_dict(
                         items[i], arity, i > 0 ? rows->keys : NULL,
                         i > 0 ? NULL : rows->keys, rows->values + i, n);
    }
    rows->arity = fits ? arity : 0;
    return fits ? 1 : OTHER_KIND;
}

static int
put_rows(struct py_writer *w, const struct rows *rows, Py_ssize_t n)
{
    int r = py_writer_reserve(w, 1);
    if (r == 1) {
        py_writer_add_byte(w, (unsigned)rows->arity);
    }
    if (r == 1 && rows->values != rows->keys) {
        r = py_put_keys(w, rows->keys, rows->arity);
    }
    for (Py_ssize_t j = 0; j < rows->arity && r == 1; j++) {
        r = py_put_inner(w, rows->values + j * n, n, true);
    }
    return r;
}

/* Put the size and the items, or the keys and values, of one object. */
static int
put_held(struct py_writer *w, PyObject *obj)
{
    bool list = !PyDict_Check(obj);
    Py_ssize_t n = size_of(obj), room = list ? n : 2 * n;
    PyObject **items = py_gather_new(room);
    if (items == NULL) {
        return -1;
    }
    bool fits = list ? gather_items(obj, n, items, 1)
                     : py_gather_dict(obj, n, NULL, items, items + n, 1);
    int r = !fits  ? 0 /* another thread is changing it */
            : list ? py_put_sized(w, items, n)
                   : py_writer_reserve(w, SIZE_ROOM);
    if (!list && r == 1) {
        py_writer_add_size(w, (size_t)n);
        r = py_put_keys(w, items, n);
        r = r == 1 ? py_put_inner(w, items + n, n, true) : r;
    }
    py_gather_free(items, room);
    return r;
}

/* Are the pairs of an OrderedDict in the order of the underlying dict? Not
 * after move_to_end(). -1 with an exception. */
static int
is_in_order(PyObject *obj)
{
    PyObject *keys = PySequence_Tuple(obj);
    Py_ssize_t n = keys != NULL ? PyTuple_GET_SIZE(keys) : 0;
    PyObject **values = keys != NULL ? py_gather_new(n) : NULL;
    int r = -1;
    if (values != NULL) {
        r = py_gather_dict(obj, n, ((PyTupleObject *)keys)->ob_item, NULL,
                           values, 1);
    }
    py_gather_free(values, n);
    Py_XDECREF(keys);
    return r;
}

/* Put what makes n defaultdicts or deques. Their arguments are the factory, or an
 * empty tuple and the length at most; there are none if these are None. */
static int
put_makers_with_args(struct py_writer *w, const struct py_plan *plan,
                     PyObject *const *items, Py_ssize_t n, unsigned how)
{
    bool queues = plan->held == HELD_QUEUED;
    PyObject *name =
        w->state->words[queues ? WORD_MAXLEN : WORD_DEFAULT_FACTORY];
    Py_ssize_t arity = queues ? 2 : 1;
    PyObject **args = py_gather_new((arity + 1) * n);
    struct reduced *made = PyMem_Calloc((size_t)n, sizeof(*made));
    int r = args != NULL && made != NULL ? 1 : -1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        PyObject **own = args + i * arity;
        own[arity - 1] = PyObject_GetAttr(items[i], name);
        own[0] = queues ? PyTuple_New(0) : own[0];
        r = own[0] != NULL && own[arity - 1] != NULL ? 1 : -1;
        made[i] =
            (struct reduced){.how = how,
                             .callable = (PyObject *)plan->type,
                             .args = own,
                             .arity = own[arity - 1] == Py_None ? 0 : arity};
        r = r == 1 && made[i].arity != made[0].arity ? OTHER_KIND : r;
    }
    r = r == 1 ? put_makers(w, n, made, args + n * arity) : r;
    if (made == NULL && args != NULL) {
        (void)PyErr_NoMemory();
    }
    py_gather_free(args, n * arity); /* the rest is borrowed */
    PyMem_Free(made);
    return r;
}

/* ---- instances ---- */

static int
put_instances(struct py_writer *w, const struct py_plan *plan,
              PyObject *const *items, Py_ssize_t n, const struct attrs *attrs,
              const struct rows *rows)
{
    bool any = attrs->n_dict + attrs->n_slots > 0;
    bool lists = plan->held == HELD_ITEMS || plan->held == HELD_QUEUED;
    unsigned held = plan->held == HELD_NOTHING ? 0u
                    : lists                    ? HOW_LIST
                                               : HOW_DICT;
    unsigned how =
        held | (any ? HOW_ATTRS : 0u) | (rows->arity > 0 ? HOW_ROWS : 0u);
    struct reduced made = {.how = HOW_NEW | how,
                           .callable = (PyObject *)plan->type};
    struct py_open open;
    py_writer_open(w, &open, n, NOT_FILLED);
    int r = plan->held == HELD_DEFAULTS || plan->held == HELD_QUEUED
                ? put_makers_with_args(w, plan, items, n, how)
                : put_makers(w, n, &made, NULL);
    w->calls++; /* the methods that add items are called */
    if (rows->arity > 0 && r == 1) {
        r = put_rows(w, rows, n);
    }
    for (Py_ssize_t i = 0; i < n && r == 1 && held != 0 && rows->arity == 0;
         i++) {
        r = put_held(w, items[i]);
    }
    w->calls--;
    w->calls += plan->sees_state;
    r = r == 1 && any ? put_attrs(w, attrs, n) : r;
    w->calls -= plan->sees_state;
    w->open = open.outer;
    return r;
}

/* Put instances with attributes, and perhaps with items: a column for each
 * attribute. 0 with *ask: the objects have to be asked. */
static int
put_plain(struct py_writer *w, const struct py_plan *plan,
          PyObject *const *items, Py_ssize_t n, bool *ask)
{
    struct attrs attrs = {.held = plan->held};
    struct rows rows = {0};
    *ask = false;
    if (n > 1 && !py_writer_may_open(w)) {
        return OTHER_KIND;
    }
    int r = 1;
    for (Py_ssize_t i = 0; i < n && r == 1 && plan->held == HELD_ORDERED_PAIRS;
         i++) {
        r = is_in_order(items[i]);
    }
    r = r == 1 ? gather_attrs(&attrs, plan, items, n) : r;
    if (r == OTHER_KIND && n == 1) {
        r = 0; /* another thread is changing it */
    }
    *ask = r == 0;
    r = r == 1 ? enter_all(w, plan, items, n) : r;
    if (r == 1 && plan->held != HELD_NOTHING) {
        r = gather_rows(&rows, items, n) < 0 ? -1 : 1;
    }
    r = r == 1 ? put_instances(w, plan, items, n, &attrs, &rows) : r;
    py_gather_free(rows.keys, rows.room);
    py_gather_free(attrs.names, attrs.room);
    return r;
}

/* ---- any object ---- */

/* Put a part of which a bytearray can be a view: 1; 0 if there is no room for
 * it; or -1 with an exception. */
static int
put_view(struct py_writer *w, const void *bytes, size_t n)
{
    uint64_t wide = n;
    if (!py_writer_may_part(w, n)) {
        return 0;
    }
    if (py_writer_reserve(w, 2 + sizeof(uint32_t) + sizeof(wide)) < 0) {
        return -1;
    }
    int64_t found = cp_parts_add_ended(w->out->parts, bytes, n);
    uint32_t number = (uint32_t)found;
    if (found < 0) {
        return 0;
    }
    py_writer_add_byte(w, TAG_PART);
    py_writer_add_byte(w, TAG_BUFFER);
    py_writer_add(w, &number, sizeof(number));
    py_writer_add(w, &wide, sizeof(wide));
    return 1;
}

/* Put the buffer of this object as bytes or a bytearray. */
static int
put_buffer(struct py_writer *w, PyObject *obj, const Py_buffer *view)
{
    size_t n = (size_t)view->len;
    if (!PyBuffer_IsContiguous(view, 'A')) {
        return 0;
    }
    unsigned tag = view->readonly ? TAG_BYTES : TAG_BYTEARRAY;
    int r = view->readonly && n < LARGE ? 1 : py_writer_enter(w, obj);
    int parted = r == 1 && !view->readonly ? put_view(w, view->buf, n) : 0;
    if (r == 1 && parted == 0) {
        parted = py_writer_put_part(w, tag, NULL, view->buf, n, n);
    }
    if (parted != 0) {
        return parted;
    }
    if (r != 1 || py_writer_reserve(w, 1 + SIZE_ROOM + n) < 0) {
        return r != 1 ? r : -1;
    }
    py_writer_add_byte(w, tag);
    py_writer_add_size(w, n);
    py_writer_add(w, view->buf, n);
    return 1;
}

static int
put_pickle_buffer(struct py_writer *w, PyObject *obj)
{
    const Py_buffer *view = PyPickleBuffer_GetBuffer(obj);
    return view != NULL ? put_buffer(w, obj, view) : -1;
}

/* Put a bytearray on shared memory, as if it were in a PickleBuffer. */
static int
put_bytearray(struct py_writer *w, PyObject *obj)
{
    Py_buffer view;
    if (PyObject_GetBuffer(obj, &view, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    int r = put_buffer(w, obj, &view);
    PyBuffer_Release(&view);
    return r;
}

static int
put_arrays(struct py_writer *w, const struct py_plan *plan,
           PyObject *const *items, Py_ssize_t n)
{
    int r = enter_all(w, plan, items, n);
    return r == 1 ? py_array_put(w, items, n) : r;
}

/* The kind of these objects of bytes: of dates or times one with zones if any of
 * them has a zone. */
static unsigned
kind_of_fixed(const struct py_plan *plan, PyObject *const *items, Py_ssize_t n)
{
    unsigned kind = plan->standard;
    bool zoned = false;
    if (kind == PY_STANDARD_TIME || kind == PY_STANDARD_DATETIME) {
        for (Py_ssize_t i = 0; i < n && !zoned; i++) {
            zoned = py_standard_zone(items[i]) != Py_None;
        }
    }
    return !zoned                     ? kind
           : kind == PY_STANDARD_TIME ? PY_STANDARD_ZONED_TIME
                                      : PY_STANDARD_ZONED_DATETIME;
}

static int
put_zones(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    struct py_open open;
    PyObject **zones = PyMem_New(PyObject *, n);
    if (zones == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        zones[i] = py_standard_zone(items[i]);
    }
    py_writer_open(w, &open, n, NOT_MADE);
    int r = py_put_inner(w, zones, n, false);
    w->open = open.outer;
    PyMem_Free(zones);
    return r;
}

static int
put_fixed(struct py_writer *w, const struct py_plan *plan,
          PyObject *const *items, Py_ssize_t n)
{
    unsigned kind = kind_of_fixed(plan, items, n);
    size_t size = py_standard_size(kind);
    int r = enter_all(w, plan, items, n);
    r = r == 1 ? py_writer_reserve(w, 2 + size * (size_t)n) : r;
    if (r != 1) {
        return r;
    }
    py_writer_add_byte(w, TAG_STANDARD);
    py_writer_add_byte(w, kind);
    for (Py_ssize_t i = 0; i < n; i++) {
        py_standard_put_bytes(kind, items[i], cp_buf_tail(w->out));
        cp_buf_add(w->out, size);
    }
    return py_standard_has_zones(kind) ? put_zones(w, items, n) : 1;
}

/* Put objects that are sent as one part each. 0 with *ask: the objects have to
 * be asked. */
static int
put_parts(struct py_writer *w, const struct py_plan *plan,
          PyObject *const *items, Py_ssize_t n, bool *ask)
{
    struct py_open open;
    struct py_standard_class cls;
    PyObject **parts = py_gather_new(n);
    int r =
        parts != NULL && py_standard_find(w->state, plan->standard, &cls) == 0
            ? 1
            : -1;
    bool found = r == 1;
    for (Py_ssize_t i = 0; i < n && r == 1; i++) {
        r = py_standard_part(&cls, items[i], &parts[i]);
    }
    *ask = r == 0;
    r = r == 1 ? enter_all(w, plan, items, n) : r;
    r = r == 1 ? py_writer_reserve(w, 2) : r;
    if (r == 1) {
        w->flags |= HAS_CODE; /* decoding may have to import the module */
        py_writer_add_byte(w, TAG_STANDARD);
        py_writer_add_byte(w, plan->standard);
        py_writer_open(w, &open, n, NOT_MADE);
        r = py_put_inner(w, parts, n, true);
        w->open = open.outer;
    }
    if (found) {
        py_standard_release(&cls);
    }
    py_gather_free(parts, n);
    return r;
}

/* Put a class. */
static int
put_class(struct py_writer *w, PyObject *cls)
{
    struct py_plan *own;
    int r = py_seen_add(&w->seen, cls);
    r = r == 1 ? py_plan_of_class(w, (PyTypeObject *)cls, &own) : r;
    return r == 1 ? py_named_put_class(w, (PyTypeObject *)cls, &own->own_name)
                  : r;
}

/* Put a function, or a class of another metaclass than type. */
static int
put_name(struct py_writer *w, const struct py_plan *plan, PyObject *obj)
{
    w->ran_code |= PyType_HasFeature(plan->type, Py_TPFLAGS_HEAPTYPE);
    if (PyType_Check(obj)) {
        return put_class(w, obj);
    }
    int r = py_seen_add(&w->seen, obj);
    return r == 1 ? py_named_put(w, obj, NULL) : r;
}

static int
put_planned(struct py_writer *w, const struct py_plan *plan,
            PyObject *const *items, Py_ssize_t n)
{
    if (plan->rule == RULE_NAME) {
        return n > 1 ? OTHER_KIND : put_name(w, plan, items[0]);
    }
    if (plan->rule == RULE_PLAIN) {
        bool ask;
        int r = put_plain(w, plan, items, n, &ask);
        if (!ask) {
            return r;
        }
    }
    if (plan->rule == RULE_STANDARD) {
        bool ask = false;
        int r = py_standard_has_parts(plan->standard)
                    ? put_parts(w, plan, items, n, &ask)
                    : put_fixed(w, plan, items, n);
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

/* Put the handle of a shared object. 0: it is closed, or of a pool without
 * workers, which its own rules report. */
static int
put_shared(struct py_writer *w, PyObject *handle)
{
    struct py_state *state = w->state;
    PyObject *core = PyObject_GetAttr(handle, state->words[WORD_CORE]);
    int r = core == NULL ? -1 : Py_IS_TYPE(core, state->share_type);
    int64_t found = r == 1 ? state->share_use(core, handle) : -1;
    uint32_t number = (uint32_t)found;
    Py_XDECREF(core);
    if (r != 1) {
        return r;
    }
    if (found < 0 || py_writer_reserve(w, 1 + sizeof(number)) < 0) {
        return -1;
    }
    py_writer_add_byte(w, TAG_SHARED);
    py_writer_add(w, &number, sizeof(number));
    w->flags |=
        HAS_CODE; /* a worker decodes the object when it meets it first */
    return 1;
}

int
py_reduce_put(struct py_writer *w, PyObject *const *items, Py_ssize_t n)
{
    PyTypeObject *type = Py_TYPE(items[0]);
    struct py_plan *plan;
    for (Py_ssize_t i = 1; i < n; i++) {
        if (Py_TYPE(items[i]) != type) {
            return OTHER_KIND;
        }
    }
    if (type == atomic_load(&w->state->handle_type)) {
        int r = n == 1 ? put_shared(w, items[0]) : OTHER_KIND;
        if (r != 0) {
            return r;
        }
    }
    if (PyPickleBuffer_Check(items[0])) {
        return n == 1 ? put_pickle_buffer(w, items[0]) : OTHER_KIND;
    }
    if (type == w->state->view_type) {
        return n == 1 ? put_bytearray(w, items[0]) : OTHER_KIND;
    }
    if (w->depth == DEPTH_MAX) {
        return 0;
    }
    if (type == &PyType_Type) { /* pickle looks for no reducer either */
        return n > 1 ? OTHER_KIND : put_class(w, items[0]);
    }
    int r = py_plan_find(w, type, &plan);
    return r == 1 ? put_planned(w, plan, items, n) : r;
}
