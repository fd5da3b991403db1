/*
 * The values of tasks that yield (CP_YIELDS): how many came, how many were taken, and how
 * many more may come.
 *
 * Each such task may be so many values ahead of the reader, its job's credit. What a reader
 * takes is given back to the task, in portions of half of that. A task has a flow from its
 * first value until its end or that of its job. The lock is held in all functions here.
 */
#ifndef CP_POOL_FLOW_H
#define CP_POOL_FLOW_H

#include "pool/state.h"

struct cp_flow {
    struct cp_flow *next;
    uint64_t index;             /* of the task in its job */
    struct cp_worker *worker;   /* that runs it; NULL: a thread */
    uint64_t seq;               /* of the task in the worker's window */
    struct cp_yielder *yielder; /* the thread that waits for credit, or NULL */
    uint64_t sent, taken;       /* values */
    uint64_t credit;            /* how many may be sent, in all */
};

/* The flow of the job's task with this index, or NULL: it has yielded nothing. */
struct cp_flow *cp_flow_find(struct cp_job *job, uint64_t index);

/* The task has yielded a value. 0; CP_EPROTO: it may not; or CP_ENOMEM. */
int cp_flow_count(const struct cp_task *task, struct cp_worker *w,
                  uint64_t seq);

/* The task has ended: how many values it has yielded. */
uint64_t cp_flow_end(struct cp_job *job, uint64_t index);

/* A value of the task was taken. */
void cp_flow_take(struct cp_job *job, uint64_t index);

/* The job has ended: its tasks are to end where they would yield. */
void cp_flow_close(struct cp_job *job);

/* Does the task of a flow wait for credit? */
bool cp_flow_waits(const struct cp_flow *flow);

/* So that others can go on, all tasks that wait may yield as many values once more. */
void cp_flow_give_all(struct cp_pool *pool);

#endif
