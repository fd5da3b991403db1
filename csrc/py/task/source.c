/* Pulling items from an iterable; see task/source.h. */
#include "task/source.h"

#include "task/pull.h"
#include "value/array.h"

/* Is it numpy's own array, of numbers or strings? Its items are made in C. */
static bool
is_plain_array(struct py_state *state, PyObject *it)
{
    return py_array_kind_of(state, Py_TYPE(it)) == PY_ARRAY_ARRAY
           && py_array_is_plain(state, it);
}

/* Does it hold the objects that its iterator gives? */
static bool
is_container(PyObject *it)
{
    return PyList_CheckExact(it) || PyTuple_CheckExact(it)
           || PyDict_CheckExact(it) || PyAnySet_CheckExact(it)
           || Py_TYPE(it) == &PyDictKeys_Type
           || Py_TYPE(it) == &PyDictValues_Type;
}

bool
py_source_is_plain(struct py_state *state, PyObject *it)
{
    return is_container(it) || PyRange_Check(it) || PyUnicode_CheckExact(it)
           || PyBytes_CheckExact(it) || Py_TYPE(it) == &PyDictItems_Type
           || is_plain_array(state, it);
}

int
py_source_open(struct py_source *src, PyObject *iterable)
{
    src->is_container = is_container(iterable);
    /* A list is read in place, as its iterator would read it. */
    src->is_sequence =
        PyList_CheckExact(iterable) || PyTuple_CheckExact(iterable);
    src->iterator =
        src->is_sequence ? Py_NewRef(iterable) : PyObject_GetIter(iterable);
    return src->iterator != NULL ? 0 : -1;
}

/* Copy the next items of the list or tuple, at most n. Returns how many. */
static Py_ssize_t
copy_items(struct py_source *src, PyObject **items, Py_ssize_t n)
{
    PyObject *sequence = src->iterator;
    Py_BEGIN_CRITICAL_SECTION(sequence);
    Py_ssize_t left =
        src->at_end ? 0 : PySequence_Fast_GET_SIZE(sequence) - src->pulled;
    PyObject **from =
        PySequence_Fast_ITEMS(sequence); /* lint-ok: in the section */
    n = left < n ? left : n;
    for (Py_ssize_t i = 0; i < n; i++) {
        items[i] = Py_NewRef(from[src->pulled + i]);
    }
    Py_END_CRITICAL_SECTION();
    return n > 0 ? n : 0;
}

static PyObject *
pull(struct py_source *src)
{
    if (src->plain) {
        return PyIter_Next(src->iterator);
    }
    struct py_pull turn;
    py_pull_begin(&turn, src->engine);
    PyObject *item = PyIter_Next(src->iterator);
    py_pull_end(&turn);
    return item;
}

int
py_source_next(struct py_source *src, PyObject **item)
{
    *item = NULL;
    if (!src->is_sequence) {
        *item = pull(src);
    } else if (copy_items(src, item, 1) == 0) {
        src->at_end = 1; /* items that are appended later are not read */
    }
    if (*item == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (src->length >= 0
        && (*item == NULL ? src->pulled < src->length
                          : src->pulled >= src->length)) {
        PyErr_Format(PyExc_ValueError,
                     "the iterable gave %s items than its length, %zd",
                     *item == NULL ? "fewer" : "more", src->length);
        Py_CLEAR(*item);
        return -1;
    }
    if (*item == NULL) {
        return 0;
    }
    src->pulled++;
    return 1;
}

static int
pull_sequence(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    /* Make room for no more than is left; copy_items() checks again, in its
     * critical section. */
    Py_ssize_t left = PySequence_Fast_GET_SIZE(src->iterator) - src->pulled;
    n = left < n ? left : n;
    if (n > 0 && py_run_reserve(run, run->used + n) < 0) {
        return -1;
    }
    n = n > 0 ? copy_items(src, run->slots + run->used, n) : 0;
    run->n += n;
    run->used += n;
    return 0;
}

static int
pull_iterator(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    PyObject *iterator = src->iterator;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = Py_TYPE(iterator)->tp_iternext(iterator);
        if (item == NULL) {
            break;
        }
        if (py_run_add_take(run, item) < 0) {
            return -1;
        }
    }
    return PyErr_Occurred() != NULL ? -1 : 0;
}

/* Pull up to n items without running Python code, but no more than the source
 * must have. 0, or -1 with an exception. */
static int
pull_plain(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    Py_ssize_t most = src->length >= 0 ? src->length - src->pulled : n;
    Py_ssize_t before = run->n;
    most = most < n ? most : n;
    int r = src->is_sequence ? pull_sequence(src, most, run)
                             : pull_iterator(src, most, run);
    src->pulled += run->n - before;
    return r;
}

int
py_source_next_chunk(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    py_run_clear(run);
    return py_source_add_chunk(src, n, run);
}

int
py_source_add_chunk(struct py_source *src, Py_ssize_t n, struct py_run *run)
{
    int r = src->plain && pull_plain(src, n - run->n, run) < 0 ? -1 : 1;
    while (r == 1 && run->n < n) {
        PyObject *item;
        r = py_source_next(src, &item);
        if (r == 1 && py_run_add_take(run, item) < 0) {
            r = -1;
        }
    }
    return r == 0 && run->n > 0 ? 1 : r;
}

PyObject *
py_source_list(EngineObject *engine, PyObject *iterable)
{
    PyObject *iterator = PyObject_GetIter(iterable);
    PyObject *list = iterator != NULL ? PyList_New(0) : NULL;
    if (list == NULL) {
        Py_XDECREF(iterator);
        return NULL;
    }
    struct py_pull turn;
    py_pull_begin(&turn, engine);
    PyObject *item = PyIter_Next(iterator);
    while (item != NULL) {
        int r = PyList_Append(list, item);
        Py_DECREF(item);
        if (r == 0) {
            py_pull_next(&turn);
        }
        item = r == 0 ? PyIter_Next(iterator) : NULL;
    }
    py_pull_end(&turn);
    Py_DECREF(iterator);
    if (PyErr_Occurred() != NULL) {
        Py_CLEAR(list);
    }
    return list;
}

Py_ssize_t
py_source_references(const struct py_source *src)
{
    return src->is_container ? 2 : 1;
}

bool
py_source_is_at_end(struct py_source *src)
{
    PyObject *item = NULL;
    bool ends = src->iterator == NULL
                || (src->plain && py_source_next(src, &item) == 0);
    Py_XDECREF(item);
    PyErr_Clear(); /* the container was changed meanwhile */
    return ends;
}
