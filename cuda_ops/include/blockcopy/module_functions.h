// Functions of the Python module, see module_state.cpp, grids.cpp and program.cpp.
#pragma once

#include <Python.h>

extern PyMethodDef module_state_methods[];
extern PyMethodDef grid_methods[];
extern PyMethodDef program_methods[];

// How Python wants a function that takes its arguments as an array.
inline PyCFunction fast(_PyCFunctionFast function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}
