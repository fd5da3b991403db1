/*
 * A run: the values of one chunk, in memory that only the thread that uses the
 * run can reach. [attached]
 */
#ifndef PY_RUN_H
#define PY_RUN_H

#include "base/state.h"

#include "core/base/buf.h"
#include "core/share/parts.h"

/* n values. With width 0 each value has one slot; otherwise each value is a
 * tuple whose `width` items have one slot each. An all-zero struct is an empty
 * run. */
struct py_run {
    PyObject **slots; /* slots[-1] exists too, for vectorcalls */
    Py_ssize_t n, width;
    Py_ssize_t used, cap; /* slots */
};

/* Make room for n slots in all: 0, or -1 with MemoryError. */
int py_run_reserve(struct py_run *run, Py_ssize_t n);

/* Add a value, and steal it: 0, or -1 with MemoryError. */
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

/* Release the values, and also the memory if it is large. */
void py_run_clear(struct py_run *run);

/* Release the values and the memory. */
void py_run_fini(struct py_run *run);

/* Move all values but the first n to the empty run rest: 0, or -1 with
 * MemoryError. */
int py_run_split(struct py_run *run, Py_ssize_t n, struct py_run *rest);

/* Move the values to a new list, which is returned; or NULL with an
 * exception. */
PyObject *py_run_take_list(struct py_run *run);

/* The same while an exception is set, which stays set. NULL if there is no
 * memory for the list. */
PyObject *py_run_fail(struct py_run *run);

/* Append the run (of width 0) to out: 0, or -1 with an exception, and out is
 * unchanged. If the values have to be pickled, they move to *list, a new
 * reference; otherwise *list is NULL. *ran_code becomes true if code of the
 * program may have run; it may be NULL. */
int py_run_put(struct py_state *state, struct py_run *run, struct cp_buf *out,
               PyObject **list, bool *ran_code);

/* Append the run (of width 0) to out if it shares nothing with other runs and
 * needs no pickle: 1. Otherwise 0; or -1 with an exception. refs: how many
 * references to each value the caller knows of. */
int py_run_put_alone(struct py_state *state, struct py_run *run,
                     Py_ssize_t refs, struct cp_buf *out, bool *ran_code);

/* Fill an empty run from bytes, and from the parts in the loan (NULL: none): 0,
 * or -1 with an exception. n: how many values there must be; -1: any number.
 * rows: the run may get a width. May run Python code. */
int py_run_get(struct py_state *state, const uint8_t *bytes, size_t len,
               const struct cp_loan *loan, Py_ssize_t n, bool rows,
               struct py_run *run);

/* Fill an empty run from a list; any other object is an error. */
int py_run_copy(struct py_state *state, PyObject *list, Py_ssize_t n,
                struct py_run *run);

#endif
