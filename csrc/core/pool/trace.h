/*
 * A timeline of what a pool did: one span for each task (many short tasks of a
 * worker in a row are merged); one for each start of a worker; and one for each
 * time that a thread of the parent worked for the pool (many short ones are
 * merged). pool/tally.h records the first two kinds while a trace is on,
 * cp_pool_trace_work() the last one. Guarded by the owner of the trace: while
 * it is on, that is the pool.
 */
#ifndef CP_POOL_TRACE_H
#define CP_POOL_TRACE_H

#include "link/task.h"

#define CP_TRACE_NAMES 256u      /* functions with a name of their own */
#define CP_TRACE_MOST (4u << 20) /* spans; later ones are only counted */
#define CP_TRACE_LANES 64u /* threads of the parent with a lane of their own */
#define CP_NO_NAME UINT16_MAX

/* Values of a span's outcome besides those of enum cp_outcome. */
enum cp_span_kind {
    CP_SPAN_START = 64, /* a worker process, from its start until it is ready */
    CP_SPAN_END,        /* it has ended */
};

struct cp_span {
    int64_t began, ended; /* cp_now() */
    int64_t busy; /* in tasks, in ns; less than ended - began if merged */
    int64_t
        waited; /* the longest that one of them was queued, in ns; -1: unknown */
    uint64_t call;   /* the id of the job of the last one */
    uint64_t index;  /* of the first task in its job */
    uint32_t tasks;  /* how many, all of one function; > 1: all succeeded */
    uint32_t items;  /* of all of them */
    uint32_t stride; /* see struct cp_job */
    uint32_t worker;
    int pid;         /* of the worker; 0: a thread, or unknown */
    uint16_t name;   /* of the function: into names, or CP_NO_NAME */
    uint8_t outcome; /* enum cp_outcome, or enum cp_span_kind */
    uint8_t reason;  /* enum cp_reason, of CP_LOST */
};

/* The first bytes of a callable, as tasks send it. With worker threads: its
 * name. */
struct cp_trace_name {
    size_t len;
    uint8_t *bytes;
};

/* What a thread of the parent does for the pool. */
enum cp_work {
    CP_WORK_FEED,     /* it pulls items, and makes tasks of them */
    CP_WORK_DECODE,   /* it makes objects of results */
    CP_WORK_CALLBACK, /* it runs callbacks of the program */
    CP_WORKS
};

struct cp_work_span {
    int64_t began, ended; /* cp_now() */
    int64_t ns[CP_WORKS]; /* of each kind of work */
    uint64_t n[CP_WORKS]; /* how many times, of each kind */
    uint32_t lane;        /* of the thread: into lanes */
};

/* The spans of one thread, or of several threads that had the same id in
 * turn. */
struct cp_trace_lane {
    uint64_t thread;          /* its id, as Python has it */
    struct cp_work_span open; /* the last one, which may grow; all n 0: none */
};

struct cp_trace {
    int64_t since; /* cp_now() when it began */
    struct cp_span *spans;
    size_t n, cap;
    uint64_t dropped; /* spans that were only counted */
    struct cp_span
        *open; /* by worker: its last one, which may grow; tasks 0: none */
    uint32_t n_open;
    struct cp_trace_name names[CP_TRACE_NAMES];
    uint16_t n_names;
    struct cp_work_span *work;
    size_t n_work, cap_work;
    struct cp_trace_lane lanes[CP_TRACE_LANES];
    uint32_t n_lanes;
};

/* A trace that begins now; NULL: no memory. [any] */
struct cp_trace *cp_trace_new(int64_t now);

/* NULL is fine. [any] */
void cp_trace_free(struct cp_trace *trace);

/* Record a span of one task, whose callable is func. Times before the begin of
 * the trace, or in the wrong order, are corrected. */
void cp_trace_task(struct cp_trace *trace, const struct cp_span *span,
                   const uint8_t *func, size_t len);

/* Record a span that is not a task. */
void cp_trace_note(struct cp_trace *trace, const struct cp_span *span);

/* Record that a thread of the parent did this work from began to ended. The
 * thread did no other work in that time: of nested work, only the outermost is
 * recorded. */
void cp_trace_work(struct cp_trace *trace, enum cp_work kind, uint64_t thread,
                   int64_t began, int64_t ended);

/* Finish the trace: afterwards, spans[0] to spans[n - 1] and work[0] to
 * work[n_work - 1] are all of it. */
void cp_trace_end(struct cp_trace *trace);

#endif
