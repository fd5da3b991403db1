/* Tasks and results: allocation; see link/task.h. */
#include "link/task.h"

#include "base/mem.h"
#include "link/wire.h"

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
        task->call = NULL;
        task->index = index;
        task->items = 1;
        task->flags = flags;
        task->cost_ns = 0;
        task->queued_at = 0;
        task->deaths = 0;
        task->pinned = false;
        task->held = 0;
        task->tries = 0;
        task->len = len;
        task->body = task->own;
        task->taken = NULL;
        task->parts = NULL;
    }
    return task;
}

/* Append the references to the parts, if the body has any, and move the parts
 * to memory of their own. 1; 0: it has none; or CP_ENOMEM. */
static int
seal(struct cp_buf *body, struct cp_parts **parts)
{
    *parts = NULL;
    if (body->parts == NULL
        || (body->parts->n == 0 && body->parts->n_uses == 0)) {
        return 0;
    }
    struct cp_parts *own = malloc(sizeof(*own));
    if (own == NULL
        || (body->parts->n > 0 && cp_parts_seal(body->parts, body) != 0)) {
        free(own);
        return CP_ENOMEM;
    }
    *parts = own;
    return 1;
}

struct cp_task *
cp_task_new_take(uint64_t index, uint16_t flags, struct cp_buf *body)
{
    struct cp_parts *parts;
    int sealed = seal(body, &parts);
    if (sealed < 0) {
        return NULL;
    }
    size_t len = cp_buf_len(body);
    /* Take over the buffer's block, unless most of it is unused: that part
     * would be wasted for as long as the task waits. */
    bool takes = len >= CP_BIG && len >= body->cap / 2;
    struct cp_task *task = cp_task_new(index, flags, takes ? 0 : len);
    if (task == NULL) {
        free(parts);
        return NULL;
    }
    if (sealed == 1) {
        *parts = *body->parts;
        *body->parts = (struct cp_parts){.heap = parts->heap,
                                         .is_private = parts->is_private,
                                         .pool = parts->pool};
        task->flags |= parts->n > 0 ? CP_PARTS : 0;
        task->parts = parts;
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

struct cp_task *
cp_task_clone(const struct cp_task *task)
{
    struct cp_task *clone = cp_task_new(task->index, task->flags, task->len);
    if (clone != NULL) {
        clone->job = task->job;
        clone->call = task->call;
        clone->items = task->items;
        clone->deaths = task->deaths;
        clone->pinned = task->pinned;
        clone->held = task->held;
        clone->tries = task->tries;
        memcpy(clone->body, task->body, task->len);
    }
    return clone;
}

void
cp_task_free(struct cp_task *task)
{
    if (task != NULL) {
        if (task->parts != NULL) {
            cp_use_end_all(task->parts);
            cp_parts_fini(task->parts);
            free(task->parts);
        }
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
        cp_mem_advise_huge(result->body, len);
        result->next = NULL;
        result->index = index;
        result->items = 1;
        result->outcome = outcome;
        result->flags = 0;
        result->pid = 0;
        result->exitcode = 0;
        result->worker = 0;
        result->item = 0;
        result->reason = CP_DIED;
        result->amount = 0;
        result->loan = NULL;
        result->len = len;
    }
    return result;
}

void
cp_result_free(struct cp_result *result)
{
    if (result != NULL) {
        cp_loan_close(result->loan);
        free(result);
    }
}

void
cp_result_free_list(struct cp_result *result)
{
    while (result != NULL) {
        struct cp_result *next = result->next;
        cp_result_free(result);
        result = next;
    }
}
