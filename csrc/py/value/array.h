/*
 * Arrays and scalars of numpy. The numpy that the program has loaded is found
 * at run time, so numpy is needed neither to build nor to install. See
 * value/writer.h and value/reader.h for what the functions return. [attached]
 */
#ifndef PY_ARRAY_H
#define PY_ARRAY_H

#include "value/reader.h"
#include "value/writer.h"

enum py_array_kind {
    PY_ARRAY_NONE,
    PY_ARRAY_ARRAY, /* numpy.ndarray */
    PY_ARRAY_SCALAR /* a number of numpy */
};

/* Which kind of numpy object this class has. */
enum py_array_kind py_array_kind_of(struct py_state *state,
                                    const PyTypeObject *type);

/* Can the array be sent as its bytes? Arrays of objects and of records cannot. */
bool py_array_is_plain(struct py_state *state, PyObject *array);

/* n plain numeric arrays of one dtype and shape; or OTHER_KIND. */
int py_array_put(struct py_writer *w, PyObject *const *items, Py_ssize_t n);
int py_array_get(struct py_reader *in, size_t n, PyObject **slots,
                 size_t stride);

/* n numpy numbers of one class. */
int py_array_put_scalars(struct py_writer *w, PyObject *const *items,
                         Py_ssize_t n);
int py_array_get_scalars(struct py_reader *in, size_t n, PyObject **slots,
                         size_t stride);

/* Are all of them plain arrays that differ only in their contents? */
bool py_array_are_alike(struct py_state *state, PyObject *const *items,
                        Py_ssize_t n);

/* What empty(*args) returns, which has to be numpy.empty(): an array whose data, if
 * they are large, are in a block of this heap (NULL: none), so that an answer
 * can hand the block over. NULL with an exception. */
PyObject *py_array_empty(struct py_state *state, struct cp_heap *heap,
                         PyObject *empty, PyObject *const *args, Py_ssize_t n);

/* Drop the state that was gathered about numpy. */
void py_array_forget(struct py_state *state);

#endif
