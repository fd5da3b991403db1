/* References in tasks and results; see task/refs.h. */
#include "task/refs.h"

#include "task/mode.h"

#include <string.h>

static_assert(offsetof(struct cp_task, own) % _Alignof(PyObject *) == 0,
              "bodies must be aligned for references");
static_assert(offsetof(struct cp_result, body) % _Alignof(PyObject *) == 0,
              "bodies must be aligned for references");

struct cp_task *
py_refs_task(uint64_t index, unsigned mode, PyObject *func, Py_ssize_t n)
{
    size_t len = sizeof(struct py_refs) + (size_t)n * sizeof(PyObject *);
    struct cp_task *task = cp_task_new(index, (uint16_t)mode, len);
    if (task == NULL) {
        (void)PyErr_NoMemory();
        return NULL;
    }
    struct py_refs *refs = py_refs_of_task(task);
    memset(refs, 0, len);
    refs->func = py_refs_lend(func);
    return task;
}

struct cp_task *
py_refs_call_flat(uint64_t index, PyObject *func, PyObject *const *args,
                  Py_ssize_t n)
{
    struct cp_task *task = py_refs_task(index, PY_CALL_FLAT, func, n);
    for (Py_ssize_t i = 0; i < n && task != NULL; i++) {
        py_refs_of_task(task)->slots[i] = py_refs_lend(args[i]);
    }
    return task;
}

struct cp_task *
py_refs_call(uint64_t index, PyObject *func, PyObject *args, PyObject *kwds)
{
    bool plain = PyDict_CheckExact(kwds) && PyDict_GET_SIZE(kwds) == 0;
    if (plain && PyTuple_CheckExact(args)) {
        return py_refs_call_flat(index, func, ((PyTupleObject *)args)->ob_item,
                                 PyTuple_GET_SIZE(args));
    }
    struct cp_task *task =
        py_refs_task(index, plain ? PY_CALL : PY_CALL_KW, func, plain ? 1 : 2);
    if (task != NULL) {
        PyObject **slots = py_refs_of_task(task)->slots;
        slots[0] = py_refs_lend(args);
        if (!plain) {
            slots[1] = py_refs_lend(kwds);
        }
    }
    return task;
}

void
py_refs_clear_task(struct cp_task *task)
{
    struct py_refs *refs = py_refs_of_task(task);
    Py_ssize_t n = py_refs_count(task);
    Py_CLEAR(refs->func);
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_CLEAR(refs->slots[i]);
    }
}

static Py_ssize_t
count(const struct cp_result *result)
{
    return (Py_ssize_t)(result->len / sizeof(PyObject *));
}

struct cp_result *
py_refs_result(uint64_t index, Py_ssize_t n)
{
    size_t len = (size_t)n * sizeof(PyObject *);
    struct cp_result *result = cp_result_new(index, CP_OK, len);
    if (result != NULL) {
        memset(result->body, 0, len);
    }
    return result;
}

PyObject *
py_refs_first(struct cp_result *result)
{
    CP_ASSERT(count(result) > 0);
    return Py_NewRef(py_refs_of_result(result)[0]);
}

PyObject *
py_refs_take_first(struct cp_result *result)
{
    CP_ASSERT(count(result) > 0);
    PyObject *value = py_refs_of_result(result)[0];
    py_refs_of_result(result)[0] = NULL;
    return value;
}

struct py_run
py_refs_view(struct cp_result *result)
{
    Py_ssize_t n = count(result);
    return (struct py_run){
        .slots = py_refs_of_result(result), .n = n, .used = n, .cap = n};
}

PyObject *
py_refs_take_list(struct cp_result *result)
{
    Py_ssize_t n = count(result);
    PyObject **slots = py_refs_of_result(result);
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; i < n && list != NULL; i++) {
        PyList_SET_ITEM(list, i, slots[i]);
        slots[i] = NULL;
    }
    return list;
}

void
py_refs_release(struct cp_task *tasks, struct cp_result *results)
{
    while (tasks != NULL) {
        struct cp_task *next = tasks->next;
        py_refs_clear_task(tasks);
        Py_XDECREF(py_refs_call_of_task(tasks));
        cp_task_free(tasks);
        tasks = next;
    }
    while (results != NULL) {
        struct cp_result *next = results->next;
        PyObject **slots = py_refs_of_result(results);
        for (Py_ssize_t i = 0; i < count(results); i++) {
            Py_CLEAR(slots[i]);
        }
        cp_result_free(results);
        results = next;
    }
}

struct visitor {
    visitproc visit;
    void *arg;
};

static int
visit_result(struct cp_result *result, void *arg)
{
    const struct visitor *visitor = arg;
    PyObject **slots = py_refs_of_result(result);
    int stop = 0;
    for (Py_ssize_t i = 0; i < count(result) && stop == 0; i++) {
        stop = slots[i] != NULL ? visitor->visit(slots[i], visitor->arg) : 0;
    }
    return stop;
}

int
py_refs_traverse(struct cp_job *job, visitproc visit, void *arg)
{
    struct visitor visitor = {.visit = visit, .arg = arg};
    return cp_job_each_result(job, visit_result, &visitor);
}
