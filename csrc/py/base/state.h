/*
 * The state of the module cpool._core: what every file of the binding may use.
 *
 * Code in csrc/py runs attached to the interpreter, except between
 * Py_BEGIN_ALLOW_THREADS and Py_END_ALLOW_THREADS. The core takes its lock only
 * inside core functions, and never holds the lock while Python code runs.
 *
 * A field that several threads may touch is atomic, or guarded by the critical
 * section of its object; no Python code runs inside a critical section. Every
 * other field is written once, before another thread can see it.
 * docs/threads.md has the complete list.
 *
 * Folders and files of csrc/py have an order, lowest first: base, value, task,
 * job, worker, engine. A file includes and calls only what comes before it.
 * tests/order.py has the order, and tests/package/test_order.py checks it.
 */
#ifndef PY_STATE_H
#define PY_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifndef Py_BEGIN_CRITICAL_SECTION // before 3.13
#    define Py_BEGIN_CRITICAL_SECTION(op) ((void)(op))
#    define Py_END_CRITICAL_SECTION() ((void)0)
#endif

struct cp_serve;
struct loop;
struct py_known;
struct py_numpy;
struct py_plans;

#define PY_PICKLERS 2
#define PY_WORDS 51
#define PY_STANDARDS 16

/* A pickler that is reused; see value/pickle.h. */
struct py_pickler {
    PyObject *pickler;
    PyObject *sink;
    int busy;
};

struct py_state {
    PyTypeObject *engine_type;
    PyTypeObject *worker_type;
    PyTypeObject *result_type;
    PyTypeObject *stream_type;
    PyTypeObject *sink_type;
    PyTypeObject *view_type; /* bytearrays on shared memory */
    PyTypeObject *lane_type;
    PyTypeObject *condition_type;
    PyTypeObject *share_type;
    struct py_future_names *futures; /* see job/future.h; NULL: not used yet */
    PyObject *pickle_loads;          /* _pickle.loads */
    PyObject *pickler_class;         /* _pickle.Pickler */
    PyObject *copyreg_table;         /* copyreg.dispatch_table */
    PyObject *extra_reducers;        /* ForkingPickler._extra_reducers */
    PyObject *reducers; /* both tables, as a pickler's dispatch_table */
    PyObject *failures; /* the module cpool._base.failures */
#ifdef Py_GIL_DISABLED
    /* Of gc, for forked children, which must not import: unlock_frozen(). */
    PyObject *freeze_count, *freeze, *unfreeze;
#endif
    PyObject *str_dump, *str_clear_memo, *str_dispatch_table;
    PyObject *str_forking_pickler;
    PyObject *words[PY_WORDS];  /* names of attributes; see base/word.h */
    PyObject *named_tuple_code; /* of __getnewargs__() of all named tuples */
    PyObject *named_tuple_new;  /* pickling.named_tuple_new */
    PyObject *slotnames;        /* copyreg._slotnames */
    PyObject *enum_type;        /* enum.EnumMeta */
    /* What these two classes had when this module was loaded: how a member is
     * reduced, and how a value leads to its member. */
    PyObject *enum_reduce;     /* enum.Enum.__reduce_ex__ */
    PyObject *enum_new;        /* enum.Enum.__new__ */
    PyObject *enum_call;       /* enum.EnumMeta.__call__ */
    PyObject *complex_reducer; /* copyreg.pickle_complex; or NULL */
    /* The version of each class of value/standard.h that was as we know it; or
     * 0. */
    _Atomic unsigned plain_version[PY_STANDARDS];
    struct py_numpy *_Atomic numpy; /* see value/array.c */
    /* NULL: there is none, or it is in use; see value/known.h and
     * value/plan.h. */
    struct py_known *_Atomic known;
    struct py_plans *_Atomic plans;
    /* The modules with the picklers of the stdlib's pool, once they were looked
     * up, and the picklers as they were then; see value/replaced.h. */
    PyObject *_Atomic with_pickler[PY_PICKLERS];
    _Atomic uintptr_t known_pickler[PY_PICKLERS];
    /* What these modules contained when their dicts had these versions; see
     * base/dict.h. Borrowed: a dict that has not changed still holds the
     * object. */
    PyObject *seen_dict[PY_PICKLERS];
    PyObject *seen_pickler[PY_PICKLERS];
    uint64_t seen_version[PY_PICKLERS];
    _Atomic bool replaced;     /* one of them is not the stdlib's */
    _Atomic bool may_cancel;   /* the error of cancelled calls is imported */
    struct py_pickler pickler; /* the pickler that is kept */
    struct cp_serve *serving;  /* in a worker process: its end of the pipes */
    struct loop *loop;         /* and its loop, while that runs */
    PyObject *shared;          /* _shared(), of the module */
    /* The class of handles of shared objects; NULL: none was used yet. And what
     * notes that a handle occurs in the body that this thread encodes: the
     * object's number in the pool, or -1 with an exception. core: the handle's
     * `_core`, of the share_type. */
    PyTypeObject *_Atomic handle_type;
    int64_t (*share_use)(PyObject *core, PyObject *handle);
    /* A worker, while it holds the GIL: see value/spare.h. */
    PyObject *spare;
    bool keeps_spare; /* the arguments of a task are decoded */
    bool spare_is_noted;
    char handles_stop; /* a worker: failures.handle_stop() was called */
    char may_stop;     /* a worker: its current task may be asked to stop */
    _Atomic uint64_t tasks_done; /* by this worker process */
    int forked; /* 1: in a copy that other code forked; -1: while we fork */
    _Atomic unsigned long
        exit_thread;            /* the thread that ends the interpreter; or 0 */
    _Atomic int64_t exit_until; /* other threads sleep until then; 0: not yet */
};

/* The definition of the module; engine/module.c adds methods and slots before
 * it is used. */
extern struct PyModuleDef py_module_def;

struct py_state *py_state_of_module(PyObject *module);

/* type: one of the module's types, or a Python class that inherits from one. */
struct py_state *py_state_of_type(PyTypeObject *type);

#endif
