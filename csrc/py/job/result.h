/*
 * What a submission returns. _core.Result stands under ApplyResult and
 * MapResult, _core.Stream under the iterators; the Python classes over them
 * (cpool/pool.py) add what runs seldom. [attached]
 */
#ifndef PY_RESULT_H
#define PY_RESULT_H

#include "base/state.h"

/* job/stream.c */
int py_stream_add_type(PyObject *module, struct py_state *state);

/* job/result_life.c: what both types have in their slots. */
PyObject *py_result_new(PyTypeObject *type, PyObject *args, PyObject *kwds);
int py_result_init(PyObject *op, PyObject *args, PyObject *kwds);
int py_result_traverse(PyObject *op, visitproc visit, void *arg);
int py_result_clear(PyObject *op);
void py_result_finalize(PyObject *op);
void py_result_dealloc(PyObject *op);
/* What __init__ begins with, once: 0, or -1 with TypeError. */
int py_result_begin(ResultObject *self);
int py_result_open(ResultObject *self, PyObject *pool, uint32_t flags);
PyObject *py_result_get_pool(PyObject *op, void *closure);

/* The result of one call, as kind(pool, callback, error_callback) makes it; kind is
 * a class over _core.Result. */
ResultObject *py_result_make(EngineObject *engine, PyObject *kind,
                             PyObject *pool, PyObject *callback,
                             PyObject *error_callback);

/* Its number, or None: a new reference. From then on the job holds it. */
PyObject *py_result_number(ResultObject *self);

#endif
