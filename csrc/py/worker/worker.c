/*
 * The type _core.Worker; see worker/worker.h. No other file forks. Only the
 * core knows what became of the process: Popen (cpool/_start/popen.py) asks
 * here.
 */
#include <pyconfig.h>
#ifdef Py_GIL_DISABLED
#    define Py_BUILD_CORE_MODULE 1 /* for the interpreter's locks */
#endif
#include "worker/worker.h"

#include "base/error.h"
#include "value/spare.h"
#include "worker/serve.h"

#include "core/base/clock.h"
#include "core/os/fd.h"

#ifdef Py_GIL_DISABLED
#    include <internal/pycore_interp.h> // stoptheworld
#endif

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    struct py_state *state;
    struct cp_worker *worker;
    struct py_depth depth; /* its call depth at the start, if it is forked */
    struct cp_pool
        *pool; /* a reference; NULL: in a worker that was not forked */
} WorkerObject;

static PyObject *
raise_terminated(struct py_state *state)
{
    PyObject *exc = PyObject_CallMethod(state->failures, "terminated", NULL);
    if (exc != NULL) {
        py_error_restore(exc);
        Py_DECREF(exc);
    }
    return NULL;
}

PyObject *
py_worker_new(struct py_state *state, struct cp_pool *pool, uint64_t budget,
              uint32_t index, struct py_depth depth)
{
    WorkerObject *self = PyObject_New(WorkerObject, state->worker_type);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->worker = NULL;
    self->depth = depth;
    self->pool = NULL;
    int r = cp_pool_new_worker(pool, budget, &self->worker);
    if (r != 0) {
        Py_DECREF(self);
        return r == CP_ECLOSED ? raise_terminated(state) : py_raise(state, r);
    }
    self->worker->index = index;
    cp_pool_ref(pool);
    self->pool = pool;
    return (PyObject *)self;
}

static void
worker_dealloc(PyObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    cp_worker_unref(self->worker);
    if (self->pool != NULL) {
        cp_pool_unref(self->pool);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static int
check_not_started(struct cp_worker *w)
{
    if (w->proc.pid != 0 || w->child_rx < 0) {
        PyErr_SetString(PyExc_ValueError, "the worker was already started");
        return -1;
    }
    return 0;
}

static int
check_can_fork(struct cp_worker *w)
{
    if (check_not_started(w) < 0) {
        return -1;
    }
    /* The head of the list is the newest interpreter. Looking at any other one
     * is not safe, since it may be ending. */
    if (PyInterpreterState_Head() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "cpool cannot fork a worker while there are "
                        "subinterpreters, because CPython cannot fork then: "
                        "close them first, or give the pool "
                        "context=multiprocessing.get_context(\"spawn\")");
        return -1;
    }
    return PySys_Audit("os.fork", NULL);
}

/* Fork with all signals blocked. In the child they stay blocked until Python
 * has reset its signal handlers: a handler of the parent must not run there. */
static pid_t
fork_blocked(struct cp_worker *w, int *saved_errno)
{
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    cp_fd_before_fork();
    pid_t pid = fork();
    if (pid == 0) {
        cp_worker_in_child(w);
        return 0;
    }
    *saved_errno = errno;
    cp_fd_after_fork();
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return pid;
}

/* The process exists: have the pool watch it. Returns the pid, or NULL with an
 * exception, and then the process is killed. */
static PyObject *
adopt(WorkerObject *self, pid_t pid)
{
    struct cp_worker *w = self->worker;
    int r = cp_pool_add_worker(self->pool, w);
    if (r == 0) {
        return PyLong_FromLong((long)pid);
    }
    (void)cp_proc_kill(&w->proc, SIGKILL);
    Py_BEGIN_ALLOW_THREADS
    while (cp_proc_wait(&w->proc, CP_NEVER, NULL) == CP_EINTR) {
    }
    Py_END_ALLOW_THREADS
    cp_worker_close(w);
    cp_proc_close_sentinel(&w->proc);
    return r == CP_ECLOSED ? raise_terminated(self->state)
                           : py_raise(self->state, r);
}

#ifdef Py_GIL_DISABLED
static bool
has_other_threads(void)
{
    PyThreadState *tstate = PyThreadState_Get();
    PyThreadState *first = PyInterpreterState_ThreadHead(tstate->interp);
    return first != tstate || PyThreadState_Next(first) != NULL;
}

static int
unlock_object(PyObject *obj, void *Py_UNUSED(arg))
{
    if (obj->ob_mutex._bits != 0) {
        obj->ob_mutex._bits = 0;
    }
    return 1;
}

/* gc skips objects that the program has frozen (gc.freeze()): unfreeze them for
 * the visit, and freeze all objects again. The functions are those of the time
 * when this module was loaded: an import would run the program's __import__. */
static void
unlock_frozen(const struct py_state *state)
{
    PyObject *count = PyObject_CallNoArgs(state->freeze_count);
    if (count != NULL && PyObject_IsTrue(count) == 1) {
        Py_XDECREF(PyObject_CallNoArgs(state->unfreeze));
        PyUnstable_GC_VisitObjects(unlock_object, NULL);
        Py_XDECREF(PyObject_CallNoArgs(state->freeze));
    }
    Py_XDECREF(count);
    PyErr_Clear(); /* no memory: the child will fail soon anyway */
}

/* In a forked child, before any code of the interpreter runs: unlock those locks
 * of the interpreter that a thread of the parent may have held. At the fork the
 * world is stopped: every other thread is at a safe point. Of the interpreter's
 * locks,
 *
 * - those in the runtime, and those of the queues of reference counts and of
 *   memory to be freed, are reset by the interpreter (PyOS_AfterFork_Child);
 * - most others are held only where a thread cannot be stopped: those of dicts'
 *   keys, weak references, interned strings, code;
 * - those of critical sections (types, warnings) are released when a thread is
 *   stopped, but may have been handed on, like those of objects (see
 *   unlock_objects());
 * - stoptheworld.mutex may be held by a thread that wants to stop the world
 *   itself, for a garbage collection, and waits for us to start the world. That
 *   thread does not exist in the child, so whoever stops the world there
 *   (unlock_objects(), any garbage collection) would wait for ever.
 *
 * All of them can be reset: the only thread of the child never returns to code
 * that holds one. */
static void
unlock_interpreter(void)
{
    PyInterpreterState *interp = PyInterpreterState_Get();
    interp->stoptheworld.mutex._bits = 0;
    interp->types.mutex._bits = 0;
#    if PY_VERSION_HEX < 0x030E0000
    interp->warnings.mutex._bits = 0;
    interp->codecs.search_path_mutex._bits = 0;
#    endif
}

/* In a forked child, unlock all objects. A thread releases its locks when it
 * stops for the fork. But a lock may have been handed on to a waiting thread
 * that does not exist in the child; the next thread that locks the object
 * (sys.stdout, a dict of the import system) would wait for ever. Locks of this
 * thread are released too, since the child never returns to the code that would
 * release them. */
static void
unlock_objects(const struct py_state *state)
{
    PyThreadState_Get()->critical_section = 0;
    PyUnstable_GC_VisitObjects(unlock_object, NULL);
    unlock_frozen(state);
}
#else
#    define has_other_threads() false
#    define unlock_interpreter() ((void)0)
#    define unlock_objects(state) ((void)0)
#endif

static PyObject *
worker_fork(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    struct cp_worker *w = self->worker;
    struct py_state *state = self->state;
    if (check_can_fork(w) < 0) {
        return NULL;
    }
    /* Allocated before the fork, while MemoryError can still be raised. And
     * malloc() tidies the heap when it is asked for so much, which in the child
     * would copy the pages of all free chunks. */
    struct cp_serve *serve = PyMem_RawMalloc(sizeof(*serve));
    if (serve == NULL || cp_serve_alloc(serve) != 0) {
        PyMem_RawFree(serve);
        return PyErr_NoMemory();
    }
    int r = cp_worker_before_fork(w);
    if (r != 0) {
        cp_serve_fini(serve);
        PyMem_RawFree(serve);
        return py_raise(state, r);
    }
    int saved_errno = 0;
    PyOS_BeforeFork();
    bool crowded = has_other_threads();
    int was_forked = state->forked;
    state->forked = -1; /* our at-fork hook ignores this fork */
    pid_t pid = fork_blocked(w, &saved_errno);
    if (pid == 0) {
        pid_t worker_pid = getpid();
        py_depth_start_at(self->depth); /* first, since hooks are calls, too */
        unlock_interpreter();
        PyOS_AfterFork_Child();
        if (crowded) {
            unlock_objects(state);
        }
        /* A hook of the program may have forked, and returned in both
         * processes. */
        state->forked = getpid() == worker_pid ? 0 : 1;
        cp_serve_open(serve, w);
        state->handles_stop = state->may_stop = 0;
        state->loop = NULL; /* the parent may be a worker */
        state->keeps_spare = false;
        py_spare_drop(state);
        atomic_store(&state->tasks_done, 0);
        state->serving = serve;
        return PyLong_FromLong(0);
    }
    state->forked = was_forked;
    PyOS_AfterFork_Parent();
    cp_serve_fini(serve);
    PyMem_RawFree(serve);
    if (pid < 0) {
        cp_worker_started(w, pid);
        errno = saved_errno;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    cp_worker_started(w, pid);
    return adopt(self, pid);
}

/* Does SIGTERM what it does by default? */
static bool
ends_on_sigterm(void)
{
    struct sigaction now;
    return sigaction(SIGTERM, NULL, &now) == 0
           && (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL;
}

/* The module _signal, or NULL with an exception. Not imported: that would run
 * the program's __import__, which may wait for a lock that nobody holds here. */
static PyObject *
module_of_signals(void)
{
    PyObject *name = PyUnicode_FromString("_signal");
    PyObject *module = name != NULL ? PyImport_GetModule(name) : NULL;
    Py_XDECREF(name);
    if (module == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ImportError, "_signal is not loaded");
    }
    return module;
}

/* signal.signal(SIGTERM, SIG_DFL): 0, or -1 with an exception. */
static int
let_sigterm_end(void)
{
    PyObject *module = module_of_signals();
    if (module == NULL) {
        return -1;
    }
    PyObject *before =
        PyObject_CallMethod(module, "signal", "iN", SIGTERM,
                            PyObject_GetAttrString(module, "SIG_DFL"));
    Py_DECREF(module);
    Py_XDECREF(before);
    return before == NULL ? -1 : 0;
}

/* signal.set_wakeup_fd(-1): 0, or -1 with an exception. */
static int
drop_wakeup_fd(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    (void)PySignal_SetWakeupFd(-1);
    return 0;
#else /* not exported */
    PyObject *module = module_of_signals();
    if (module == NULL) {
        return -1;
    }
    PyObject *before = PyObject_CallMethod(module, "set_wakeup_fd", "i", -1);
    Py_DECREF(module);
    Py_XDECREF(before);
    return before == NULL ? -1 : 0;
#endif
}

/* reset_signals(): in a forked worker, which begins with all signals blocked:
 * let SIGTERM end it, wake no event loop of the parent, and block only SIGINT.
 * This is not in Python, since each function and module that the child uses is
 * on a page that it has to copy. */
static PyObject *
worker_reset_signals(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    if (drop_wakeup_fd() < 0 || (!ends_on_sigterm() && let_sigterm_end() < 0)) {
        return NULL;
    }
    sigset_t only;
    (void)sigemptyset(&only);
    (void)sigaddset(&only, SIGINT);
    (void)pthread_sigmask(SIG_SETMASK, &only, NULL);
    Py_RETURN_NONE;
}

/* Call flush(), unless this is the first fork: the caller has done so. 0, or -1
 * with an exception. */
static int
flush_between(Py_ssize_t n, PyObject *flush)
{
    PyObject *done = n > 0 ? PyObject_CallNoArgs(flush) : Py_NewRef(Py_None);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* In the child: call run(process, worker, around), which ends the process. An
 * exception that it raised would run the parent's code here. */
static void
run_child(PyObject *run, PyObject *process, PyObject *worker, PyObject *around)
{
    (void)PyObject_CallFunctionObjArgs(run, process, worker, around, NULL);
    _exit(1);
}

PyObject *
py_worker_fork_all(PyObject *module, PyObject *args)
{
    struct py_state *state = py_state_of_module(module);
    PyObject *workers, *processes, *run, *around, *flush;
    if (!PyArg_ParseTuple(args, "O!O!OOO:_fork_all", &PyTuple_Type, &workers,
                          &PyTuple_Type, &processes, &run, &around, &flush)) {
        return NULL;
    }
    if (PyTuple_GET_SIZE(workers) > PyTuple_GET_SIZE(processes)) {
        PyErr_SetString(PyExc_ValueError, "each worker needs a process");
        return NULL;
    }
    /* Allocated before the forks: afterwards each of them must be reported. */
    PyObject *made = PyTuple_New(2);
    PyObject *error = NULL;
    Py_ssize_t n = 0;
    for (; made != NULL && n < PyTuple_GET_SIZE(workers); n++) {
        PyObject *worker = PyTuple_GET_ITEM(workers, n);
        PyObject *pid = NULL;
        if (Py_TYPE(worker) != state->worker_type) {
            PyErr_SetString(PyExc_TypeError, "this is no worker");
        } else if (flush_between(n, flush) == 0) {
            pid = worker_fork(worker, NULL);
        }
        if (pid == NULL) {
            error = py_error_fetch();
            break;
        }
        bool is_child = PyLong_AsLong(pid) == 0;
        Py_DECREF(pid);
        if (is_child) {
            run_child(run, PyTuple_GET_ITEM(processes, n), worker, around);
        }
    }
    if (made != NULL) {
        PyTuple_SET_ITEM(made, 0, PyLong_FromSsize_t(n));
        PyTuple_SET_ITEM(made, 1, error != NULL ? error : Py_NewRef(Py_None));
    }
    return made;
}

/* started(pid, status): the process was started without fork(). status: the
 * pipe on which a fork server reports the exit code, still owned by the caller;
 * or -1. A pid below 0: the process could not be started. */
static PyObject *
worker_started(PyObject *op, PyObject *args)
{
    WorkerObject *self = (WorkerObject *)op;
    struct cp_worker *w = self->worker;
    int pid, status;
    if (!PyArg_ParseTuple(args, "ii:started", &pid, &status)) {
        return NULL;
    }
    if (pid < 0) {
        cp_worker_started(w, -1);
        Py_RETURN_NONE;
    }
    if (check_not_started(w) < 0) {
        return NULL;
    }
    if (status < 0) {
        cp_worker_started(w, (pid_t)pid);
        return adopt(self, (pid_t)pid);
    }
    int own = fcntl(status, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    cp_worker_started_by_server(w, (pid_t)pid, own);
    return adopt(self, (pid_t)pid);
}

/* ends(): what the child needs: (rx, tx, life, row, common, memory, area,
 * budget). memory is -1 if there is none. */
static PyObject *
worker_ends(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    struct cp_worker *w = self->worker;
    if (w->child_row < 0 || check_not_started(w) < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "the worker must be forked");
        }
        return NULL;
    }
    return Py_BuildValue("(iiiiiiIK)", w->child_rx, w->child_tx, w->child_life,
                         w->child_row, cp_pool_common_fd(self->pool), w->share,
                         w->area_id, (unsigned long long)w->budget);
}

PyObject *
py_worker_attach(PyObject *module, PyObject *args)
{
    struct py_state *state = py_state_of_module(module);
    struct cp_worker_ends e;
    unsigned long long budget;
    if (!PyArg_ParseTuple(args, "iiiiiiIK:_attach", &e.rx, &e.tx, &e.life,
                          &e.row, &e.common, &e.share, &e.area_id, &budget)) {
        return NULL;
    }
    if (state->serving != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this process is a worker already");
        return NULL;
    }
    WorkerObject *self = PyObject_New(WorkerObject, state->worker_type);
    struct cp_serve *serve = PyMem_RawMalloc(sizeof(*serve));
    int r = CP_ENOMEM;
    if (self != NULL) {
        self->state = state;
        self->pool = NULL;
        self->worker = NULL;
        r = serve == NULL ? r : cp_worker_attach(budget, &e, &self->worker);
    }
    if (r == 0) {
        r = cp_serve_init(serve, self->worker);
    }
    if (r != 0) {
        PyMem_RawFree(serve);
        Py_XDECREF(self);
        if (r != CP_EPROTO) {
            return py_raise(state, r);
        }
        PyErr_SetString(PyExc_RuntimeError,
                        "the process that made this pool uses another build "
                        "of cpool than its worker: both must import the same");
        return NULL;
    }
    state->serving = serve;
    state->forked = 0; /* a fork server with our module was forked */
    return (PyObject *)self;
}

static PyObject *
worker_poll(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int code, r;
    while ((r = cp_proc_poll(&((WorkerObject *)op)->worker->proc, &code))
           == CP_EINTR) {
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    if (r != 1) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(code);
}

static PyObject *
worker_wait(PyObject *op, PyObject *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    int64_t deadline = CP_NEVER;
    if (arg != Py_None) {
        double seconds = PyFloat_AsDouble(arg);
        if (seconds == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        deadline = seconds >= 1e9 ? CP_NEVER
                   : seconds > 0  ? cp_now() + (int64_t)(seconds * 1e9)
                                  : 0;
    }
    int code = 0, r;
    do {
        Py_BEGIN_ALLOW_THREADS
        r = cp_proc_wait(&self->worker->proc, deadline, &code);
        Py_END_ALLOW_THREADS
        if (r == CP_EINTR && PyErr_CheckSignals() < 0) {
            return NULL;
        }
    } while (r == CP_EINTR);
    if (r == 0) {
        Py_RETURN_NONE;
    }
    return r == 1 ? PyLong_FromLong(code) : py_raise(self->state, r);
}

static PyObject *
worker_kill(PyObject *op, PyObject *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    long signal = PyLong_AsLong(arg);
    if (signal == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (self->pool == NULL || !cp_pool_is_ours(self->pool)) {
        Py_RETURN_NONE; /* this is a forked copy: the worker is the parent's */
    }
    int r = cp_proc_kill(&self->worker->proc, (int)signal);
    if (r != 0) {
        return py_raise(self->state, r);
    }
    Py_RETURN_NONE;
}

static PyObject *
worker_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    if (self->pool != NULL && cp_pool_is_ours(self->pool)) {
        cp_pool_release_sentinel(self->pool, self->worker);
    }
    Py_RETURN_NONE;
}

static struct cp_serve *
serving(WorkerObject *self)
{
    if (self->state->serving == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this process is not a worker");
    }
    return self->state->serving;
}

static PyObject *
worker_serve(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    struct cp_serve *serve = serving(self);
    return serve != NULL ? py_serve(self->state, serve, self->worker->budget)
                         : NULL;
}

/* Has code of the program forked and returned in both processes, so that this
 * one is a copy of the worker? A copy sends nothing to the parent. */
static bool
is_copy(const WorkerObject *self)
{
    return self->state->forked > 0;
}

static void
set_sigint_blocked(bool blocked)
{
    sigset_t only;
    (void)sigemptyset(&only);
    (void)sigaddset(&only, SIGINT);
    (void)pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &only, NULL);
}

/* Turn a KeyboardInterrupt into SystemExit(1), so that the process ends without
 * printing anything. */
static void
exit_if_interrupted(void)
{
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
        PyObject *code = PyLong_FromLong(1);
        PyErr_Clear();
        if (code != NULL) {
            PyErr_SetObject(PyExc_SystemExit, code);
            Py_DECREF(code);
        }
    }
}

/* interruptible(work, *args): call work(*args), which Ctrl-C can stop; before and after the
 * call Ctrl-C is blocked. This is written in C, since in Python a signal
 * handler can run between any two lines. */
static PyObject *
worker_interruptible(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    if (n < 1) {
        PyErr_SetString(PyExc_TypeError, "interruptible() needs a callable");
        return NULL;
    }
    if (is_copy((WorkerObject *)op)) {
        return PyLong_FromLong(0);
    }
    set_sigint_blocked(false);
    PyObject *result =
        PyObject_Vectorcall(args[0], args + 1, (size_t)(n - 1), NULL);
    set_sigint_blocked(true);
    if (result == NULL) {
        exit_if_interrupted();
        PyObject *exc = py_error_fetch();
        if (PyErr_CheckSignals() < 0) {
            PyErr_Clear(); /* the process is ending anyway */
        }
        py_error_restore(exc);
        Py_DECREF(exc);
    } else if (PyErr_CheckSignals() < 0) {
        Py_CLEAR(result);
        exit_if_interrupted();
    }
    return result;
}

static PyObject *
worker_report_init_error(PyObject *op, PyObject *arg)
{
    struct cp_serve *serve = serving((WorkerObject *)op);
    Py_buffer view;
    if (is_copy((WorkerObject *)op)) {
        Py_RETURN_NONE;
    }
    if (serve == NULL || PyObject_GetBuffer(arg, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    struct cp_frame frame = {.kind = CP_INIT_ERROR, .len = (uint64_t)view.len};
    int r = py_serve_answer(serve, &frame, view.buf);
    PyBuffer_Release(&view);
    if (r != 0) {
        return py_raise(((WorkerObject *)op)->state, r);
    }
    Py_RETURN_NONE;
}

static PyObject *
worker_is_first_failure(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct cp_worker *w = ((WorkerObject *)op)->worker;
    return PyBool_FromLong(!is_copy((WorkerObject *)op)
                           && cp_common_claim_failure(w->common));
}

static PyObject *
worker_get_pid(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong((long)((WorkerObject *)op)->worker->proc.pid);
}

static PyObject *
worker_get_index(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((WorkerObject *)op)->worker->index);
}

static PyObject *
worker_get_is_copy(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_copy((WorkerObject *)op));
}

static PyObject *
worker_get_is_interrupted(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    sigset_t pending;
    return PyBool_FromLong(sigpending(&pending) == 0
                           && sigismember(&pending, SIGINT) == 1);
}

static PyObject *
worker_get_is_leaving(PyObject *op, void *Py_UNUSED(closure))
{
    const struct cp_worker *w = ((WorkerObject *)op)->worker;
    return PyBool_FromLong(w->overdue || w->retiring);
}

static PyObject *
worker_get_sentinel(PyObject *op, void *Py_UNUSED(closure))
{
    WorkerObject *self = (WorkerObject *)op;
    if (self->pool == NULL || !cp_pool_is_ours(self->pool)) {
        return PyLong_FromLong(-1); /* inherited by a forked process */
    }
    int fd = cp_pool_lend_sentinel(self->pool, self->worker);
    return fd >= 0 ? PyLong_FromLong(fd) : py_raise(self->state, fd);
}

static PyObject *
worker_get_parent_sentinel(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((WorkerObject *)op)->worker->child_life);
}

static PyMethodDef worker_methods[] = {
    {"fork", worker_fork, METH_NOARGS, NULL},
    {"reset_signals", worker_reset_signals, METH_NOARGS, NULL},
    {"started", worker_started, METH_VARARGS, NULL},
    {"ends", worker_ends, METH_NOARGS, NULL},
    {"poll", worker_poll, METH_NOARGS, NULL},
    {"wait", worker_wait, METH_O, NULL},
    {"kill", worker_kill, METH_O, NULL},
    {"close", worker_close, METH_NOARGS, NULL},
    {"serve", worker_serve, METH_NOARGS, NULL},
    {"interruptible", (PyCFunction)(void (*)(void))worker_interruptible,
     METH_FASTCALL, NULL},
    {"report_init_error", worker_report_init_error, METH_O, NULL},
    {"is_first_failure", worker_is_first_failure, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef worker_getset[] = {
    {"pid", worker_get_pid, NULL, NULL, NULL},
    {"index", worker_get_index, NULL, NULL, NULL},
    {"is_copy", worker_get_is_copy, NULL, NULL, NULL},
    {"is_interrupted", worker_get_is_interrupted, NULL, NULL, NULL},
    {"is_leaving", worker_get_is_leaving, NULL, NULL, NULL},
    {"sentinel", worker_get_sentinel, NULL, NULL, NULL},
    {"parent_sentinel", worker_get_parent_sentinel, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot worker_slots[] = {
    {Py_tp_dealloc, worker_dealloc},
    {Py_tp_methods, worker_methods},
    {Py_tp_getset, worker_getset},
    {0, NULL},
};

static PyType_Spec worker_spec = {
    .name = "cpool._core.Worker",
    .basicsize = sizeof(WorkerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = worker_slots,
};

int
py_worker_add_type(PyObject *module, struct py_state *state)
{
    state->worker_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &worker_spec, NULL);
    return state->worker_type == NULL
               ? -1
               : PyModule_AddType(module, state->worker_type);
}
