/* Workers that die, at any stage, and workers that break the rules. */
#include "os/fd.h"
#include "pool/act.h"
#include "pool/state.h"
#include "pool/watch.h"
#include "cp_test.h"
#include "rig.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Wait until all deaths have been noticed and the workers replaced. */
static void
await_forks(struct rig *rig, int n)
{
    while (rig->forks < n) {
        CHECK_EQ(rig_wait(rig, NULL, cp_now() + CP_MS), CP_WAIT_TIMEOUT);
    }
    CHECK_EQ(rig->forks, n);
}

/* Check that the pool works and has all its workers. */
static void
check_works(struct rig *rig)
{
    struct cp_counts counts;
    rig_finish(rig, rig_put_job(rig, CP_JOB_ORDERED, OP_ECHO, 40), 40);
    /* A worker that died just before the last result is noticed in the next wait. */
    cp_pool_count(rig->pool, &counts);
    while (counts.workers != rig->target) {
        CHECK_EQ(rig_wait(rig, NULL, cp_now() + CP_MS), CP_WAIT_TIMEOUT);
        cp_pool_count(rig->pool, &counts);
    }
    CHECK_EQ(counts.pending, 0);
}

/* A single task ends its worker: only this task is lost. Quick tasks come before,
 * so that the driver spins for the answer before it sleeps. */
static void
check_lost(enum op op, uint32_t arg, int exitcode)
{
    struct rig rig;
    rig_open(&rig, 2);
    for (int i = 0; i < 20; i++) {
        cp_result_free(rig_call(&rig, OP_ECHO, 0));
    }
    struct cp_result *result = rig_call(&rig, op, arg);
    rig_check_lost(result, 0, exitcode);
    await_forks(&rig, 3);
    check_works(&rig);
    CHECK_EQ(rig.forks, 3);
    rig_close(&rig);
}

TEST(death_in_a_task)
{
    check_lost(OP_DIE, SIGKILL, -SIGKILL);
    check_lost(OP_DIE, SIGTERM, -SIGTERM);
    check_lost(OP_EXIT, 0, 0);
    check_lost(OP_EXIT, 3, 3);
}

/* What most workers of a pool that is closed do: nobody has to kill the process, or
 * to watch it. */
TEST(death_that_has_happened_is_noticed_at_the_end_of_the_pipe)
{
    struct rig rig;
    siginfo_t info;
    rig_open(&rig, 1);
    cp_result_free(rig_call(&rig, OP_ECHO, 0));
    int pid = atomic_load(&rig.last_pid);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    cp_lock_acquire(&rig.pool->lock);
    cp_watch_on_ready(rig.pool, cp_tag(rig.pool->workers, CP_TAG_RX));
    CHECK_EQ(rig.pool->n_workers, 0);
    cp_act(rig.pool);
    cp_lock_release(&rig.pool->lock);
    check_works(&rig);
    rig_close(&rig);
}

TEST(death_half_way_through_an_answer)
{
    check_lost(OP_HALF, 100, -SIGKILL);
    check_lost(OP_HALF, 4 * 1000 * 1000, -SIGKILL);
}

TEST(death_for_breaking_the_rules)
{
    check_lost(OP_UNCLAIMED, 0, -SIGKILL);
    check_lost(OP_KIND, 0, -SIGKILL);
    check_lost(OP_LENGTH, 0, -SIGKILL);
    check_lost(OP_RUBBISH, 0, -SIGKILL);
    check_lost(OP_BREAK, 0, -SIGKILL);
    check_lost(OP_RING, 0, -SIGKILL);
    check_lost(OP_CLOSE_TX, 0, -SIGKILL);
}

/* ---- another process holds the pipes of a dead worker ---- */

/* No pipe shows the death: the driver probes the process from time to time. */
TEST(death_is_seen_though_a_process_holds_the_pipes)
{
    struct rig rig;
    rig_open(&rig, 2);
    rig_check_lost(rig_call(&rig, OP_ORPHAN, 0), 0, -SIGKILL);
    await_forks(&rig, 3);
    check_works(&rig);
    rig_let_through(&rig, 1);
    rig_close(&rig);
}

static void
let_one_through(struct cp_result *result, struct rig *rig)
{
    rig_check_lost(result, 0, -SIGKILL);
    rig_let_through(rig, 1);
}

/* The same while only the standby thread waits for the pool, which slept
 * without a deadline when the task came. */
TEST(death_is_seen_by_the_standby_though_a_process_holds_the_pipes)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    cp_lock_acquire(&rig.pool->lock);
    while (!rig.pool->asleep || rig.pool->armed) {
        cp_lock_release(&rig.pool->lock);
        cp_test_let_others_run();
        cp_lock_acquire(&rig.pool->lock);
    }
    cp_lock_release(&rig.pool->lock);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    (void)batch_add(&batch, OP_ORPHAN, 0);
    batch_put(&batch, job, true);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    let_one_through(rig_take(&rig, job), &rig);
    cp_job_close(job);
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

/* The worker was told to end, and a thread waits for that. */
TEST(death_is_seen_at_the_end_though_a_process_holds_the_pipes)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    (void)batch_add(&batch, OP_ORPHAN, 0);
    batch_put(&batch, job, true);
    cp_pool_close(rig.pool);
    rig.target = 0; /* it is not replaced */
    cp_pool_set_target(rig.pool, 0);
    rig_join(&rig);
    let_one_through(cp_job_take(job), &rig);
    cp_job_close(job);
    rig_release(&rig);
}

/* While a task takes long, probing its process causes almost no wake-ups. */
TEST(death_is_looked_for_seldom)
{
    struct rig rig;
    struct batch batch = {0};
    struct rusage before, after;
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    (void)batch_add(&batch, OP_GATE, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    CHECK_EQ(getrusage(RUSAGE_THREAD, &before), 0);
    CHECK_EQ(rig_wait(&rig, job, cp_now() + 1600 * CP_MS), CP_WAIT_TIMEOUT);
    CHECK_EQ(getrusage(RUSAGE_THREAD, &after), 0);
    CHECK(after.ru_nvcsw - before.ru_nvcsw < 14);
    rig_let_through(&rig, 1);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

/* ---- the program reaps the worker ---- */

/* The program waits for any child, and reaps our worker. */
TEST(death_reaped_by_the_program)
{
    struct rig rig;
    rig_open(&rig, 2);
    check_works(&rig);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    CHECK_EQ(cp_test_reap(rig.last_pid), -SIGKILL);
    await_forks(&rig, 3);
    check_works(&rig);
    rig_close(&rig);
}

/* The same while the worker was busy, and another child has its pid by now. */
TEST(death_of_a_worker_whose_pid_is_anothers)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_SINGLE);
    (void)batch_add(&batch, OP_GATE, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    CHECK_EQ(cp_test_reap(rig.last_pid), -SIGKILL);
    int other = cp_test_fork();
    if (other == 0) {
        cp_fd_in_child(NULL, 0);
        for (;;) {
            (void)pause();
        }
    }
    rig.pool->workers->proc.pid =
        other; /* as if the kernel had reused the number */
    rig.pool->workers->proc.birth.value--;
    CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
    rig_check_lost(cp_job_take(job), 0, CP_EXIT_UNKNOWN);
    cp_job_close(job);
    check_works(&rig);
    rig_close(&rig);
    CHECK_EQ(waitpid(other, NULL, WNOHANG), 0);
    CHECK_EQ(kill(other, SIGTERM), 0);
    CHECK_EQ(cp_test_reap(other), -SIGTERM);
}

static void
on_child(int signal_number)
{
    (void)signal_number;
}

/* The signal stays blocked here, so that no system call is interrupted. */
TEST(death_is_told_once_to_the_handler_of_sigchld)
{
    struct rig rig;
    siginfo_t info;
    struct sigaction act = {.sa_handler = on_child};
    sigset_t child;
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    CHECK_EQ(sigaction(SIGCHLD, &act, NULL), 0);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &child, NULL), 0);
    struct batch batch = {0};
    rig_open(&rig, 2);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    job->many->avg_ns = 1000 * CP_SECOND; /* so each worker gets one */
    (void)batch_add(&batch, OP_GATE, 0);
    (void)batch_add(&batch, OP_GATE, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 2);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    CHECK_EQ(waitid(P_PID, (id_t)rig.last_pid, &info, WEXITED | WNOWAIT), 0);
    CHECK_EQ(cp_pool_wait(rig.pool, job, CP_NEVER, CP_CAN_FORK), CP_EINTR);
    int r;
    while ((r = cp_pool_wait(rig.pool, job, 0, CP_CAN_FORK))
           == CP_WAIT_TIMEOUT) {
        cp_test_let_others_run();
    }
    CHECK(r == CP_WAIT_WORKERS || r == CP_WAIT_READY);
    rig_fill(&rig);
    rig_let_through(&rig, 1);
    int lost = 0;
    for (int i = 0; i < 2; i++) {
        struct cp_result *result = rig_take(&rig, job);
        if (result->outcome == CP_OK) {
            cp_result_free(result);
        } else {
            rig_check_lost(result, result->index, -SIGKILL);
            lost++;
        }
    }
    CHECK_EQ(lost, 1);
    CHECK(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

TEST(death_where_sigchld_is_ignored)
{
    struct rig rig;
    (void)signal(SIGCHLD, SIG_IGN);
    rig_open(&rig, 2);
    check_works(&rig);
    rig_check_lost(rig_call(&rig, OP_EXIT, 3), 0, CP_EXIT_UNKNOWN);
    check_works(&rig);
    rig_close(&rig);
}

TEST(death_for_answering_twice)
{
    struct rig rig;
    rig_open(&rig, 2);
    struct cp_result *result = rig_call(&rig, OP_TWICE, 0);
    CHECK_EQ(result->outcome, CP_OK); /* the first answer counts */
    cp_result_free(result);
    await_forks(&rig, 3);
    check_works(&rig);
    rig_close(&rig);
}

TEST(death_while_idle)
{
    struct rig rig;
    rig_open(&rig, 2);
    check_works(&rig);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    await_forks(&rig, 3);
    check_works(&rig);
    rig_close(&rig);
}

/* The other worker answers all the time, and the driver hardly ever sleeps. */
TEST(death_is_seen_in_traffic)
{
    struct rig rig;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    while (rig.forks < 3) {
        cp_result_free(rig_call(&rig, OP_ECHO, 0));
    }
    check_works(&rig);
    rig_close(&rig);
}

/* New work arrives before the death of all workers is noticed. */
TEST(death_unnoticed_loses_nothing)
{
    struct rig rig;
    rig_open(&rig, 2);
    check_works(&rig);
    for (struct cp_worker *w = rig.pool->workers; w != NULL; w = w->next) {
        siginfo_t info;
        CHECK_EQ(kill(w->proc.pid, SIGKILL), 0);
        CHECK_EQ(waitid(P_PID, (id_t)w->proc.pid, &info, WEXITED | WNOWAIT), 0);
    }
    check_works(&rig);
    await_forks(&rig, 4);
    rig_close(&rig);
}

TEST(death_of_a_busy_worker)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_BUSY, 0);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    int pid = rig.last_pid;
    CHECK_EQ(kill(pid, SIGKILL), 0);
    struct cp_result *result = rig_take(&rig, job);
    CHECK_EQ(result->pid, pid);
    rig_check_lost(result, 0, -SIGKILL);
    rig_take_echoes(&rig, job, 1);
    rig_close_job(&rig, job);
    check_works(&rig);
    rig_close(&rig);
}

/* Finished answers that are still in the ring are delivered; tasks that the worker
 * had not begun go to the next worker. */
TEST(death_keeps_finished_answers)
{
    for (int flushed = 0; flushed < 2; flushed++) {
        struct rig rig;
        struct batch batch = {0};
        rig_open(&rig, 1);
        struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
        for (int i = 0; i < 5; i++) {
            (void)batch_add(&batch, OP_QUIET, 0);
        }
        if (flushed != 0) { /* some answers are in the pipe already */
            (void)batch_add(&batch, OP_RAISE, 0);
            (void)batch_add(&batch, OP_QUIET, 0);
        }
        uint64_t dies = batch.n;
        (void)batch_add(&batch, OP_DIE, SIGKILL);
        for (int i = 0; i < 5; i++) {
            (void)batch_add(&batch, OP_ECHO, 0);
        }
        for (struct cp_task *t = batch.first; t != NULL; t = t->next) {
            ((struct order *)(void *)t->body)->flags = ORDER_COUNT;
        }
        batch_put(&batch, job, true);
        rig_take_echoes(&rig, job, 5);
        if (flushed != 0) {
            struct cp_result *result = rig_take(&rig, job);
            CHECK_EQ(result->outcome, CP_RAISED);
            cp_result_free(result);
            rig_take_echoes(&rig, job, 1);
        }
        rig_check_lost(rig_take(&rig, job), dies, -SIGKILL);
        rig_take_echoes(&rig, job, 5);
        rig_close_job(&rig, job);
        CHECK_EQ(rig.forks, 2);
        for (uint64_t i = 1; i < batch.n; i++) {
            CHECK_EQ(rig.shared->runs[i], 1);
        }
        rig_close(&rig);
    }
}

TEST(death_puts_tasks_back_in_order)
{
    enum { N = 400 };
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
    for (int i = 0; i < N; i++) {
        (void)batch_add(&batch, i == 0 ? OP_BUSY : OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    rig_check_lost(rig_take(&rig, job), 1, -SIGKILL);
    uint64_t index = 2; /* no worker is left to take one */
    for (struct cp_task *task = job->first; task != NULL; task = task->next) {
        CHECK_EQ(task->index, index++);
    }
    CHECK_EQ(index, N + 1);
    rig_take_echoes(&rig, job, N - 1);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* The same, but the worker has been dead for long before anyone reads. */
TEST(death_long_ago_keeps_finished_answers)
{
    struct rig rig;
    struct batch batch = {0};
    siginfo_t info;
    rig_open(&rig, 1);
    struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
    for (int i = 0; i < 200; i++) {
        (void)batch_add_long(&batch, OP_QUIET, 0, 100);
    }
    (void)batch_add(&batch, OP_DIE, SIGKILL);
    batch_put(&batch, job, true);
    CHECK_EQ(waitid(P_PID, (id_t)rig.last_pid, &info, WEXITED | WNOWAIT), 0);
    rig_take_echoes(&rig, job, 200);
    rig_check_lost(rig_take(&rig, job), 201, -SIGKILL);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

TEST(death_before_hello)
{
    struct rig rig;
    struct batch batch = {0};
    struct cp_counts counts;
    rig_open_starting(&rig, 1, START_DIES);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    do {
        int r = cp_pool_wait(rig.pool, job, CP_NEVER, CP_CAN_FORK);
        CHECK_EQ(r, CP_WAIT_WORKERS);
        rig_fill(&rig);
        cp_pool_count(rig.pool, &counts);
    } while (counts.failed_starts < 3);
    rig.start = START_WELL;
    rig_finish(&rig, job,
               1); /* the failed starts have not cost the task anything */
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.failed_starts, 0);
    rig_close(&rig);
}

/* Workers that die at every start are replaced with growing delays. */
TEST(death_at_every_start_is_not_a_fork_storm)
{
    struct rig rig;
    struct cp_counts counts;
    int64_t start = cp_now();
    rig_open_starting(&rig, 2, START_DIES);
    do {
        int r = cp_pool_wait(rig.pool, NULL, cp_now() + CP_MS, CP_CAN_FORK);
        if (r == CP_WAIT_WORKERS) {
            rig_fill(&rig);
        }
        cp_pool_count(rig.pool, &counts);
    } while (counts.failed_starts < 10);
    /* On any machine: both workers wait 10, 20, 40 and 80 ms. */
    CHECK(cp_now() - start >= 150 * CP_MS);
    rig_close(&rig);
}

TEST(death_in_the_initializer)
{
    struct rig rig;
    rig_open_starting(&rig, 1, START_WAITS);
    rig_await_begun(&rig, 1);
    struct batch batch = {0};
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    rig.start = START_WELL;
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    rig_finish(&rig, job, 1);
    CHECK_EQ(rig.forks, 2);
    rig_close(&rig);
}

/* The worker is stopped, and dies with half of a big body in its pipe: the task
 * was not begun, and is sent again. */
TEST(death_in_the_middle_of_a_big_task)
{
    struct rig rig;
    int status;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    CHECK_EQ(kill(rig.last_pid, SIGSTOP), 0);
    CHECK_EQ(waitpid(rig.last_pid, &status, WUNTRACED), rig.last_pid);
    CHECK(WIFSTOPPED(status));
    struct batch batch = {0};
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add_long(&batch, OP_ECHO, 0, 3 * 1000 * 1000);
    batch_put(&batch, job, true);
    CHECK_EQ(rig.pool->workers->in_flight, 1);
    CHECK(rig.pool->workers->big != NULL);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

TEST(death_in_the_middle_of_a_big_callable)
{
    struct rig rig;
    rig_open_starting(&rig, 1, START_WAITS);
    rig_await_begun(&rig, 1);
    struct cp_func *small = rig_use_big_func(&rig, 1000 * 1000);
    struct batch batch = {0};
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    CHECK(rig.pool->workers->big_func == rig.func);
    rig_restore_func(&rig, small);
    rig.start = START_WELL;
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

/* A big task that kills every worker before it begins fails after a few workers;
 * the other tasks are done. */
TEST(death_of_a_big_task_again_and_again)
{
    struct rig rig;
    rig_open_starting(&rig, 1, START_CHOKES);
    struct batch batch = {0};
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (int i = 0; i < 20; i++) {
        (void)batch_add_long(&batch, OP_ECHO, 0, i == 7 ? 1000 * 1000 : 10);
    }
    batch_put(&batch, job, true);
    rig_take_echoes(&rig, job, 7);
    rig_check_lost(rig_take(&rig, job), 7, -SIGKILL);
    rig_take_echoes(&rig, job, 12);
    CHECK_EQ(rig.forks, CP_MAX_DEATHS + 1);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* The same for a callable: all tasks that need the callable fail. */
TEST(death_of_a_big_callable_again_and_again)
{
    for (int size = 100 * 1000; size <= 3000 * 1000; size *= 30) {
        struct rig rig;
        rig_open_starting(&rig, 1, START_CHOKES);
        struct cp_func *small = rig_use_big_func(&rig, (size_t)size);
        struct batch batch = {0};
        struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
        for (int i = 0; i < 500; i++) {
            (void)batch_add(&batch, OP_ECHO, 0);
        }
        batch_put(&batch, job, true);
        rig_restore_func(&rig, small);
        for (uint64_t i = 0; i < 500; i++) {
            rig_check_lost(rig_take(&rig, job), i, -SIGKILL);
        }
        CHECK_EQ(rig.forks, CP_MAX_DEATHS + 1);
        rig_close_job(&rig, job);
        check_works(&rig);
        rig_close(&rig);
    }
}

/* The worker stops reading, but goes on with its task. Later tasks go to
 * another worker, and the answer of the first worker counts. */
TEST(death_of_a_worker_that_stops_reading)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
    for (int i = 0; i < 50; i++) {
        (void)batch_add_long(&batch, i == 0 ? OP_CLOSE_RX : OP_ECHO, 0, 1000);
    }
    batch_put(&batch, job, false);
    rig_await_begun(&rig, 1);
    for (int i = 0; i < 50; i++) {
        (void)batch_add_long(&batch, OP_ECHO, 0, 1000);
    }
    batch_put(&batch, job, true);
    rig_let_through(&rig, 1);
    rig_take_echoes(&rig, job, 100);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

TEST(death_of_all_at_once)
{
    enum { N = 4 };
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, N);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (int i = 0; i < 20; i++) {
        (void)batch_add(&batch, i < N ? OP_BUSY : OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    rig_await_begun(&rig, N);
    cp_pool_signal(rig.pool, SIGKILL);
    for (uint64_t i = 0; i < N; i++) {
        rig_check_lost(rig_take(&rig, job), i, -SIGKILL);
    }
    rig_take_echoes(&rig, job, 20 - N);
    rig_close_job(&rig, job);
    await_forks(&rig, 2 * N);
    rig_close(&rig);
}

/* Tasks that end by CP_LAST, like tasks that use up a worker's budget. */
TEST(death_of_old_age_loses_nothing)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
    for (int i = 0; i < 300; i++) {
        (void)batch_add(&batch, i % 10 == 0 ? OP_LAST : OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    rig_take_echoes(&rig, job, 300);
    rig_close_job(&rig, job);
    CHECK(rig.forks > 20);
    rig_close(&rig);
}

/* The same with tasks that are next in line each time when a worker ends: that
 * does not count against them. */
TEST(death_of_old_age_does_not_count_against_other_tasks)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 4);
    struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
    for (int i = 0; i < 600; i++) {
        (void)batch_add(&batch, i % 3 == 0 ? OP_ECHO : OP_LAST, 0);
    }
    batch_put(&batch, job, true);
    rig_take_echoes(&rig, job, 600);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* A worker has finished and does not exit: another worker takes its place and its
 * tasks. The pool ends only when the first worker exits. */
TEST(death_that_is_overdue_is_not_waited_for)
{
    struct rig rig;
    struct batch batch = {0};
    struct cp_counts counts;
    rig_open(&rig, 1);
    struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
    (void)batch_add(&batch, OP_LINGER, 0);
    for (int i = 0; i < 20; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    rig_take_echoes(&rig, job, 21);
    rig_close_job(&rig, job);
    CHECK_EQ(rig.forks, 2);
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.workers, 2);
    CHECK_EQ(counts.overdue, 1);
    cp_pool_close(rig.pool);
    CHECK_EQ(cp_pool_wait(rig.pool, NULL, cp_now() + 10 * CP_MS, 0),
             CP_WAIT_TIMEOUT);
    rig_let_through(&rig, 1);
    rig_join(&rig);
    rig_release(&rig);
}

/* A worker sends CP_LEAVE, and does not exit: another worker takes its tasks at
 * once, including big ones. */
TEST(death_that_is_announced_costs_no_time)
{
    static const size_t sizes[] = {0, 300000};
    for (int i = 0; i < 2; i++) {
        struct rig rig;
        struct batch batch = {0};
        struct cp_counts counts;
        rig_open(&rig, 2);
        struct cp_job *job = rig_quick_job(&rig, &batch, CP_JOB_ORDERED, 1);
        int64_t begun = cp_now();
        (void)batch_add(&batch, OP_LEAVE, 0);
        for (int j = 0; j < 20; j++) {
            (void)batch_add_long(&batch, OP_ECHO, 0, sizes[i]);
        }
        batch_put(&batch, job, true);
        rig_take_echoes(&rig, job, 21);
        rig_close_job(&rig, job);
        cp_pool_count(rig.pool, &counts);
        if (cp_now() - begun < CP_SECOND) { /* or the worker is replaced */
            CHECK_EQ(rig.forks, 2);
            CHECK_EQ(counts.workers, 2);
            CHECK_EQ(counts.overdue, 0);
        }
        rig_let_through(&rig, 1);
        rig_close(&rig);
    }
}

/* The only worker sends CP_LEAVE: after a while another worker takes its
 * place. */
TEST(death_that_is_announced_and_does_not_come)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_result *result = rig_call(&rig, OP_LEAVE, 0);
    rig_check_echo(result);
    cp_result_free(result);
    rig_await_begun(&rig, 1);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 20);
    rig_finish(&rig, job, 20);
    CHECK_EQ(rig.forks, 2);
    rig_let_through(&rig, 1);
    rig_close(&rig);
}

/* Many tasks of all kinds, some of which end their worker: those are lost, and
 * each of the others is answered and runs once. */
TEST(death_at_random)
{
    enum { N = 3000 };
    static const enum op bad[] = {OP_DIE,       OP_EXIT,    OP_HALF,
                                  OP_UNCLAIMED, OP_RUBBISH, OP_RING};
    struct rig rig;
    struct batch batch = {0};
    uint64_t seed = 12;
    static bool lost[N];
    rig_open(&rig, 4);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    for (int i = 0; i < N; i++) {
        uint32_t dice = cp_test_random(&seed) % 200;
        lost[i] = dice < 6;
        enum op op = lost[i]     ? bad[dice]
                     : dice < 50 ? OP_QUIET
                     : dice < 60 ? OP_LAST
                                 : OP_ECHO;
        size_t len = dice % 20 == 19 ? cp_test_random(&seed) % 100000
                                     : cp_test_random(&seed) % 100;
        uint32_t arg = op == OP_DIE ? SIGKILL : len + 1000;
        batch_add_long(&batch, op, arg, len)->flags = ORDER_COUNT;
    }
    batch_put(&batch, job, true);
    int n_lost = 0;
    for (int i = 0; i < N; i++) {
        struct cp_result *result = rig_take(&rig, job);
        CHECK_EQ(result->index, i);
        CHECK_EQ(result->outcome, lost[i] ? CP_LOST : CP_OK);
        CHECK_EQ(rig.shared->runs[i], 1);
        n_lost += lost[i];
        cp_result_free(result);
    }
    CHECK(n_lost > 50);
    rig_close_job(&rig, job);
    check_works(&rig);
    rig_close(&rig);
}
