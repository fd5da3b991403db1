/*
 * Many threads share one job: each result is given out once, one thread at a
 * time decodes, and one thread's `user` is set. A feeder and the standby thread
 * run beside them, and each thread has jobs of its own.
 */
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define CROWD 8
#define TASKS 3000u

struct crowd {
    struct rig rig;
    struct cp_job *job;
    _Atomic uint32_t taken[TASKS];
    _Atomic uint32_t decoders; /* decoding now */
    _Atomic uint32_t users;
    pthread_barrier_t start;
};

static void
note_take(struct crowd *crowd, struct cp_result *result)
{
    rig_check_echo(result);
    CHECK_EQ(atomic_fetch_add(&crowd->taken[result->index], 1), 0);
    cp_result_free(result);
}

/* Like a shared iterator. */
static void
take_one_by_one(struct crowd *crowd)
{
    struct cp_result *result;
    while ((result = rig_take(&crowd->rig, crowd->job)) != NULL) {
        note_take(crowd, result);
    }
}

/* Like a shared result: each thread decodes the results that have arrived, and may
 * give some of them back. */
static void
decode_together(struct crowd *crowd, uint64_t seed)
{
    while (!cp_job_is_drained(crowd->job)) {
        CHECK_EQ(rig_wait(&crowd->rig, crowd->job, CP_NEVER), CP_WAIT_READY);
        struct cp_result *list = cp_job_take_all(crowd->job);
        if (list == NULL) {
            continue;
        }
        CHECK_EQ(atomic_fetch_add(&crowd->decoders, 1), 0);
        uint32_t n = 1 + cp_test_random(&seed) % 50;
        while (list != NULL && n-- > 0) {
            struct cp_result *next = list->next;
            note_take(crowd, list);
            list = next;
        }
        (void)atomic_fetch_sub(&crowd->decoders, 1);
        cp_job_decoded(crowd->job, list);
    }
}

static void *
share(void *arg)
{
    struct crowd *crowd = arg;
    (void)pthread_barrier_wait(&crowd->start);
    if (cp_job_hold(crowd->job, crowd)) {
        (void)atomic_fetch_add(&crowd->users, 1);
    }
    cp_result_free(rig_call(&crowd->rig, OP_ECHO, 0)); /* a job of its own */
    if ((crowd->job->flags & CP_JOB_ORDERED) != 0) {
        take_one_by_one(crowd);
    } else {
        decode_together(crowd, (uint64_t)(uintptr_t)&arg);
    }
    cp_result_free(rig_call(&crowd->rig, OP_ECHO, 0));
    return NULL;
}

static void *
feed(void *arg)
{
    struct crowd *crowd = arg;
    struct batch batch = {0};
    uint64_t n;
    while (cp_job_wait_wants(crowd->job, &n) == 1) {
        while (n-- > 0 && batch.n < TASKS) {
            (void)batch_add(&batch, OP_ECHO, 0);
        }
        /* A job that has ended takes no `user`: if threads start slowly, the
         * job could be done before the first of them asks. */
        while (batch.n == TASKS && atomic_load(&crowd->users) == 0) {
            cp_test_let_others_run();
        }
        batch_put(&batch, crowd->job, batch.n == TASKS);
    }
    return NULL;
}

static void
gather(uint32_t flags)
{
    static struct crowd crowd;
    pthread_t threads[CROWD + 1];
    rig_open(&crowd.rig, 3);
    CHECK_EQ(pthread_barrier_init(&crowd.start, NULL, CROWD), 0);
    CHECK_EQ(
        cp_job_open(crowd.rig.pool, crowd.rig.func, flags, NULL, &crowd.job),
        0);
    CHECK_EQ(cp_pool_start_standby(crowd.rig.pool), 0);
    threads[CROWD] = cp_test_start(feed, &crowd);
    for (int i = 0; i < CROWD; i++) {
        threads[i] = cp_test_start(share, &crowd);
    }
    for (int i = 0; i <= CROWD; i++) {
        (void)cp_test_join(threads[i]);
    }
    CHECK_EQ(atomic_load(&crowd.users), 1);
    for (uint32_t i = 0; i < TASKS; i++) {
        CHECK_EQ(atomic_load(&crowd.taken[i]), 1);
    }
    cp_job_close(crowd.job);
    cp_pool_stop_standby(crowd.rig.pool);
    CHECK_EQ(pthread_barrier_destroy(&crowd.start), 0);
    rig_close(&crowd.rig);
}

TEST(crowd_shares_one_iterator)
{
    gather(CP_JOB_ORDERED);
}

TEST(crowd_shares_one_result)
{
    gather(0);
}

/* ---- the end during other calls ---- */

static void *
wait_for_it(void *arg)
{
    struct crowd *crowd = arg;
    CHECK_EQ(cp_pool_wait(crowd->rig.pool, crowd->job, CP_NEVER, 0),
             CP_WAIT_READY);
    CHECK(cp_job_is_drained(crowd->job));
    return NULL;
}

static bool
has_waiter(struct cp_pool *pool)
{
    cp_lock_acquire(&pool->lock);
    bool has = pool->waiters != NULL;
    cp_lock_release(&pool->lock);
    return has;
}

/* One thread decodes for long. Meanwhile the pool ends and closes its descriptors.
 * A thread that waits for the decoding thread is still woken. */
TEST(crowd_waits_for_the_decoding_thread_after_the_end)
{
    static struct crowd crowd;
    struct batch batch = {0};
    rig_open(&crowd.rig, 1);
    crowd.job = rig_job(&crowd.rig, 0);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, crowd.job, true);
    CHECK_EQ(rig_wait(&crowd.rig, crowd.job, CP_NEVER), CP_WAIT_READY);
    struct cp_result *list = cp_job_take_all(crowd.job);
    cp_pool_end(crowd.rig.pool);
    rig_join(&crowd.rig);
    cp_pool_close_fds(crowd.rig.pool);
    pthread_t thread = cp_test_start(wait_for_it, &crowd);
    while (!has_waiter(crowd.rig.pool)) {
        cp_test_let_others_run();
    }
    rig_check_echo(list);
    cp_result_free(list);
    cp_job_decoded(crowd.job, NULL);
    (void)cp_test_join(thread);
    CHECK_EQ(cp_pool_wait(crowd.rig.pool, crowd.job, 0, 0), CP_WAIT_READY);
    cp_job_close(crowd.job);
    rig_release(&crowd.rig);
}

static void *
wait_for_process(void *arg)
{
    int code;
    CHECK_EQ(cp_proc_wait(arg, CP_NEVER, &code), 1);
    CHECK_EQ(code, -SIGKILL);
    return NULL;
}

/* Several threads wait for one process while its sentinel is closed. */
TEST(crowd_waits_for_one_process)
{
    pthread_t threads[CROWD];
    struct cp_proc proc;
    CHECK_EQ(cp_proc_init(&proc), 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        for (;;) {
            (void)pause();
        }
    }
    cp_proc_started(&proc, pid);
    for (int i = 0; i < CROWD; i++) {
        threads[i] = cp_test_start(wait_for_process, &proc);
    }
    CHECK_EQ(cp_proc_kill(&proc, SIGKILL), 0);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, NULL), 1);
    cp_proc_close_sentinel(&proc);
    for (int i = 0; i < CROWD; i++) {
        (void)cp_test_join(threads[i]);
    }
    cp_proc_fini(&proc);
}
