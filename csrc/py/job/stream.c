/* The type _core.Stream; see job/stream.h. */
#include "job/stream.h"

#include "base/argument.h"
#include "base/error.h"
#include "base/work.h"
#include "base/timeout.h"
#include "job/failure.h"
#include "job/options.h"
#include "job/settle.h"
#include "job/wait.h"

#include <structmember.h> // PyMemberDef, before 3.12

static int
stream_init(PyObject *op, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"pool", "ordered", "ahead", NULL};
    ResultObject *self = (ResultObject *)op;
    PyObject *pool;
    int ordered = 1;
    unsigned long long ahead = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|pK:Stream", names, &pool,
                                     &ordered, &ahead)) {
        return -1;
    }
    if (py_result_begin(self) < 0) {
        return -1;
    }
    int r = py_result_open(
        self, pool, CP_JOB_TAKEN_SINGLY | (ordered ? CP_JOB_ORDERED : 0u));
    if (r == 0 && ahead > 0) {
        cp_job_set_credit(self->job, ahead);
        self->input.task_flags |= CP_YIELDS;
    }
    return r;
}

/* Take the next result, or NULL. */
static struct cp_result *
take(ResultObject *self)
{
    struct cp_result *r;
    Py_BEGIN_CRITICAL_SECTION(self);
    r = self->untaken;
    if (r != NULL) {
        self->untaken = r->next;
    }
    Py_END_CRITICAL_SECTION();
    return r != NULL ? r : cp_job_take(self->job);
}

/* Undo take(). */
static void
put_back_take(ResultObject *self, struct cp_result *r)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    r->next = self->untaken;
    self->untaken = r;
    Py_END_CRITICAL_SECTION();
}

/* The caller has the failure now: drop the stream's reference. The failure's
 * traceback may refer to the iterator, which would make a cycle. */
static void
forget_failure(ResultObject *self, const struct cp_result *r)
{
    PyObject *failures = self->input.failures;
    if (r->outcome == CP_LOCAL && failures != NULL) {
        PyObject *key = PyLong_FromUnsignedLongLong(r->index);
        if (key == NULL || PyDict_DelItem(failures, key) < 0) {
            PyErr_Clear();
        }
        Py_XDECREF(key);
    }
}

/* A list with n references to the object; steals obj. */
static PyObject *
repeated_take(PyObject *obj, Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(obj));
    }
    Py_DECREF(obj);
    return list;
}

/* The item in this result, or NULL with the exception of its task or of a
 * signal handler. Consumes r. */
static PyObject *
item_take(ResultObject *self, struct cp_result *r)
{
    bool is_value;
    int64_t began = py_work_begin(self->engine);
    PyObject *item = py_result_decode_one(self, r, &is_value);
    py_work_end(self->engine, CP_WORK_DECODE, began);
    /* A signal that arrived while no Python code ran: call its handler before
     * next() returns. The interpreter would call it right afterwards, and if it
     * raised, the item would be lost. */
    if (item != NULL && !self->engine->threads && PyErr_CheckSignals() < 0) {
        Py_CLEAR(item);
    }
    if (item == NULL) {
        put_back_take(self, r);
        return NULL;
    }
    if (!is_value && py_result_returns(self, r)) {
        is_value = true;
        if (self->input.chunksize > 1) { /* the reader expects lists */
            item = repeated_take(item, r->items);
        }
    }
    forget_failure(self, r);
    py_result_free(self, r);
    if (item != NULL && !is_value) {
        item = py_failure_raisable_take(self, item);
        if (item != NULL) {
            py_error_restore(item);
            Py_CLEAR(item);
        }
    }
    return item;
}

/* The job is done and no result is left: raise StopIteration, or the reason why
 * the job ended early. */
static PyObject *
raise_end(ResultObject *self)
{
    enum cp_end end = atomic_load(&self->job->end);
    if (end != CP_END_NONE && end != CP_END_FAILED && !self->is_closed) {
        py_error_sleep_if_exiting(self->state);
        PyObject *exc = py_failure_of_end(self);
        if (exc != NULL) {
            py_error_restore(exc);
            Py_DECREF(exc);
        }
    } else {
        py_result_release(self);
        PyErr_SetNone(PyExc_StopIteration);
    }
    return NULL;
}

static PyObject *
next_item(ResultObject *self, PyObject *timeout)
{
    if (self->engine == NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "'%.200s' object has no attribute '_cond'",
                     Py_TYPE(self)->tp_name);
        return NULL;
    }
    if (py_engine_check(self->engine) < 0) {
        return NULL;
    }
    int64_t deadline = -1;
    if (self->is_closed) {
        PyErr_SetNone(PyExc_StopIteration);
        return NULL;
    }
    for (;;) {
        bool done = atomic_load(&self->job->done);
        struct cp_result *r = take(self);
        if ((done || r != NULL) && atomic_load(&self->job->done)) {
            /* The caller may have the last result now. What the job holds
             * should be released here, not by another thread. */
            py_job_collect(self->engine);
        }
        if (r != NULL) {
            return item_take(self, r);
        }
        if (done) {
            return raise_end(self);
        }
        if (deadline < 0
            && py_timeout_deadline(self->state, timeout, &deadline) < 0) {
            return NULL;
        }
        if (self->engine->serial) {
            int more = py_engine_step(self->engine, (PyObject *)self);
            if (more != 0) {
                if (more < 0) {
                    return NULL;
                }
                continue;
            }
            if (atomic_load(&self->job->done)) {
                continue;
            }
        }
        int ready = py_result_wait(self, deadline);
        if (ready <= 0) {
            return ready < 0 ? NULL : py_timeout_raise(self->state);
        }
    }
}

static PyObject *
stream_next(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *timeout;
    if (py_argument_parse(args, nargs, kwnames, "timeout", &timeout) < 0) {
        return NULL;
    }
    return next_item((ResultObject *)op, timeout);
}

static PyObject *
stream_iternext(PyObject *op)
{
    return next_item((ResultObject *)op, NULL);
}

/* Release the results that nobody will read. */
static void
drop_untaken(ResultObject *self)
{
    struct cp_result *r;
    cp_job_drop_results(self->job);
    while ((r = take(self)) != NULL) {
        py_result_free(self, r);
    }
}

/* close(): no more items are wanted. */
static PyObject *
stream_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    if (self->engine == NULL || atomic_exchange(&self->is_closed, 1) != 0) {
        Py_RETURN_NONE;
    }
    if (py_engine_check(self->engine) < 0) {
        return NULL;
    }
    (void)cp_job_stop(self->job, false);
    drop_untaken(self);
    py_job_collect(self->engine);
    Py_RETURN_NONE;
}

/* The stdlib tells its iterators how many tasks there are. Here the feeder
 * knows that; the method only exists for programs that call it. */
static PyObject *
stream_set_length(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(length))
{
    Py_RETURN_NONE;
}

static PyObject *
stream_get_job(PyObject *op, void *Py_UNUSED(closure))
{
    return py_result_number((ResultObject *)op);
}

static PyMemberDef stream_members[] = {
    {"_engine", T_OBJECT, offsetof(ResultObject, engine), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef stream_getset[] = {
    {"_job", stream_get_job, NULL, NULL, NULL},
    {"_pool", py_result_get_pool, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef stream_methods[] = {
    {"next", (PyCFunction)(void (*)(void))stream_next,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"close", stream_close, METH_NOARGS, NULL},
    {"_set_length", stream_set_length, METH_O, NULL},
    {"_set_options", py_options_method, METH_O, NULL},
    {"_tell", py_result_tell, METH_NOARGS, NULL},
    {"_progress", py_result_progress, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_new, py_result_new},
    {Py_tp_init, stream_init},
    {Py_tp_traverse, py_result_traverse},
    {Py_tp_clear, py_result_clear},
    {Py_tp_dealloc, py_result_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, stream_iternext},
    {Py_tp_methods, stream_methods},
    {Py_tp_members, stream_members},
    {Py_tp_getset, stream_getset},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "cpool._core.Stream",
    .basicsize = sizeof(ResultObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stream_slots,
};

int
py_stream_add_type(PyObject *module, struct py_state *state)
{
    state->stream_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &stream_spec, NULL);
    return state->stream_type == NULL
               ? -1
               : PyModule_AddType(module, state->stream_type);
}
