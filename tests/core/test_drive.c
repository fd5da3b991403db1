/*
 * The driver's seat: many threads submit, wait, close and end at once, beside the
 * standby thread and a helper. The most important test for ThreadSanitizer.
 */
#include "pool/jobs.h"
#include "pool/plan.h"
#include "pool/state.h"
#include "cp_test.h"
#include "rig.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one at a time ---- */

struct waiting {
    struct rig *rig;
    struct cp_job *job;
    int64_t deadline;
    _Atomic int result;
};

static void *
wait_once(void *arg)
{
    struct waiting *me = arg;
    int r = cp_pool_wait(me->rig->pool, me->job, me->deadline, 0);
    atomic_store(&me->result, r);
    return NULL;
}

static int
count_waiters(struct rig *rig)
{
    int n = 0;
    cp_lock_acquire(&rig->pool->lock);
    for (struct cp_waiter *it = rig->pool->waiters; it != NULL; it = it->next) {
        n++;
    }
    cp_lock_release(&rig->pool->lock);
    return n;
}

/* One thread drives, the others wait behind it. The driver gets its result first
 * and leaves: another thread takes the seat. */
TEST(drive_seat_is_passed_on)
{
    enum { N = 4 };
    struct rig rig;
    struct waiting waiting[N];
    pthread_t threads[N];
    rig_open(&rig, 1);
    for (int i = 0; i < N; i++) {
        waiting[i] = (struct waiting){
            .rig = &rig,
            .job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1),
            .deadline = CP_NEVER};
        threads[i] = cp_test_start(wait_once, &waiting[i]);
        rig_await_asleep(&rig);
        while (count_waiters(&rig) < i) {
            cp_test_let_others_run();
        }
    }
    for (int i = 0; i < N; i++) {
        rig_await_begun(&rig, 1);
        rig_let_through(&rig, 1);
        (void)cp_test_join(threads[i]);
        CHECK_EQ(atomic_load(&waiting[i].result), CP_WAIT_READY);
        rig_finish(&rig, waiting[i].job, 1);
    }
    rig_close(&rig);
}

/* Threads that wait behind the driver are woken for their results; a thread that
 * gives up leaves nothing behind. */
TEST(drive_other_waiters_are_woken)
{
    struct rig rig;
    rig_open(&rig, 2);
    struct waiting first = {
        .rig = &rig,
        .job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1),
        .deadline = CP_NEVER};
    pthread_t first_thread = cp_test_start(wait_once, &first);
    rig_await_begun(&rig, 1);
    rig_await_asleep(&rig);
    for (int i = 0; i < 20; i++) {
        struct waiting late = {.rig = &rig,
                               .job = first.job,
                               .deadline = cp_now() + i % 3 * CP_MS};
        struct waiting other = {
            .rig = &rig,
            .job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 1),
            .deadline = CP_NEVER};
        pthread_t late_thread = cp_test_start(wait_once, &late);
        pthread_t other_thread = cp_test_start(wait_once, &other);
        (void)cp_test_join(late_thread);
        (void)cp_test_join(other_thread);
        CHECK_EQ(atomic_load(&late.result), CP_WAIT_TIMEOUT);
        CHECK_EQ(atomic_load(&other.result), CP_WAIT_READY);
        rig_finish(&rig, other.job, 1);
    }
    CHECK_EQ(count_waiters(&rig), 0);
    rig_let_through(&rig, 1);
    (void)cp_test_join(first_thread);
    rig_finish(&rig, first.job, 1);
    rig_close(&rig);
}

/* One thread drives, two wait behind it. The results of the first two arrive: the
 * seat is offered to the second, which leaves too, and must pass to the third. */
TEST(drive_seat_is_passed_on_by_a_leaving_thread)
{
    struct rig rig;
    struct waiting waiting[3];
    pthread_t threads[3];
    rig_open(&rig, 1);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1),
                  *last = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1);
    rig_await_begun(&rig, 1);
    for (int i = 0; i < 3; i++) {
        waiting[i] = (struct waiting){
            .rig = &rig, .job = i < 2 ? job : last, .deadline = CP_NEVER};
        threads[i] = cp_test_start(wait_once, &waiting[i]);
        rig_await_asleep(&rig);
        while (count_waiters(&rig) < i) {
            cp_test_let_others_run();
        }
    }
    rig_let_through(&rig, 1);
    (void)cp_test_join(threads[0]);
    (void)cp_test_join(threads[1]);
    rig_let_through(&rig, 1);
    (void)cp_test_join(threads[2]);
    rig_finish(&rig, job, 1);
    rig_finish(&rig, last, 1);
    rig_close(&rig);
}

/* While the driver sleeps, other threads give it more to watch: a new worker, and
 * a body that does not fit into the pipe at once. */
TEST(drive_sleeping_driver_watches_new_descriptors)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    struct waiting waiting = {
        .rig = &rig,
        .job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1),
        .deadline = CP_NEVER};
    rig_await_begun(&rig, 1);
    pthread_t thread = cp_test_start(wait_once, &waiting);
    rig_await_asleep(&rig);
    (void)rig_fork(&rig);
    struct cp_job *small = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 1);
    while (!atomic_load(&small->done)) {
        cp_test_let_others_run();
    }
    rig_await_asleep(&rig);
    struct cp_job *big = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add_long(&batch, OP_ECHO, 0, 3 * 1000 * 1000);
    batch_put(&batch, big, true);
    while (!atomic_load(&big->done)) {
        cp_test_let_others_run();
    }
    rig_let_through(&rig, 1);
    (void)cp_test_join(thread);
    rig_finish(&rig, waiting.job, 1);
    rig_finish(&rig, small, 1);
    rig_finish(&rig, big, 1);
    rig_close(&rig);
}

/* Two threads take the same job's results, one at a time. */
static void *
take_half(void *arg)
{
    struct waiting *me = arg;
    int n = 0;
    struct cp_result *result;
    while ((result = rig_take(me->rig, me->job)) != NULL) {
        rig_check_echo(result);
        cp_result_free(result);
        n++;
    }
    atomic_store(&me->result, n);
    return NULL;
}

TEST(drive_results_are_shared)
{
    enum { N = 2000 };
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 2);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    struct waiting a = {.rig = &rig, .job = job}, b = a;
    pthread_t one = cp_test_start(take_half, &a),
              two = cp_test_start(take_half, &b);
    for (int i = 0; i < N; i++) {
        (void)batch_add(&batch, OP_ECHO, 0);
    }
    batch_put(&batch, job, true);
    (void)cp_test_join(one);
    (void)cp_test_join(two);
    CHECK_EQ(a.result + b.result, N);
    cp_job_close(job);
    rig_close(&rig);
}

static void
on_signal(int signal_number)
{
    (void)signal_number;
}

TEST(drive_signal_ends_the_wait)
{
    struct rig rig;
    struct sigaction act = {.sa_handler = on_signal};
    CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
    rig_open(&rig, 1);
    struct waiting waiting = {
        .rig = &rig,
        .job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1),
        .deadline = CP_NEVER,
        .result = -1};
    pthread_t thread = cp_test_start(wait_once, &waiting);
    rig_await_asleep(&rig);
    while (atomic_load(&waiting.result) == -1) {
        CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
        cp_test_let_others_run();
    }
    (void)cp_test_join(thread);
    CHECK_EQ(atomic_load(&waiting.result), CP_EINTR);
    rig_let_through(&rig, 1);
    rig_finish(&rig, waiting.job, 1);
    rig_close(&rig);
}

/* What is due when a thread begins to wait behind the driver ends its own job:
 * it is woken before it sleeps. */
TEST(drive_waiter_that_ends_its_own_job_does_not_sleep)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    cp_lock_acquire(&rig.pool->lock);
    rig.pool->driving = true; /* the driver sleeps, and hears nothing */
    rig.func->deaths = CP_MAX_DEATHS;
    rig.func->lost_pid = getpid();
    cp_jobs_queue_take(job, batch.first, true);
    CHECK((rig.pool->due & CP_DUE_TASKS) != 0);
    cp_lock_release(&rig.pool->lock);
    CHECK_EQ(cp_pool_wait(rig.pool, job, CP_NEVER, 0), CP_WAIT_READY);
    cp_lock_acquire(&rig.pool->lock);
    rig.pool->driving = false;
    rig.func->deaths = 0;
    cp_lock_release(&rig.pool->lock);
    rig_check_lost(rig_take(&rig, job), 0, 0);
    rig_close_job(&rig, job);
    rig_close(&rig);
}

/* The same for a thread that waits until fewer calls wait. */
TEST(drive_waiter_that_hands_out_does_not_sleep)
{
    struct rig rig;
    struct batch batch = {0};
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
    (void)batch_add(&batch, OP_ECHO, 0);
    cp_lock_acquire(&rig.pool->lock);
    cp_jobs_queue_take(job, batch.first, true);
    cp_lock_release(&rig.pool->lock);
    CHECK(cp_pool_wait_pending(rig.pool, 1, CP_NEVER));
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

/* Tasks so quick that the driver spins for the answers before it sleeps. */
TEST(drive_quick_tasks_one_by_one)
{
    struct rig rig;
    rig_open(&rig, 1);
    for (int i = 0; i < 2000; i++) {
        cp_result_free(rig_call(&rig, OP_ECHO, 0));
    }
    for (int i = 0; i < 500; i++) {
        struct batch batch = {0};
        struct cp_job *job = rig_job(&rig, CP_JOB_ORDERED);
        for (int k = 0; k < 4; k++) {
            (void)batch_add(&batch, OP_ECHO, 0);
        }
        batch_put(&batch, job, true);
        rig_finish(&rig, job, 4);
        (void)rig_collect(&rig);
    }
    rig_close(&rig);
}

/* Up to a length of tasks, the driver does not spin for the answer, but the worker
 * spins for the next task. */
TEST(drive_workers_look_for_the_next_task)
{
    static const struct {
        int64_t task_ns;
        uint32_t n_cpus, us;
        bool driver;
    } cases[] = {
        {-1, 2, 0, false},           {CP_US, 2, 50, true},
        {200 * CP_US, 2, 50, false}, {2 * CP_MS, 2, 0, false},
        {CP_US, 1, 0, false},        {200 * CP_US, 1, 0, false},
    };
    struct rig rig;
    rig_open(&rig, 1);
    struct cp_pool *pool = rig.pool;
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_GATE, 1);
    cp_lock_acquire(&pool->lock);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        pool->task_ns = cases[i].task_ns;
        pool->n_cpus = cases[i].n_cpus;
        CHECK_EQ(cp_plan_worker_spin_us(pool), cases[i].us);
        CHECK_EQ(cp_plan_spin_pays(pool), cases[i].driver);
    }
    cp_lock_release(&pool->lock);
    rig_let_through(&rig, 1);
    rig_finish(&rig, job, 1);
    rig_close(&rig);
}

/* ---- the standby thread ---- */

TEST(drive_standby_works_alone)
{
    struct rig rig;
    rig_open(&rig, 2);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    for (int i = 0; i < 10; i++) {
        struct batch batch = {0};
        struct cp_job *job = rig_job(&rig, 0);
        for (int k = 0; k < 300; k++) {
            (void)batch_add(&batch, OP_ECHO, 0);
        }
        batch_put(&batch, job, true);
        while (!atomic_load(&job->done)) {
            cp_test_let_others_run();
        }
        rig_finish(&rig, job, 300);
    }
    cp_pool_stop_standby(rig.pool);
    cp_pool_stop_standby(rig.pool);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0); /* not a second time */
    rig_close(&rig);
}

/* A thread that must not wait glances, while the standby has the seat at first.
 * The glancing thread has to handle what it finds, and the helper is not
 * told. */
TEST(drive_a_glance_finds_an_answer)
{
    struct rig rig;
    rig_open(&rig, 1);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    rig_await_asleep(&rig);
    rig.pool->task_ns = 1; /* tasks are short, so it pays */
    struct cp_job *job = rig_put_job(&rig, 0, OP_ECHO, 1);
    int teller;
    bool found = cp_job_tell(job, &teller) == 0;
    while (!found) { /* on a busy machine, a glance may be in vain */
        found = cp_pool_glance(rig.pool) || atomic_load(&job->done);
    }
    struct cp_job *each = cp_pool_next_each(rig.pool);
    if (each != NULL) {
        CHECK(each == job);
        CHECK(cp_job_take_teller(each) == &teller);
        cp_job_close(each);
    }
    cp_pool_glanced(rig.pool);
    CHECK_EQ(rig.pool->glances, 0);
    rig_finish(&rig, job, 1);
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

/* A task takes longer than a glance: the standby sees its answer. */
TEST(drive_standby_goes_on_after_a_glance_in_vain)
{
    struct rig rig;
    rig_open(&rig, 1);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    for (int i = 0; i < 3; i++) {
        struct cp_job *job = rig_put_job(&rig, 0, OP_GATE, 1);
        rig_await_begun(&rig, 1);
        rig.pool->task_ns = 1;
        rig.pool->spin_rest = 0;
        CHECK(!cp_pool_glance(rig.pool));
        rig_let_through(&rig, 1);
        while (!atomic_load(&job->done)) {
            cp_test_let_others_run();
        }
        rig_finish(&rig, job, 1);
    }
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

TEST(drive_standby_is_not_started_for_an_ended_pool)
{
    struct rig rig;
    rig_open(&rig, 1);
    cp_pool_end(rig.pool);
    CHECK_EQ(cp_pool_start_standby(rig.pool), CP_ECLOSED);
    CHECK(!rig.pool->has_standby);
    rig_close(&rig);
}

/* The standby thread sleeps in the seat, gives it to a waiting thread, and goes on
 * when that thread has left. */
TEST(drive_standby_gives_way)
{
    struct rig rig;
    rig_open(&rig, 2);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    for (int i = 0; i < 50; i++) {
        rig_await_asleep(&rig);
        struct cp_result *result = rig_call(&rig, OP_ECHO, 0);
        cp_result_free(result);
    }
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 1);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    rig_finish(&rig, job, 1);
    /* The standby thread also notices the end by itself. */
    cp_pool_close(rig.pool);
    struct cp_counts counts;
    do {
        cp_test_let_others_run();
        cp_pool_count(rig.pool, &counts);
    } while (counts.workers > 0);
    cp_pool_stop_standby(rig.pool);
    rig_release(&rig);
}

/* Without workers the standby thread waits for the first one. */
TEST(drive_standby_waits_for_workers)
{
    struct rig rig;
    rig_open(&rig, 0);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 1);
    rig.target = 1;
    cp_pool_set_target(rig.pool, 1);
    rig_fill(&rig);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    rig_finish(&rig, job, 1);
    cp_pool_end(rig.pool);
    rig_join(&rig);
    cp_pool_stop_standby(rig.pool);
    rig_release(&rig);
}

/* The last worker has exited, a thread waited in vain meanwhile, and a worker is
 * added: the standby thread drives. */
TEST(drive_standby_drives_a_late_worker)
{
    struct rig rig;
    rig_open(&rig, 1);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    struct cp_job *last = rig_put_job(&rig, CP_JOB_ORDERED, OP_LAST, 1);
    struct cp_counts counts;
    do {
        cp_test_let_others_run();
        cp_pool_count(rig.pool, &counts);
    } while (counts.workers > 0);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 1);
    CHECK_EQ(cp_pool_wait(rig.pool, job, cp_now(), 0), CP_WAIT_TIMEOUT);
    rig_fill(&rig);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    rig_finish(&rig, job, 1);
    cp_result_free(rig_take(&rig, last));
    rig_close_job(&rig, last);
    rig_close(&rig);
}

/* The last job of a closed pool ends, and no worker is left: the standby thread
 * ends, too. */
TEST(drive_standby_ends_with_the_last_job)
{
    struct rig rig;
    rig_open(&rig, 0);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    struct cp_job *job = rig_put_job(&rig, CP_JOB_ORDERED, OP_ECHO, 1);
    bool sleeps = false, has_standby = true;
    while (!sleeps) {
        cp_test_let_others_run();
        cp_lock_acquire(&rig.pool->lock);
        sleeps = rig.pool->standby_tick == CP_NEVER;
        cp_lock_release(&rig.pool->lock);
    }
    cp_pool_close(rig.pool);
    cp_test_let_others_run();
    cp_job_cancel(job);
    while (has_standby) {
        cp_test_let_others_run();
        cp_lock_acquire(&rig.pool->lock);
        has_standby = rig.pool->has_standby;
        cp_lock_release(&rig.pool->lock);
    }
    cp_job_close(job);
    rig_close(&rig);
}

static void *
start_standby(void *arg)
{
    CHECK_EQ(cp_pool_start_standby(((struct rig *)arg)->pool), 0);
    return NULL;
}

static void *
stop_standby(void *arg)
{
    cp_pool_stop_standby(((struct rig *)arg)->pool);
    return NULL;
}

TEST(drive_standby_is_started_and_stopped_at_once)
{
    for (int i = 0; i < 20; i++) {
        struct rig rig;
        rig_open(&rig, 1);
        pthread_t a = cp_test_start(start_standby, &rig);
        pthread_t b = cp_test_start(stop_standby, &rig);
        pthread_t c = cp_test_start(start_standby, &rig);
        pthread_t d = cp_test_start(stop_standby, &rig);
        (void)cp_test_join(a);
        (void)cp_test_join(b);
        (void)cp_test_join(c);
        (void)cp_test_join(d);
        rig_close(&rig);
    }
}

/* ---- all at once ---- */

enum finale { CLOSE, END, BREAK };

struct party {
    struct rig rig;
    enum finale finale;
    _Atomic int results; /* taken by all guests */
    _Atomic bool over;   /* the finale has begun */
    int enough;          /* results after which the finale begins */
};

struct guest {
    struct party *party;
    uint64_t seed;
};

static struct cp_job *
open_job(struct party *party, uint32_t flags)
{
    struct cp_job *job;
    int r = cp_job_open(party->rig.pool, party->rig.func, flags, party, &job);
    CHECK(r == 0 || (r == CP_ECLOSED && atomic_load(&party->over)));
    return job;
}

static void
put_some(struct cp_job *job, uint64_t n, uint64_t *seed)
{
    struct batch batch = {0};
    for (uint64_t i = 0; i < n; i++) {
        uint32_t dice = cp_test_random(seed) % 100;
        enum op op = dice == 0 && !CP_TEST_ASAN ? OP_DIE
                     : dice < 5                 ? OP_RAISE
                     : dice < 20                ? OP_QUIET
                                                : OP_ECHO;
        size_t len = dice == 99 ? 50000 : dice;
        (void)batch_add_long(&batch, op, SIGKILL, len);
        if (dice % 8 == 0) {
            batch_put(&batch, job, false);
        }
    }
    batch_put(&batch, job, true);
}

/* Take all results, one by one or many at once, with and without a deadline. */
static uint64_t
take_some(struct party *party, struct cp_job *job, uint64_t *seed)
{
    uint64_t n = 0;
    for (;;) {
        bool done = atomic_load(&job->done);
        bool all =
            (job->flags & CP_JOB_ORDERED) == 0 && cp_test_random(seed) % 2 == 0;
        struct cp_result *result =
            all ? cp_job_take_all(job) : cp_job_take(job);
        for (struct cp_result *r = result; r != NULL; r = r->next) {
            (void)atomic_fetch_add(&party->results, 1);
            n++;
        }
        cp_result_free_list(result);
        if (all && result != NULL) {
            cp_job_decoded(job, NULL);
        }
        if (result == NULL && done) {
            return n;
        }
        if (result == NULL) {
            int64_t deadline =
                cp_test_random(seed) % 4 == 0 ? cp_now() + CP_MS : CP_NEVER;
            int r = rig_wait(&party->rig, job, deadline);
            CHECK(r == CP_WAIT_READY
                  || (r == CP_WAIT_TIMEOUT && deadline != CP_NEVER));
        }
    }
}

static void *
guest(void *arg)
{
    static const uint32_t kinds[] = {0, CP_JOB_ORDERED, CP_JOB_CALLS,
                                     CP_JOB_CALLS | CP_JOB_ORDERED};
    struct guest *me = arg;
    struct cp_job *job;
    while ((job = open_job(me->party, kinds[cp_test_random(&me->seed) % 4]))
           != NULL) {
        uint64_t n = cp_test_random(&me->seed) % 40;
        put_some(job, n, &me->seed);
        if (cp_test_random(&me->seed) % 8 == 0) {
            cp_job_close(job); /* unread */
            continue;
        }
        uint64_t taken = take_some(me->party, job, &me->seed);
        if (atomic_load(&job->end) == CP_END_NONE) {
            CHECK_EQ(taken, n);
        } else {
            CHECK(atomic_load(&me->party->over));
            CHECK(taken <= n);
        }
        cp_job_close(job);
    }
    return NULL;
}

static void *
host(void *arg)
{
    struct party *party = arg;
    struct cp_job *job;
    for (;;) {
        switch (
            cp_pool_next(party->rig.pool, CP_DO_CALLS | CP_DO_STARTS, &job)) {
            case CP_WAIT_CALL:
                cp_job_called(job);
                cp_job_close(job);
                break;
            case CP_WAIT_WORKERS: rig_fill(&party->rig); break;
            case CP_WAIT_IDLE: (void)rig_collect(&party->rig); break;
            case CP_WAIT_ENDED: return NULL;
            default: CHECK(false);
        }
    }
}

static void
count_job(struct cp_job *job, void *arg)
{
    (void)job;
    ++*(uint64_t *)arg;
}

static void
end_party(struct party *party)
{
    struct cp_counts counts;
    uint64_t pending = 0;
    while (atomic_load(&party->results) < party->enough) {
        cp_pool_count(party->rig.pool, &counts);
        cp_pool_each_job(party->rig.pool, count_job, &pending);
        cp_test_let_others_run();
    }
    atomic_store(&party->over, true);
    switch (party->finale) {
        case CLOSE: cp_pool_close(party->rig.pool); break;
        case END: cp_pool_end(party->rig.pool); break;
        case BREAK:
            cp_pool_break_take(party->rig.pool, cp_result_new(0, CP_RAISED, 0));
            cp_pool_close(party->rig.pool); /* or they would come again */
            break;
    }
}

static void
give_party(enum finale finale, int n_guests, int enough)
{
    struct party party = {.finale = finale, .enough = enough};
    struct guest guests[8];
    pthread_t threads[8];
    rig_open(&party.rig, 3);
    CHECK_EQ(cp_pool_start_standby(party.rig.pool), 0);
    pthread_t host_thread = cp_test_start(host, &party);
    for (int i = 0; i < n_guests; i++) {
        guests[i] = (struct guest){.party = &party,
                                   .seed = (uint64_t)(enough * 100 + i)};
        threads[i] = cp_test_start(guest, &guests[i]);
    }
    end_party(&party);
    for (int i = 0; i < n_guests; i++) {
        (void)cp_test_join(threads[i]);
    }
    rig_join(&party.rig);
    (void)cp_test_join(host_thread);
    cp_pool_stop_standby(party.rig.pool);
    cp_pool_close_fds(party.rig.pool);
    rig_release(&party.rig);
}

TEST(drive_many_threads_until_close)
{
    give_party(CLOSE, 6, 3000);
}

TEST(drive_many_threads_until_end)
{
    for (int i = 0; i < 10; i++) {
        give_party(END, 4, 1 + i * 60);
    }
}

TEST(drive_many_threads_until_broken)
{
    for (int i = 0; i < 10; i++) {
        give_party(BREAK, 4, 1 + i * 60);
    }
}

#ifndef CP_PORTABLE

/* A pool of one worker with shared memory, which is freed early. */
static void
open_with_memory(struct rig *rig)
{
    rig_open(rig, 0);
    CHECK_EQ(cp_pool_open_memory(rig->pool, UINT64_C(1) << 26), 0);
    cp_heap_set_rest(cp_pool_heap(rig->pool), CP_MS);
    rig->target = 1;
    cp_pool_set_target(rig->pool, 1);
    rig_fill(rig);
}

/* Use a block, and nothing else. */
static void
use_memory(struct rig *rig)
{
    static const uint8_t bytes[CP_KIB(256)];
    struct cp_ref ref;
    CHECK_EQ(cp_heap_put(cp_pool_heap(rig->pool), bytes, sizeof(bytes), &ref),
             0);
    cp_heap_drop(cp_pool_heap(rig->pool), ref.slot);
}

static void
await_rest(struct rig *rig)
{
    struct cp_heap_counts counts;
    while (cp_heap_rest_at(cp_pool_heap(rig->pool)) != CP_NEVER) {
        cp_test_let_others_run();
    }
    cp_heap_count(cp_pool_heap(rig->pool), &counts);
    CHECK_EQ(counts.filled, 0);
}

/* The standby frees unused shared memory while no thread is in a call; a call that
 * has used such memory starts the standby. */
TEST(drive_standby_frees_shared_memory)
{
    struct rig rig;
    open_with_memory(&rig);
    for (int i = 0; i < 2; i++) {
        struct cp_job *job = rig_job(&rig, 0);
        struct batch batch = {0};
        (void)batch_add(&batch, OP_ECHO, 0);
        use_memory(&rig);
        batch_put(&batch, job, true);
        rig_finish(&rig, job, 1);
        await_rest(&rig);
    }
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

#endif
