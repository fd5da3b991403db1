/* Finding the module state; see base/state.h. */
#include "base/state.h"

#include "core/base/base.h"

struct PyModuleDef py_module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "cpool._core",
    .m_doc = "The engine of cpool; see cpool/_core.pyi.",
    .m_size = sizeof(struct py_state),
};

struct py_state *
py_state_of_module(PyObject *module)
{
    struct py_state *state = PyModule_GetState(module);
    CP_ASSERT(state != NULL);
    return state;
}

struct py_state *
py_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &py_module_def);
    CP_ASSERT(module != NULL);
    return py_state_of_module(module);
}
