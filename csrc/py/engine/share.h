/* _core.Share: an object that is written once for all workers of a pool. The
 * class that programs use is in cpool/_engine/shared.py. [attached] */
#ifndef PY_SHARE_H
#define PY_SHARE_H

#include "base/engine.h"

/* share_object(obj): write the object. A Share, or NULL with an exception. Runs
 * Python code. */
PyObject *py_share_object(PyObject *engine, PyObject *obj);

/* _load_shared(fd): a new object from the file of a Share, whose descriptor this
 * takes over. Runs Python code. */
PyObject *py_share_load(PyObject *module, PyObject *fd);

/* Add the type to the module: 0, or -1 with an exception. */
int py_share_add_type(PyObject *module, struct py_state *state);

#endif
