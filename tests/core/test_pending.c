/*
 * What is pending in a worker's output buffer is written even if no thread is
 * in a call: by the standby thread, or with the next task.
 */
#include "os/poller.h"
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#define FUNCS 4000 /* more FORGETs than a pipe holds */

/* ---- a poller that refuses to watch for output ---- */

static _Atomic int refusals; /* how many are still to come */

int __real_cp_poller_add(struct cp_poller *poller, int fd, unsigned events,
                         uint64_t tag);
int __wrap_cp_poller_add(struct cp_poller *poller, int fd, unsigned events,
                         uint64_t tag);

int
__wrap_cp_poller_add(struct cp_poller *poller, int fd, unsigned events,
                     uint64_t tag)
{
    if (events == CP_OUT && atomic_load(&refusals) > 0) {
        (void)atomic_fetch_sub(&refusals, 1);
        return CP_ENOMEM;
    }
    return __real_cp_poller_add(poller, fd, events, tag);
}

/* ---- the rig, with the standby thread and no thread in a call ---- */

static void
open_rig(struct rig *rig)
{
    rig_open(rig, 1);
    rig_await_started(rig);
    CHECK_EQ(cp_pool_start_standby(rig->pool), 0);
    rig_await_asleep(rig);
}

static void
close_rig(struct rig *rig)
{
    cp_pool_stop_standby(rig->pool);
    rig_close(rig);
}

/* Put a call for whose result nobody waits: only its callback has to be run. */
static struct cp_job *
put_call(struct rig *rig, size_t len)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, CP_JOB_SINGLE | CP_JOB_CALLS);
    (void)batch_add_long(&batch, OP_ECHO, 0, len);
    batch_put(&batch, job, true);
    return job;
}

static void
await_callback(struct rig *rig, struct cp_job *job)
{
    bool comes = false;
    struct cp_job *called;
    while (!comes) {
        cp_test_let_others_run();
        cp_lock_acquire(&rig->pool->lock);
        comes = rig->pool->call_first != NULL;
        cp_lock_release(&rig->pool->lock);
    }
    CHECK_EQ(cp_pool_next(rig->pool, CP_DO_CALLS, &called), CP_WAIT_CALL);
    CHECK(called == job);
    struct cp_result *result = cp_job_take(job);
    rig_check_echo(result);
    cp_result_free(result);
    cp_job_called(job);
    cp_job_close(job);
    cp_job_close(job);
}

/* The worker reads nothing until it is continued. */
static void
stop_worker(const struct rig *rig)
{
    siginfo_t info;
    CHECK_EQ(kill(rig->last_pid, SIGSTOP), 0);
    CHECK_EQ(waitid(P_PID, (id_t)rig->last_pid, &info, WSTOPPED), 0);
}

static void
continue_worker(const struct rig *rig)
{
    CHECK_EQ(kill(rig->last_pid, SIGCONT), 0);
}

static void
await_refusals(void)
{
    while (atomic_load(&refusals) > 0) {
        cp_test_let_others_run();
    }
}

/* ---- FORGETs ---- */

/* Callables that the worker was sent, and that only the test refers to. */
static void
open_funcs(struct rig *rig, struct cp_func **funcs)
{
    for (uint32_t i = 0; i < FUNCS; i++) {
        struct batch batch = {0};
        struct cp_job *job;
        funcs[i] = cp_func_open(rig->pool, &i, sizeof(i), 0);
        CHECK(funcs[i] != NULL);
        CHECK_EQ(cp_job_open(rig->pool, funcs[i], CP_JOB_SINGLE, NULL, &job),
                 0);
        (void)batch_add(&batch, OP_ECHO, 0);
        batch_put(&batch, job, true);
        struct cp_result *result = rig_take(rig, job);
        rig_check_echo(result);
        cp_result_free(result);
        cp_job_close(job);
    }
    CHECK_EQ(rig_collect(rig), FUNCS); /* the jobs have them, too */
}

static void
close_funcs(struct rig *rig, struct cp_func **funcs)
{
    for (uint32_t i = 0; i < FUNCS; i++) {
        cp_func_close(rig->pool, funcs[i]);
    }
}

static size_t
output_of(struct rig *rig)
{
    cp_lock_acquire(&rig->pool->lock);
    size_t n = cp_buf_len(&rig->pool->workers->out);
    cp_lock_release(&rig->pool->lock);
    return n;
}

TEST(pending_forgets_keep_no_call_back)
{
    static struct cp_func *funcs[FUNCS];
    struct rig rig;
    open_rig(&rig);
    open_funcs(&rig, funcs);
    rig_await_asleep(&rig);
    close_funcs(&rig, funcs);
    while (output_of(&rig) >= CP_KIB(2)) { /* the standby thread writes it */
        cp_test_let_others_run();
    }
    await_callback(&rig, put_call(&rig, 0));
    close_rig(&rig);
}

/* The worker does not read, and the poller refuses to watch its pipe. */
TEST(pending_forgets_to_a_stopped_worker_keep_no_call_back)
{
    static struct cp_func *funcs[FUNCS];
    struct rig rig;
    open_rig(&rig);
    open_funcs(&rig, funcs);
    stop_worker(&rig);
    atomic_store(&refusals, 2);
    close_funcs(&rig, funcs);
    await_refusals();
    struct cp_job *job = put_call(&rig, 0);
    continue_worker(&rig);
    await_callback(&rig, job);
    close_rig(&rig);
}

/* ---- the rest of a large task ---- */

TEST(pending_output_that_the_poller_refused_is_written)
{
    struct rig rig;
    open_rig(&rig);
    for (int n = 1; n <= 3; n++) {
        stop_worker(&rig);
        atomic_store(&refusals, n);
        struct cp_job *job = put_call(&rig, 4 * 1000 * 1000);
        await_refusals();
        continue_worker(&rig);
        await_callback(&rig, job);
    }
    close_rig(&rig);
}

/* The driver slept without a deadline when the task came. */
TEST(pending_output_wakes_a_driver_that_sleeps_for_ever)
{
    struct rig rig;
    open_rig(&rig);
    cp_lock_acquire(&rig.pool->lock);
    while (!rig.pool->asleep || rig.pool->tick_ns != CP_NEVER
           || rig.pool->armed) {
        cp_lock_release(&rig.pool->lock);
        cp_test_let_others_run();
        cp_lock_acquire(&rig.pool->lock);
    }
    cp_lock_release(&rig.pool->lock);
    stop_worker(&rig);
    atomic_store(&refusals, 1);
    struct cp_job *job = put_call(&rig, 4 * 1000 * 1000);
    await_refusals();
    continue_worker(&rig);
    await_callback(&rig, job);
    close_rig(&rig);
}
