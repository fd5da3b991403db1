/* A job's queue and inbox. The pool's lock is held. */
#include "pool/job.h"

#include "link/wire.h"

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
        free(job->many->places);
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

static bool
is_value(const struct cp_result *result)
{
    return (result->flags & CP_IS_VALUE) != 0;
}

/* Append to the list of what has arrived of one task: its values, then its
 * end. */
static void
append(struct cp_result **list, struct cp_result *result)
{
    struct cp_result *first = *list;
    result->next = NULL;
    if (first == NULL) {
        *list = result;
        if (is_value(result)) {
            result->tail = result;
        }
    } else {
        CP_ASSERT(is_value(first) && is_value(first->tail));
        first->tail->next = result;
        first->tail = result;
    }
}

/* Take the first one off such a list. */
static struct cp_result *
get_first(struct cp_result **list)
{
    struct cp_result *first = *list;
    *list = first->next;
    if (*list != NULL && is_value(*list)) {
        (*list)->tail = first->tail;
    }
    first->next = NULL;
    return first;
}

/* Has the end of the task arrived? */
static bool
is_whole(const struct cp_result *list)
{
    return list != NULL && !(is_value(list) && is_value(list->tail));
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
        append(&job->many->in_order[result->index % job->many->order_cap],
               result);
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

/* Move one list to the front of another. */
static void
move_all(struct cp_result **from, struct cp_result **to)
{
    while (*from != NULL) {
        struct cp_result *result = *from;
        *from = result->next;
        result->next = *to;
        *to = result;
    }
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
    while (at < end
           && is_whole(job->many->in_order[at % job->many->order_cap])) {
        at++;
    }
    int r = order_grow(job, at);
    if (r != 0) {
        return r;
    }
    for (uint64_t i = at + 1; i < end; i++) {
        move_all(&job->many->in_order[i % job->many->order_cap], dropped);
    }
    append(&job->many->in_order[at % job->many->order_cap], result);
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
        result = get_first(&job->many->in_order[at]);
    } else {
        result = job->in_first;
        job->in_first = result->next;
        if (job->in_first == NULL) {
            job->in_last = NULL;
        }
        result->next = NULL;
    }
    job->taken += is_value(result) ? 0 : 1;
    return result;
}

struct cp_result *
cp_job_inbox_get_end(struct cp_job *job)
{
    if (cp_job_credit(job) == 0 || !cp_job_has_result(job)) {
        return NULL;
    }
    const struct cp_result *next =
        (job->flags & CP_JOB_ORDERED) != 0
            ? job->many->in_order[job->taken % job->many->order_cap]
            : job->in_first;
    return !is_value(next) && next->outcome == CP_OK ? cp_job_inbox_get(job)
                                                     : NULL;
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
        move_all(&many->in_order[i], &list);
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
        for (struct cp_result *r = many->in_order[i]; r != NULL && stop == 0;
             r = r->next) {
            stop = visit(r, arg);
        }
    }
    return stop;
}

void
cp_avg_follow(int64_t *avg_ns, int64_t ns)
{
    *avg_ns = *avg_ns < 0 ? ns : *avg_ns + (ns - *avg_ns) / 8;
}
