/* The type _core.Begin: whether a thread that was started has begun. [attached] */
#ifndef PY_BEGIN_H
#define PY_BEGIN_H

#include "base/state.h"

/*
 * Begin(bootstrap, target): what a threading.Thread is to call instead of its own
 * _bootstrap and _target. An interpreter without memory may fail to get from one to the
 * other, and Thread.start() would wait for ever, or return though nothing runs.
 *
 *   begin()        calls bootstrap: the body of the new thread; never raises
 *   begin.run(*a)  calls target(*a), which has begun then
 *   begin.wait()   wait until target has begun: True; or until bootstrap has returned
 *                  without that: False. Runs signal handlers meanwhile
 */
int py_begin_add_type(PyObject *module);

#endif
