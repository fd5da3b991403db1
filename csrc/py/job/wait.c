/* Waiting for a job; see job/wait.h. */
#include "job/wait.h"

#include "base/error.h"
#include "job/settle.h"
#include "task/feed.h"
#include "task/pull.h"

#include "core/base/clock.h"

/* A waiting thread looks for signals from time to time: a signal interrupts the
 * system calls of the main thread, but not a call that starts just after the
 * signal. The interval grows each time, so that a long wait does not wake up
 * again and again. */
#define FIRST_SIGNAL_TICK (500 * CP_MS)
#define LAST_SIGNAL_TICK (60 * CP_SECOND)
#define SIGNAL_TICK_GROWTH 4

int
py_result_feed(ResultObject *self)
{
    self->input.idle = 0;
    int r = py_feed(&self->input, 0, NULL);
    self->input.idle = 1;
    if (r == 0) {
        py_result_end_call(self);
    }
    return r;
}

/* Act on the return value of a wait in the core: 0, or -1 with an exception. */
static int
handle_news(ResultObject *self, int r)
{
    switch (r) {
        case CP_WAIT_TIMEOUT:
        case CP_EINTR: return PyErr_CheckSignals();
        case CP_WAIT_WORKERS: return py_engine_replace_workers(self->engine);
        case CP_WAIT_FEED: return py_result_feed(self) < 0 ? -1 : 0;
        case CP_WAIT_READY: return 0;
        default: (void)py_raise(self->state, r); return -1;
    }
}

/* can: CP_CAN_ flags, what this thread can do while it waits. */
static int
wait_until(ResultObject *self, int64_t deadline, unsigned can)
{
    bool stream = PyObject_TypeCheck(self, self->state->stream_type);
    int64_t tick = FIRST_SIGNAL_TICK;
    for (;;) {
        /* Python code that ran during the wait, such as a signal handler, may
         * have forked. */
        if (!self->settled && py_engine_check(self->engine) < 0) {
            return -1;
        }
        int r = stream ? 0 : py_result_absorb(self);
        if (r != 0) {
            return r;
        }
        int64_t until = cp_clock_min(deadline, cp_now() + tick);
        py_pull_yield(self->engine);
        Py_BEGIN_ALLOW_THREADS
        r = cp_pool_wait(self->engine->pool, self->job, until, can);
        Py_END_ALLOW_THREADS
        tick = cp_clock_min(SIGNAL_TICK_GROWTH * tick, LAST_SIGNAL_TICK);
        py_error_sleep_if_exiting(self->state);
        if (handle_news(self, r) < 0) {
            return -1;
        }
        if (r == CP_WAIT_READY && stream) {
            return 1;
        }
        if (r == CP_WAIT_TIMEOUT && until == deadline) {
            return stream ? 0 : py_result_absorb(self);
        }
    }
}

int
py_result_wait(ResultObject *self, int64_t deadline)
{
    return wait_until(self, deadline, CP_CAN_FORK);
}

int
py_result_wait_call(ResultObject *self, const struct cp_call *call,
                    int64_t deadline)
{
    int64_t tick = FIRST_SIGNAL_TICK;
    for (;;) {
        if (py_engine_check(self->engine) < 0) {
            return -1;
        }
        int64_t until = cp_clock_min(deadline, cp_now() + tick);
        int r;
        py_pull_yield(self->engine);
        Py_BEGIN_ALLOW_THREADS
        r = cp_job_wait_call(self->job, call, until, CP_CAN_FORK);
        Py_END_ALLOW_THREADS
        tick = cp_clock_min(SIGNAL_TICK_GROWTH * tick, LAST_SIGNAL_TICK);
        py_error_sleep_if_exiting(self->state);
        if (r == CP_WAIT_READY) {
            return 1;
        }
        if (handle_news(self, r) < 0) {
            return -1;
        }
        if (r == CP_WAIT_TIMEOUT && until == deadline) {
            return 0;
        }
    }
}

PyObject *
py_result_await(ResultObject *self)
{
    unsigned can = CP_CAN_FORK | (self->input.blocking ? CP_CAN_FEED : 0u);
    self->input.idle = 1;
    int r = wait_until(self, CP_NEVER, can);
    self->input.idle = 0;
    py_result_end_call(self);
    Py_CLEAR(self->input.source.iterator);
    if (r < 0) {
        /* The call that waited has ended, so cancel its job. If that has failed
         * meanwhile, nobody else can retrieve the failure. */
        py_result_set_retrieved(self);
        py_result_cancel(self);
        return NULL;
    }
    py_job_collect(self->engine); /* then the caller has the only reference */
    return py_result_outcome(self);
}
