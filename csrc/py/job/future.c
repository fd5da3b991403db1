/* Futures of the standard library's class; see job/future.h. */
#include "job/future.h"

#include "base/error.h"

#include "core/base/lock.h"

/* The names of a future's attributes, in the order in which they are set, and
 * of its states. */
struct py_future_names {
    PyObject *cls;
    bool is_known; /* the class has exactly these attributes */
    PyObject *condition, *state, *result, *exception, *waiters, *callbacks;
    PyObject *pending, *running, *finished, *cancelled;
    PyObject *add_result, *add_exception, *notify_cancel, *invoke;
    /* For threads that wait for the lock of any future; such locks are held
     * only for moments. */
    struct cp_lock parked_lock;
    struct cp_cond parked;
    _Atomic uint64_t n_held; /* how many such locks are held */
};

/* ---- names ---- */

static int
intern(PyObject **place, const char *text)
{
    *place = PyUnicode_InternFromString(text);
    return *place == NULL ? -1 : 0;
}

static int
intern_all(struct py_future_names *n)
{
    return intern(&n->condition, "_condition") < 0
                   || intern(&n->state, "_state") < 0
                   || intern(&n->result, "_result") < 0
                   || intern(&n->exception, "_exception") < 0
                   || intern(&n->waiters, "_waiters") < 0
                   || intern(&n->callbacks, "_done_callbacks") < 0
                   || intern(&n->pending, "PENDING") < 0
                   || intern(&n->running, "RUNNING") < 0
                   || intern(&n->finished, "FINISHED") < 0
                   || intern(&n->cancelled, "CANCELLED") < 0
                   || intern(&n->add_result, "add_result") < 0
                   || intern(&n->add_exception, "add_exception") < 0
                   || intern(&n->notify_cancel, "set_running_or_notify_cancel")
                          < 0
                   || intern(&n->invoke, "_invoke_callbacks") < 0
               ? -1
               : 0;
}

/* Does a future that the class makes itself have exactly the attributes that we
 * set? */
static int
look_at(struct py_future_names *n)
{
    PyObject *future = PyObject_CallNoArgs(n->cls);
    PyObject *dict =
        future == NULL ? NULL : PyObject_GetAttrString(future, "__dict__");
    if (dict != NULL) {
        n->is_known = PyDict_Size(dict) == 6
                      && PyDict_Contains(dict, n->condition) > 0
                      && PyDict_Contains(dict, n->state) > 0
                      && PyDict_Contains(dict, n->result) > 0
                      && PyDict_Contains(dict, n->exception) > 0
                      && PyDict_Contains(dict, n->waiters) > 0
                      && PyDict_Contains(dict, n->callbacks) > 0;
    }
    Py_XDECREF(dict);
    Py_XDECREF(future);
    return dict != NULL && !PyErr_Occurred() ? 0 : -1;
}

static void
free_names(struct py_future_names *n)
{
    Py_XDECREF(n->cls);
    Py_XDECREF(n->condition);
    Py_XDECREF(n->state);
    Py_XDECREF(n->result);
    Py_XDECREF(n->exception);
    Py_XDECREF(n->waiters);
    Py_XDECREF(n->callbacks);
    Py_XDECREF(n->pending);
    Py_XDECREF(n->running);
    Py_XDECREF(n->finished);
    Py_XDECREF(n->cancelled);
    Py_XDECREF(n->add_result);
    Py_XDECREF(n->add_exception);
    Py_XDECREF(n->notify_cancel);
    Py_XDECREF(n->invoke);
    cp_cond_fini(&n->parked);
    cp_lock_fini(&n->parked_lock);
    PyMem_Free(n);
}

int
py_futures_begin(struct py_state *state)
{
    if (state->futures != NULL) {
        return 0;
    }
    struct py_future_names *n = PyMem_Calloc(1, sizeof(*n));
    if (n == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    PyObject *module = PyImport_ImportModule("concurrent.futures._base");
    n->cls = module == NULL ? NULL : PyObject_GetAttrString(module, "Future");
    Py_XDECREF(module);
    if (n->cls == NULL || intern_all(n) < 0 || look_at(n) < 0
        || cp_lock_init(&n->parked_lock) != 0
        || cp_cond_init(&n->parked) != 0) {
        free_names(n);
        return -1;
    }
    if (state->futures != NULL) {
        free_names(n); /* another thread has done it during the import */
    } else {
        state->futures = n;
    }
    return 0;
}

void
py_futures_end(struct py_state *state)
{
    struct py_future_names *n = state->futures;
    state->futures = NULL;
    if (n != NULL) {
        free_names(n);
    }
}

/* ---- making one ---- */

static int
set_new_list(PyObject *future, PyObject *name)
{
    PyObject *list = PyList_New(0);
    int r = list == NULL ? -1 : PyObject_SetAttr(future, name, list);
    Py_XDECREF(list);
    return r;
}

static PyObject *
make_future(struct py_future_names *n, PyObject *condition)
{
    PyObject *future;
    if (!n->is_known || !PyType_Check(n->cls)) {
        future = PyObject_CallNoArgs(n->cls);
        if (future != NULL
            && PyObject_SetAttr(future, n->condition, condition) < 0) {
            Py_CLEAR(future);
        }
        return future;
    }
    PyTypeObject *type = (PyTypeObject *)n->cls;
    future = type->tp_alloc(type, 0);
    if (future != NULL
        && (PyObject_SetAttr(future, n->condition, condition) < 0
            || PyObject_SetAttr(future, n->state, n->pending) < 0
            || PyObject_SetAttr(future, n->result, Py_None) < 0
            || PyObject_SetAttr(future, n->exception, Py_None) < 0
            || set_new_list(future, n->waiters) < 0
            || set_new_list(future, n->callbacks) < 0)) {
        Py_CLEAR(future);
    }
    return future;
}

ConditionObject *
py_future_new(struct py_state *state)
{
    PyTypeObject *type = state->condition_type;
    ConditionObject *self = (ConditionObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->state = state;
        self->future = make_future(state->futures, (PyObject *)self);
        if (self->future == NULL) {
            Py_CLEAR(self);
        }
    }
    return self;
}

/* ---- the lock ---- */

static bool
try_acquire(ConditionObject *self, unsigned long me)
{
    unsigned long nobody = 0;
    return atomic_compare_exchange_strong(&self->owner, &nobody, me);
}

static void
wait_for_lock(ConditionObject *self, unsigned long me)
{
    struct py_future_names *n = self->state->futures;
    (void)atomic_fetch_add(&self->waiting, 1);
    Py_BEGIN_ALLOW_THREADS
    cp_lock_acquire(&n->parked_lock);
    while (!try_acquire(self, me)) {
        cp_cond_wait(&n->parked, &n->parked_lock, CP_NEVER);
    }
    cp_lock_release(&n->parked_lock);
    Py_END_ALLOW_THREADS(void)
    atomic_fetch_sub(&self->waiting, 1);
}

void
py_condition_acquire(ConditionObject *self)
{
    unsigned long me = PyThread_get_thread_ident();
    if (atomic_load(&self->owner) != me && !try_acquire(self, me)) {
        wait_for_lock(self, me);
    }
    if (self->depth++ == 0) {
        (void)atomic_fetch_add(&self->state->futures->n_held, 1);
    }
}

bool
py_condition_any_held(struct py_state *state)
{
    return atomic_load(&state->futures->n_held) > 0;
}

static void
unlock(ConditionObject *self)
{
    atomic_store(&self->owner, 0);
    if (atomic_load(&self->waiting) > 0) {
        struct py_future_names *n = self->state->futures;
        cp_lock_acquire(&n->parked_lock);
        cp_cond_broadcast(&n->parked);
        cp_lock_release(&n->parked_lock);
    }
}

static void
give_up_lock(ConditionObject *self)
{
    (void)atomic_fetch_sub(&self->state->futures->n_held, 1);
    unlock(self);
}

bool
py_condition_try(ConditionObject *self)
{
    return try_acquire(self, PyThread_get_thread_ident());
}

void
py_condition_untry(ConditionObject *self)
{
    unlock(self);
}

void
py_condition_release(ConditionObject *self)
{
    if (--self->depth == 0) {
        give_up_lock(self);
    }
}

unsigned
py_condition_release_all(ConditionObject *self)
{
    unsigned depth = self->depth;
    self->depth = 0;
    give_up_lock(self);
    return depth;
}

void
py_condition_acquire_again(ConditionObject *self, unsigned depth)
{
    py_condition_acquire(self);
    self->depth = depth;
}

/* ---- states ---- */

/* Is the future in this state? */
static bool
is_in(ConditionObject *self, PyObject *state)
{
    PyObject *now = PyObject_GetAttr(self->future, self->state->futures->state);
    bool is = now == state
              || (now != NULL && PyUnicode_Check(now)
                  && PyUnicode_Compare(now, state) == 0);
    Py_XDECREF(now);
    if (PyErr_Occurred()) {
        PyErr_Clear();
    }
    return is;
}

bool
py_future_is_cancelled(ConditionObject *self)
{
    return is_in(self, self->state->futures->cancelled);
}

void
py_future_set_running(ConditionObject *self)
{
    struct py_future_names *n = self->state->futures;
    self->is_running = 1;
    if (is_in(self, n->pending)
        && PyObject_SetAttr(self->future, n->state, n->running) < 0) {
        PyErr_Clear();
    }
}

/* Tell the threads in concurrent.futures.wait() and as_completed() that the
 * future has ended. 0, or -1 with an exception. */
static int
tell_waiters(PyObject *future, struct py_future_names *n, PyObject *method)
{
    PyObject *list = PyObject_GetAttr(future, n->waiters);
    PyObject *waiters = list == NULL || PyObject_Size(list) == 0
                            ? NULL
                            : PySequence_Tuple(list);
    Py_ssize_t count = waiters == NULL ? 0 : PyTuple_GET_SIZE(waiters);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *none = PyObject_CallMethodOneArg(PyTuple_GET_ITEM(waiters, i),
                                                   method, future);
        Py_XDECREF(none);
        if (none == NULL) {
            break;
        }
    }
    Py_XDECREF(waiters);
    Py_XDECREF(list);
    return PyErr_Occurred() ? -1 : 0;
}

static int
has_callbacks(PyObject *future, struct py_future_names *n)
{
    PyObject *list = PyObject_GetAttr(future, n->callbacks);
    Py_ssize_t count = list == NULL ? -1 : PyObject_Size(list);
    Py_XDECREF(list);
    return count < 0 ? -1 : count > 0;
}

/* Set the outcome: 0, or -1 with an exception. */
static int
finish(ConditionObject *self, PyObject *value, bool is_value)
{
    struct py_future_names *n = self->state->futures;
    PyObject *name = is_value ? n->result : n->exception;
    return PyObject_SetAttr(self->future, name, value) < 0
                   || PyObject_SetAttr(self->future, n->state, n->finished) < 0
               ? -1
               : 0;
}

/* The lock is held. All methods of the future, wait() and as_completed() take
 * this lock before they change anything: a future whose lock the program never
 * took is pending, and has no callbacks and no waiters. */
static int
end_locked(ConditionObject *self, PyObject *value, bool is_value)
{
    struct py_future_names *n = self->state->futures;
    PyObject *future = self->future;
    if (!self->was_locked && value != NULL) {
        return finish(self, value, is_value);
    }
    if (is_in(self, n->cancelled)) {
        /* cancel() has run the callbacks already. */
        PyObject *is = PyObject_CallMethodNoArgs(future, n->notify_cancel);
        Py_XDECREF(is);
        return is == NULL ? -1 : 0;
    }
    if (value == NULL
        || (!is_in(self, n->pending) && !is_in(self, n->running))) {
        return 0;
    }
    if (finish(self, value, is_value) < 0
        || tell_waiters(future, n, is_value ? n->add_result : n->add_exception)
               < 0) {
        return -1;
    }
    return has_callbacks(future, n);
}

int
py_future_finish(ConditionObject *self, PyObject *value)
{
    CP_ASSERT(!self->was_locked);
    int r = finish(self, value, true);
    atomic_store(&self->call.ended, true);
    return r;
}

int
py_future_end(ConditionObject *self, PyObject *value, bool is_value)
{
    py_condition_acquire(self);
    int r = end_locked(self, value, is_value);
    atomic_store(&self->call.ended, true);
    py_condition_release(self);
    return r;
}

int
py_future_call_back(ConditionObject *self, PyObject *future)
{
    PyObject *none =
        PyObject_CallMethodNoArgs(future, self->state->futures->invoke);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}
