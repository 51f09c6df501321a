// Whether the memory of a tensor is still held, and how two tensors change memories; see
// engine/state/memory_watch.py, which does the same by torch where there is no extension, with ten
// times as many calls.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "blockcopy/module_functions.h"

namespace {

using Watch = c10::weak_intrusive_ptr<c10::StorageImpl>;
constexpr const char* kWatch = "blockcopy memory watch";

const at::Tensor& tensor_of(PyObject* value) {
  TORCH_CHECK_TYPE(THPVariable_Check(value), "expected a tensor, got ", Py_TYPE(value)->tp_name);
  return THPVariable_Unpack(value);
}

void forget(PyObject* capsule) {
  delete static_cast<Watch*>(PyCapsule_GetPointer(capsule, kWatch));
}

// watch_memory(tensor: Tensor) -> capsule: for is_held, without holding the memory.
PyObject* watch_memory(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 1, "watch_memory: expected 1 argument, got ", count);
  auto* storage = tensor_of(args[0]).storage().unsafeGetStorageImpl();
  auto* watch = new Watch(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(storage));
  PyObject* capsule = PyCapsule_New(watch, kWatch, forget);
  if (!capsule) {
    delete watch;
  }
  return capsule;
  END_HANDLE_TH_ERRORS
}

// is_held(watch: capsule) -> bool: whether a tensor of that memory lives.
PyObject* is_held(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 1, "is_held: expected 1 argument, got ", count);
  const auto* watch = static_cast<Watch*>(PyCapsule_GetPointer(args[0], kWatch));
  return watch ? PyBool_FromLong(!watch->expired()) : nullptr;
  END_HANDLE_TH_ERRORS
}

// swap_memory(one: Tensor, other: Tensor): each has the memory of the other from then on.
PyObject* swap_memory(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2, "swap_memory: expected 2 arguments, got ", count);
  const at::Tensor &one = tensor_of(args[0]), &other = tensor_of(args[1]);
  TORCH_CHECK_VALUE(one.sizes() == other.sizes() && one.strides() == other.strides() &&
                        one.scalar_type() == other.scalar_type() && one.storage_offset() == 0 &&
                        other.storage_offset() == 0,
                    "swap_memory: ", one.scalar_type(), " ", one.sizes(), " and ",
                    other.scalar_type(), " ", other.sizes(), " do not lie alike in memory");
  c10::Storage of_one = one.storage(), of_other = other.storage();
  one.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(of_other));
  other.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(of_one));
  one.unsafeGetTensorImpl()->bump_version();
  other.unsafeGetTensorImpl()->bump_version();
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyMethodDef memory_watch_methods[] = {
    {"watch_memory", fast(watch_memory), METH_FASTCALL, "Watch the memory of a tensor."},
    {"is_held", fast(is_held), METH_FASTCALL, "Whether watched memory is held."},
    {"swap_memory", fast(swap_memory), METH_FASTCALL, "Let two tensors change their memories."},
    {nullptr, nullptr, 0, nullptr}};
