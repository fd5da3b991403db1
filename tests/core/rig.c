/* A whole pool for tests; see rig.h. */
#include "rig.h"

#include "pool/state.h"
#include "cp_test.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void
rig_open(struct rig *rig, uint32_t n)
{
    memset(rig, 0, sizeof(*rig));
    CHECK_EQ(cp_pool_new(n, &rig->pool), 0);
    rig->target = n;
    rig->budget = UINT64_MAX;
    CHECK_EQ(pthread_mutex_init(&rig->forking, NULL), 0);
    rig->func = cp_func_open(rig->pool, "func", 4, CP_KEEP);
    CHECK(rig->func != NULL);
    CHECK_EQ(pipe(rig->begun), 0);
    CHECK_EQ(pipe(rig->gate), 0);
    rig->shared = mmap(NULL, sizeof(*rig->shared), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(rig->shared != MAP_FAILED);
    rig_fill(rig);
}

void
rig_open_starting(struct rig *rig, uint32_t n, enum start start)
{
    rig_open(rig, 0);
    rig->start = start;
    rig->target = n;
    cp_pool_set_target(rig->pool, n);
    rig_fill(rig);
}

/* The index for the next worker of an elastic pool: of a missing worker for
 * which tasks wait, or else the first free one. */
static uint32_t
free_index(struct rig *rig)
{
    uint32_t index = cp_pool_next_unplaced(rig->pool, 0);
    if (index != UINT32_MAX) {
        return index;
    }
    cp_lock_acquire(&rig->pool->lock);
    struct cp_worker *w;
    do {
        index++;
        w = rig->pool->workers;
        while (w != NULL && (w->index != index || w->retiring)) {
            w = w->next;
        }
    } while (w != NULL);
    cp_lock_release(&rig->pool->lock);
    return index;
}

static int
fork_one(struct rig *rig)
{
    struct cp_worker *w;
    int r = cp_pool_new_worker(rig->pool, rig->budget, &w);
    if (r == CP_ECLOSED) {
        return 0;
    }
    CHECK_EQ(r, 0);
    w->index = rig->is_elastic ? free_index(rig) : 0;
    CHECK_EQ(cp_worker_before_fork(w), 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        rig_worker_main(rig, w);
    }
    cp_worker_started(w, pid);
    r = cp_pool_add_worker(rig->pool, w);
    if (r != 0) {
        CHECK_EQ(r, CP_ECLOSED);
        CHECK_EQ(cp_proc_kill(&w->proc, SIGKILL), 0);
        CHECK_EQ(cp_proc_wait(&w->proc, CP_NEVER, NULL), 1);
        pid = 0;
    }
    cp_worker_unref(w);
    (void)atomic_fetch_add(&rig->forks, 1);
    atomic_store(&rig->last_pid, pid);
    return pid;
}

int
rig_fork(struct rig *rig)
{
    CHECK_EQ(pthread_mutex_lock(&rig->forking), 0);
    int pid = fork_one(rig);
    CHECK_EQ(pthread_mutex_unlock(&rig->forking), 0);
    return pid;
}

void
rig_fill(struct rig *rig)
{
    struct cp_counts counts;
    CHECK_EQ(pthread_mutex_lock(&rig->forking), 0);
    cp_pool_count(rig->pool, &counts);
    uint32_t target = rig->is_elastic ? cp_pool_target(rig->pool) : rig->target;
    for (uint32_t n = counts.workers - counts.overdue; n < target; n++) {
        (void)fork_one(rig);
    }
    CHECK_EQ(pthread_mutex_unlock(&rig->forking), 0);
}

int
rig_collect(struct rig *rig)
{
    int n = 0;
    struct cp_job *job = cp_pool_ended(rig->pool);
    while (job != NULL) {
        struct cp_job *next = job->call_next;
        cp_job_close(job);
        job = next;
        n++;
    }
    return n;
}

void
rig_join(struct rig *rig)
{
    CHECK_EQ(rig_wait(rig, NULL, CP_NEVER), CP_WAIT_READY);
    struct cp_counts counts;
    cp_pool_count(rig->pool, &counts);
    CHECK_EQ(counts.workers, 0);
}

void
rig_release(struct rig *rig)
{
    struct cp_counts counts;
    cp_pool_count(rig->pool, &counts);
    CHECK_EQ(counts.pending, 0);
    CHECK_EQ(counts.queued, 0);
    (void)rig_collect(rig);
    /* One reference is the rig's; the table of known callables may have another
     * one. */
    CHECK(rig->func->refs == 1 || rig->func->refs == 2);
    cp_func_close(rig->pool, rig->func);
    while (atomic_load(&rig->pool->refs) > 1) { /* a standby that is ending */
        cp_test_let_others_run();
    }
    cp_pool_unref(rig->pool);
    CHECK_EQ(pthread_mutex_destroy(&rig->forking), 0);
    for (int i = 0; i < 2; i++) {
        (void)close(rig->begun[i]);
        (void)close(rig->gate[i]);
    }
    (void)munmap(rig->shared, sizeof(*rig->shared));
}

void
rig_close(struct rig *rig)
{
    cp_pool_end(rig->pool);
    rig_join(rig);
    rig_release(rig);
}

struct order *
batch_add_long(struct batch *batch, enum op op, uint32_t arg, size_t len)
{
    struct cp_task *task = cp_task_new(batch->n, 0, ORDER_LEN + len);
    CHECK(task != NULL);
    struct order order = {
        .op = (uint32_t)op, .arg = arg, .index = batch->n, .ns = 0};
    memcpy(task->body, &order, ORDER_LEN);
    cp_test_pattern(task->body + ORDER_LEN, len, batch->n);
    batch->n++;
    if (batch->last != NULL) {
        batch->last->next = task;
    } else {
        batch->first = task;
    }
    batch->last = task;
    return (struct order *)(void *)task->body;
}

struct order *
batch_add(struct batch *batch, enum op op, uint32_t arg)
{
    return batch_add_long(batch, op, arg, 0);
}

void
batch_put(struct batch *batch, struct cp_job *job, bool fed)
{
    cp_job_put_take(job, batch->first, fed);
    batch->first = batch->last = NULL;
}

struct cp_job *
rig_job(struct rig *rig, uint32_t flags)
{
    struct cp_job *job;
    CHECK_EQ(cp_job_open(rig->pool, rig->func, flags, rig, &job), 0);
    return job;
}

struct cp_job *
rig_put_job(struct rig *rig, uint32_t flags, enum op op, int n)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, flags);
    for (int i = 0; i < n; i++) {
        (void)batch_add(&batch, op, 0);
    }
    batch_put(&batch, job, true);
    return job;
}

struct cp_job *
rig_quick_job(struct rig *rig, struct batch *batch, uint32_t flags, int n)
{
    struct cp_job *job = rig_job(rig, flags);
    for (int i = 0; i < n; i++) {
        (void)batch_add(batch, OP_ECHO, 0);
    }
    batch_put(batch, job, false);
    rig_take_echoes(rig, job, n);
    return job;
}

struct cp_func *
rig_use_big_func(struct rig *rig, size_t size)
{
    struct cp_func *own = rig->func;
    uint8_t *bytes = calloc(1, size);
    CHECK(bytes != NULL);
    rig->func = cp_func_open(rig->pool, bytes, size, 0);
    CHECK(rig->func != NULL);
    free(bytes);
    return own;
}

void
rig_restore_func(struct rig *rig, struct cp_func *own)
{
    cp_func_close(rig->pool, rig->func);
    rig->func = own;
}

int
rig_wait(struct rig *rig, struct cp_job *job, int64_t deadline)
{
    for (;;) {
        int r = cp_pool_wait(rig->pool, job, deadline, CP_CAN_FORK);
        if (r == CP_WAIT_WORKERS) {
            rig_fill(rig);
        } else if (r != CP_EINTR) {
            return r;
        }
    }
}

struct cp_result *
rig_take(struct rig *rig, struct cp_job *job)
{
    for (;;) {
        bool done = atomic_load(&job->done);
        struct cp_result *result = cp_job_take(job);
        if (result != NULL || done) {
            return result;
        }
        CHECK_EQ(rig_wait(rig, job, CP_NEVER), CP_WAIT_READY);
    }
}

void *
rig_take_one(void *taker)
{
    struct rig_taker *me = taker;
    return rig_take(me->rig, me->job);
}

void
rig_check_echo(const struct cp_result *result)
{
    struct order order;
    CHECK(result != NULL);
    CHECK_EQ(result->outcome, CP_OK);
    CHECK(result->len >= ORDER_LEN);
    memcpy(&order, result->body, ORDER_LEN);
    CHECK_EQ(order.index, result->index);
    size_t n = result->len - ORDER_LEN;
    cp_test_check_pattern(result->body + ORDER_LEN, n, order.index);
}

void
rig_check_lost(struct cp_result *result, uint64_t index, int exitcode)
{
    CHECK(result != NULL);
    CHECK_EQ(result->outcome, CP_LOST);
    CHECK_EQ(result->index, index);
    CHECK_EQ(result->exitcode, exitcode);
    CHECK(result->pid > 0);
    CHECK_EQ(result->len, 0);
    cp_result_free(result);
}

void
rig_take_echoes(struct rig *rig, struct cp_job *job, int n)
{
    for (int i = 0; i < n; i++) {
        struct cp_result *result = rig_take(rig, job);
        rig_check_echo(result);
        cp_result_free(result);
    }
}

void
rig_close_job(struct rig *rig, struct cp_job *job)
{
    CHECK(rig_take(rig, job) == NULL);
    CHECK_EQ(atomic_load(&job->end), CP_END_NONE);
    cp_job_close(job);
}

void
rig_finish(struct rig *rig, struct cp_job *job, uint64_t n)
{
    bool *seen = calloc(n + 1, sizeof(bool));
    CHECK(seen != NULL);
    for (uint64_t i = 0; i < n; i++) {
        struct cp_result *result = rig_take(rig, job);
        rig_check_echo(result);
        CHECK(result->index < n && !seen[result->index]);
        CHECK((job->flags & CP_JOB_ORDERED) == 0 || result->index == i);
        seen[result->index] = true;
        cp_result_free(result);
    }
    free(seen);
    rig_close_job(rig, job);
}

struct cp_result *
rig_call(struct rig *rig, enum op op, uint32_t arg)
{
    struct batch batch = {0};
    struct cp_job *job = rig_job(rig, CP_JOB_SINGLE);
    (void)batch_add(&batch, op, arg);
    batch_put(&batch, job, true);
    struct cp_result *result = rig_take(rig, job);
    CHECK(result != NULL);
    CHECK_EQ(rig_wait(rig, job, CP_NEVER), CP_WAIT_READY);
    cp_job_close(job);
    return result;
}

void
rig_await_begun(struct rig *rig, int n)
{
    char byte;
    for (int i = 0; i < n; i++) {
        CHECK_EQ(read(rig->begun[0], &byte, 1), 1);
    }
}

void
rig_let_through(struct rig *rig, int n)
{
    for (int i = 0; i < n; i++) {
        CHECK_EQ(write(rig->gate[1], "g", 1), 1);
    }
}

void
rig_await_started(struct rig *rig)
{
    for (bool all = false; !all;) {
        CHECK_EQ(rig_wait(rig, NULL, cp_now() + CP_MS), CP_WAIT_TIMEOUT);
        all = true;
        cp_lock_acquire(&rig->pool->lock);
        for (struct cp_worker *w = rig->pool->workers; w != NULL; w = w->next) {
            all = all && w->hello;
        }
        cp_lock_release(&rig->pool->lock);
    }
}

void
rig_await_asleep(struct rig *rig)
{
    for (bool asleep = false; !asleep; cp_test_let_others_run()) {
        cp_lock_acquire(&rig->pool->lock);
        asleep = rig->pool->asleep;
        cp_lock_release(&rig->pool->lock);
    }
}
