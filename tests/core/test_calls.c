/* Jobs of calls: who may still use a call, and its worker, when the job ends. */
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <stdlib.h>
#include <string.h>

#define JOB_FLAGS (CP_JOB_EACH | CP_JOB_SINGLE)

/* What the binding has of a call. The index of its task and of its result is its
 * address. */
struct called {
    struct cp_call call;
    _Atomic uint32_t results;
};

/* A new call of the job; NULL: the job takes no more. */
static struct called *
put_call(struct cp_job *job, enum op op)
{
    struct called *called = calloc(1, sizeof(*called));
    CHECK(called != NULL);
    struct order order = {.op = (uint32_t)op};
    struct cp_task *task =
        cp_task_new((uint64_t)(uintptr_t)called, 0, ORDER_LEN);
    CHECK(task != NULL);
    memcpy(task->body, &order, ORDER_LEN);
    task->call = &called->call;
    int r = cp_job_put_call_take(job, task);
    if (r != 0) {
        CHECK_EQ(r, CP_ECLOSED);
        free(called);
        return NULL;
    }
    return called;
}

/* Free all calls, as the binding may once the job has ended and a grab after
 * that has found nothing more. */
static void
free_calls(struct called **calls, int n)
{
    for (int i = 0; i < n; i++) {
        free(calls[i]);
    }
}

/* A job with n calls: the first one has begun and waits at the gate, and the
 * others are short, so that the worker is sent some of them too. */
static struct cp_job *
begun_job(struct rig *rig, struct called **calls, int n)
{
    rig_open(rig, 1);
    rig_await_started(rig);
    rig->func->avg_ns = 0;
    struct cp_job *job = rig_job(rig, JOB_FLAGS);
    calls[0] = put_call(job, OP_GATE);
    (void)rig_wait(rig, NULL, cp_now()); /* flush deferred output */
    rig_await_begun(rig, 1);
    /* However slow this thread is, the worker must not count as stuck. */
    atomic_store(&rig->pool->workers->row->since, cp_now() + 3600 * CP_SECOND);
    for (int i = 1; i < n; i++) {
        calls[i] = put_call(job, OP_ECHO);
        CHECK(calls[i] != NULL);
    }
    CHECK_EQ(cp_job_look(job, &calls[0]->call, true), CP_CALL_BEGUN);
    CHECK_EQ(cp_job_look(job, &calls[n - 1]->call, true), CP_CALL_WAITS);
    return job;
}

TEST(calls_are_looked_at_when_their_worker_is_gone)
{
    struct rig rig;
    struct called *calls[300];
    struct cp_job *job = begun_job(&rig, calls, 300);
    cp_pool_end(rig.pool);
    rig_join(&rig);
    for (int i = 0; i < 300; i++) {
        CHECK_EQ(cp_job_look(job, &calls[i]->call, true), CP_CALL_ANSWERED);
        CHECK(cp_job_withdraw(job, &calls[i]->call));
    }
    CHECK(cp_job_grab(job) == NULL);
    free_calls(calls, 300);
    cp_job_close(job);
    rig_release(&rig);
}

/* The worker goes on with the call that it has begun, and its answer comes when
 * the call is freed. */
TEST(calls_of_a_job_that_failed_are_freed_at_once)
{
    struct rig rig;
    struct called *calls[300];
    struct cp_job *job = begun_job(&rig, calls, 300);
    cp_job_fail(job);
    CHECK(cp_job_grab(job) == NULL);
    CHECK(put_call(job, OP_ECHO) == NULL);
    free_calls(calls, 300);
    rig_let_through(&rig, 1);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 9), 9);
    CHECK(cp_job_grab(job) == NULL);
    CHECK_EQ(rig.forks, 1);
    cp_job_close(job);
    rig_close(&rig);
}

struct handler {
    struct cp_job *job;
    pthread_barrier_t grabbed, freed;
};

/* Takes the results of two calls, and handles them when the pool has ended and
 * the calls are freed. */
static void *
handle_late(void *arg)
{
    struct handler *me = arg;
    struct cp_result *list = cp_job_grab(me->job);
    (void)pthread_barrier_wait(&me->grabbed);
    (void)pthread_barrier_wait(&me->freed);
    int n = 0;
    for (const struct cp_result *r = list; r != NULL; r = r->next) {
        CHECK_EQ(r->outcome, CP_OK);
        CHECK_EQ(r->len, ORDER_LEN);
        n++;
    }
    CHECK_EQ(n, 2);
    cp_result_free_list(list);
    cp_job_note_ended(me->job, false);
    CHECK(cp_job_grab(me->job) == NULL);
    return NULL;
}

TEST(calls_end_while_a_thread_handles_their_results)
{
    struct rig rig;
    struct called *calls[3];
    struct handler handler;
    CHECK_EQ(pthread_barrier_init(&handler.grabbed, NULL, 2), 0);
    CHECK_EQ(pthread_barrier_init(&handler.freed, NULL, 2), 0);
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = handler.job = rig_job(&rig, JOB_FLAGS);
    calls[0] = put_call(job, OP_ECHO);
    calls[1] = put_call(job, OP_ECHO);
    while (cp_job_arrived(job, NULL) < 2) {
        (void)rig_wait(&rig, NULL, cp_now() + CP_MS);
    }
    calls[2] = put_call(job, OP_GATE);
    (void)rig_wait(&rig, NULL, cp_now());
    rig_await_begun(&rig, 1);
    pthread_t thread = cp_test_start(handle_late, &handler);
    (void)pthread_barrier_wait(&handler.grabbed);
    cp_pool_end(rig.pool);
    CHECK_EQ(atomic_load(&job->end), CP_END_TERMINATED);
    CHECK(cp_job_grab(job) == NULL);
    free_calls(calls, 3);
    (void)pthread_barrier_wait(&handler.freed);
    rig_join(&rig);
    (void)cp_test_join(thread);
    CHECK(cp_job_grab(job) == NULL);
    cp_job_close(job);
    rig_release(&rig);
    CHECK_EQ(pthread_barrier_destroy(&handler.grabbed), 0);
    CHECK_EQ(pthread_barrier_destroy(&handler.freed), 0);
}

#define CALLERS 4
#define CALLS 100

struct caller {
    struct cp_job *job;
    struct called *calls[CALLS];
    int n;
};

/* Handle the results that have come, of whatever thread's calls. */
static void
handle(struct cp_job *job)
{
    struct cp_result *list = cp_job_grab(job);
    for (const struct cp_result *r = list; r != NULL; r = r->next) {
        struct called *called = (struct called *)(uintptr_t)r->index;
        (void)atomic_fetch_add(&called->results, 1);
        atomic_store(&called->call.ended, true);
    }
    cp_result_free_list(list);
    cp_job_note_ended(job, false);
}

/* Calls until the job has ended. A job that has no more results after its end
 * ends all calls: here, they end with their thread. */
static void *
call_until_the_end(void *arg)
{
    struct caller *me = arg;
    while (me->n < CALLS) {
        struct called *called = put_call(me->job, OP_ECHO);
        if (called == NULL) {
            return NULL;
        }
        me->calls[me->n++] = called;
        while (!atomic_load(&called->call.ended)
               && atomic_load(&me->job->end) == CP_END_NONE) {
            int r = cp_job_wait_call(me->job, &called->call, CP_NEVER, 0);
            CHECK(r == CP_WAIT_READY || r == CP_EINTR);
            handle(me->job);
        }
    }
    return NULL;
}

/* No call gets two results, and every thread that waits goes on. */
TEST(calls_of_many_threads_end_with_their_job)
{
    struct rig rig;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    for (uint64_t round = 0; round < 20; round++) {
        struct caller callers[CALLERS] = {0};
        pthread_t threads[CALLERS];
        struct cp_job *job = rig_job(&rig, JOB_FLAGS);
        for (int i = 0; i < CALLERS; i++) {
            callers[i].job = job;
            threads[i] = cp_test_start(call_until_the_end, &callers[i]);
        }
        while (cp_job_arrived(job, NULL) < 15 * round) {
            cp_test_let_others_run();
        }
        cp_job_fail(job);
        for (int i = 0; i < CALLERS; i++) {
            (void)cp_test_join(threads[i]);
        }
        handle(job);
        for (int i = 0; i < CALLERS; i++) {
            for (int k = 0; k < callers[i].n; k++) {
                CHECK(atomic_load(&callers[i].calls[k]->results) <= 1);
            }
            free_calls(callers[i].calls, callers[i].n);
        }
        rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 5), 5);
        CHECK(cp_job_grab(job) == NULL);
        cp_job_close(job);
        (void)rig_collect(&rig);
    }
    rig_close(&rig);
}

/* Take the only result of a kept call's job, whose end has been noted. */
static struct cp_result *
take_kept(struct rig *rig, struct cp_job *job)
{
    while (!atomic_load(&job->done)) {
        (void)rig_wait(rig, job, CP_NEVER);
    }
    struct cp_result *result = cp_job_grab(job);
    CHECK(result != NULL && result->next == NULL);
    return result;
}

TEST(calls_that_are_kept_outlive_the_close_of_the_pool)
{
    struct rig rig;
    struct called calls[2] = {0};
    struct cp_job *jobs[2];
    rig_open(&rig, 1);
    rig_await_started(&rig);
    for (int i = 0; i < 2; i++) {
        jobs[i] = rig_job(&rig, JOB_FLAGS | CP_JOB_KEPT);
    }
    CHECK(cp_job_withdraw(jobs[1], &calls[1].call));
    cp_pool_close(rig.pool);
    for (int i = 0; i < 2; i++) {
        uint64_t index = (uint64_t)(uintptr_t)&calls[i];
        CHECK(!atomic_load(&jobs[i]->done));
        CHECK_EQ(cp_job_look(jobs[i], &calls[i].call, true), CP_CALL_WAITS);
        bool is_withdrawn =
            cp_job_end_withdrawn(jobs[i], &calls[i].call, index);
        CHECK_EQ(is_withdrawn, i == 1);
        if (!is_withdrawn) {
            struct order order = {.op = OP_ECHO};
            struct cp_task *task = cp_task_new(index, 0, ORDER_LEN);
            CHECK(task != NULL);
            memcpy(task->body, &order, ORDER_LEN);
            task->call = &calls[i].call;
            cp_job_put_take(jobs[i], task, true);
        }
        struct cp_result *result = take_kept(&rig, jobs[i]);
        CHECK_EQ(result->outcome, is_withdrawn ? CP_WITHDRAWN : CP_OK);
        CHECK_EQ(result->index, index);
        cp_result_free(result);
    }
    rig_join(&rig);
    cp_job_close(jobs[0]);
    cp_job_close(jobs[1]);
    rig_release(&rig);
}

TEST(calls_that_are_kept_end_with_the_pool)
{
    struct rig rig;
    struct called called = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, JOB_FLAGS | CP_JOB_KEPT);
    cp_pool_end(rig.pool);
    CHECK(atomic_load(&job->done));
    CHECK(cp_job_end_withdrawn(job, &called.call, 1));
    CHECK_EQ(cp_job_look(job, &called.call, true), CP_CALL_ANSWERED);
    CHECK(cp_job_grab(job) == NULL);
    rig_join(&rig);
    cp_job_close(job);
    rig_release(&rig);
}
