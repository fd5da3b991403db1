/*
 * A worker process gives its Python stack when the parent asks for it, whatever
 * it is doing: faulthandler writes the text, in a handler of CP_STOP_SIGNAL.
 * [attached]
 */
#ifndef PY_STACK_H
#define PY_STACK_H

#include "base/state.h"

/* _watch_stack(fd, register): from now on the calling thread gives its stack
 * when the parent asks; fd is an empty file that is used for this, and register
 * is faulthandler.register(). _watch_stack(-1): no longer, since the process is
 * about to end. Raises `OSError`, `RuntimeError` and what register() raises. */
PyObject *py_stack_watch(PyObject *module, PyObject *args);

/* The program's code, or ours, has set a handler for the signal: have that
 * handler called after ours. */
void py_stack_watch_again(void);

#endif
