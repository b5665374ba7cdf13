/* Placement and ranking as Python functions. */
#include "bind.h"

PyMethodDef bind_placement_methods[] = {{NULL, NULL, 0, NULL}};

int bind_placement_exec(PyObject *module)
{
    (void)module;
    return 0;
}
