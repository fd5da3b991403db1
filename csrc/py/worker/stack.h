/*
 * A worker process tells its Python stack when the parent asks for it, whatever it does
 * then: faulthandler writes the text, in a handler of CP_STOP_SIGNAL. [attached]
 */
#ifndef PY_STACK_H
#define PY_STACK_H

#include "base/state.h"

/* _watch_stack(fd): from now on the thread that calls this tells its stack when the parent
 * asks, by way of this descriptor of an empty file. -1: no longer, since the process is about
 * to end. Raises `OSError`, `RuntimeError` and what faulthandler.register() raises. */
PyObject *py_stack_watch(PyObject *module, PyObject *fd);

/* The program's code, or ours, has set a handler of the signal: have it called after ours. */
void py_stack_watch_again(void);

#endif
