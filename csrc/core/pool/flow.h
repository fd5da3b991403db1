/*
 * The values of tasks that yield (CP_YIELDS): how many came, how many were taken, and how
 * many more may come.
 *
 * Each such task may be some values ahead of the reader: its job's credit. As
 * the reader takes values, the task may yield as many more; it is told in
 * portions of half a credit. A task has a flow from its first value until the
 * end of the task or of its job. The lock is held in all functions here.
 */
#ifndef CP_POOL_FLOW_H
#define CP_POOL_FLOW_H

#include "pool/state.h"

struct cp_flow {
    struct cp_flow *next;
    uint64_t index;             /* of the task in its job */
    struct cp_worker *worker;   /* which runs it; NULL: a thread */
    uint64_t seq;               /* of the task in the worker's window */
    struct cp_yielder *yielder; /* the thread that waits for credit, or NULL */
    uint64_t sent, taken;       /* values */
    uint64_t credit;            /* how many values may be sent in total */
};

/* The flow of the job's task with this index; NULL: the task has yielded
 * nothing. */
struct cp_flow *cp_flow_find(struct cp_job *job, uint64_t index);

/* Count a value that the task has yielded. 0; CP_EPROTO: it had no credit; or
 * CP_ENOMEM. */
int cp_flow_count(const struct cp_task *task, struct cp_worker *w,
                  uint64_t seq);

/* The task has ended. Returns how many values it has yielded. */
uint64_t cp_flow_end(struct cp_job *job, uint64_t index);

/* A value of the task was taken. */
void cp_flow_take(struct cp_job *job, uint64_t index);

/* The job has ended: each of its tasks has to end when it yields next. */
void cp_flow_close(struct cp_job *job);

/* Does the task of a flow wait for credit? */
bool cp_flow_waits(const struct cp_flow *flow);

/* A thread or a coroutine waits now, or there are fewer workers: the tasks that
 * wait for credit may hold up others from now on, so somebody has to look; see
 * cp_watch_credit(). */
void cp_flow_note_watch(struct cp_pool *pool);

/* Give all tasks that wait for credit as much again as their job allows, so
 * that other work can go on. before: how often in a row they got some. Each
 * time it is twice as much, up to 64 times, since nobody reads what they yield:
 * they have to end before the other work gets a worker. */
void cp_flow_give_all(struct cp_pool *pool, uint32_t before);

#endif
