/* Runs; see value/run.h. */
#include "value/run.h"

#include "base/error.h"
#include "value/body.h"
#include "value/decoder.h"
#include "value/encoder.h"
#include "value/pickle.h"

#include <string.h>

/* py_run_clear() keeps the memory of up to this many slots. */
#define KEEP_SLOTS 16384

/* ---- memory ---- */

int
py_run_reserve(struct py_run *run, Py_ssize_t n)
{
    if (n <= run->cap) {
        return 0;
    }
    Py_ssize_t cap = run->cap + run->cap / 2;
    cap = cap < 16 ? 16 : cap;
    cap = cap < n ? n : cap;
    PyObject **base = run->slots != NULL ? run->slots - 1 : NULL;
    PyObject **wider = base;
    PyMem_Resize(wider, PyObject *, (size_t)cap + 1);
    if (wider == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    wider[0] = NULL;
    run->slots = wider + 1;
    run->cap = cap;
    return 0;
}

/* Add n slots that are NULL: 0, or -1 with MemoryError. */
static int
extend(struct py_run *run, Py_ssize_t n)
{
    if (py_run_reserve(run, run->used + n) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        run->slots[run->used + i] = NULL;
    }
    run->used += n;
    return 0;
}

void
py_run_clear(struct py_run *run)
{
    Py_ssize_t used = run->used;
    run->n = run->width = run->used = 0;
    for (Py_ssize_t i = 0; i < used; i++) {
        Py_XDECREF(run->slots[i]);
    }
    if (run->cap > KEEP_SLOTS) {
        py_run_fini(run);
    }
}

void
py_run_fini(struct py_run *run)
{
    if (run->used > 0) {
        py_run_clear(run);
    }
    if (run->slots != NULL) {
        PyMem_Free(run->slots - 1);
    }
    *run = (struct py_run){0};
}

int
py_run_split(struct py_run *run, Py_ssize_t n, struct py_run *rest)
{
    CP_ASSERT(run->width == 0 && rest->used == 0);
    Py_ssize_t more = run->n - n;
    if (more <= 0) {
        return 0;
    }
    if (py_run_reserve(rest, more) < 0) {
        return -1;
    }
    memcpy(rest->slots, run->slots + n, (size_t)more * sizeof(PyObject *));
    rest->n = rest->used = more;
    run->n = run->used = n;
    return 0;
}

PyObject *
py_run_take_list(struct py_run *run)
{
    CP_ASSERT(run->width == 0);
    PyObject *list = PyList_New(run->n);
    if (list == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < run->n; i++) {
        PyList_SET_ITEM(list, i, run->slots[i]);
    }
    run->n = run->used = 0;
    return list;
}

/* ---- bytes ---- */

PyObject *
py_run_fail(struct py_run *run)
{
    PyObject *exc = py_error_fetch();
    PyObject *list = py_run_take_list(run);
    py_error_restore(exc);
    Py_DECREF(exc);
    return list;
}

int
py_run_put(struct py_state *state, struct py_run *run, struct cp_buf *out,
           PyObject **list, bool *ran_code)
{
    *list = NULL;
    int r = atomic_load(&state->replaced)
                ? 0
                : py_encode_run(state, out, run->slots, run->n, ran_code);
    if (r == 1) {
        return 0;
    }
    if (ran_code != NULL) {
        *ran_code = true;
    }
    if (r < 0) {
        *list = py_run_fail(run);
        return -1;
    }
    *list = py_run_take_list(run);
    return *list != NULL ? py_dumps(state, *list, out) : -1;
}

int
py_run_put_alone(struct py_state *state, struct py_run *run, Py_ssize_t refs,
                 struct cp_buf *out, bool *ran_code)
{
    CP_ASSERT(run->width == 0);
    return atomic_load(&state->replaced)
               ? 0
               : py_encode_run_alone(state, out, run->slots, run->n, refs,
                                     ran_code);
}

/* Fill the run from a list that no other thread can reach. */
static int
fill_from(struct py_run *run, PyObject *list)
{
    Py_ssize_t n = PyList_GET_SIZE(list);
    if (py_run_reserve(run, n) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PyList_GET_ITEM(list, i); /* lint-ok: list is ours */
        run->slots[i] = Py_NewRef(item);
    }
    run->n = run->used = n;
    return 0;
}

/* Raise the exception for a body that is not a run of n values (n -1: not a
 * run). Returns -1. */
static int
raise_not_a_run(struct py_state *state, Py_ssize_t n)
{
    if (n < 0) {
        (void)py_raise(state, CP_EPROTO);
    } else {
        PyErr_SetString(PyExc_RuntimeError,
                        "a worker answered with a wrong number of results");
    }
    return -1;
}

/* Steals list, which no other thread can reach. list NULL: an exception is
 * set. */
static int
fill_from_list_take(struct py_state *state, PyObject *list, Py_ssize_t n,
                    struct py_run *run)
{
    if (list == NULL) {
        return -1;
    }
    bool fits =
        PyList_CheckExact(list) && (n < 0 || PyList_GET_SIZE(list) == n);
    int r = fits ? fill_from(run, list) : raise_not_a_run(state, n);
    Py_DECREF(list);
    return r;
}

int
py_run_copy(struct py_state *state, PyObject *list, Py_ssize_t n,
            struct py_run *run)
{
    CP_ASSERT(run->used == 0);
    return fill_from_list_take(state,
                               PyList_CheckExact(list)
                                   ? PyList_GetSlice(list, 0, PY_SSIZE_T_MAX)
                                   : Py_NewRef(list),
                               n, run);
}

int
py_run_get(struct py_state *state, const uint8_t *bytes, size_t len,
           const struct cp_loan *loan, Py_ssize_t n, bool rows,
           struct py_run *run)
{
    CP_ASSERT(run->used == 0);
    Py_ssize_t own = py_decode_run_length(bytes, len);
    if (own < 0) {
        return fill_from_list_take(state, py_body_get(state, bytes, len, loan),
                                   n, run);
    }
    if (n >= 0 && own != n) {
        return raise_not_a_run(state, n);
    }
    run->n = own;
    run->width = rows ? py_decode_row_width(bytes, len) : 0;
    if (extend(run, own * (run->width > 0 ? run->width : 1)) < 0) {
        return -1;
    }
    int r = run->width > 0 ? py_decode_rows(state, bytes, len, loan, run->slots)
                           : py_decode_run(state, bytes, len, loan, run->slots);
    if (r == CP_EPROTO) {
        (void)py_raise(state, r);
    }
    return r == 0 ? 0 : -1;
}
