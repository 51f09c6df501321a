// Functions of the Python module, in the files of their names.
#pragma once

#include <Python.h>

extern PyMethodDef module_state_methods[];
extern PyMethodDef grid_methods[];
extern PyMethodDef program_methods[];
extern PyMethodDef memory_watch_methods[];

// How Python wants a function that takes its arguments as an array.
inline PyCFunction fast(_PyCFunctionFast function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}
