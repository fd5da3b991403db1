/* The type _core.Condition; see job/condition.h. */
#include "job/condition.h"

#include "base/argument.h"
#include "base/timeout.h"
#include "job/lane.h"

#include "core/base/clock.h"

#include <time.h>

#define CONDITION(op) ((ConditionObject *)(op))

static PyObject *
condition_acquire(PyObject *op, PyObject *Py_UNUSED(args))
{
    ConditionObject *self = CONDITION(op);
    int begun = py_lane_look(self);
    if (begun < 0) {
        return NULL;
    }
    py_condition_acquire(self);
    self->was_locked = 1;
    if (begun && !self->is_running && self->future != NULL) {
        py_future_set_running(self);
    }
    Py_RETURN_TRUE;
}

static int
check_owned(ConditionObject *self)
{
    if (py_condition_has(self)) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, "cannot use an un-acquired lock");
    return -1;
}

static PyObject *
condition_release(PyObject *op, PyObject *Py_UNUSED(args))
{
    if (check_owned(CONDITION(op)) < 0) {
        return NULL;
    }
    py_condition_release(CONDITION(op));
    Py_RETURN_NONE;
}

static PyObject *
condition_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
               Py_ssize_t Py_UNUSED(nargs))
{
    return condition_release(op, NULL);
}

/* The call has ended, so only a program that notifies the future itself can end
 * this wait: look from time to time. */
static int
wait_for_nobody(ConditionObject *self, int64_t deadline)
{
    struct timespec tick = {.tv_nsec = 5 * CP_MS};
    while (!atomic_load(&self->call.ended) && cp_now() < deadline) {
        Py_BEGIN_ALLOW_THREADS(void)
        nanosleep(&tick, NULL);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
condition_wait(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    ConditionObject *self = CONDITION(op);
    PyObject *timeout;
    int64_t deadline;
    if (py_argument_parse(args, nargs, kwnames, "timeout", &timeout) < 0
        || check_owned(self) < 0
        || py_timeout_deadline(self->state, timeout, &deadline) < 0) {
        return NULL;
    }
    if (deadline == CP_NEVER
        && atomic_load(&self->decoder) == PyThread_get_thread_ident()) {
        PyErr_SetString(
            PyExc_RuntimeError,
            "code that rebuilds a result cannot wait for that result");
        return NULL;
    }
    LaneObject *lane = (LaneObject *)Py_XNewRef((PyObject *)self->lane);
    unsigned depth = py_condition_release_all(self);
    int r = lane != NULL ? py_lane_wait(self, lane, deadline)
                         : wait_for_nobody(self, deadline);
    Py_XDECREF(lane);
    py_condition_acquire_again(self, depth);
    return r < 0 ? NULL : PyBool_FromLong(atomic_load(&self->call.ended));
}

/* Called for a waiting future by cancel(), or when the program sets the result
 * itself. */
static PyObject *
condition_notify(PyObject *op, PyObject *const *Py_UNUSED(args),
                 Py_ssize_t Py_UNUSED(nargs))
{
    if (check_owned(CONDITION(op)) < 0) {
        return NULL;
    }
    py_lane_notified(CONDITION(op));
    Py_RETURN_NONE;
}

static PyObject *
condition_is_over(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ConditionObject *self = CONDITION(op);
    py_condition_acquire(self);
    bool is_over = self->lane == NULL;
    py_condition_release(self);
    return PyBool_FromLong(is_over);
}

static void
condition_dealloc(PyObject *op)
{
    ConditionObject *self = CONDITION(op);
    PyTypeObject *type = Py_TYPE(op);
    Py_CLEAR(self->future);
    Py_XDECREF(self->lane);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef condition_methods[] = {
    {"acquire", condition_acquire, METH_VARARGS, NULL},
    {"__enter__", condition_acquire, METH_NOARGS, NULL},
    {"release", condition_release, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))condition_exit, METH_FASTCALL,
     NULL},
    {"wait", (PyCFunction)(void (*)(void))condition_wait,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"notify", (PyCFunction)(void (*)(void))condition_notify, METH_FASTCALL,
     NULL},
    {"is_over", condition_is_over, METH_NOARGS,
     PyDoc_STR("Has the call ended, and have its callbacks been called?")},
    {"notify_all", (PyCFunction)(void (*)(void))condition_notify, METH_FASTCALL,
     NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot condition_slots[] = {
    {Py_tp_dealloc, condition_dealloc},
    {Py_tp_methods, condition_methods},
    {0, NULL},
};

static PyType_Spec condition_spec = {
    .name = "cpool._core.Condition",
    .basicsize = sizeof(ConditionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = condition_slots,
};

int
py_condition_add_type(PyObject *module, struct py_state *state)
{
    state->condition_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &condition_spec, NULL);
    return state->condition_type == NULL ? -1 : 0;
}
