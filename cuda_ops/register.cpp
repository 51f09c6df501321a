// Schemas of operators without a CPU kernel; those of the others stand beside theirs. And the Python
// module whose import registers them all.
#include <Python.h>
#include <torch/library.h>

#include <vector>

#include "blockcopy/module_functions.h"

TORCH_LIBRARY(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "finish_conv_(Tensor(a!) sums, Tensor? bias, Tensor?[] norm, float eps, Tensor? residual, "
      "float low, float high) -> ()",
      tags);
  m.def(
      "block_divergence(Tensor previous, Tensor current, int[] size, int[] grid, int block_size, "
      "int cells, float clip) -> Tensor",
      tags);
  m.def("all_finite(Tensor values) -> Tensor", tags);
}

// The operators of this and the other files are registered when the library is loaded.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", "Kernels of the blockcopy:: operators.", -1,
      nullptr,               nullptr, nullptr, nullptr, nullptr};
  PyObject* made = PyModule_Create(&module);
  if (made && PyModule_AddFunctions(made, module_state_methods) == 0 &&
      PyModule_AddFunctions(made, grid_methods) == 0 &&
      PyModule_AddFunctions(made, program_methods) == 0 &&
      PyModule_AddFunctions(made, memory_watch_methods) == 0) {
    return made;
  }
  Py_XDECREF(made);
  return nullptr;
}
