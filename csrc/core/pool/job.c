/* Jobs, tasks and results: queues and inboxes. The pool's lock is held in all
 * functions that take a job. */
#include "pool/job.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct cp_task *
cp_task_new(uint64_t index, uint16_t flags, size_t len)
{
    if (len > SIZE_MAX - sizeof(struct cp_task)) {
        return NULL;
    }
    struct cp_task *task = malloc(sizeof(*task) + len);
    if (task != NULL) {
        task->next = NULL;
        task->job = NULL;
        task->index = index;
        task->items = 1;
        task->flags = flags;
        task->deaths = 0;
        task->len = len;
        task->body = task->own;
        task->taken = NULL;
    }
    return task;
}

struct cp_task *
cp_task_new_take(uint64_t index, uint16_t flags, struct cp_buf *body)
{
    size_t len = cp_buf_len(body);
    /* A buffer that is mostly empty would be a waste while the task waits. */
    bool takes = len >= CP_BIG && len >= body->cap / 2;
    struct cp_task *task = cp_task_new(index, flags, takes ? 0 : len);
    if (task == NULL) {
        return NULL;
    }
    if (takes) {
        task->len = len;
        task->taken = cp_buf_take(body, &task->body);
    } else {
        memcpy(task->body, cp_buf_head(body), len);
        cp_buf_consume(body, len);
    }
    return task;
}

void
cp_task_free(struct cp_task *task)
{
    if (task != NULL) {
        free(task->taken);
        free(task);
    }
}

struct cp_result *
cp_result_new(uint64_t index, enum cp_outcome outcome, size_t len)
{
    if (len > SIZE_MAX - sizeof(struct cp_result)) {
        return NULL;
    }
    struct cp_result *result = malloc(sizeof(*result) + len);
    if (result != NULL) {
        cp_mem_expect(result->body, len);
        result->next = NULL;
        result->index = index;
        result->items = 1;
        result->outcome = outcome;
        result->pid = 0;
        result->exitcode = 0;
        result->len = len;
    }
    return result;
}

void
cp_result_free(struct cp_result *result)
{
    free(result);
}

void
cp_result_free_list(struct cp_result *result)
{
    while (result != NULL) {
        struct cp_result *next = result->next;
        free(result);
        result = next;
    }
}

struct cp_job *
cp_job_alloc(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
             void *user)
{
    struct cp_job *job = calloc(1, sizeof(*job));
    if (job != NULL) {
        job->pool = pool;
        job->func = func;
        job->flags = flags;
        job->user = user;
        job->refs = 1;
        job->avg_ns = job->item_ns = -1;
    }
    return job;
}

void
cp_job_free(struct cp_job *job)
{
    CP_ASSERT(job->refs == 0 && job->first == NULL && !job->is_listed);
    cp_result_free_list(cp_job_inbox_clear(job));
    free(job->in_order);
    free(job);
}

void
cp_job_queue_last(struct cp_job *job, struct cp_task *task)
{
    task->next = NULL;
    if (job->last != NULL) {
        job->last->next = task;
    } else {
        job->first = task;
    }
    job->last = task;
    job->queued++;
}

void
cp_job_queue_first(struct cp_job *job, struct cp_task *task)
{
    task->next = job->first;
    job->first = task;
    if (job->last == NULL) {
        job->last = task;
    }
    job->queued++;
}

struct cp_task *
cp_job_dequeue(struct cp_job *job)
{
    struct cp_task *task = job->first;
    if (task != NULL) {
        job->first = task->next;
        if (job->first == NULL) {
            job->last = NULL;
        }
        task->next = NULL;
        job->queued--;
    }
    return task;
}

/* Make the ring hold index: results between taken and index may be missing. */
static int
order_grow(struct cp_job *job, uint64_t index)
{
    uint64_t need = index - job->taken + 1;
    if (need <= job->order_cap) {
        return 0;
    }
    size_t cap = job->order_cap == 0 ? 8 : job->order_cap;
    while (cap < need) {
        if (cap > SIZE_MAX / 2 / sizeof(void *)) {
            return CP_ENOMEM;
        }
        cap *= 2;
    }
    struct cp_result **ring = calloc(cap, sizeof(struct cp_result *));
    if (ring == NULL) {
        return CP_ENOMEM;
    }
    for (size_t i = 0; i < job->order_cap; i++) {
        uint64_t at = job->taken + i;
        ring[at % cap] = job->in_order[at % job->order_cap];
    }
    free(job->in_order);
    job->in_order = ring;
    job->order_cap = cap;
    return 0;
}

int
cp_job_inbox_put(struct cp_job *job, struct cp_result *result)
{
    if ((job->flags & CP_JOB_ORDERED) != 0) {
        CP_ASSERT(result->index >= job->taken);
        int r = order_grow(job, result->index);
        if (r != 0) {
            return r;
        }
        job->in_order[result->index % job->order_cap] = result;
        return 0;
    }
    result->next = NULL;
    if (job->in_last != NULL) {
        job->in_last->next = result;
    } else {
        job->in_first = result;
    }
    job->in_last = result;
    return 0;
}

bool
cp_job_has_result(const struct cp_job *job)
{
    if ((job->flags & CP_JOB_ORDERED) != 0) {
        return job->order_cap > 0
               && job->in_order[job->taken % job->order_cap] != NULL;
    }
    return job->in_first != NULL;
}

struct cp_result *
cp_job_inbox_get(struct cp_job *job)
{
    struct cp_result *result;
    if (!cp_job_has_result(job)) {
        return NULL;
    }
    if ((job->flags & CP_JOB_ORDERED) != 0) {
        size_t at = (size_t)(job->taken % job->order_cap);
        result = job->in_order[at];
        job->in_order[at] = NULL;
    } else {
        result = job->in_first;
        job->in_first = result->next;
        if (job->in_first == NULL) {
            job->in_last = NULL;
        }
        result->next = NULL;
    }
    job->taken++;
    return result;
}

struct cp_result *
cp_job_inbox_get_all(struct cp_job *job)
{
    CP_ASSERT((job->flags & CP_JOB_ORDERED) == 0);
    struct cp_result *list = job->in_first;
    for (struct cp_result *r = list; r != NULL; r = r->next) {
        job->taken++;
    }
    job->in_first = job->in_last = NULL;
    return list;
}

struct cp_result *
cp_job_inbox_clear(struct cp_job *job)
{
    struct cp_result *list = job->in_first;
    job->in_first = job->in_last = NULL;
    for (size_t i = 0; i < job->order_cap; i++) {
        struct cp_result *result = job->in_order[i];
        if (result != NULL) {
            job->in_order[i] = NULL;
            result->next = list;
            list = result;
        }
    }
    if (job->farewell != NULL) {
        job->farewell->next = list;
        list = job->farewell;
        job->farewell = NULL;
    }
    return list;
}

int
cp_job_inbox_each(struct cp_job *job,
                  int (*visit)(struct cp_result *result, void *arg), void *arg)
{
    int stop = job->farewell != NULL ? visit(job->farewell, arg) : 0;
    for (struct cp_result *r = job->in_first; r != NULL && stop == 0;
         r = r->next) {
        stop = visit(r, arg);
    }
    for (size_t i = 0; i < job->order_cap && stop == 0; i++) {
        if (job->in_order[i] != NULL) {
            stop = visit(job->in_order[i], arg);
        }
    }
    return stop;
}

void
cp_avg_follow(int64_t *avg_ns, int64_t ns)
{
    *avg_ns = *avg_ns < 0 ? ns : *avg_ns + (ns - *avg_ns) / 8;
}
