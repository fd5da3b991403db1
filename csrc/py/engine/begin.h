/* The type _core.Begin: whether a new thread has really begun. [attached] */
#ifndef PY_BEGIN_H
#define PY_BEGIN_H

#include "base/state.h"

/*
 * Begin(bootstrap, target): what a threading.Thread has to call instead of its
 * own _bootstrap and _target. When memory is out, the interpreter may fail
 * between the two; Thread.start() would then wait for ever, or return although
 * nothing runs.
 *
 *   begin()        calls bootstrap: the body of the new thread; never raises
 *   begin.run(*a)  calls target(*a), which has begun then
 *   begin.wait()   wait until target has begun: True; or until bootstrap has returned
 *                  without that: False. Runs signal handlers meanwhile
 */
int py_begin_add_type(PyObject *module);

#endif
