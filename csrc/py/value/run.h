/*
 * What travels as the body of a task or a result: values in our own encoding
 * (value/codec.h), or one pickle (value/pickle.h). And runs: the values of one chunk,
 * in memory that nobody else can reach. Owned by whoever has it. [attached]
 */
#ifndef PY_RUN_H
#define PY_RUN_H

#include "base/state.h"

/* Append obj to out: 0, or -1 with an exception, and then out is as it was. May
 * run Python code. */
int py_body_put(struct py_state *state, PyObject *obj, struct cp_buf *out);

/* The object that these bytes hold (of a run: a list), or NULL with an
 * exception. */
PyObject *py_body_get(struct py_state *state, const uint8_t *bytes, size_t len);

/* n values; each in one slot, or in `width` slots where that is not 0: then it is
 * the tuple of what they hold. An all-zero struct is an empty run. */
struct py_run {
    PyObject **slots; /* one more stands before them, for vectorcalls */
    Py_ssize_t n, width;
    Py_ssize_t used, cap; /* slots */
};

/* Room for so many slots in all: 0, or -1 with MemoryError. */
int py_run_reserve(struct py_run *run, Py_ssize_t n);

/* Add a value, which is stolen: 0, or -1 with MemoryError. */
static inline int
py_run_add_take(struct py_run *run, PyObject *value)
{
    if (run->used == run->cap && py_run_reserve(run, run->used + 1) < 0) {
        Py_DECREF(value);
        return -1;
    }
    run->slots[run->used++] = value;
    run->n++;
    return 0;
}

/* Drop the values, and the memory too where it is for more than a few. */
void py_run_clear(struct py_run *run);
void py_run_fini(struct py_run *run);

/* The values as a list, and the run is empty; or NULL with an exception. */
PyObject *py_run_take_list(struct py_run *run);

/* Append the run (of width 0) to out: 0, or -1 with an exception, and then out is
 * as it was. What has to be pickled moves to *list, a new reference; else that
 * is NULL. May run Python code. */
int py_run_put(struct py_state *state, struct py_run *run, struct cp_buf *out,
               PyObject **list);

/* Fill an empty run: 0, or -1 with an exception. n: how many values there must
 * be; -1: any number. rows: slots for the items of tuples are welcome. */
int py_run_get(struct py_state *state, const uint8_t *bytes, size_t len,
               Py_ssize_t n, bool rows, struct py_run *run);

/* The same with what stands in a list, of which any other object is an error. */
int py_run_copy(struct py_state *state, PyObject *list, Py_ssize_t n,
                struct py_run *run);

#endif
