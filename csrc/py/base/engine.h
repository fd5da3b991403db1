/*
 * An engine, the Python pool's handle on the core's pool: its layout, and what
 * every layer may do with it. The type _core.Engine and its methods are in
 * engine/engine.c. [attached]
 */
#ifndef PY_BASE_ENGINE_H
#define PY_BASE_ENGINE_H

#include "base/depth.h"
#include "base/name.h"
#include "base/state.h"

#include "core/base/lock.h"
#include "core/pool/pool.h"

/* What is known of the results of a callable. NEW: nothing yet. ALONE: no
 * result shares objects with another, so it does not matter which of them are
 * sent together. SHARE: some share objects. */
enum py_results { PY_RESULTS_NEW, PY_RESULTS_ALONE, PY_RESULTS_SHARE };
/* Who may pull from an iterable now; see task/pull.h. Guarded by the lock. */
struct py_turns {
    struct cp_lock lock;
    struct cp_cond cond;
    struct py_pull *pulls; /* those that have the turn, or wait for it */
    uint64_t tickets,
        serving;   /* the next ticket, and the one whose turn it is */
    int64_t since; /* when the turn began */
    _Atomic uint32_t waiting; /* threads that wait for their turn [any] */
};

typedef struct {
    PyObject_HEAD
    struct py_state *state;
    struct py_turns turns;
    struct cp_pool *pool; /* NULL after it was released */
    PyObject *owner;      /* weak reference to the Python pool */
    PyObject *cache;      /* the Python pool's _cache */
    /* The callable that was pickled last, if it is immutable, and where it was
     * found. All are guarded by the engine's critical section. */
    PyObject *last_func;
    struct py_name last_name; /* all zero: pickle it each time */
    struct cp_func *last_func_core;
    char last_results; /* of its results: an enum py_results; likewise */
    PyObject *
        sender; /* a cpool._base.by_value.Sender. Written before the first job */
    /* Results whose call is still making tasks; see job/life.h. Guarded by the
     * engine's critical section. */
    void *calls;
    /* Calls that are not encoded yet, and their number, including the one that
     * is being encoded. has_caller: there is a thread that encodes them. See
     * engine/kept.h. Guarded likewise. */
    void *kept_first, *kept_last;
    _Atomic uint64_t n_kept;
    char has_caller;
    _Atomic unsigned long caller_thread;
    /* What is to be done after some of them, and how many have been encoded in
     * all. Likewise. */
    struct py_kept_end *kept_ends, **kept_ends_tail;
    uint64_t n_fed;
    /* The loops of worker threads; see worker/thread.c. Likewise. */
    void *loops;
    /* The job of calls to which calls are added now, or NULL; see job/lane.h.
     * Strong; guarded by the engine's critical section. */
    struct py_lane *lane;
    /* Collects a job of calls that has ended; never changes. */
    void (*collect_calls)(void *engine, struct cp_job *job);
    _Atomic char has_helper, has_starter; /* such a thread exists, for good */
    _Atomic unsigned long helper_thread; /* the one that runs callbacks; or 0 */
    char threads; /* the workers are threads; never changes */
    char serial;  /* no workers: see cpool/_engine/serial.py; likewise */
    _Atomic char is_attended; /* py_engine_attend() has been called */
    struct py_depth depth;    /* of the thread that made it; never changes */
    /* What an initializer of threads raised, or NULL. Guarded by the engine's
     * critical section. */
    PyObject *init_error;
} EngineObject;

/* May this process use the engine's pool? 0, or -1 with an exception if it is a
 * forked copy of the process that made the pool. */
int py_engine_check(EngineObject *engine);

/* Is the interpreter ending? Then no other thread runs Python code any more. */
bool py_is_finalizing(void);

/* Will no worker of the pool run any more? Threads do not while the interpreter is
 * ending, when a `__del__` may still join the pool. */
bool py_engine_stands_still(const EngineObject *engine);

/* The exception of an initializer in a worker thread: a new reference, or
 * NULL. */
PyObject *py_engine_init_error(EngineObject *engine);

/* The program's code is about to run on a thread that waits for a job, and also
 * feeds it or decodes its results. Nobody may drive the pool meanwhile, so
 * start the threads that do. Does nothing the second time, and if workers are
 * threads. If no thread can be started, the call goes on without. 0, or -1 with
 * an exception of a signal handler. */
int py_engine_attend(EngineObject *engine);

/* In a serial engine: make the next task of this iterator, and run it on this
 * thread. 1: there may be more; 0: there are no more; -1 with an exception.
 * Runs Python code. */
int py_engine_step(EngineObject *engine, PyObject *stream);

/* Workers are missing: have the Python pool start new ones. 0, or -1 with an
 * exception. Runs Python code. */
int py_engine_replace_workers(EngineObject *engine);

#endif
