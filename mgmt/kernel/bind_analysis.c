/* The analyses as Python functions. */
#include "bind.h"

PyMethodDef bind_analysis_methods[] = {{NULL, NULL, 0, NULL}};

int bind_analysis_exec(PyObject *module)
{
    (void)module;
    return 0;
}
