/*
 * The binding's module state and object layouts.
 *
 * Everything in csrc/py runs attached to the interpreter, but for the parts
 * between Py_BEGIN_ALLOW_THREADS and Py_END_ALLOW_THREADS. The core's lock is
 * only taken inside core functions, never across a call into Python.
 *
 * What several threads may touch is an atomic or guarded by the critical section
 * of its object, in which nobody's code is run; what is not marked so is written
 * once, before others can see it. docs/threads.md has the whole list.
 */
#ifndef PY_STATE_H
#define PY_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h> // PyMemberDef, before 3.12

#include "core/base/clock.h"
#include "core/pool/pool.h"
#include "core/link/serve.h"
#include "core/pool/threads.h"

#ifndef Py_BEGIN_CRITICAL_SECTION // before 3.13
#    define Py_BEGIN_CRITICAL_SECTION(op) ((void)(op))
#    define Py_END_CRITICAL_SECTION() ((void)0)
#endif

/* How the body of a task is to be applied: flags of CP_TASK. */
#define PY_CALL 0x0u     /* func(*args); body: args */
#define PY_CALL_KW 0x1u  /* func(*args, **kwds); body: (args, kwds) */
#define PY_MAP 0x2u      /* [func(x) for x in items]; body: run of items */
#define PY_STAR 0x3u     /* [func(*x) for x in items]; body: likewise */
#define PY_MAP_ONE 0x4u  /* func(x); body: x */
#define PY_STAR_ONE 0x5u /* func(*x); body: x */
#define PY_MODE 0xfu
/* The answer to a single item stands for a list of one (error texts). */
#define PY_LISTED 0x10u
/* Of a submission: chunks of the pool's own choice, where that changes nothing
 * that anybody could see. */
#define PY_FIT 0x20u

#define PY_PICKLERS 2

/* A pickler that is used again and again; see value/pickle.h. */
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
    PyObject *pickle_loads;   /* _pickle.loads */
    PyObject *pickler_class;  /* _pickle.Pickler */
    PyObject *copyreg_table;  /* copyreg.dispatch_table */
    PyObject *extra_reducers; /* ForkingPickler._extra_reducers */
    PyObject *reducers;       /* both, as a pickler's dispatch_table */
    PyObject *remote;         /* module cpool._base.failures */
    PyObject *str_dump, *str_clear_memo, *str_dispatch_table;
    PyObject *str_forking_pickler;
    /* The modules that have the picklers of the stdlib's pool, once looked at, and the picklers
     * as they were seen then; see value/replaced.h. */
    PyObject *_Atomic with_pickler[PY_PICKLERS];
    _Atomic uintptr_t known_pickler[PY_PICKLERS];
    _Atomic bool replaced;     /* one of them is not the stdlib's */
    struct py_pickler pickler; /* the one that is kept */
    struct cp_serve *serving;  /* in a worker: its side of the pipes */
    int forked; /* this is a copy that somebody forked; set while forking */
    _Atomic unsigned long exit_thread; /* that ends the interpreter */
};

typedef struct {
    PyObject_HEAD
    struct py_state *state;
    struct cp_pool *pool; /* NULL once disposed of */
    PyObject *owner;      /* weak reference to the Python pool */
    PyObject *cache;      /* its _cache */
    PyObject *func_seen; /* the callable that was pickled last, if immutable; */
    struct cp_func *func_seen_core; /* both: the critical section */
    _Atomic unsigned long helper;   /* the thread that runs callbacks, or 0 */
    char threads;                   /* the workers are threads; never changes */
    PyObject *why; /* of threads: what the initializer raised, or NULL; guarded
                      by the engine's critical section */
} EngineObject;

/*
 * What tasks are made from. Of the thread that feeds: that of the call, and then
 * the feeder that it starts. Others read func and one, once there are results.
 */
struct py_source {
    PyObject *iterator; /* NULL: exhausted, or there is none */
    PyObject *func;     /* NULL: items are (job, i, func, args, kwds) */
    PyObject *poison;   /* the callable could not be pickled: why */
    Py_ssize_t chunksize;
    Py_ssize_t length; /* how many items there have to be; -1: unknown */
    Py_ssize_t pulled; /* items so far */
    uint64_t index;    /* the next task's */
    unsigned mode;
    char plain;   /* iterating runs nobody's code: feed in blocks */
    char is_row;  /* iterator is no iterator, but the list or tuple itself */
    char is_over; /* the end of the row was met, which an iterator remembers */
    char one;     /* a task is one item, and its result not a list */
    char fit;     /* chunks may have other sizes than chunksize */
};

/* ApplyResult, MapResult and the iterators are Python classes over this. */
typedef struct {
    PyObject_HEAD
    struct py_state *state;
    EngineObject *_Atomic engine; /* strong; NULL: not made yet. Set last */
    struct cp_job *job;
    PyObject *pool; /* the Python pool, until the job is done; guarded */
    PyObject *callback, *error_callback;
    PyObject *value;    /* the value, the list, or the exception; guarded by the
                           critical section until it is settled */
    PyObject *failures; /* index -> exception that arose on our side */
    struct py_source source;
    Py_ssize_t chunksize, length; /* of a map; length -1: not a map */
    size_t received;              /* bytes of results that were decoded */
    char
        success; /* guarded like value; meaningful once settled, of a map always */
    char blocking; /* the thread of the call waits, and feeds it meanwhile */
    _Atomic char begun;     /* __init__ was called */
    _Atomic char settled;   /* value and success are final */
    _Atomic char submitted; /* it was given its tasks */
    _Atomic char retrieved; /* somebody has seen the value, or the failure */
} ResultObject;

struct py_state *py_state_of_module(PyObject *module);
struct py_state *py_state_of_type(PyTypeObject *type);

/* Add the types of one file to the module: 0, or -1 with an exception. */
int py_engine_add_types(PyObject *module, struct py_state *state);
int py_worker_add_types(PyObject *module, struct py_state *state);
int py_result_add_types(PyObject *module, struct py_state *state);
int py_pickle_add_types(PyObject *module, struct py_state *state);

/* job/result_life.c: the job holds its result from its submission on, so that one that
 * is never submitted ends its job when it goes. */
void py_result_hold(ResultObject *self);
/* Nobody will wait for its job: end it, and let go of what it held, for nobody else
 * may do so. A pending exception stays. */
void py_result_cancel(ResultObject *self);
/* Wait for the job that only the caller knows of: the value, or NULL with an
 * exception; where that is no task's, the job is cancelled. */
PyObject *py_result_await(ResultObject *self);

/* engine/engine.c: run what the core hands to us; used by whoever waits. */
void py_engine_collect(EngineObject *engine);
/* What the initializer raised in a worker thread: a new reference, or NULL. */
PyObject *py_engine_why(EngineObject *engine);
int py_engine_replace_workers(EngineObject *engine);
/* 0, or -1 with ValueError("Pool not running") or a PoolError. */
int py_engine_check(EngineObject *engine);

#endif
