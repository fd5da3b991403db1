/* The values of tasks that yield; see pool/flow.h. */
#include "pool/flow.h"

#include "pool/wake.h"

#include <stdlib.h>

/* How often the credit of tasks that nobody reads is doubled. */
#define MOST_DOUBLED 6
/* More credit than this is not doubled. */
#define FEW (UINT64_C(1) << 32)

/* The link to the flow of this task, or to the end of the list. */
static struct cp_flow **
place_of(struct cp_job *job, uint64_t index)
{
    struct cp_flow **at = &job->many->flows;
    while (*at != NULL && (*at)->index != index) {
        at = &(*at)->next;
    }
    return at;
}

struct cp_flow *
cp_flow_find(struct cp_job *job, uint64_t index)
{
    return cp_job_many(job) != NULL ? *place_of(job, index) : NULL;
}

int
cp_flow_count(const struct cp_task *task, struct cp_worker *w, uint64_t seq)
{
    struct cp_job *job = task->job;
    struct cp_flow *flow = cp_flow_find(job, task->index);
    if (flow == NULL) {
        flow = calloc(1, sizeof(*flow));
        if (flow == NULL) {
            return CP_ENOMEM;
        }
        flow->index = task->index;
        flow->worker = w;
        flow->seq = seq;
        flow->credit = job->many->credit;
        flow->next = job->many->flows;
        job->many->flows = flow;
    }
    if (flow->sent >= flow->credit) {
        return CP_EPROTO;
    }
    flow->sent++;
    return 0;
}

uint64_t
cp_flow_end(struct cp_job *job, uint64_t index)
{
    struct cp_flow **at = place_of(job, index);
    struct cp_flow *flow = *at;
    uint64_t sent = 0;
    if (flow != NULL) {
        *at = flow->next;
        sent = flow->sent;
        free(flow);
    }
    return sent;
}

static void
set_credit(struct cp_pool *pool, struct cp_flow *flow, uint64_t credit)
{
    struct cp_worker *w = flow->worker;
    flow->credit = credit;
    if (w != NULL && cp_worker_set_credit(w, flow->seq, credit)) {
        w->flush_due = true;
        pool->due |= CP_DUE_OUTPUT;
    } else if (flow->yielder != NULL) {
        cp_note_yielder(pool, flow->yielder);
    }
}

void
cp_flow_take(struct cp_job *job, uint64_t index)
{
    struct cp_flow *flow = cp_flow_find(job, index);
    uint64_t ahead = job->many->credit;
    job->many->is_read = true;
    if (flow == NULL) {
        return;
    }
    flow->taken++;
    uint64_t credit = flow->taken + ahead;
    if (credit > flow->credit && (credit - flow->credit) * 2 >= ahead) {
        set_credit(job->pool, flow, credit);
    }
}

static void
close_in_worker(struct cp_worker *w, const struct cp_job *job)
{
    for (uint64_t seq = w->head; w->n_yield > 0 && seq < w->tail; seq++) {
        const struct cp_task *task = w->window[seq & (CP_WINDOW - 1)];
        if (task != NULL && task->job == job
            && cp_worker_set_credit(w, seq, CP_CREDIT_CLOSED)) {
            w->flush_due = true;
            job->pool->due |= CP_DUE_OUTPUT;
        }
    }
}

void
cp_flow_close(struct cp_job *job)
{
    for (struct cp_worker *w = job->pool->workers; w != NULL; w = w->next) {
        close_in_worker(w, job);
    }
    while (job->many->flows != NULL) {
        struct cp_flow *flow = job->many->flows;
        job->many->flows = flow->next;
        if (flow->yielder != NULL) {
            cp_note_yielder(job->pool, flow->yielder);
        }
        free(flow);
    }
}

bool
cp_flow_waits(const struct cp_flow *flow)
{
    return flow->worker != NULL ? cp_worker_waits(flow->worker)
                                : flow->yielder != NULL;
}

void
cp_flow_note_watch(struct cp_pool *pool)
{
    if (pool->n_yielding == 0) {
        return;
    }
    if (!cp_pool_has_threads(pool)) {
        cp_note_driver(pool);
    } else if (pool->threads.n_yielders >= pool->n_workers
               && pool->threads.yielders != NULL) {
        cp_note_yielder(pool, pool->threads.yielders); /* one is enough */
    }
}

void
cp_flow_give_all(struct cp_pool *pool, uint32_t before)
{
    unsigned doubled = before < MOST_DOUBLED ? before : MOST_DOUBLED;
    for (struct cp_job *job = pool->all_first; job != NULL;
         job = job->all_next) {
        const struct cp_many *many = cp_job_many(job);
        struct cp_flow *flow = many != NULL ? many->flows : NULL;
        for (; flow != NULL; flow = flow->next) {
            if (cp_flow_waits(flow)) {
                uint64_t more = many->credit;
                more = more < FEW ? more << doubled : more;
                set_credit(pool, flow, flow->credit + more);
            }
        }
    }
}
