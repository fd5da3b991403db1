/* Jobs take turns, and a worker that does not react keeps no tasks back. */
#include "pool/state.h"
#include "pool/turns.h"
#include "cp_test.h"
#include "rig.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

/* A job of n tasks that wait at the gate and are expected to take a
 * millisecond. */
static struct cp_job *
put_gates(struct rig *rig, int n)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, 0);
    job->many->avg_ns = CP_MS;
    for (int i = 0; i < n; i++) {
        (void)batch_add(&batch, OP_GATE, 0);
    }
    batch_put(&batch, job, true);
    return job;
}

/* The worker's window is full of tasks of another job: those that the worker
 * has not begun are taken back. */
TEST(turns_single_call_overtakes_a_full_window)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = put_gates(&rig, 9);
    CHECK(rig.pool->workers->in_flight > 4);
    rig_await_begun(&rig, 1);
    /* However slow this machine is, the first task must not count as slow. */
    atomic_store(&rig.pool->workers->row->since, cp_now() + 3600 * CP_SECOND);
    struct cp_job *call = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
    rig_let_through(&rig, 1);
    rig_finish(&rig, call, 1);
    CHECK_EQ(cp_job_arrived(job, NULL), 1);
    rig_let_through(&rig, 8);
    rig_finish(&rig, job, 9);
    rig_await_begun(&rig, 8);
    rig_close(&rig);
}

/* Two jobs that are always fed: each is handed out as often as the other. */
TEST(turns_jobs_share_a_worker)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *gate = put_gates(&rig, 1);
    rig_await_begun(&rig, 1);
    struct cp_job *jobs[2];
    for (int i = 0; i < 2; i++) {
        struct batch batch = {0};
        jobs[i] = rig_job(&rig, 0);
        jobs[i]->many->avg_ns = 1000 * CP_SECOND; /* one task at a time */
        for (int k = 0; k < 20; k++) {
            (void)batch_add(&batch, OP_ECHO, 0);
        }
        batch_put(&batch, jobs[i], true);
    }
    rig_let_through(&rig, 1);
    for (int k = 0; k < 10; k++) {
        rig_take_echoes(&rig, jobs[0], 1);
    }
    uint64_t other = cp_job_arrived(jobs[1], NULL);
    CHECK(other >= 5); /* about as many; none in the order of submission */
    CHECK(other <= 15);
    rig_take_echoes(&rig, jobs[0], 10);
    rig_close_job(&rig, jobs[0]);
    rig_finish(&rig, jobs[1], 20);
    rig_finish(&rig, gate, 1);
    rig_close(&rig);
}

static void
stop_and_run(struct rig *rig, size_t len)
{
    struct cp_worker *stopped = rig->pool->workers;
    CHECK_EQ(cp_proc_kill(&stopped->proc, SIGSTOP), 0);
    for (int round = 0; round < 3; round++) {
        struct batch batch = {0};
        struct cp_job *job = rig_job(rig, 0);
        for (int i = 0; i < 6; i++) {
            (void)batch_add_long(&batch, OP_ECHO, 0, len);
        }
        batch_put(&batch, job, true);
        while (!atomic_load(&job->done)) { /* the standby drives */
            cp_test_let_others_run();
        }
        rig_finish(rig, job, 6);
    }
    CHECK_EQ(cp_proc_kill(&stopped->proc, SIGCONT), 0);
}

/* Tasks that were sent to a stopped worker are taken back, and it gets no
 * others. */
TEST(turns_stopped_worker_keeps_no_task)
{
    struct rig rig;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    stop_and_run(&rig, 0);
    rig_close(&rig);
}

/* The same with bodies that do not fit into the pipe. */
TEST(turns_stopped_worker_keeps_no_big_task)
{
    struct rig rig;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    stop_and_run(&rig, 1 << 20);
    rig_close(&rig);
}

/* The stopped worker is the only one: it runs its task when it is continued. */
TEST(turns_stopped_worker_goes_on)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    CHECK_EQ(cp_proc_kill(&rig.pool->workers->proc, SIGSTOP), 0);
    struct cp_job *first = rig_put_job(&rig, 0, OP_ECHO, 1);
    struct cp_job *second = rig_put_job(&rig, 0, OP_ECHO, 5);
    CHECK_EQ(cp_pool_wait(rig.pool, first, cp_now() + 30 * CP_MS, 0),
             CP_WAIT_TIMEOUT);
    CHECK_EQ(cp_proc_kill(&rig.pool->workers->proc, SIGCONT), 0);
    rig_finish(&rig, second, 5);
    rig_finish(&rig, first, 1);
    rig_close(&rig);
}

/* The distance from the worker's oldest task in flight to its next one. */
static uint64_t
span(const struct cp_worker *w)
{
    return w->tail - w->head;
}

/* One turn of the single calls fills the worker again: tasks that were taken
 * back for a new line come after that line. */
TEST(turns_calls_taken_back_let_the_new_line_go_first)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    rig.func->avg_ns = 5 * CP_MS;
    struct cp_job *gate = rig_put_job(&rig, CP_JOB_SINGLE, OP_GATE, 1);
    rig_await_begun(&rig, 1);
    atomic_store(&rig.pool->workers->row->since, cp_now() + 3600 * CP_SECOND);
    struct cp_job *call = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
    CHECK_EQ(rig.pool->workers->in_flight, 2);
    struct cp_job *job = rig_put_job(&rig, 0, OP_ECHO, 1);
    CHECK(span(rig.pool->workers) < 5);
    CHECK_EQ(job->running, 1);
    rig_let_through(&rig, 1);
    rig_finish(&rig, gate, 1);
    rig_finish(&rig, call, 1);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

/* Taking back tasks is limited: the next call waits for its turn, so that a
 * stream of calls does not have a job's tasks sent again and again. */
TEST(turns_room_is_not_made_for_each_call)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_worker *w = rig.pool->workers;
    struct cp_job *job = put_gates(&rig, 9);
    rig_await_begun(&rig, 1);
    atomic_store(&w->row->since, cp_now() + 3600 * CP_SECOND);
    CHECK_EQ(rig.pool->room_at, 0);
    int64_t before = cp_now();
    struct cp_job *first = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
    CHECK_EQ(first->running, 1);
    CHECK(rig.pool->room_at > before);
    rig.pool->room_at = cp_now() + 3600 * CP_SECOND;
    uint64_t tail = w->tail;
    struct cp_job *second = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
    CHECK(w->tail - tail <= 1); /* nothing was taken back and sent again */
    rig_let_through(&rig, 9);
    rig_finish(&rig, first, 1);
    rig_finish(&rig, second, 1);
    rig_finish(&rig, job, 9);
    rig_await_begun(&rig, 8);
    rig_close(&rig);
}

/* A big task waits for an idle worker. The small tasks behind it do not: one worker is
 * left to run dry, and the other one gets them. */
TEST(turns_big_task_blocks_no_small_ones)
{
    for (uint32_t flags = 0; flags <= CP_JOB_SINGLE; flags += CP_JOB_SINGLE) {
        struct rig rig;
        struct batch batch = {0};
        rig_open(&rig, 2);
        rig_await_started(&rig);
        rig.func->avg_ns = CP_MS;
        struct cp_job *gates[2];
        for (int i = 0; i < 2; i++) {
            gates[i] = rig_put_job(&rig, CP_JOB_SINGLE, OP_GATE, 1);
        }
        rig_await_begun(&rig, 2);
        struct cp_worker *w;
        for (w = rig.pool->workers; w != NULL; w = w->next) {
            /* However slow this machine is, no task must count as slow. */
            atomic_store(&w->row->since, cp_now() + 3600 * CP_SECOND);
        }
        struct cp_job *big = rig_job(&rig, flags);
        if (cp_job_many(big) != NULL) {
            big->many->avg_ns = CP_MS;
        }
        (void)batch_add_long(&batch, OP_ECHO, 0, CP_BIG);
        batch_put(&batch, big, true);
        struct cp_job *small[3];
        for (int i = 0; i < 3; i++) {
            small[i] = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
        }
        CHECK_EQ(big->queued, 1);
        CHECK_EQ(small[0]->running, 1);
        CHECK_EQ(small[1]->running, 1);
        uint32_t dry = 0;
        for (w = rig.pool->workers; w != NULL; w = w->next) {
            dry += w->in_flight == 1 ? 1 : 0;
        }
        /* New single calls come before other lines. */
        CHECK(dry == 1 || flags == 0);
        rig_let_through(&rig, 2);
        rig_finish(&rig, big, 1);
        for (int i = 0; i < 3; i++) {
            rig_finish(&rig, small[i], 1);
        }
        rig_finish(&rig, gates[0], 1);
        rig_finish(&rig, gates[1], 1);
        rig_close(&rig);
    }
}

/* No tasks are taken back for a job whose reader is far behind. */
TEST(turns_nobody_makes_room_for_a_slow_reader)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *unread = rig_job(&rig, 0);
    for (int i = 0; i < 1100; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    batch_put(&batch, unread, false);
    while (cp_job_arrived(unread, NULL) < 1100) {
        cp_result_free(rig_call(&rig, OP_ECHO, 0));
    }
    struct batch gates = {0};
    struct cp_job *job = rig_job(&rig, 0);
    job->many->avg_ns = 5 * CP_MS;
    (void)batch_add(&gates, OP_GATE, 0);
    (void)batch_add(&gates, OP_ECHO, 0);
    batch_put(&gates, job, true);
    rig_await_begun(&rig, 1);
    atomic_store(&rig.pool->workers->row->since, cp_now() + 3600 * CP_SECOND);
    unread->many->avg_ns = CP_MS;
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, unread, true);
    CHECK_EQ(rig.pool->workers->in_flight, 2);
    CHECK_EQ(span(rig.pool->workers), 2);
    rig_let_through(&rig, 1);
    rig_finish(&rig, job, 2);
    rig_finish(&rig, unread, 1101);
    rig_close(&rig);
}

/* A worker that did not react got no tasks. Now it has read what it was sent,
 * which needs no answer: the driver must not sleep through that. */
TEST(turns_driver_looks_for_a_worker_that_goes_on)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_worker *w = rig.pool->workers;
    cp_result_free(rig_call(&rig, OP_ECHO, 0));
    (void)atomic_fetch_add(&w->row->sent, 1); /* it has something to read */
    w->active_at = 0;
    rig.pool->stirred = false;
    rig.pool->probe_at = CP_NEVER;
    struct cp_job *job = rig_put_job(&rig, 0, OP_ECHO, 1);
    CHECK_EQ(job->queued, 1);
    (void)atomic_fetch_sub(&w->row->sent, 1); /* it has read that */
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

/* A call behind a task that takes long, while an endless job leaves no worker idle:
 * another worker runs the call. */
TEST(turns_call_behind_a_slow_task_is_taken_back)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_worker *w = rig.pool->workers;
    rig.func->avg_ns = CP_MS;
    struct cp_job *slow = rig_put_job(&rig, CP_JOB_SINGLE, OP_GATE, 1);
    rig_await_begun(&rig, 1);
    atomic_store(&w->row->since, cp_now() + 3600 * CP_SECOND);
    struct cp_job *call = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
    CHECK_EQ(w->in_flight, 2);
    struct cp_job *endless = rig_job(&rig, 0);
    for (int i = 0; i < 20; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    atomic_store(&w->row->since, cp_now() - 3600 * CP_SECOND);
    endless->many->avg_ns = 1000 * CP_SECOND;
    batch_put(&batch, endless, false);
    CHECK(rig_fork(&rig) > 0);
    while (!atomic_load(&call->done)) {
        rig_take_echoes(&rig, endless, 1);
        endless->many->avg_ns = 1000 * CP_SECOND;
        (void)batch_add(&batch, OP_ECHO, 0);
        batch_put(&batch, endless, false);
    }
    CHECK(!atomic_load(&slow->done));
    rig_let_through(&rig, 1);
    rig_finish(&rig, slow, 1);
    rig_finish(&rig, call, 1);
    batch_put(&batch, endless, true);
    while (!atomic_load(&endless->done)) {
        cp_result_free(rig_take(&rig, endless));
    }
    cp_job_drop_results(endless);
    rig_close_job(&rig, endless);
    rig_close(&rig);
}

/* An ordered job lacks its first result, and has many later ones: its reader waits,
 * so the job gets its turn beside another one. */
TEST(turns_reader_that_waits_is_not_behind)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *ordered = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    struct cp_task *first = batch.first;
    batch.first = batch.last = NULL;
    for (int i = 0; i < 1100; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    batch_put(&batch, ordered, false);
    while (cp_job_arrived(ordered, NULL) < 1100) {
        cp_result_free(rig_call(&rig, OP_ECHO, 0));
    }
    struct cp_job *gate = put_gates(&rig, 1);
    rig_await_begun(&rig, 1);
    gate->many->avg_ns = 1000 * CP_SECOND;
    struct batch others = {0};
    struct cp_job *endless = rig_job(&rig, 0);
    endless->many->avg_ns = ordered->many->avg_ns = 1000 * CP_SECOND;
    atomic_store(&rig.pool->workers->row->since, cp_now() - 3600 * CP_SECOND);
    for (int i = 0; i < 20; i++) {
        (void)batch_add(&others, OP_ECHO, 0);
    }
    batch_put(&others, endless, true);
    cp_job_put_take(ordered, first, true);
    rig_let_through(&rig, 1);
    rig_take_echoes(&rig, ordered, 1);
    CHECK(cp_job_arrived(endless, NULL) < 10);
    rig_take_echoes(&rig, ordered, 1100);
    rig_close_job(&rig, ordered);
    rig_finish(&rig, endless, 20);
    rig_finish(&rig, gate, 1);
    rig_close(&rig);
}

/* A job of n echoes that are expected to take long, so that they run one at a
 * time. */
static struct cp_job *
put_placed(struct rig *rig, int n, uint16_t pin, int8_t priority)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, 0);
    CHECK_EQ(cp_job_set_place(job, pin, priority), 0);
    job->many->avg_ns = 1000 * CP_SECOND;
    for (int i = 0; i < n; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    return job;
}

/* A higher priority is served completely first, whatever the order of
 * submission. */
TEST(turns_priorities_are_served_from_the_highest)
{
    static const int8_t priorities[] = {0, -128, 127, 3, -1};
    static const int order[] = {2, 3, 0, 4, 1};
    struct rig rig;
    struct cp_job *jobs[5];
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *gate = put_gates(&rig, 1);
    rig_await_begun(&rig, 1);
    for (int i = 0; i < 5; i++) {
        jobs[i] = put_placed(&rig, 4, 0, priorities[i]);
    }
    rig_let_through(&rig, 1);
    for (int i = 0; i < 5; i++) {
        for (int k = i + 1; k < 5; k++) {
            /* One task of the next job may be in flight. */
            CHECK(cp_job_arrived(jobs[order[k]], NULL) <= 1);
        }
        rig_take_echoes(&rig, jobs[order[i]], 4);
        rig_close_job(&rig, jobs[order[i]]);
    }
    rig_finish(&rig, gate, 1);
    rig_close(&rig);
}

/* Tasks for a worker that will never exist are lost, the others run. */
TEST(turns_tasks_for_no_worker_are_lost)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *mine = put_placed(&rig, 3, 1, 0);
    struct cp_job *theirs = put_placed(&rig, 3, 2, 0);
    rig_finish(&rig, mine, 3);
    CHECK_EQ(cp_job_arrived(theirs, NULL), 0);
    CHECK_EQ(rig.pool->n_pinned, 3);
    cp_pool_set_indexes(rig.pool, 1);
    CHECK_EQ(rig.pool->n_pinned, 0);
    for (int i = 0; i < 3; i++) {
        struct cp_result *lost = cp_job_take(theirs);
        CHECK(lost != NULL && lost->outcome == CP_LOST
              && lost->reason == CP_NO_WORKER && lost->worker == 1);
        cp_result_free(lost);
    }
    CHECK(atomic_load(&theirs->done));
    rig_close_job(&rig, theirs);
    struct cp_job *late = put_placed(&rig, 1, 2, 5);
    struct cp_result *lost = cp_job_take(late);
    CHECK(lost != NULL && lost->reason == CP_NO_WORKER);
    cp_result_free(lost);
    rig_close_job(&rig, late);
    rig_close(&rig);
}

/* The same for tasks that were with the worker when its place was removed, and
 * come back as it retires or dies. */
TEST(turns_tasks_of_a_removed_worker_are_lost)
{
    for (int dies = 0; dies < 2; dies++) {
        struct rig rig;
        struct batch batch = {0};
        rig_open(&rig, 1);
        rig_await_started(&rig);
        rig.pool->workers->index = 1;
        struct cp_job *job = rig_job(&rig, 0);
        CHECK_EQ(cp_job_set_place(job, 2, 0), 0);
        job->many->avg_ns = CP_US;
        for (int i = 0; i < 4; i++) {
            (void)batch_add(&batch, OP_GATE, 0);
        }
        batch_put(&batch, job, true);
        rig_await_begun(&rig, 1);
        CHECK(rig.pool->workers->in_flight > 1);
        (void)cp_pool_set_target(rig.pool, 0);
        rig.target = 0;
        cp_pool_set_indexes(rig.pool, 1);
        if (dies) {
            CHECK_EQ(kill(rig.last_pid, SIGKILL), 0);
        } else {
            cp_pool_retire(rig.pool, 1, 1);
            rig_let_through(&rig, 1);
        }
        int lost[2] = {0, 0};
        for (int i = 0; i < 4; i++) {
            struct cp_result *result = rig_take(&rig, job);
            CHECK(result != NULL);
            if (result->outcome != CP_OK) {
                CHECK_EQ(result->outcome, CP_LOST);
                lost[result->reason == CP_NO_WORKER]++;
            }
            cp_result_free(result);
        }
        CHECK_EQ(lost[0], dies);
        CHECK_EQ(lost[1], 3);
        rig_close_job(&rig, job);
        rig_close(&rig);
    }
}

/* Tasks that only one worker may run stay in its window while another worker is
 * idle. */
TEST(turns_pinned_tasks_are_taken_to_no_other_worker)
{
    struct rig rig;
    rig_open(&rig, 2);
    rig_await_started(&rig);
    rig.pool->workers->index = 0;
    rig.pool->workers->next->index = 1;
    struct batch batch = {0};
    struct cp_job *job = rig_job(&rig, 0);
    CHECK_EQ(cp_job_set_place(job, 2, 0), 0);
    job->many->avg_ns = CP_MS;
    for (int i = 0; i < 4; i++) {
        (void)batch_add(&batch, OP_GATE, 0);
    }
    batch_put(&batch, job, true);
    rig_await_begun(&rig, 1);
    for (int i = 0; i < 20; i++) {
        struct cp_job *echo = rig_put_job(&rig, CP_JOB_SINGLE, OP_ECHO, 1);
        rig_finish(&rig, echo, 1);
    }
    CHECK_EQ(rig.pool->workers->in_flight, 0);
    CHECK_EQ(rig.pool->workers->next->in_flight + rig.pool->n_pinned, 4);
    rig_let_through(&rig, 4);
    rig_finish(&rig, job, 4);
    rig_close(&rig);
}

/* Are the jobs for worker 0 in the order of priority and submission? */
static int
count_in_order(const struct cp_pool *pool)
{
    int n = 0;
    const struct cp_line *line = &pool->pins->lines[0];
    for (const struct cp_job *job = line->first; job != NULL;
         job = job->line_next, n++) {
        const struct cp_job *next = job->line_next;
        CHECK(next != NULL ? next->line_prev == job : line->last == job);
        CHECK(next == NULL || job->priority > next->priority
              || (job->priority == next->priority && job->id < next->id));
    }
    return n;
}

static double
cpu_seconds(void)
{
    struct timespec ts;
    CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

enum { MANY = 60000 };

/* Jobs for one worker, of priorities from -5 to 4, the first without one. */
static struct cp_job **
open_pinned(struct rig *rig, int n)
{
    struct cp_job **jobs = calloc((size_t)n, sizeof(*jobs));
    CHECK(jobs != NULL);
    for (int i = 0; i < n; i++) {
        jobs[i] = rig_job(rig, CP_JOB_SINGLE);
        cp_lock_acquire(&rig->pool->lock);
        CHECK_EQ(
            cp_turns_set_priority(jobs[i], (int8_t)(i < 10 ? 0 : i % 10 - 5)),
            0);
        CHECK_EQ(cp_turns_set_pin(jobs[i], 1), 0);
        cp_lock_release(&rig->pool->lock);
    }
    return jobs;
}

/* Joining the line of one worker costs the same, however many jobs of other
 * priorities wait there. */
TEST(turns_many_jobs_of_many_priorities_for_one_worker)
{
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_pool *pool = rig.pool;
    struct cp_job **jobs = open_pinned(&rig, MANY);
    cp_lock_acquire(&pool->lock);
    double began = cpu_seconds();
    for (int i = 0; i < MANY; i++) {
        cp_turns_add(jobs[i], false);
    }
    /* A worker takes the first ones, and they are taken back. */
    for (int round = 0; round < 3; round++) {
        struct cp_job *taken[100];
        for (int i = 0; i < 100; i++) {
            taken[i] = pool->pins->lines[0].first;
            cp_turns_del(taken[i]);
        }
        for (int i = 100; i-- > 0;) {
            cp_turns_add(taken[i], true);
        }
    }
    CHECK(cpu_seconds() - began < 2);
    CHECK_EQ(count_in_order(pool), MANY);
    /* Any may leave and come back. */
    unsigned random = 1;
    for (int i = 0; i < 2000; i++) {
        random = random * 1103515245u + 12345u;
        struct cp_job *job = jobs[random / 65536 % 200];
        if (job->in_line) {
            cp_turns_del(job);
        } else {
            cp_turns_add(job, true);
        }
    }
    int there = 0;
    for (int i = 0; i < MANY; i++) {
        there += jobs[i]->in_line ? 1 : 0;
    }
    CHECK_EQ(count_in_order(pool), there);
    for (int i = 0; i < MANY; i++) {
        cp_turns_del(jobs[i]);
    }
    CHECK_EQ(count_in_order(pool), 0);
    cp_lock_release(&pool->lock);
    for (int i = 0; i < MANY; i++) {
        cp_job_close(jobs[i]);
    }
    free(jobs);
    rig_close(&rig);
}
