/* Workers that are threads: taking turns, dropped tasks, the end. */
#include "pool/flow.h"
#include "pool/pool.h"
#include "pool/state.h"
#include "cp_test.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_WORKERS 8

enum op {
    OP_ECHO,
    OP_GATE,   /* say "begun", then wait for the gate */
    OP_RAISE,  /* the outcome is CP_RAISED */
    OP_NOMEM,  /* no memory for the result */
    OP_CANCEL, /* cancel the job of the task */
    OP_YIELD,  /* yield YIELDED values */
    OP_PASS,   /* pass on the value, and free the call */
};

#define YIELDED 8u

struct body {
    uint64_t op, value;
};

/* A pool and its workers. */
struct team {
    struct cp_pool *pool;
    pthread_t threads[MAX_WORKERS];
    uint32_t n;
    sem_t begun, gate;
    _Atomic int ran;
};

/* Bodies that exist; the release hook counts them down. */
static _Atomic int bodies;
static _Atomic int released; /* by the hook */

static void
release(struct cp_task *tasks, struct cp_result *results)
{
    CHECK(tasks != NULL || results != NULL);
    while (tasks != NULL) {
        struct cp_task *next = tasks->next;
        if (tasks->len > 0) {
            (void)atomic_fetch_sub(&bodies, 1);
        }
        (void)atomic_fetch_add(&released, 1);
        cp_task_free(tasks);
        tasks = next;
    }
    while (results != NULL) {
        struct cp_result *next = results->next;
        if (results->len > 0) {
            (void)atomic_fetch_sub(&bodies, 1);
        }
        (void)atomic_fetch_add(&released, 1);
        cp_result_free(results);
        results = next;
    }
}

static void
yield_values(struct team *team, struct cp_task *task)
{
    uint64_t room = 0;
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < YIELDED; i++) {
        r = room > 0 ? 0 : cp_threads_wait_room(team->pool, task, &room);
        if (r == 0) {
            struct cp_result *value =
                cp_result_new(task->index, CP_OK, sizeof(i));
            CHECK(value != NULL);
            value->flags = CP_IS_VALUE;
            memcpy(value->body, &i, sizeof(i));
            (void)atomic_fetch_add(&bodies, 1);
            r = cp_threads_yield(team->pool, task, value, &room);
        }
    }
    CHECK(r == 0 || r == CP_ECLOSED);
}

static struct cp_result *
answer(struct team *team, struct cp_task *task)
{
    struct body body;
    memcpy(&body, task->body, sizeof(body));
    (void)atomic_fetch_add(&team->ran, 1);
    if (body.op == OP_GATE) {
        CHECK_EQ(sem_post(&team->begun), 0);
        CHECK_EQ(sem_wait(&team->gate), 0);
    }
    if (body.op == OP_CANCEL) {
        cp_job_cancel(task->job);
    }
    if (body.op == OP_YIELD) {
        yield_values(team, task);
    }
    (void)atomic_fetch_sub(&bodies, 1); /* the body of the task is gone */
    if (body.op == OP_NOMEM) {
        return NULL;
    }
    if (body.op == OP_PASS) {
        struct cp_result *passed = cp_result_new(task->index, CP_OK, 0);
        CHECK(passed != NULL);
        passed->items = task->items;
        passed->flags = CP_TAKEN;
        free(task->call);
        task->call = NULL;
        return passed;
    }
    struct cp_result *result = cp_result_new(
        task->index, body.op == OP_RAISE ? CP_RAISED : CP_OK, sizeof(uint64_t));
    CHECK(result != NULL);
    result->items = task->items;
    memcpy(result->body, &body.value, sizeof(body.value));
    (void)atomic_fetch_add(&bodies, 1);
    return result;
}

static void
collect(struct cp_pool *pool)
{
    struct cp_job *job = cp_pool_ended(pool);
    while (job != NULL) {
        struct cp_job *next = job->call_next;
        cp_job_close(job);
        job = next;
    }
}

static void *
work(void *arg)
{
    struct team *team = arg;
    struct cp_turn turn = {0};
    struct cp_result *result = NULL;
    int r;
    do {
        bool wait = !cp_threads_has_queued(team->pool);
        r = cp_threads_swap(team->pool, &turn, result, wait);
        result = NULL;
        if (turn.dropped) {
            cp_pool_release_dropped(team->pool);
        }
        if (r == 1) {
            result = answer(team, turn.task);
        } else {
            CHECK(turn.task == NULL);
            collect(team->pool);
        }
    } while (r >= 0);
    CHECK_EQ(r, CP_ECLOSED);
    cp_threads_leave(team->pool, 0);
    return NULL;
}

static void
team_add(struct team *team, uint32_t n)
{
    while (n-- > 0) {
        CHECK_EQ(cp_threads_enter(team->pool, 0), 0);
        team->threads[team->n++] = cp_test_start(work, team);
    }
}

static void
team_open(struct team *team, uint32_t n, bool take_turns)
{
    memset(team, 0, sizeof(*team));
    CHECK_EQ(sem_init(&team->begun, 0, 0), 0);
    CHECK_EQ(sem_init(&team->gate, 0, 0), 0);
    CHECK_EQ(cp_pool_new_threads(n, release, take_turns, &team->pool), 0);
    team_add(team, n);
}

/* Wait until the workers end by themselves; check that nothing leaks. */
static void
team_join(struct team *team)
{
    for (uint32_t i = 0; i < team->n; i++) {
        (void)cp_test_join(team->threads[i]);
    }
    collect(team->pool);
    cp_pool_close_late(team->pool);
    struct cp_counts counts;
    cp_pool_count(team->pool, &counts);
    CHECK_EQ(counts.pending, 0);
    CHECK_EQ(counts.queued, 0);
    CHECK_EQ(counts.workers, 0);
    cp_pool_unref(team->pool);
    CHECK_EQ(atomic_load(&bodies), 0);
    CHECK_EQ(sem_destroy(&team->begun), 0);
    CHECK_EQ(sem_destroy(&team->gate), 0);
}

static void
team_close(struct team *team)
{
    cp_pool_close(team->pool);
    team_join(team);
}

static void
await_begun(struct team *team, int n)
{
    while (n-- > 0) {
        CHECK_EQ(sem_wait(&team->begun), 0);
    }
}

static void
let_through(struct team *team, int n)
{
    while (n-- > 0) {
        CHECK_EQ(sem_post(&team->gate), 0);
    }
}

/* Wait until all workers are asleep. */
static void
await_asleep(struct team *team)
{
    bool asleep = false;
    while (!asleep) {
        cp_lock_acquire(&team->pool->lock);
        asleep = team->pool->threads.asleep == team->n
                 && team->pool->threads.woken == 0;
        cp_lock_release(&team->pool->lock);
        cp_test_let_others_run();
    }
}

static struct cp_job *
open_job(struct team *team, uint32_t flags)
{
    struct cp_job *job;
    CHECK_EQ(cp_job_open(team->pool, NULL, flags, NULL, &job), 0);
    return job;
}

static struct cp_task *
make_task(enum op op, uint64_t index)
{
    struct cp_task *task = cp_task_new(index, 0, sizeof(struct body));
    CHECK(task != NULL);
    struct body body = {.op = op, .value = index};
    memcpy(task->body, &body, sizeof(body));
    (void)atomic_fetch_add(&bodies, 1);
    return task;
}

/* Put n tasks, whose values are their indexes, from `first` on. */
static void
put(struct cp_job *job, enum op op, uint64_t first, uint64_t n, bool fed)
{
    struct cp_task *list = NULL;
    for (uint64_t i = first + n; i-- > first;) {
        struct cp_task *task = make_task(op, i);
        task->next = list;
        list = task;
    }
    cp_job_put_take(job, list, fed);
}

static uint64_t
value_of(struct cp_result *result)
{
    uint64_t value;
    CHECK_EQ(result->len, sizeof(value));
    memcpy(&value, result->body, sizeof(value));
    return value;
}

static void
consume(struct cp_result *result)
{
    CHECK_EQ(value_of(result), result->index);
    (void)atomic_fetch_sub(&bodies, 1);
    cp_result_free(result);
}

/* Wait for the job, and take all results: n of them. */
static void
finish(struct cp_job *job, uint64_t n)
{
    struct cp_result *result;
    for (bool done = false; !done;) {
        CHECK_EQ(cp_pool_wait(job->pool, job, CP_NEVER, 0), CP_WAIT_READY);
        done = atomic_load(&job->done);
        while ((result = cp_job_take(job)) != NULL) {
            consume(result);
            n--;
        }
    }
    CHECK_EQ(n, 0);
    cp_job_close(job);
}

TEST(threads_run_tasks)
{
    for (uint32_t n = 1; n <= 4; n++) {
        struct team team;
        team_open(&team, n, n % 2 == 0);
        for (uint64_t tasks = 1; tasks < 3000; tasks *= 3) {
            struct cp_job *job = open_job(&team, CP_JOB_WHOLE);
            put(job, OP_ECHO, 0, tasks, true);
            finish(job, tasks);
        }
        team_close(&team);
    }
    CHECK_EQ(atomic_load(&released), 0);
}

TEST(threads_count_values_that_a_worker_has_passed_on)
{
    struct team team;
    team_open(&team, 2, false);
    struct cp_job *job = open_job(&team, CP_JOB_WHOLE);
    cp_job_ref(job);
    put(job, OP_PASS, 0, 300, false);
    put(job, OP_ECHO, 300, 20, true);
    finish(job, 20); /* only these can be taken */
    uint64_t failed;
    CHECK_EQ(cp_job_arrived(job, &failed), 320);
    CHECK_EQ(failed, 0);
    cp_job_close(job);
    team_close(&team);
    CHECK_EQ(atomic_load(&released), 0);
}

TEST(threads_end_calls_that_a_worker_has_freed)
{
    struct team team;
    team_open(&team, 2, false);
    struct cp_job *job = open_job(&team, CP_JOB_EACH | CP_JOB_SINGLE);
    for (uint64_t i = 0; i < 300; i++) {
        struct cp_task *task = make_task(OP_PASS, i);
        task->call = calloc(1, sizeof(*task->call));
        CHECK(task->call != NULL);
        CHECK_EQ(cp_job_put_call_take(job, task), 0);
    }
    cp_job_put_take(job, NULL, true);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    CHECK_EQ(cp_job_arrived(job, NULL), 300);
    CHECK(cp_job_grab(job) == NULL);
    CHECK(!cp_pool_has_each(team.pool));
    cp_job_close(job);
    team_close(&team);
    CHECK_EQ(atomic_load(&released), 0);
}

/* ---- single calls ---- */

static struct cp_job *
open_call(struct team *team, enum op op)
{
    struct cp_job *job;
    bool held;
    CHECK_EQ(cp_job_open_call_take(team->pool, CP_JOB_SINGLE | CP_JOB_WHOLE,
                                   team, make_task(op, 0), &job, &held),
             0);
    CHECK(held);
    return job;
}

/* Wait for the call and take its value, which is 0. */
static void
finish_call(struct cp_job *job)
{
    struct cp_result *result;
    CHECK_EQ(cp_pool_wait(job->pool, job, CP_NEVER, 0), CP_WAIT_READY);
    CHECK((result = cp_job_take_single(job)) != NULL);
    consume(result);
    CHECK(cp_job_take_single(job) == NULL);
    CHECK(cp_job_is_drained(job));
    cp_job_close_later(job);
}

TEST(threads_call_is_opened_with_its_task)
{
    struct team team;
    team_open(&team, 1, false);
    struct cp_job *job = open_call(&team, OP_GATE);
    await_begun(&team, 1);
    CHECK(cp_job_take_single(job) == NULL); /* it is not done */
    CHECK(job->user == &team);
    CHECK(!cp_job_hold(job, &job)); /* it has a user */
    let_through(&team, 1);
    finish_call(job);
    job = open_call(&team, OP_RAISE);
    CHECK_EQ(cp_pool_wait(job->pool, job, CP_NEVER, 0), CP_WAIT_READY);
    CHECK(cp_job_take_single(job) == NULL); /* a failure is decoded */
    struct cp_result *result = cp_job_take(job);
    CHECK_EQ(result->outcome, CP_RAISED);
    consume(result);
    cp_job_close(job);
    team_close(&team);
    CHECK_EQ(atomic_load(&released), 0);
}

TEST(threads_call_of_a_pool_that_does_not_run)
{
    struct team team;
    bool held = true;
    struct cp_job *job;
    team_open(&team, 1, false);
    cp_pool_break_take(team.pool, NULL);
    CHECK_EQ(cp_job_open_call_take(team.pool, CP_JOB_SINGLE, &team,
                                   make_task(OP_ECHO, 0), &job, &held),
             0);
    CHECK(!held);
    CHECK(atomic_load(&job->done));
    CHECK_EQ(atomic_load(&released), 1);
    cp_job_close(job);
    cp_pool_close(team.pool);
    held = true;
    CHECK_EQ(cp_job_open_call_take(team.pool, CP_JOB_SINGLE, &team,
                                   make_task(OP_ECHO, 0), &job, &held),
             CP_ECLOSED);
    CHECK(!held);
    CHECK_EQ(atomic_load(&released), 2);
    team_join(&team);
    CHECK_EQ(atomic_load(&team.ran), 0);
}

/* Jobs that are closed later are closed by dozens, by the next call, and at the
 * end of the pool. */
TEST(threads_calls_are_closed_later)
{
    struct team team;
    struct cp_job *jobs[200];
    team_open(&team, 2, false);
    for (size_t i = 0; i < 200; i++) {
        jobs[i] = open_call(&team, OP_ECHO);
    }
    for (size_t i = 0; i < 200; i++) {
        finish_call(jobs[i]);
        CHECK(atomic_load(&team.pool->n_closing) <= 64);
    }
    CHECK(atomic_load(&team.pool->closing) != NULL);
    struct cp_job *job = open_call(&team, OP_ECHO);
    CHECK(atomic_load(&team.pool->closing) == NULL);
    CHECK_EQ(atomic_load(&team.pool->n_closing), 0);
    finish_call(job);
    CHECK(atomic_load(&team.pool->closing) != NULL);
    team_close(&team);
}

TEST(threads_return_results_in_order)
{
    struct team team;
    team_open(&team, 3, false);
    struct cp_job *job = open_job(&team, CP_JOB_ORDERED);
    put(job, OP_ECHO, 0, 2000, true);
    for (uint64_t i = 0; i < 2000;) {
        struct cp_result *result = cp_job_take(job);
        if (result == NULL) {
            CHECK_EQ(cp_pool_wait(team.pool, job, CP_NEVER, 0), CP_WAIT_READY);
            continue;
        }
        CHECK_EQ(result->index, i++);
        consume(result);
    }
    cp_job_close(job);
    team_close(&team);
}

/* One task at a time, as with apply(): each time other threads spin, sleep or
 * are woken. */
TEST(threads_one_task_at_a_time)
{
    struct team team;
    for (int turns = 0; turns < 2; turns++) {
        team_open(&team, 2, turns == 1);
        for (int i = 0; i < 3000; i++) {
            struct cp_job *job = open_job(&team, CP_JOB_SINGLE | CP_JOB_WHOLE);
            put(job, OP_ECHO, 0, 1, true);
            finish(job, 1);
            if (i % 500 == 0) {
                await_asleep(&team);
            }
        }
        team_close(&team);
    }
}

/* As many tasks run at once as there are workers, although all slept before. */
TEST(threads_are_all_woken)
{
    struct team team;
    team_open(&team, 4, true);
    await_asleep(&team);
    struct cp_job *all = open_job(&team, 0);
    put(all, OP_GATE, 0, 4, true);
    await_begun(&team, 4);
    let_through(&team, 4);
    finish(all, 4);
    await_asleep(&team);
    struct cp_job *jobs[4]; /* and one by one */
    for (int i = 0; i < 4; i++) {
        jobs[i] = open_job(&team, CP_JOB_SINGLE);
        put(jobs[i], OP_GATE, 0, 1, true);
    }
    await_begun(&team, 4);
    let_through(&team, 4);
    for (int i = 0; i < 4; i++) {
        finish(jobs[i], 1);
    }
    team_close(&team);
}

/* One worker, and tasks that are expected to be long: each is a turn of its
 * own. */
static struct cp_job *
open_long_job(struct team *team)
{
    struct cp_job *job = open_job(team, 0);
    job->many->avg_ns = 1000 * CP_SECOND;
    return job;
}

/* A worker was woken, and is not up yet, when its pool gets smaller; then a task
 * is put, for which nobody else is woken. The test is that worker. */
TEST(threads_worker_that_retires_has_another_take_the_task)
{
    struct team team;
    struct cp_turn turn = {.index = 1};
    team_open(&team, 1, false);
    struct cp_threads *t = &team.pool->threads;
    CHECK_EQ(cp_threads_enter(team.pool, 1), 0);
    await_asleep(&team);
    cp_lock_acquire(&team.pool->lock);
    t->asleep++;
    cp_lock_release(&team.pool->lock);
    CHECK_EQ(cp_pool_set_target(team.pool, 1), 0);
    bool again = false; /* the other worker has found nothing, and sleeps */
    while (!again) {
        cp_lock_acquire(&team.pool->lock);
        again = t->asleep == 2 && t->woken == 1;
        cp_lock_release(&team.pool->lock);
        cp_test_let_others_run();
    }
    struct cp_job *job = open_job(&team, CP_JOB_WHOLE);
    put(job, OP_ECHO, 0, 1, true);
    cp_lock_acquire(&team.pool->lock);
    t->asleep--;
    t->woken--;
    cp_lock_release(&team.pool->lock);
    CHECK_EQ(cp_threads_swap(team.pool, &turn, NULL, true), CP_ECLOSED);
    CHECK(turn.retired);
    cp_threads_leave(team.pool, 1);
    finish(job, 1);
    team_close(&team);
}

TEST(threads_give_jobs_turns)
{
    struct team team;
    team_open(&team, 1, false);
    struct cp_job *first = open_long_job(&team);
    struct cp_job *second = open_long_job(&team);
    struct cp_job *busy = open_job(&team, 0);
    put(busy, OP_GATE, 0, 1, true);
    await_begun(&team, 1);
    put(first, OP_ECHO, 0, 5, true);
    put(second, OP_GATE, 0, 2, true);
    let_through(&team, 1);
    await_begun(&team, 1); /* after one task of the first, one of the second */
    CHECK_EQ(cp_job_arrived(first, NULL), 1);
    let_through(&team, 1);
    await_begun(&team, 1);
    CHECK_EQ(cp_job_arrived(first, NULL), 2);
    CHECK_EQ(cp_job_arrived(second, NULL), 1);
    let_through(&team, 1);
    finish(busy, 1);
    finish(first, 5);
    finish(second, 2);
    team_close(&team);
}

TEST(threads_give_a_single_call_the_next_turn)
{
    struct team team;
    team_open(&team, 1, false);
    struct cp_job *job = open_long_job(&team);
    put(job, OP_GATE, 0, 3, true);
    await_begun(&team, 1);
    struct cp_job *calls[3];
    for (int i = 0; i < 3; i++) {
        calls[i] = open_job(&team, CP_JOB_SINGLE);
        put(calls[i], OP_ECHO, 0, 1, true);
    }
    let_through(&team, 1);
    await_begun(&team, 1); /* one call, then a task of the job */
    CHECK(atomic_load(&calls[0]->done));
    CHECK(!atomic_load(&calls[1]->done));
    let_through(&team, 1);
    await_begun(&team, 1);
    CHECK(atomic_load(&calls[1]->done)); /* in the order of submission */
    CHECK(!atomic_load(&calls[2]->done));
    let_through(&team, 1);
    finish(job, 3);
    for (int i = 0; i < 3; i++) {
        finish(calls[i], 1);
    }
    team_close(&team);
}

/* A thread that waits for a whole job sleeps through its results. */
TEST(threads_whole_job_is_ready_when_done)
{
    struct team team;
    team_open(&team, 1, false);
    struct cp_job *whole = open_job(&team, CP_JOB_WHOLE);
    struct cp_job *parts = open_job(&team, 0);
    put(whole, OP_ECHO, 0, 3, false);
    put(whole, OP_GATE, 3, 1, true);
    await_begun(&team, 1);
    CHECK_EQ(cp_job_arrived(whole, NULL), 3);
    CHECK_EQ(cp_pool_wait(team.pool, whole, cp_now() + CP_MS, 0),
             CP_WAIT_TIMEOUT);
    let_through(&team, 1);
    finish(whole, 4);
    put(parts, OP_ECHO, 0, 1, false);
    put(parts, OP_GATE, 1, 1, true);
    await_begun(&team, 1);
    CHECK_EQ(cp_pool_wait(team.pool, parts, CP_NEVER, 0), CP_WAIT_READY);
    CHECK(!atomic_load(&parts->done));
    let_through(&team, 1);
    finish(parts, 2);
    team_close(&team);
}

TEST(threads_ask_the_waiting_thread_to_feed)
{
    enum { N = 20000 };
    struct team team;
    team_open(&team, 2, true);
    struct cp_job *job = open_job(&team, CP_JOB_WHOLE);
    uint64_t n = 0;
    int r, fed = 0;
    while ((r = cp_pool_wait(team.pool, job, CP_NEVER, CP_CAN_FEED))
           == CP_WAIT_FEED) {
        uint64_t more = cp_job_wants(job);
        more = more > N - n ? N - n : more;
        put(job, OP_ECHO, n, more, n + more == N);
        n += more;
        fed++;
    }
    CHECK_EQ(r, CP_WAIT_READY);
    CHECK(fed > 5);
    finish(job, N);
    team_close(&team);
}

struct feeder {
    struct cp_job *job;
    uint64_t n;
};

/* A job with one task, which yields, at most `credit` values ahead. */
static struct cp_job *
put_yielding(struct team *team, uint64_t credit)
{
    struct cp_job *job = open_job(team, 0);
    struct cp_task *task = cp_task_new(0, 0, sizeof(struct body));
    struct body body = {.op = OP_YIELD};
    CHECK(task != NULL);
    cp_job_set_credit(job, credit);
    memcpy(task->body, &body, sizeof(body));
    task->flags |= CP_YIELDS;
    (void)atomic_fetch_add(&bodies, 1);
    cp_job_put_take(job, task, true);
    return job;
}

/* Wait until n worker threads wait for credit; true if any of them has a
 * deadline. */
static bool
await_yielders(struct team *team, uint32_t n)
{
    for (;;) {
        cp_lock_acquire(&team->pool->lock);
        bool wait = team->pool->threads.n_yielders == n;
        bool looks = team->pool->look_at != 0;
        cp_lock_release(&team->pool->lock);
        if (wait) {
            return looks;
        }
        cp_test_let_others_run();
    }
}

/* Read the job to its end. Returns the number of its values. */
static uint64_t
read_values(struct cp_job *job)
{
    uint64_t n = 0;
    for (bool done = false; !done;) {
        struct cp_result *result;
        CHECK_EQ(cp_pool_wait(job->pool, job, CP_NEVER, 0), CP_WAIT_READY);
        done = atomic_load(&job->done);
        while ((result = cp_job_take(job)) != NULL) {
            CHECK_EQ(value_of(result), n++);
            (void)atomic_fetch_sub(&bodies, 1);
            cp_result_free(result);
        }
    }
    cp_job_close(job);
    return n;
}

/* Take the job's result once its teller is to be told; no thread waits. */
static void
finish_told(struct team *team, struct cp_job *job, const void *teller)
{
    struct cp_job *each;
    while ((each = cp_pool_next_each(team->pool)) == NULL) {
        cp_test_let_others_run();
    }
    CHECK(each == job);
    CHECK(cp_job_take_teller(each) == teller);
    cp_job_close(each);
    finish(job, 1);
}

/* A call of which the teller is to be told: a coroutine waits for it. The one
 * task that waits for credit holds up nobody by that. */
static struct cp_job *
put_told(struct team *team, void *teller)
{
    struct cp_job *job = open_job(team, 0);
    put(job, OP_ECHO, 0, 1, true);
    CHECK_EQ(cp_job_tell(job, teller), 1);
    CHECK(!await_yielders(team, 1));
    return job;
}

TEST(threads_yielder_sleeps_until_it_has_credit)
{
    struct team team;
    team_open(&team, 1, true);
    struct cp_job *job = put_yielding(&team, 2);
    CHECK(!await_yielders(&team, 1));
    CHECK_EQ(read_values(job), YIELDED);
    team_close(&team);
}

TEST(threads_yielders_end_with_their_job_and_pool)
{
    struct team team;
    team_open(&team, 2, true);
    struct cp_job *a = put_yielding(&team, 2), *b = put_yielding(&team, 1);
    CHECK(!await_yielders(&team, 2));
    cp_job_cancel(a);
    CHECK(!await_yielders(&team, 1));
    cp_pool_end(team.pool);
    cp_job_close(a);
    cp_job_close(b);
    team_join(&team);
}

/* All workers wait for readers, and then a thread waits for another call: that
 * thread looks, and the readers' tasks go on. */
TEST(threads_yielders_do_not_hold_up_a_thread_that_waits)
{
    struct team team;
    team_open(&team, 2, true);
    struct cp_job *a = put_yielding(&team, 2), *b = put_yielding(&team, 1);
    CHECK(!await_yielders(&team, 2));
    struct cp_job *job = open_job(&team, 0);
    put(job, OP_ECHO, 0, 1, true);
    finish(job, 1);
    CHECK_EQ(read_values(a), YIELDED);
    CHECK_EQ(read_values(b), YIELDED);
    team_close(&team);
}

/* A coroutine, or a thread, waited before: the last worker that waits for its
 * reader looks. */
TEST(threads_last_yielder_looks)
{
    struct team team;
    team_open(&team, 2, true);
    struct cp_job *gated = open_job(&team, 0);
    put(gated, OP_GATE, 0, 1, true);
    await_begun(&team, 1);
    struct cp_job *a = put_yielding(&team, 2);
    CHECK(!await_yielders(&team, 1));
    struct cp_job *b = put_yielding(&team, 2);
    int teller;
    struct cp_job *job = put_told(&team, &teller);
    let_through(&team, 1);
    finish(gated, 1); /* b begins */
    finish_told(&team, job, &teller);
    CHECK_EQ(read_values(a), YIELDED);
    CHECK_EQ(read_values(b), YIELDED);
    team_close(&team);
}

/* A coroutine begins to wait, and then the last other worker leaves. */
TEST(threads_worker_that_leaves_has_the_others_look)
{
    struct team team;
    team_open(&team, 1, true);
    struct cp_job *a = put_yielding(&team, 2);
    CHECK(!await_yielders(&team, 1));
    CHECK_EQ(cp_threads_enter(team.pool, 1), 0); /* it takes no task */
    int teller;
    struct cp_job *job = put_told(&team, &teller);
    cp_threads_leave(team.pool, 1);
    finish_told(&team, job, &teller);
    CHECK_EQ(read_values(a), YIELDED);
    team_close(&team);
}

/* A join gave up at left_at, when the pool was to look at look_at. Begin to join,
 * and give up at once. Is it still to look then? */
static bool
join_keeps_look(struct cp_pool *pool, int64_t left_at, int64_t look_at)
{
    cp_lock_acquire(&pool->lock);
    CHECK_EQ(pool->look_at, 0); /* nobody waits */
    CHECK(pool->left_look_at != 0);
    pool->left_at = left_at;
    pool->left_look_at = look_at;
    cp_lock_release(&pool->lock);
    CHECK_EQ(cp_pool_wait(pool, NULL, 0, 0), CP_WAIT_TIMEOUT);
    cp_lock_acquire(&pool->lock);
    bool kept = pool->left_look_at == look_at;
    cp_lock_release(&pool->lock);
    return kept;
}

/* When a join gives up, the next one does not end the unread job at once, but
 * after half a second. A join that was only interrupted goes on, however often
 * that happens. */
TEST(threads_join_that_gives_up_leaves_no_look)
{
    struct team team;
    team_open(&team, 1, true);
    struct cp_job *a = put_yielding(&team, 2);
    CHECK(!await_yielders(&team, 1));
    cp_pool_close(team.pool);
    CHECK_EQ(cp_pool_wait(team.pool, NULL, 0, 0), CP_WAIT_TIMEOUT);
    int64_t now = cp_now(), later = now + 1000 * CP_SECOND;
    CHECK(join_keeps_look(team.pool, later, later)); /* left just now */
    CHECK(join_keeps_look(team.pool, later, later));
    CHECK(!join_keeps_look(team.pool, now - CP_SECOND, later));
    CHECK_EQ(read_values(a), YIELDED);
    team_join(&team);
}

static void *
feed(void *arg)
{
    struct feeder *feeder = arg;
    uint64_t n = 0, more;
    while (cp_job_wait_wants(feeder->job, &more) == 1) {
        more = more > feeder->n - n ? feeder->n - n : more;
        put(feeder->job, OP_ECHO, n, more, n + more == feeder->n);
        n += more;
    }
    return NULL;
}

TEST(threads_keep_to_the_limit)
{
    struct team team;
    team_open(&team, 2, false);
    struct feeder feeder = {.job = open_job(&team, CP_JOB_ORDERED), .n = 3000};
    cp_job_set_limit(feeder.job, 7);
    pthread_t thread = cp_test_start(feed, &feeder);
    for (uint64_t i = 0; i < feeder.n;) {
        struct cp_result *result = cp_job_take(feeder.job);
        CHECK(atomic_load(&bodies) <= 8); /* including the one just taken */
        if (result == NULL) {
            CHECK_EQ(cp_pool_wait(team.pool, feeder.job, CP_NEVER, 0),
                     CP_WAIT_READY);
        } else {
            consume(result);
            i++;
        }
    }
    (void)cp_test_join(thread);
    cp_job_close(feeder.job);
    team_close(&team);
}

/* ---- dropped tasks and results ---- */

TEST(threads_cancel_releases_queued_tasks)
{
    struct team team;
    team_open(&team, 1, false);
    struct cp_job *job = open_job(&team, CP_JOB_WHOLE);
    put(job, OP_GATE, 0, 1, false);
    await_begun(&team, 1);
    put(job, OP_ECHO, 1, 10, true);
    cp_job_cancel(job);
    CHECK_EQ(atomic_load(&released), 10); /* within the call */
    put(job, OP_ECHO, 11, 5, true);       /* too late */
    CHECK_EQ(atomic_load(&released), 15);
    CHECK_EQ(cp_pool_wait(team.pool, job, CP_NEVER, 0), CP_WAIT_READY);
    CHECK_EQ(atomic_load(&job->end), CP_END_TERMINATED);
    cp_job_close(job);
    let_through(&team, 1);
    await_asleep(&team);
    CHECK_EQ(atomic_load(&released), 16); /* the result, by the worker */
    CHECK_EQ(atomic_load(&bodies), 0);
    team_close(&team);
    CHECK_EQ(atomic_load(&team.ran), 1);
}

TEST(threads_closing_a_job_releases_its_results)
{
    struct team team;
    for (uint32_t flags = 0; flags <= CP_JOB_ORDERED; flags += CP_JOB_ORDERED) {
        team_open(&team, 2, false);
        struct cp_job *job = open_job(&team, flags);
        put(job, OP_ECHO, 0, 1, false);
        put(job, OP_ECHO, 2, 9,
            true); /* index 1 is missing, for ordered jobs */
        while (!atomic_load(&job->done)) {
            cp_test_let_others_run();
        }
        await_asleep(&team);
        CHECK_EQ(atomic_load(&bodies), 10);
        cp_job_close(job);
        CHECK_EQ(atomic_load(&bodies), 0);
        team_close(&team);
    }
    CHECK_EQ(atomic_load(&released), 20);
}

static int
count_result(struct cp_result *result, void *arg)
{
    uint64_t *left = arg;
    CHECK_EQ(result->len, sizeof(uint64_t));
    return --*left == 0 ? 7 : 0;
}

TEST(threads_results_can_be_visited_and_dropped)
{
    struct team team;
    team_open(&team, 1, false);
    for (uint32_t flags = 0; flags <= CP_JOB_ORDERED; flags += CP_JOB_ORDERED) {
        struct cp_job *job = open_job(&team, flags);
        put(job, OP_ECHO, 0, 5, true);
        await_asleep(&team);
        uint64_t left = 100;
        CHECK_EQ(cp_job_each_result(job, count_result, &left), 0);
        CHECK_EQ(left, 95);
        left = 2;
        CHECK_EQ(cp_job_each_result(job, count_result, &left), 7);
        CHECK_EQ(left, 0);
        cp_job_drop_results(job);
        CHECK_EQ(atomic_load(&bodies), 0);
        CHECK(cp_job_take(job) == NULL);
        cp_job_close(job);
    }
    team_close(&team);
}

TEST(threads_farewell_is_the_last_result)
{
    struct team team;
    team_open(&team, 2, false);
    for (int late = 0; late < 2; late++) {
        struct cp_job *job = open_job(&team, 0);
        put(job, OP_ECHO, 0, 20, late == 1);
        struct cp_result *farewell = cp_result_new(20, CP_LOCAL, 8);
        CHECK(farewell != NULL);
        uint64_t value = 20;
        memcpy(farewell->body, &value, sizeof(value));
        (void)atomic_fetch_add(&bodies, 1);
        cp_job_put_farewell_take(job, farewell);
        finish(job, late == 1 ? 20 : 21);
    }
    team_close(&team);
    CHECK_EQ(atomic_load(&released), 1);
}

TEST(threads_without_memory_for_a_result)
{
    struct team team;
    team_open(&team, 1, false);
    struct cp_job *job = open_job(&team, CP_JOB_WHOLE);
    put(job, OP_ECHO, 0, 2, false);
    put(job, OP_NOMEM, 2, 1, false);
    put(job, OP_ECHO, 3, 5, true);
    CHECK_EQ(cp_pool_wait(team.pool, job, CP_NEVER, 0), CP_WAIT_READY);
    CHECK_EQ(atomic_load(&job->end), CP_END_NOMEM);
    cp_job_close(job);
    await_asleep(&team);
    CHECK_EQ(atomic_load(&bodies), 0);
    job = open_job(&team, 0); /* the worker goes on */
    put(job, OP_ECHO, 0, 3, true);
    finish(job, 3);
    team_close(&team);
}

TEST(threads_task_may_cancel_its_own_job)
{
    struct team team;
    team_open(&team, 2, true);
    struct cp_job *job = open_job(&team, 0);
    put(job, OP_CANCEL, 0, 50, true);
    while (!atomic_load(&job->done)) {
        cp_test_let_others_run();
    }
    cp_job_close(job);
    team_close(&team);
    CHECK(atomic_load(&team.ran) <= 2);
}

/* ---- the end ---- */

TEST(threads_end_when_all_jobs_are_done)
{
    struct team team;
    team_open(&team, 2, false);
    struct cp_job *job = open_job(&team, 0), *none;
    put(job, OP_GATE, 0, 3, true);
    await_begun(&team, 2);
    cp_pool_close(team.pool);
    CHECK_EQ(cp_job_open(team.pool, NULL, 0, NULL, &none), CP_ECLOSED);
    CHECK_EQ(cp_pool_wait(team.pool, NULL, cp_now() + CP_MS, 0),
             CP_WAIT_TIMEOUT);
    let_through(&team, 3);
    finish(job, 3);
    CHECK_EQ(cp_pool_wait(team.pool, NULL, CP_NEVER, 0), CP_WAIT_READY);
    team_join(&team);
}

/* A job with callbacks is done only after the callbacks. */
TEST(threads_wait_for_callbacks)
{
    struct team team;
    team_open(&team, 1, false);
    struct cp_job *job = open_job(&team, CP_JOB_CALLS | CP_JOB_WHOLE), *called;
    put(job, OP_ECHO, 0, 1, true);
    CHECK_EQ(cp_pool_next(team.pool, CP_DO_CALLS | CP_DO_STARTS, &called),
             CP_WAIT_CALL);
    CHECK(called == job);
    cp_pool_close(team.pool);
    CHECK_EQ(cp_pool_wait(team.pool, NULL, cp_now() + CP_MS, 0),
             CP_WAIT_TIMEOUT);
    cp_job_called(job);
    CHECK_EQ(cp_pool_next(team.pool, CP_DO_CALLS | CP_DO_STARTS, &called),
             CP_WAIT_ENDED);
    cp_job_close(job);
    finish(job, 1);
    team_join(&team);
}

static void *
wait_for_end(void *job_op)
{
    struct cp_job *job = job_op;
    CHECK_EQ(cp_pool_wait(job->pool, job, CP_NEVER, 0), CP_WAIT_READY);
    CHECK_EQ(atomic_load(&job->end), CP_END_TERMINATED);
    return NULL;
}

TEST(threads_end_at_once)
{
    struct team team;
    team_open(&team, 2, true);
    struct cp_job *job = open_job(&team, CP_JOB_WHOLE), *none;
    put(job, OP_GATE, 0, 2, false);
    await_begun(&team, 2);
    put(job, OP_ECHO, 2, 100, true);
    pthread_t waiter = cp_test_start(wait_for_end, job);
    cp_pool_end(team.pool);
    (void)cp_test_join(waiter); /* although its tasks still run */
    CHECK_EQ(cp_job_open(team.pool, NULL, 0, NULL, &none), CP_ECLOSED);
    CHECK_EQ(cp_pool_next(team.pool, CP_DO_CALLS | CP_DO_STARTS, &none),
             CP_WAIT_ENDED);
    let_through(&team, 2);
    cp_job_close(job);
    CHECK_EQ(cp_threads_enter(team.pool, 0), CP_ECLOSED);
    team_join(&team);
    CHECK_EQ(atomic_load(&team.ran), 2);
}

TEST(threads_of_a_broken_pool)
{
    struct team team;
    team_open(&team, 2, false);
    struct cp_job *job = open_job(&team, 0);
    put(job, OP_GATE, 0, 2, false);
    await_begun(&team, 2);
    put(job, OP_ECHO, 2, 3, true);
    cp_pool_break_take(team.pool, NULL);
    CHECK_EQ(atomic_load(&job->end), CP_END_BROKEN);
    cp_job_close(job);
    job = open_job(&team, 0);
    CHECK(atomic_load(&job->done));
    put(job, OP_ECHO, 0, 3, true);
    cp_job_close(job);
    let_through(&team, 2);
    team_close(&team);
    CHECK_EQ(atomic_load(&team.ran), 2);
}

TEST(threads_need_no_standby_and_no_descriptor)
{
    struct team team;
    int before = cp_test_descriptors();
    team_open(&team, 1, false);
    CHECK_EQ(cp_test_descriptors(), before);
    CHECK_EQ(cp_pool_start_standby(team.pool), 0);
    CHECK(!team.pool->has_standby);
    cp_pool_close_fds(team.pool);
    team_close(&team);
}

/* ---- all at once ---- */

struct user {
    struct team *team;
    uint64_t seed;
};

/* False: the pool has ended. */
static bool
use_call(struct team *team)
{
    struct cp_job *job;
    bool held;
    if (cp_job_open_call_take(team->pool, CP_JOB_SINGLE | CP_JOB_WHOLE, NULL,
                              make_task(OP_ECHO, 0), &job, &held)
        != 0) {
        return false;
    }
    CHECK_EQ(cp_pool_wait(team->pool, job, CP_NEVER, 0), CP_WAIT_READY);
    struct cp_result *result = cp_job_take_single(job);
    if (result != NULL) {
        consume(result);
        cp_job_close_later(job);
    } else { /* the pool has ended, and perhaps a result came before that */
        CHECK(atomic_load(&job->end) != CP_END_NONE);
        cp_job_close(job);
    }
    return true;
}

static void *
use(void *arg)
{
    struct user *user = arg;
    struct team *team = user->team;
    for (int i = 0; i < 150; i++) {
        uint32_t what = cp_test_random(&user->seed) % 7;
        uint64_t n = cp_test_random(&user->seed) % 40 + 1;
        uint32_t flags = what == 1   ? CP_JOB_ORDERED
                         : what == 2 ? 0u
                                     : (uint32_t)CP_JOB_WHOLE;
        struct cp_job *job;
        if (what == 6) {
            if (!use_call(team)) {
                break;
            }
            continue;
        }
        if (cp_job_open(team->pool, NULL, flags, NULL, &job) != 0) {
            break; /* the pool has ended */
        }
        put(job, what == 3 ? OP_RAISE : OP_ECHO, 0, n, true);
        if (what == 4) {
            cp_job_cancel(job);
        }
        if (what == 5) {
            cp_job_close(job); /* nobody wants the results */
            continue;
        }
        struct cp_result *result;
        for (bool done = false; !done;) {
            CHECK_EQ(cp_pool_wait(team->pool, job, CP_NEVER, 0), CP_WAIT_READY);
            done = atomic_load(&job->done);
            while ((result = cp_job_take(job)) != NULL) {
                consume(result);
                n--;
            }
        }
        CHECK(n == 0 || atomic_load(&job->end) != CP_END_NONE);
        cp_job_close(job);
        collect(team->pool);
    }
    return NULL;
}

static void
stress(bool take_turns, bool end)
{
    struct team team;
    struct user users[3];
    pthread_t threads[3];
    team_open(&team, 3, take_turns);
    for (int i = 0; i < 3; i++) {
        users[i] = (struct user){.team = &team, .seed = (uint64_t)i + 1};
        threads[i] = cp_test_start(use, &users[i]);
    }
    if (end) {
        while (atomic_load(&team.ran) < 500) {
            cp_test_let_others_run();
        }
        cp_pool_end(team.pool);
    }
    for (int i = 0; i < 3; i++) {
        (void)cp_test_join(threads[i]);
    }
    team_close(&team);
}

TEST(threads_pool_is_used_by_many)
{
    stress(false, false);
    stress(true, false);
}

TEST(threads_pool_ends_while_used_by_many)
{
    stress(false, true);
    stress(true, true);
}
