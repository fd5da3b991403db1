/*
 * Threads spin for a while before they sleep, without the pool's lock. An event just
 * after the last look wakes nobody, since nobody sleeps yet: the thread must find the
 * event before it sleeps.
 *
 * A spinning thread reads the clock. The tests wrap the clock: at the second reading
 * they let the event happen, and let the time run out.
 */
#include "pool/pool.h"
#include "pool/state.h"
#include "cp_test.h"

#include <time.h>

/* The event that happens while this thread spins, at the second reading of the
 * clock: the first reading sets the deadline. */
static _Thread_local struct {
    struct cp_pool *pool; /* NULL: nothing */
    void (*comes)(void *arg);
    void *arg;
    int asked;
} late;

int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

int
__wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    struct cp_pool *pool = late.pool;
    int r = __real_clock_gettime(clock, ts);
    if (pool == NULL || pthread_mutex_trylock(&pool->lock.mutex) != 0) {
        return r; /* this thread has the lock: it is not spinning */
    }
    cp_lock_release(&pool->lock);
    late.asked++;
    if (late.asked == 2) {
        late.pool = NULL;
        late.comes(late.arg);
        ts->tv_sec += 1;
    }
    return r;
}

static void
expect(struct cp_pool *pool, void (*comes)(void *arg), void *arg)
{
    late.pool = pool;
    late.comes = comes;
    late.arg = arg;
    late.asked = 0;
}

static void
release(struct cp_task *tasks, struct cp_result *results)
{
    CHECK(tasks == NULL && results == NULL);
}

/* A pool with this thread as its only worker, in which spinning pays. */
static struct cp_pool *
open_pool(void)
{
    struct cp_pool *pool;
    CHECK_EQ(cp_pool_new_threads(1, release, false, &pool), 0);
    CHECK_EQ(cp_threads_enter(pool, 0), 0);
    pool->task_ns = 0;
    pool->n_cpus = 2;
    return pool;
}

static struct cp_job *
open_job(struct cp_pool *pool)
{
    struct cp_job *job;
    CHECK_EQ(cp_job_open(pool, NULL, CP_JOB_WHOLE, NULL, &job), 0);
    return job;
}

static void
close_pool(struct cp_pool *pool, struct cp_job *job)
{
    CHECK(late.pool == NULL); /* the event has happened */
    cp_job_close(job);
    CHECK(cp_pool_ended(pool) == job);
    cp_job_close(job);
    cp_threads_leave(pool, 0);
    cp_pool_unref(pool);
}

static void
cancel(void *job)
{
    cp_job_cancel(job);
}

TEST(look_finds_a_job_that_ends_at_the_last_moment)
{
    struct cp_pool *pool = open_pool();
    struct cp_job *job = open_job(pool);
    expect(pool, cancel, job);
    CHECK_EQ(cp_pool_wait(pool, job, CP_NEVER, 0), CP_WAIT_READY);
    CHECK(atomic_load(&job->done));
    close_pool(pool, job);
}

static void
put_one(void *job)
{
    struct cp_task *task = cp_task_new(0, 0, 0);
    CHECK(task != NULL);
    cp_job_put_take(job, task, true);
}

TEST(look_finds_a_task_that_arrives_at_the_last_moment)
{
    struct cp_pool *pool = open_pool();
    struct cp_job *job = open_job(pool);
    struct cp_turn turn = {0};
    expect(pool, put_one, job);
    CHECK_EQ(cp_threads_swap(pool, &turn, NULL, true), 1);
    CHECK_EQ(turn.task->index, 0);
    struct cp_result *result = cp_result_new(0, CP_OK, 0);
    CHECK(result != NULL);
    CHECK_EQ(cp_threads_swap(pool, &turn, result, false), 0);
    CHECK(atomic_load(&job->done));
    cp_result_free(cp_job_take(job));
    close_pool(pool, job);
}
