/* How a pool ends: closed, terminated, broken, copied, or with its parent. */
#include "os/fd.h"
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The worker forked last, with a reference. */
static struct cp_worker *
last_worker(struct rig *rig)
{
    cp_lock_acquire(&rig->pool->lock);
    struct cp_worker *w = rig->pool->workers;
    while (w->next != NULL) {
        w = w->next;
    }
    cp_worker_ref(w);
    cp_lock_release(&rig->pool->lock);
    return w;
}

static void
check_end(struct cp_job *job, enum cp_end end)
{
    CHECK(atomic_load(&job->done));
    CHECK_EQ(atomic_load(&job->end), end);
    cp_job_close(job);
}

TEST(end_close_runs_queued_tasks)
{
    struct rig rig;
    struct cp_job *late;
    rig_open(&rig, 2);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 300);
    cp_pool_close(rig.pool);
    cp_pool_close(rig.pool);
    CHECK_EQ(cp_job_open(rig.pool, rig.func, 0, NULL, &late), CP_ECLOSED);
    CHECK(late == NULL);
    rig_finish(&rig, job, 300);
    rig_join(&rig);
    rig_release(&rig);
}

TEST(end_close_still_feeds_an_open_job)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, 0);
    cp_pool_close(rig.pool);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, false);
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    rig_finish(&rig, job, 2);
    rig_join(&rig);
    rig_release(&rig);
}

TEST(end_workers_of_a_closed_pool_exit_with_zero)
{
    struct rig rig;
    int code = -1;
    rig_open(&rig, 1);
    struct cp_worker *w = last_worker(&rig);
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 1), 1);
    cp_pool_close(rig.pool);
    rig_join(&rig);
    CHECK_EQ(cp_proc_poll(&w->proc, &code), 1);
    CHECK_EQ(code, 0);
    cp_worker_unref(w);
    rig_release(&rig);
}

TEST(end_terminates_pending_jobs)
{
    struct rig rig;
    struct cp_counts counts;
    rig_open(&rig, 2);
    struct cp_job *running = rig_put_job(&rig, 0, OP_GATE, 10);
    struct cp_job *queued = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 10);
    struct cp_job *open = rig_job(&rig, 0);
    rig_await_begun(&rig, 2);
    cp_pool_end(rig.pool);
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.pending, 0);
    CHECK_EQ(counts.queued, 0);
    /* Tasks put now are dropped. */
    struct batch batch = {0};
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, open, true);
    cp_job_put_result_take(open, cp_result_new(1, CP_RAISED, 0));
    CHECK(cp_job_take(open) == NULL);
    check_end(running, CP_END_TERMINATED);
    check_end(queued, CP_END_TERMINATED);
    check_end(open, CP_END_TERMINATED);
    cp_pool_end(rig.pool);
    rig_join(&rig); /* nobody has opened the gate */
    CHECK_EQ(rig_collect(&rig), 3);
    rig_release(&rig);
}

TEST(end_spares_idle_workers)
{
    struct rig rig;
    int code = -1;
    rig_open(&rig, 1);
    struct cp_worker *idle = last_worker(&rig);
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 1), 1);
    (void)rig_fork(&rig);
    struct cp_worker *busy = last_worker(&rig);
    struct cp_job *job = rig_put_job(&rig, 0, OP_BUSY, 1); /* to the idle one */
    rig_await_begun(&rig, 1);
    struct cp_job *quick = rig_put_job(&rig, 0, OP_ECHO, 1);
    rig_finish(&rig, quick, 1);
    cp_pool_end(rig.pool);
    check_end(job, CP_END_TERMINATED);
    rig_join(&rig);
    CHECK_EQ(cp_proc_poll(&idle->proc, &code), 1);
    CHECK_EQ(code, -SIGTERM);
    CHECK_EQ(cp_proc_poll(&busy->proc, &code), 1);
    CHECK_EQ(code, 0);
    cp_worker_unref(idle);
    cp_worker_unref(busy);
    rig_release(&rig);
}

TEST(end_of_stubborn_workers_takes_sigkill)
{
    struct rig rig;
    rig_open_starting(&rig, 2, START_STUBBORN);
    struct cp_job *job = rig_put_job(&rig, 0, OP_BUSY, 2);
    rig_await_begun(&rig, 2);
    cp_pool_end(rig.pool);
    check_end(job, CP_END_TERMINATED);
    CHECK_EQ(rig_wait(&rig, NULL, cp_now() + 5 * CP_MS), CP_WAIT_TIMEOUT);
    cp_pool_signal(rig.pool, SIGKILL);
    rig_join(&rig);
    rig_release(&rig);
}

TEST(end_before_the_workers_have_started)
{
    struct rig rig;
    rig_open(&rig, 0);
    rig.start = START_WAITS;
    rig.target = 2;
    rig_fill(&rig);
    struct cp_job *job = rig_put_job(&rig, 0, OP_ECHO, 5);
    rig_await_begun(&rig, 2); /* the initializers have begun */
    cp_pool_end(rig.pool);
    check_end(job, CP_END_TERMINATED);
    rig_join(&rig);
    rig_release(&rig);
}

TEST(end_in_the_middle_of_big_bodies)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *gate = rig_put_job(&rig, 0, OP_GATE, 1);
    rig_await_begun(&rig, 1);
    (void)rig_fork(&rig);
    struct batch batch = {0};
    struct cp_job *down = rig_job(&rig, 0);
    (void)batch_add_long(&batch, OP_ECHO, 0, 4 * 1000 * 1000);
    batch_put(&batch, down, true);
    (void)rig_fork(&rig);
    struct cp_func *small = rig_use_big_func(&rig, 1000 * 1000);
    struct cp_job *called = rig_put_job(&rig, 0, OP_ECHO, 1);
    rig_restore_func(&rig, small);
    cp_pool_end(rig.pool);
    check_end(gate, CP_END_TERMINATED);
    check_end(down, CP_END_TERMINATED);
    check_end(called, CP_END_TERMINATED);
    rig_join(&rig);
    rig_release(&rig);
}

/* Results from before the end can be taken after it. */
TEST(end_keeps_results_that_have_arrived)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    (void)batch_add(&batch, OP_GATE, 0);
    batch_put(&batch, job, true);
    CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
    cp_pool_end(rig.pool);
    CHECK(!cp_job_is_drained(job));
    struct cp_result *result = cp_job_take(job);
    rig_check_echo(result);
    cp_result_free(result);
    CHECK(cp_job_is_drained(job));
    check_end(job, CP_END_TERMINATED);
    rig_join(&rig);
    rig_release(&rig);
}

TEST(end_of_one_job_spares_the_others)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 5);
    struct cp_job *other = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 5);
    rig_await_begun(&rig, 1);
    cp_job_cancel(job);
    cp_job_cancel(job);
    rig_let_through(&rig, 1);
    rig_finish(&rig, other, 5);
    CHECK(cp_job_take(job) == NULL);
    CHECK(cp_job_is_drained(job));
    check_end(job, CP_END_TERMINATED);
    rig_close(&rig);
}

TEST(end_broken_pool_runs_nothing)
{
    struct rig rig;
    rig_open(&rig, 2);
    CHECK(cp_pool_broken(rig.pool) == NULL);
    struct cp_job *job = rig_put_job(&rig, 0, OP_GATE, 5);
    rig_await_begun(&rig, 2);
    struct cp_result *why = cp_result_new(0, CP_RAISED, 0);
    cp_pool_break_take(rig.pool, why);
    cp_pool_break_take(rig.pool, cp_result_new(0, CP_RAISED, 0));
    cp_pool_break_take(rig.pool, NULL);
    CHECK(cp_pool_broken(rig.pool) == why);
    CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
    check_end(job, CP_END_BROKEN);
    struct cp_job *late = rig_put_job(&rig, 0, OP_ECHO, 1);
    CHECK_EQ(rig_wait(&rig, late, CP_NEVER), CP_WAIT_READY);
    check_end(late, CP_END_BROKEN);
    rig_close(&rig);
}

TEST(end_failed_initializer_breaks_the_pool)
{
    struct rig rig;
    struct cp_counts counts;
    rig_open_starting(&rig, 3, START_INIT_ERROR);
    struct cp_job *job = rig_put_job(&rig, 0, OP_ECHO, 5);
    CHECK_EQ(rig_wait(&rig, job, CP_NEVER), CP_WAIT_READY);
    check_end(job, CP_END_BROKEN);
    const struct cp_result *why = cp_pool_broken(rig.pool);
    CHECK_EQ(why->len, 7);
    CHECK_BYTES(why->body, "no luck", 7);
    rig_join(&rig); /* the workers end and are not replaced */
    CHECK_EQ(rig.forks, 3);
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.failed_starts, 0);
    rig_close(&rig);
}

TEST(end_late_worker_is_refused)
{
    struct rig rig;
    rig_open(&rig, 1);
    cp_pool_end(rig.pool);
    CHECK_EQ(rig_fork(&rig), 0);
    rig_join(&rig);
    CHECK_EQ(rig_fork(&rig), 0);
    rig_release(&rig);
}

/* The worker was forked for work that others have done by now: it is told to
 * end. */
TEST(end_late_worker_of_a_closed_pool_ends)
{
    struct rig rig;
    rig_open(&rig, 1);
    cp_pool_close(rig.pool);
    CHECK(rig_fork(&rig) != 0);
    rig_join(&rig);
    rig_release(&rig);
}

/* Another thread has seen the end of a worker and drops its sentinel. */
TEST(end_sentinel_of_a_worker_can_be_released)
{
    struct rig rig;
    struct cp_counts counts;
    int code = 0;
    rig_open(&rig, 2);
    struct cp_worker *w = last_worker(&rig);
    cp_pool_release_sentinel(rig.pool,
                             w); /* the worker lives: nothing happens */
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.workers, 2);
    CHECK_EQ(kill(w->proc.pid, SIGKILL), 0);
    CHECK_EQ(cp_proc_wait(&w->proc, CP_NEVER, &code), 1);
    cp_pool_release_sentinel(rig.pool, w);
    cp_pool_release_sentinel(rig.pool, w);
    cp_pool_count(rig.pool, &counts);
    CHECK_EQ(counts.workers, 1);
    CHECK_EQ(w->proc.sentinel, -1);
    cp_worker_unref(w);
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 10), 10);
    rig_close(&rig);
}

/* Hundreds of workers have to fit under the usual limit of 1,024. */
TEST(end_worker_has_two_descriptors)
{
    struct rig rig;
    rig_open(&rig, 0);
    int before = cp_test_descriptors();
    rig.target = 8;
    cp_pool_set_target(rig.pool, 8);
    rig_fill(&rig);
    rig_await_started(&rig);
    CHECK_EQ(cp_test_descriptors(), before + 8 * 2);
    rig_finish(&rig, rig_put_job(&rig, 0, OP_ECHO, 100), 100);
    CHECK_EQ(cp_test_descriptors(), before + 8 * 2);
    CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
    while (rig.forks < 9) {
        CHECK_EQ(rig_wait(&rig, NULL, cp_now() + CP_MS), CP_WAIT_TIMEOUT);
    }
    CHECK_EQ(cp_test_descriptors(), before + 8 * 2);
    rig_close(&rig);
}

/* A thread waits for the sentinel and for nothing else. */
TEST(end_sentinel_that_was_lent_shows_the_end)
{
    struct rig rig;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    struct cp_worker *w = last_worker(&rig);
    int fd = cp_pool_lend_sentinel(rig.pool, w);
    CHECK(fd >= 0);
    CHECK_EQ(cp_pool_lend_sentinel(rig.pool, w), fd);
    struct pollfd pfd = {fd, POLLIN, 0};
    CHECK_EQ(poll(&pfd, 1, 0), 0);
    CHECK_EQ(kill(w->proc.pid, SIGKILL), 0);
    CHECK_EQ(poll(&pfd, 1, -1), 1);
    cp_pool_stop_standby(rig.pool);
    while (rig.forks < 3) {
        CHECK_EQ(rig_wait(&rig, NULL, cp_now() + CP_MS), CP_WAIT_TIMEOUT);
    }
    CHECK_EQ(poll(&pfd, 1, 0), 1); /* nobody has closed our descriptor */
    cp_pool_release_sentinel(rig.pool, w);
    CHECK_EQ(w->proc.sentinel, -1);
    cp_worker_unref(w);
    rig_close(&rig);
}

TEST(end_closes_all_descriptors)
{
    struct rig rig;
    int before = cp_test_descriptors();
    rig_open(&rig, 2);
    cp_pool_close(rig.pool);
    rig_join(&rig);
    cp_pool_close_fds(rig.pool);
    cp_pool_close_fds(rig.pool);
    CHECK_EQ(cp_test_descriptors(), before + 4); /* the rig's own pipes */
    CHECK_EQ(cp_pool_wait(rig.pool, NULL, CP_NEVER, 0), CP_WAIT_READY);
    CHECK_EQ(rig_fork(&rig), 0);
    cp_pool_end(rig.pool);
    rig_release(&rig);
}

struct waiting {
    struct rig *rig;
    struct cp_job *job;
};

static void *
wait_for_it(void *arg)
{
    struct waiting *me = arg;
    CHECK_EQ(rig_wait(me->rig, me->job, CP_NEVER), CP_WAIT_READY);
    return NULL;
}

static void *
call_next(void *arg)
{
    struct cp_job *job;
    int r;
    do {
        r = cp_pool_next(((struct rig *)arg)->pool, CP_DO_CALLS | CP_DO_STARTS,
                         &job);
        if (r == CP_WAIT_IDLE) {
            (void)rig_collect(arg);
        }
    } while (r == CP_WAIT_IDLE);
    CHECK_EQ(r, CP_WAIT_ENDED);
    return NULL;
}

/* A worker that is ready has done all work. Another worker that is not ready in
 * time is ended; one that only takes a while is not. */
TEST(end_of_a_worker_that_never_gets_ready)
{
    for (int hangs = 0; hangs < 2; hangs++) {
        struct rig rig;
        rig_open(&rig, 1);
        rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 20), 20);
        rig.start = START_WAITS;
        int pid = rig_fork(&rig);
        rig_await_begun(&rig, 1);
        struct cp_worker *w = rig.pool->workers->next;
        CHECK_EQ(w->proc.pid, pid);
        cp_worker_ref(w);
        cp_pool_close(rig.pool);
        int64_t closed = cp_now();
        CHECK_EQ(cp_pool_wait(rig.pool, NULL, closed + 200 * CP_MS, 0),
                 CP_WAIT_TIMEOUT);
        rig_let_through(&rig, hangs != 0 ? 0 : 1);
        rig_join(&rig);
        int code = 0;
        CHECK_EQ(cp_proc_wait(&w->proc, CP_NEVER, &code), 1);
        CHECK_EQ(code, hangs != 0 ? -SIGTERM : 0);
        CHECK(hangs == 0 || cp_now() - closed >= 2 * CP_SECOND);
        cp_worker_unref(w);
        rig_release(&rig);
    }
}

/* No worker was ever ready, and there was never a job. Instead of waiting until
 * the time of a worker is over, the test sets the clock of that time back. */
TEST(end_of_a_pool_whose_workers_never_get_ready)
{
    struct rig rig;
    rig_open(&rig, 0);
    rig.start = START_WAITS;
    (void)rig_fork(&rig);
    rig_await_begun(&rig, 1);
    struct cp_worker *w = rig.pool->workers;
    cp_worker_ref(w);
    cp_pool_close(rig.pool);
    CHECK_EQ(cp_pool_wait(rig.pool, NULL, cp_now() + 50 * CP_MS, 0),
             CP_WAIT_TIMEOUT);
    cp_lock_acquire(&rig.pool->lock);
    rig.pool->over_at -= 10 * CP_SECOND;
    w->started_at -= 10 * CP_SECOND;
    cp_lock_release(&rig.pool->lock);
    rig_join(&rig);
    int code = 0;
    CHECK_EQ(cp_proc_wait(&w->proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, -SIGTERM);
    cp_worker_unref(w);
    rig_release(&rig);
}

/* HELLO is read long after it was written: the time when the worker was ready
 * comes from its row. */
TEST(end_knows_how_long_a_start_took)
{
    struct rig rig;
    rig_open(&rig, 0);
    (void)rig_fork(&rig);
    struct cp_worker *w = rig.pool->workers;
    while (atomic_load(&w->row->ready) == 0) {
        (void)poll(NULL, 0, 1);
    }
    int64_t by = cp_now();
    (void)poll(NULL, 0, 50);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 2), 2);
    CHECK(rig.pool->longest_start > 0);
    CHECK(rig.pool->longest_start <= by - w->started_at + 1
          || rig.pool->longest_start == 1);
    rig_close(&rig);
}

TEST(end_wakes_all_waiting_threads)
{
    enum { N = 4 };
    struct rig rig;
    struct waiting waiting[N];
    pthread_t threads[N + 1];
    rig_open(&rig, 1);
    for (int i = 0; i < N; i++) {
        waiting[i] = (struct waiting){
            &rig,
            i == 0 ? NULL : rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 2)};
        threads[i] = cp_test_start(wait_for_it, &waiting[i]);
    }
    threads[N] = cp_test_start(call_next, &rig);
    rig_await_begun(&rig, 1);
    rig_await_asleep(&rig);
    cp_pool_end(rig.pool);
    for (int i = 0; i <= N; i++) {
        (void)cp_test_join(threads[i]);
    }
    for (int i = 1; i < N; i++) {
        check_end(waiting[i].job, CP_END_TERMINATED);
    }
    rig_release(&rig);
}

/* There is no worker, and the last job is cancelled or broken. */
TEST(end_of_the_last_job_wakes_the_joining_thread)
{
    for (int i = 0; i < 2; i++) {
        struct rig rig;
        rig_open(&rig, 0);
        struct waiting waiting = {&rig, NULL};
        struct cp_job *job =
            rig_put_job(&rig, i == 0 ? 0 : CP_JOB_CALLS, OP_ECHO, 1);
        cp_pool_close(rig.pool);
        pthread_t thread = cp_test_start(wait_for_it, &waiting);
        rig_await_asleep(&rig);
        if (i == 0) {
            cp_job_cancel(job);
            (void)cp_test_join(thread);
        } else { /* the pool does not wait for callbacks */
            struct cp_job *called;
            cp_pool_break_take(rig.pool, NULL);
            (void)cp_test_join(thread);
            CHECK_EQ(
                cp_pool_next(rig.pool, CP_DO_CALLS | CP_DO_STARTS, &called),
                CP_WAIT_CALL);
            cp_job_called(called);
            cp_job_close(called);
        }
        cp_job_close(job);
        rig_release(&rig);
    }
}

/* The worker has half of a callable when the last job is cancelled. The pipe is
 * closed for good, although a sleeping thread wanted to write to it. */
TEST(end_close_in_the_middle_of_a_big_callable)
{
    struct rig rig;
    rig_open(&rig, 0);
    rig.start = START_WAITS;
    (void)rig_fork(&rig);
    rig_await_begun(&rig, 1);
    struct cp_func *small = rig_use_big_func(&rig, 1000 * 1000);
    struct cp_job *job = rig_put_job(&rig, 0, OP_ECHO, 1);
    rig_restore_func(&rig, small);
    struct waiting waiting = {&rig, NULL};
    pthread_t thread = cp_test_start(wait_for_it, &waiting);
    rig_await_asleep(&rig);
    cp_job_cancel(job);
    cp_job_close(job);
    cp_pool_close(rig.pool);
    rig_let_through(&rig, 1);
    (void)cp_test_join(thread);
    rig_release(&rig);
}

/* There is no worker: the helper still learns of the end. */
TEST(end_reaches_the_helper_without_workers)
{
    struct rig rig;
    rig_open(&rig, 0);
    pthread_t thread = cp_test_start(call_next, &rig);
    cp_lock_acquire(&rig.pool->lock);
    while (!rig.pool->duties) {
        cp_lock_release(&rig.pool->lock);
        cp_test_let_others_run();
        cp_lock_acquire(&rig.pool->lock);
    }
    cp_lock_release(&rig.pool->lock); /* the helper waits now */
    cp_pool_close(rig.pool);
    (void)cp_test_join(thread);
    rig_release(&rig);
}

/* ---- a copy of the pool in a forked process ---- */

TEST(end_copy_is_inert)
{
    struct rig rig;
    rig_open(&rig, 2);
    struct cp_worker *w = last_worker(&rig);
    int pid = cp_test_fork();
    if (pid == 0) {
        CHECK(!cp_pool_is_ours(rig.pool));
        int numbers[] = {w->tx, w->rx, rig.pool->life[0], rig.pool->life[1]};
        cp_fd_in_child(NULL, 0);
        for (int i = 0; i < 4;
             i++) { /* the numbers belong to other files by now */
            CHECK_EQ(dup2(0, numbers[i]), numbers[i]);
        }
        cp_worker_unref(w);
        cp_worker_unref(w);
        cp_pool_unref(rig.pool);
        for (int i = 0; i < 4; i++) {
            CHECK(fcntl(numbers[i], F_GETFD) >= 0);
        }
        _exit(7);
    }
    CHECK_EQ(cp_test_reap(pid), 7);
    cp_worker_unref(w);
    rig_finish(&rig, rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 50), 50);
    rig_close(&rig);
}

/* ---- the parent dies ---- */

static void *
open_and_use(void *arg)
{
    struct rig *rig = arg;
    rig_open(rig, 3);
    (void)rig_put_job(rig, 0, OP_BUSY, 1);
    (void)rig_put_job(rig, 0, OP_GATE, 1);
    rig_await_begun(rig, 2);
    return NULL;
}

/* One worker computes, one waits at the gate, and one is idle. The thread that
 * forked them has ended. All of them hold a pipe whose end of file shows that the
 * last one has exited. */
TEST(end_no_worker_outlives_the_parent)
{
    int alive[2], ready[2];
    char byte;
    CHECK_EQ(pipe(alive), 0);
    CHECK_EQ(pipe(ready), 0);
    int parent = cp_test_fork();
    if (parent == 0) {
        static struct rig rig;
        pthread_t thread;
        thread = cp_test_start(open_and_use, &rig);
        (void)cp_test_join(thread);
        CHECK_EQ(write(ready[1], "r", 1), 1);
        for (;;) {
            (void)pause();
        }
    }
    (void)close(alive[1]);
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    CHECK_EQ(kill(parent, SIGKILL), 0);
    CHECK_EQ(cp_test_reap(parent), -SIGKILL);
    CHECK_EQ(read(alive[0], &byte, 1), 0);
    (void)close(alive[0]);
    (void)close(ready[0]);
    (void)close(ready[1]);
}
