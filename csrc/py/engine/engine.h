/*
 * The type _core.Engine: the Python pool's handle on the core's pool. Its
 * layout is in base/engine.h. [attached]
 */
#ifndef PY_ENGINE_H
#define PY_ENGINE_H

#include "base/state.h"

/* Add the type to the module: 0, or -1 with an exception. */
int py_engine_add_type(PyObject *module, struct py_state *state);

#endif
