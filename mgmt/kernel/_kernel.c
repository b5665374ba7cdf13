/* The extension module mgmt.kernel._kernel: its definition and nothing else. */
#include "bind.h"

static int kernel_exec(PyObject *module)
{
    struct kernel_state *state = PyModule_GetState(module);
    state->memoryview_cast = PyUnicode_InternFromString("cast");
    state->int64_format = PyUnicode_InternFromString("q");
    state->place = PyUnicode_InternFromString("place");
    if (!state->memoryview_cast || !state->int64_format || !state->place)
        return -1;
    if (PyModule_AddFunctions(module, bind_analysis_methods) < 0 ||
        PyModule_AddFunctions(module, bind_table_methods) < 0 ||
        PyModule_AddFunctions(module, bind_history_methods) < 0 ||
        PyModule_AddFunctions(module, bind_runs_methods) < 0 ||
        PyModule_AddFunctions(module, bind_placement_methods) < 0)
        return -1;
    return bind_table_exec(module) < 0 ? -1 : bind_placement_exec(module);
}

static int kernel_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct kernel_state *state = PyModule_GetState(module);
    if (state) {
        Py_VISIT(state->table);
        Py_VISIT(state->table_fault);
        Py_VISIT(state->infeasible);
        for (size_t i = 0; i < sizeof state->placement / sizeof *state->placement; i++)
            Py_VISIT(state->placement[i]);
    }
    return 0;
}

static int kernel_clear(PyObject *module)
{
    struct kernel_state *state = PyModule_GetState(module);
    if (state) {
        Py_CLEAR(state->memoryview_cast);
        Py_CLEAR(state->int64_format);
        Py_CLEAR(state->place);
        Py_CLEAR(state->table);
        Py_CLEAR(state->table_fault);
        Py_CLEAR(state->infeasible);
        for (size_t i = 0; i < sizeof state->placement / sizeof *state->placement; i++)
            Py_CLEAR(state->placement[i]);
    }
    return 0;
}

static void kernel_free(void *module) { kernel_clear(module); }

static PyModuleDef_Slot kernel_slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)kernel_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef kernel_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mgmt.kernel._kernel",
    .m_doc = "The scheduling kernel in C; import mgmt.kernel instead.",
    .m_size = sizeof(struct kernel_state),
    .m_slots = kernel_slots,
    .m_traverse = kernel_traverse,
    .m_clear = kernel_clear,
    .m_free = kernel_free,
};

PyMODINIT_FUNC PyInit__kernel(void); /* its caller is the interpreter; no header declares it */
PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&kernel_module); }
