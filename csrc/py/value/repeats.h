/*
 * Columns in which the same few objects stand again and again: pickle would
 * send each such object once, and so do we (TAG_PICK). [attached]
 */
#ifndef PY_REPEATS_H
#define PY_REPEATS_H

#include "base/state.h"
#include "value/tags.h"

/* Shorter columns are not worth the search. */
#define REPEATS_FROM 8

/* Is it likely that the column holds only a few objects? Each item is compared
 * with one recent item. */
bool py_repeats_are_likely(PyObject *const *items, Py_ssize_t n);

/* Put each distinct object once into `picked`, which has room for PICK_MAX, and
 * the number of item i's object into which[i]. Returns how many objects there
 * are, or 0 if there are more than PICK_MAX. */
unsigned py_repeats_pick(PyObject *const *items, Py_ssize_t n,
                         PyObject **picked, uint8_t *which);

#endif
