// Functions of the Python module, see module_state.cpp.
#pragma once

#include <Python.h>

extern PyMethodDef module_state_methods[];
