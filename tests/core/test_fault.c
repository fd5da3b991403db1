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

#    include "pool/act.h"
#    include "pool/state.h"
#    include "rig.h"
#    include "share/parts.h"

#    include <errno.h>
#    include <signal.h>
#    include <stdlib.h>
#    include <string.h>
#    include <sys/stat.h>
#    include <unistd.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t n);
void __libc_free(void *p);

static _Atomic long live;     /* blocks not freed */
static _Atomic long fail_in;  /* allocations until one fails; 0: none fails */
static _Atomic bool is_full;  /* no buffer grows */
static _Atomic long refused;  /* how often one was to grow */
static void (*on_free)(void); /* called once, at the next free() */

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
    if (atomic_load(&is_full)) {
        (void)atomic_fetch_add(&refused, 1);
        return NULL;
    }
    if (fails()) {
        return NULL;
    }
    void *p = __libc_realloc(old, n);
    return old == NULL ? counted(p) : p;
}

void
free(void *p)
{
    void (*call)(void) = on_free;
    if (p != NULL && call != NULL && atomic_load(&fail_in) <= 0) {
        on_free = NULL;
        call();
    }
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
    CHECK_EQ(cp_worker_before_fork(w), 0);
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

#    ifndef CP_PORTABLE
/* The receiver of a body has no memory, in each of its allocations. */
TEST(fault_loan_without_memory_gives_its_blocks_back)
{
    static const uint8_t bytes[200000];
    struct cp_region *region;
    struct cp_area *area, *own;
    struct cp_heap *heap;
    struct cp_borrower worker = {0};
    CHECK_EQ(cp_region_open(UINT64_C(64) << 20, &region), 0);
    CHECK_EQ(cp_area_open(region, 0, &area), 0);
    CHECK_EQ(cp_area_open(region, 1, &own), 0);
    CHECK_EQ(cp_heap_new(area, &heap), 0);
    cp_heap_meet(heap, &worker, own);
    int r = CP_ENOMEM, failures = 0;
    for (long n = 1; r != 0; n++) {
        struct cp_parts parts = {.heap = heap};
        struct cp_buf body = {0};
        struct cp_loan *loan;
        struct cp_heap_counts counts;
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(cp_parts_add(&parts, bytes, sizeof(bytes)), i);
        }
        CHECK_EQ(cp_parts_seal(&parts, &body), 0);
        cp_parts_lend(&parts, &worker);
        cp_parts_fini(&parts);
        struct cp_lender from = {.area = area, .teller = own};
        size_t len = cp_buf_len(&body);
        atomic_store(&fail_in, n);
        r = cp_loan_open(&from, cp_buf_head(&body), &len, &loan);
        atomic_store(&fail_in, 0);
        CHECK(r == 0 || r == CP_ENOMEM);
        failures += r != 0;
        cp_loan_close(loan);
        cp_heap_count(heap, &counts);
        CHECK_EQ(counts.n_used, 0);
        cp_buf_fini(&body);
    }
    CHECK(failures >= 3); /* the loan, and each of its leases */
    cp_heap_forget(heap, &worker);
    cp_heap_free(heap);
    cp_area_unref(area);
    cp_area_unref(own);
    cp_region_close(region);
    cp_region_unref(region);
}

/* ---- a block for which no lease can be opened ---- */

#        define BLOCK (size_t)100000

static struct cp_heap *heap_to_take;
static struct cp_lease *taken;

static uint64_t
memory_of(const struct cp_region *region)
{
    struct stat st;
    CHECK_EQ(fstat(cp_region_fd(region), &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* What another thread may do at any time. */
static void
take_another(void)
{
    uint64_t before = memory_of(cp_heap_region(heap_to_take));
    CHECK_EQ(cp_heap_take(heap_to_take, BLOCK, &taken), 0);
    CHECK(memory_of(cp_heap_region(heap_to_take)) >= before + BLOCK);
}

/* While one thread fails to open a lease of a new block, another one takes a
 * block: it has memory, so that no store to it can raise SIGBUS. */
TEST(fault_block_without_a_lease_is_not_taken_for_a_warm_one)
{
    struct cp_heap_counts counts;
    int failures = 0, others = 0, r = CP_ENOMEM;
    for (long n = 1; r != 0; n++) {
        struct cp_region *region;
        struct cp_area *area;
        struct cp_lease *lease;
        CHECK_EQ(cp_region_open(UINT64_C(64) << 20, &region), 0);
        CHECK_EQ(cp_area_open(region, 0, &area), 0);
        CHECK_EQ(cp_heap_new(area, &heap_to_take), 0);
        taken = NULL;
        on_free = take_another;
        atomic_store(&fail_in, n);
        r = cp_heap_take(heap_to_take, BLOCK, &lease);
        atomic_store(&fail_in, 0);
        on_free = NULL;
        CHECK(r == 0 || r == CP_ENOMEM);
        failures += r != 0;
        others += taken != NULL;
        cp_lease_close(taken);
        cp_lease_close(lease);
        cp_heap_count(heap_to_take, &counts);
        CHECK_EQ(counts.n_used, 0);
        CHECK_EQ(counts.filled, taken != NULL || lease != NULL ? BLOCK : 0);
        /* The block that failed is taken again, and has memory by then. */
        uint64_t before = counts.filled > 0 ? 0 : memory_of(region);
        CHECK_EQ(cp_heap_take(heap_to_take, BLOCK, &lease), 0);
        CHECK(memory_of(region) >= before + BLOCK);
        cp_lease_close(lease);
        cp_heap_free(heap_to_take);
        cp_area_unref(area);
        cp_region_close(region);
        cp_region_unref(region);
    }
    CHECK(failures >= 3); /* the slot, the lease, and the list of mappings */
    CHECK(others >= 1);
}
#    endif

static bool
is_forget_due(struct rig *rig)
{
    cp_lock_acquire(&rig->pool->lock);
    bool is_due = rig->pool->workers->forget_due;
    cp_lock_release(&rig->pool->lock);
    return is_due;
}

/* A frame that waits for memory is tried again every 2 ms, and not at once. */
TEST(fault_frame_that_waits_for_memory)
{
    struct rig rig;
    rig_open(&rig, 1);
    rig_await_started(&rig);
    struct cp_func *func = cp_func_open(rig.pool, "callable", 8, 0);
    struct cp_job *job;
    CHECK_EQ(cp_job_open(rig.pool, func, CP_JOB_SINGLE, NULL, &job), 0);
    struct batch batch = {0};
    (void)batch_add(&batch, OP_ECHO, 0);
    batch_put(&batch, job, true);
    struct cp_result *result = rig_take(&rig, job);
    rig_check_echo(result);
    cp_result_free(result);
    cp_job_close(job);
    CHECK_EQ(rig_collect(&rig), 1);
    CHECK_EQ(cp_pool_start_standby(rig.pool), 0);
    rig_await_asleep(&rig);

    cp_lock_acquire(&rig.pool->lock);
    struct cp_worker *w = rig.pool->workers;
    cp_buf_fini(&w->out);
    atomic_store(&is_full, true);
    cp_lock_release(&rig.pool->lock);
    cp_func_close(rig.pool, func);
    CHECK(is_forget_due(&rig));
    int64_t begin = cp_now();
    cp_lock_acquire(&rig.pool->lock);
    w->flush_due = true;
    rig.pool->due |= CP_DUE_OUTPUT;
    cp_act(rig.pool);
    cp_lock_release(&rig.pool->lock);
    while (atomic_load(&refused) < 100) {
        cp_test_let_others_run();
    }
    CHECK(cp_now() - begin > 50 * CP_MS); /* twice in each tick */
    CHECK(is_forget_due(&rig));
    atomic_store(&is_full, false);
    while (is_forget_due(&rig)) {
        cp_test_let_others_run();
    }
    cp_pool_stop_standby(rig.pool);
    rig_close(&rig);
}

#else
typedef int test_fault_is_empty;
#endif
