// Questions to the grid of a frame, each of which takes a handful of ops of torch; see
// engine/frame/grid_lists.py, which asks them.
#include "blockcopy/module_functions.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include <ATen/ATen.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/object_ptr.h>

namespace {

const at::Tensor& grid_of(PyObject* value, const char* name) {
  TORCH_CHECK_TYPE(THPVariable_Check(value), name, ": expected a tensor, got ",
                   Py_TYPE(value)->tp_name);
  const at::Tensor& grid = THPVariable_Unpack(value);
  TORCH_CHECK_VALUE(grid.dim() == 3 && grid.scalar_type() == at::kBool &&
                        grid.device().is_cpu() && grid.is_contiguous(),
                    name, ": the grid is ", grid.scalar_type(), " ", grid.sizes(),
                    " with strides ", grid.strides(), " on ", grid.device(),
                    ", expected bool (N, GH, GW) without gaps in host memory");
  return grid;
}

int64_t count_in(const uint8_t* executed, int64_t blocks) {
  int64_t sum = 0;
  for (int64_t i = 0; i < blocks; ++i) {
    sum += executed[i] != 0;
  }
  return sum;
}

// count_blocks(grid: Tensor) -> tuple: the number of executed blocks of each image.
PyObject* count_blocks(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 1, "count_blocks: expected 1 argument, got ", count);
  const at::Tensor& grid = grid_of(args[0], "count_blocks");
  const int64_t images = grid.size(0), blocks = grid.size(1) * grid.size(2);
  const auto* executed = static_cast<const uint8_t*>(grid.const_data_ptr());
  THPObjectPtr found(PyTuple_New(images));
  for (int64_t image = 0; found && image < images; ++image) {
    PyObject* number = PyLong_FromLongLong(count_in(executed + image * blocks, blocks));
    if (!number || PyTuple_SetItem(found, image, number) != 0) {
      return nullptr;
    }
  }
  return found.release();
  END_HANDLE_TH_ERRORS
}

// list_blocks(grid: Tensor, rows: int, columns: int) -> Tensor: int32 (executed, 3) with the image,
// row and column of each executed block of a map of so many blocks. Rows and columns beyond those
// of the grid are executed like its last ones.
PyObject* list_blocks(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "list_blocks: expected 3 arguments, got ", count);
  const at::Tensor& grid = grid_of(args[0], "list_blocks");
  const int64_t rows = PyLong_AsLongLong(args[1]), columns = PyLong_AsLongLong(args[2]);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  const int64_t images = grid.size(0), height = grid.size(1), width = grid.size(2);
  TORCH_CHECK_VALUE(rows >= 0 && columns >= 0 && height > 0 && width > 0, "list_blocks: cannot list ",
                    rows, " x ", columns, " blocks of a grid ", grid.sizes());
  const auto* executed = static_cast<const uint8_t*>(grid.const_data_ptr());
  const auto row_of = [&](int64_t image, int64_t row) {
    return executed + (image * height + std::min(row, height - 1)) * width;
  };
  int64_t all = 0;
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* its = row_of(image, row);
      all += count_in(its, std::min(columns, width));
      all += its[width - 1] != 0 ? std::max<int64_t>(columns - width, 0) : 0;
    }
  }
  at::Tensor found = at::detail::empty_cpu({all, 3}, at::kInt, std::nullopt, std::nullopt,
                                           std::nullopt, std::nullopt);
  auto* next = static_cast<int32_t*>(found.mutable_data_ptr());
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* its = row_of(image, row);
      for (int64_t column = 0; column < columns; ++column) {
        if (its[std::min(column, width - 1)] != 0) {
          *next++ = static_cast<int32_t>(image);
          *next++ = static_cast<int32_t>(row);
          *next++ = static_cast<int32_t>(column);
        }
      }
    }
  }
  return THPVariable_Wrap(std::move(found));
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyMethodDef grid_methods[] = {
    {"count_blocks", fast(count_blocks), METH_FASTCALL, "Executed blocks of each image."},
    {"list_blocks", fast(list_blocks), METH_FASTCALL, "Where the executed blocks of a map are."},
    {nullptr, nullptr, 0, nullptr}};
