/*
 * Work that threads of the parent do for a pool, recorded for the timeline:
 * making tasks, decoding results, running callbacks. Costs one look at a flag
 * while no trace is on. [attached]
 */
#ifndef PY_BASE_WORK_H
#define PY_BASE_WORK_H

#include "base/engine.h"

/* The thread begins such work. Returns a time for py_work_end(); or 0 if no
 * trace is on, or if the thread is doing such work already. */
int64_t py_work_begin(const EngineObject *engine);

/* The work that began at this time has ended. Keeps a pending exception. */
void py_work_end(EngineObject *engine, enum cp_work kind, int64_t began);

#endif
