/* One optional argument; see base/argument.h. */
#include "base/argument.h"

int
py_argument_parse(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                  const char *name, PyObject **argument)
{
    *argument = NULL;
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs + nkw > 1) {
        PyErr_Format(PyExc_TypeError, "expected at most 1 argument, got %zd",
                     nargs + nkw);
        return -1;
    }
    if (nkw == 1
        && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), name)
               != 0) {
        PyErr_Format(PyExc_TypeError, "got an unexpected keyword argument '%U'",
                     PyTuple_GET_ITEM(kwnames, 0));
        return -1;
    }
    if (nargs + nkw == 1) {
        *argument = args[0];
    }
    return 0;
}
