/*
 * Giving the stack; see worker/stack.h.
 *
 * faulthandler.register() installs a handler in C, which writes the stack of
 * the interrupted thread to a file. That handler is called from one of ours,
 * which then copies the text into the row of the board. The state is static,
 * because a process is only one worker, and a signal handler gets nothing but a
 * number.
 */
#include "worker/stack.h"

#include "core/link/serve.h"
#include "core/link/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HELD_MS = 1000 };

static struct { /* lint-ok: of the process, for its signal handler */
    _Atomic(struct cp_row *) row; /* NULL: give no stack */
    pid_t pid;        /* processes that the worker forks inherit this struct */
    pthread_t thread; /* the thread that runs tasks */
    int fd;
    dev_t dev; /* which file: a task may reuse the number of fd */
    ino_t ino;
    void (*write_stack)(int signal); /* faulthandler's handler */
    void (*next)(int signal); /* another handler of the signal; or NULL */
} here;

static bool
is_our_file(void)
{
    struct stat found;
    return fstat(here.fd, &found) == 0 && found.st_dev == here.dev
           && found.st_ino == here.ino;
}

/* Wait for the SIGKILL that comes as soon as the stack is there. Otherwise the
 * task could end normally, because the signal has interrupted it (in
 * signal.pause(), for example). At most HELD_MS: the parent may be gone, or not
 * kill after all. */
static void
wait_for_end(struct cp_row *row)
{
    uint64_t held = atomic_load(&row->held);
    for (int ms = 0; held != 0 && ms < HELD_MS; ms++) {
        if (atomic_load(&row->held) != held
            || atomic_load(&row->running) != held
            || atomic_load(&row->since) != atomic_load(&row->held_since)) {
            return;
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

/* Give the stack. Calls only async-signal-safe functions. */
static void
tell(struct cp_row *row)
{
    uint32_t asked = atomic_load(&row->stack_asked);
    if (asked == atomic_load(&row->stack_given)) {
        return;
    }
    ssize_t n = 0;
    if (is_our_file()) {
        here.write_stack(CP_STOP_SIGNAL);
        n = pread(here.fd, row->stack, CP_STACK, 0);
        if (lseek(here.fd, 0, SEEK_SET) != 0 || ftruncate(here.fd, 0) != 0) {
            n = 0;
        }
    }
    atomic_store(&row->stack_len, n > 0 ? (uint32_t)n : 0);
    bool stops = atomic_load(&row->stack_stops) != 0;
    atomic_store(&row->stack_given, asked);
    if (stops) {
        (void)kill(here.pid, SIGSTOP);
    }
    wait_for_end(row);
}

static void
on_signal(int signal)
{
    int saved_errno = errno;
    struct cp_row *row = atomic_load(&here.row);
    if (row != NULL && getpid() == here.pid) {
        if (pthread_equal(pthread_self(), here.thread)) {
            tell(row);
        } else {
            (void)pthread_kill(here.thread, signal);
        }
    }
    if (here.next != NULL) {
        here.next(signal);
    }
    errno = saved_errno;
}

static bool
is_handler(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) == 0 && action->sa_handler != SIG_DFL
           && action->sa_handler != SIG_IGN && action->sa_handler != on_signal;
}

/* next: the action of the handler that is called after ours, or NULL. If that
 * handler wants system calls to be interrupted, as Python's handlers do, they
 * are: the task that has to stop may be in one. */
static void
install(const struct sigaction *next)
{
    int restarts = next != NULL ? next->sa_flags & SA_RESTART : SA_RESTART;
    struct sigaction ours = {.sa_handler = on_signal,
                             .sa_flags = restarts | SA_ONSTACK};
    (void)sigemptyset(&ours.sa_mask);
    (void)sigaction(CP_STOP_SIGNAL, &ours, NULL);
}

/* Have faulthandler write to this descriptor when the signal comes. */
static int
register_faulthandler(PyObject *registers, int fd)
{
    PyObject *none =
        PyObject_CallFunction(registers, "iiO", CP_STOP_SIGNAL, fd, Py_False);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

static void
stop_watching(void)
{
    struct cp_row *row = atomic_exchange(&here.row, NULL);
    if (row != NULL && here.pid == getpid()) {
        atomic_store(&row->tells_stack, 0);
    }
}

PyObject *
py_stack_watch(PyObject *module, PyObject *args)
{
    struct py_state *state = py_state_of_module(module);
    struct sigaction before, theirs;
    struct stat file;
    int fd;
    PyObject *registers = NULL;
    if (!PyArg_ParseTuple(args, "i|O:_watch_stack", &fd, &registers)) {
        return NULL;
    }
    if (fd == -1 || registers == NULL) {
        stop_watching();
        Py_RETURN_NONE;
    }
    if (state->serving == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this process is no worker");
        return NULL;
    }
    atomic_store(&here.row, NULL); /* the row of the process that forked us */
    if (fstat(fd, &file) != 0
        || sigaction(CP_STOP_SIGNAL, NULL, &before) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (register_faulthandler(registers, fd) < 0) {
        return NULL;
    }
    (void)sigaction(CP_STOP_SIGNAL, NULL, &theirs);
    if (is_handler(&theirs)) { /* otherwise a worker has forked this process */
        here.write_stack = theirs.sa_handler;
        here.next =
            is_handler(&before) && before.sa_handler != theirs.sa_handler
                ? before.sa_handler
                : NULL;
        install(here.next != NULL ? &before : NULL);
    }
    if (here.write_stack == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "faulthandler handles no signal");
        return NULL;
    }
    here.pid = getpid();
    here.thread = pthread_self();
    here.fd = fd;
    here.dev = file.st_dev;
    here.ino = file.st_ino;
    atomic_store(&here.row, state->serving->row);
    atomic_store(&state->serving->row->tells_stack, 1);
    Py_RETURN_NONE;
}

void
py_stack_watch_again(void)
{
    struct sigaction theirs;
    if (atomic_load(&here.row) != NULL && here.pid == getpid()
        && sigaction(CP_STOP_SIGNAL, NULL, &theirs) == 0
        && is_handler(&theirs)) {
        here.next = theirs.sa_handler;
        install(&theirs);
    }
}
