/*
 * The core without memory: each allocation in the whole life of a pool fails once.
 * In every case the job ends, nothing leaks, and each result that arrives is right.
 *
 * The tests replace glibc's allocation functions, to count calls and make them fail.
 * Sanitizers replace them as well, so sanitizer builds leave these tests out.
 */
#include "cp_test.h"

#if defined(__has_feature)
#    if __has_feature(thread_sanitizer)
#        define FAULTS 0
#    endif
#endif
#if !defined(FAULTS) && defined(__GLIBC__) && !CP_TEST_ASAN \
    && !defined(__SANITIZE_THREAD__)
#    define FAULTS 1
#endif

#if defined(FAULTS) && FAULTS

#    include "pool/state.h"
#    include "rig.h"

#    include <errno.h>
#    include <signal.h>
#    include <stdlib.h>
#    include <string.h>
#    include <unistd.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t n);
void __libc_free(void *p);

static _Atomic long live;    /* blocks not freed */
static _Atomic long fail_in; /* allocations until one fails; 0: none fails */

static bool
fails(void)
{
    if (atomic_load(&fail_in) > 0 && atomic_fetch_sub(&fail_in, 1) == 1) {
        errno = ENOMEM;
        return true;
    }
    return false;
}

static void *
counted(void *p)
{
    if (p != NULL) {
        (void)atomic_fetch_add(&live, 1);
    }
    return p;
}

void *
malloc(size_t n)
{
    return fails() ? NULL : counted(__libc_malloc(n));
}

void *
calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__libc_calloc(n, size));
}

void *
realloc(void *old, size_t n)
{
    if (fails()) {
        return NULL;
    }
    void *p = __libc_realloc(old, n);
    return old == NULL ? counted(p) : p;
}

void
free(void *p)
{
    if (p != NULL) {
        (void)atomic_fetch_sub(&live, 1);
    }
    __libc_free(p);
}

/* ---- one life of a pool; each step may fail ---- */

#    define TASKS 12

static int
add_worker(struct rig *rig)
{
    struct cp_worker *w;
    int r = cp_pool_new_worker(rig->pool, UINT64_MAX, &w);
    if (r != 0) {
        return r;
    }
    int pid = cp_test_fork();
    if (pid == 0) {
        atomic_store(&fail_in, 0);
        rig_worker_main(rig, w);
    }
    cp_worker_started(w, pid);
    r = cp_pool_add_worker(rig->pool, w);
    if (r != 0) {
        CHECK_EQ(cp_proc_kill(&w->proc, SIGKILL), 0);
        CHECK_EQ(cp_proc_wait(&w->proc, CP_NEVER, NULL), 1);
    }
    cp_worker_unref(w);
    return r;
}

/* Put n tasks, or as many as memory allows. */
static uint64_t
put_tasks(struct cp_job *job, uint64_t n)
{
    struct cp_task *first = NULL, **end = &first;
    uint64_t i = 0;
    while (i < n) {
        size_t len = ORDER_LEN + (i % 5 == 4 ? 2 * CP_BIG : 10);
        struct cp_task *task = cp_task_new(i, 0, len);
        if (task == NULL) {
            break;
        }
        struct order order = {.op = OP_ECHO, .index = i};
        memcpy(task->body, &order, ORDER_LEN);
        cp_test_pattern(task->body + ORDER_LEN, len - ORDER_LEN, i);
        *end = task;
        end = &task->next;
        i++;
    }
    cp_job_put_take(job, first, true);
    return i;
}

static int n_dropped;

/* The result is an answer; or a report that the parent had no memory for the
 * answer; or a loss, if the parent had no memory to read. */
static void
check_result(struct cp_result *result, uint64_t n)
{
    CHECK(result->index < n);
    if (result->outcome == CP_NOMEM) {
        n_dropped++;
    } else if (result->outcome != CP_LOST) {
        size_t len = result->index % 5 == 4 ? 2 * CP_BIG : 10;
        CHECK_EQ(result->outcome, CP_OK);
        CHECK_EQ(result->len, ORDER_LEN + len);
        uint8_t *should = __libc_malloc(len);
        CHECK(should != NULL);
        cp_test_pattern(should, len, result->index);
        CHECK_BYTES(result->body + ORDER_LEN, should, len);
        __libc_free(should);
    }
    cp_result_free(result);
}

static void
run_callbacks(struct cp_pool *pool)
{
    struct cp_job *job;
    while (pool->call_first != NULL) { /* or cp_pool_next() would block */
        CHECK_EQ(cp_pool_next(pool, CP_DO_CALLS | CP_DO_STARTS, &job),
                 CP_WAIT_CALL);
        cp_job_called(job);
        cp_job_close(job);
    }
}

static void
run_job(struct rig *rig, struct cp_job *job, uint64_t n)
{
    uint64_t taken = 0;
    for (;;) {
        bool done = atomic_load(&job->done);
        struct cp_result *result = cp_job_take(job);
        if (result != NULL) {
            check_result(result, n);
            taken++;
            continue;
        }
        if (done) {
            break;
        }
        int r = cp_pool_wait(rig->pool, job, cp_now() + CP_MS, CP_CAN_FORK);
        CHECK(r >= 0 || r == CP_ENOMEM);
        struct cp_counts counts;
        cp_pool_count(rig->pool, &counts);
        if (counts.workers == 0) {
            (void)add_worker(
                rig); /* if this fails, the next round tries again */
        }
        run_callbacks(rig->pool);
    }
    int end = atomic_load(&job->end);
    CHECK(end == CP_END_NOMEM || (end == CP_END_NONE && taken == n));
}

/* Run a job on a pool of one worker, as far as memory allows. */
static void
live_once(struct rig *rig, uint32_t flags, uint64_t func_len)
{
    if (cp_pool_new(1, &rig->pool) != 0) {
        return;
    }
    uint8_t *bytes = calloc(1, func_len);
    struct cp_func *func =
        bytes != NULL ? cp_func_open(rig->pool, bytes, func_len, CP_KEEP)
                      : NULL;
    free(bytes);
    struct cp_job *job = NULL;
    if (func != NULL && add_worker(rig) == 0
        && cp_job_open(rig->pool, func, flags, NULL, &job) == 0) {
        uint64_t n = put_tasks(job, TASKS);
        run_job(rig, job, n);
        cp_job_close(job);
    }
    if (func != NULL) {
        cp_func_close(rig->pool, func);
    }
    cp_pool_end(rig->pool);
    int r;
    while ((r = cp_pool_wait(rig->pool, NULL, CP_NEVER, 0)) != CP_WAIT_READY) {
        CHECK_EQ(r, CP_ENOMEM);
    }
    run_callbacks(rig->pool);
    (void)rig_collect(rig);
    CHECK_EQ(atomic_load(&rig->pool->refs), 1);
    cp_pool_unref(rig->pool);
}

/* Let the first allocation fail, then the second, and so on, until a run has no
 * allocation left to fail. */
static void
fail_each(uint32_t flags, uint64_t func_len)
{
    struct rig rig = {
        .budget = UINT64_MAX, .begun = {-1, -1}, .gate = {-1, -1}};
    live_once(&rig, flags, func_len);
    int descriptors = cp_test_descriptors();
    long before = atomic_load(&live);
    n_dropped = 0;
    for (long n = 1;; n++) {
        atomic_store(&fail_in, n);
        live_once(&rig, flags, func_len);
        bool failed = atomic_exchange(&fail_in, 0) == 0;
        CHECK_EQ(atomic_load(&live), before);
        CHECK_EQ(cp_test_descriptors(), descriptors);
        if (!failed) {
            CHECK(n > TASKS);
            CHECK(n_dropped > 0);
            return;
        }
    }
}

TEST(fault_lack_of_memory_loses_only_one_result)
{
    fail_each(0, 10);
    fail_each(CP_JOB_ORDERED, 10);
}

TEST(fault_lack_of_memory_with_big_callables)
{
    fail_each(CP_JOB_ORDERED, 100 * 1000);
}

TEST(fault_lack_of_memory_with_callbacks)
{
    fail_each(CP_JOB_CALLS | CP_JOB_ORDERED, 10);
}

#else
typedef int test_fault_is_empty;
#endif
