/*
 * What threads of the parent do for a pool, for its timeline: making tasks, making objects of
 * results, running callbacks. Costs a look at a flag while no trace is on. [attached]
 */
#ifndef PY_BASE_WORK_H
#define PY_BASE_WORK_H

#include "base/engine.h"

/* The thread begins such work: a time for py_work_end(); or 0, where no trace is on, or
 * where the thread is in such work already. */
int64_t py_work_begin(const EngineObject *engine);

/* The work that began then has ended. Keeps a pending exception. */
void py_work_end(EngineObject *engine, enum cp_work kind, int64_t began);

#endif
