/* A job's queue and inbox. The pool's lock is held. */
#include "pool/job.h"

#include <stdlib.h>

struct cp_job *
cp_job_alloc(struct cp_pool *pool, struct cp_func *func, uint32_t flags,
             void *user)
{
    size_t n_many = (flags & CP_JOB_SINGLE) != 0 ? 0 : 1;
    struct cp_job *job = calloc(1, sizeof(*job) + n_many * sizeof(*job->many));
    if (job != NULL) {
        job->pool = pool;
        job->func = func;
        job->flags = flags;
        job->user = user;
        job->refs = 1;
        if (n_many > 0) {
            job->many->avg_ns = job->many->item_ns = -1;
        }
    }
    return job;
}

void
cp_job_free(struct cp_job *job)
{
    CP_ASSERT(job->refs == 0 && job->first == NULL && !job->is_listed);
    cp_result_free_list(cp_job_inbox_clear(job));
    if (cp_job_many(job) != NULL) {
        free(job->many->in_order);
    }
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
    if (need <= job->many->order_cap) {
        return 0;
    }
    size_t cap = job->many->order_cap == 0 ? 8 : job->many->order_cap;
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
    for (size_t i = 0; i < job->many->order_cap; i++) {
        uint64_t at = job->taken + i;
        ring[at % cap] = job->many->in_order[at % job->many->order_cap];
    }
    free(job->many->in_order);
    job->many->in_order = ring;
    job->many->order_cap = cap;
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
        job->many->in_order[result->index % job->many->order_cap] = result;
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

int
cp_job_inbox_put_last(struct cp_job *job, struct cp_result *result,
                      struct cp_result **dropped)
{
    *dropped = NULL;
    if ((job->flags & CP_JOB_ORDERED) == 0) {
        return cp_job_inbox_put(job, result);
    }
    uint64_t at = job->taken, end = job->taken + job->many->order_cap;
    while (at < end && job->many->in_order[at % job->many->order_cap] != NULL) {
        at++;
    }
    int r = order_grow(job, at);
    if (r != 0) {
        return r;
    }
    for (uint64_t i = at; i < end; i++) {
        struct cp_result **place =
            &job->many->in_order[i % job->many->order_cap];
        if (*place != NULL) {
            (*place)->next = *dropped;
            *dropped = *place;
            *place = NULL;
        }
    }
    job->many->in_order[at % job->many->order_cap] = result;
    return 0;
}

bool
cp_job_has_result(const struct cp_job *job)
{
    if ((job->flags & CP_JOB_ORDERED) != 0) {
        return job->many->order_cap > 0
               && job->many->in_order[job->taken % job->many->order_cap]
                      != NULL;
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
        size_t at = (size_t)(job->taken % job->many->order_cap);
        result = job->many->in_order[at];
        job->many->in_order[at] = NULL;
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
    const struct cp_many *many = cp_job_many(job);
    for (size_t i = 0; many != NULL && i < many->order_cap; i++) {
        struct cp_result *result = many->in_order[i];
        if (result != NULL) {
            many->in_order[i] = NULL;
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
    const struct cp_many *many = cp_job_many(job);
    for (size_t i = 0; many != NULL && i < many->order_cap && stop == 0; i++) {
        if (many->in_order[i] != NULL) {
            stop = visit(many->in_order[i], arg);
        }
    }
    return stop;
}

void
cp_avg_follow(int64_t *avg_ns, int64_t ns)
{
    *avg_ns = *avg_ns < 0 ? ns : *avg_ns + (ns - *avg_ns) / 8;
}
