// Quick looks at the attributes of hundreds of modules, taken before each frame; see
// engine/execution/model_watch.py, which does the same in Python where there is no extension.
#include "blockcopy/module_functions.h"

#include <algorithm>

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/object_ptr.h>

namespace {

bool takes(Py_ssize_t given, Py_ssize_t wanted) {
  if (given == wanted) {
    return true;
  }
  PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
  return false;
}

// The attributes of an object, or a dict itself.
THPObjectPtr attributes_of(PyObject* object) {
  if (PyDict_Check(object)) {
    Py_INCREF(object);
    return THPObjectPtr(object);
  }
  return THPObjectPtr(PyObject_GenericGetDict(object, nullptr));
}

// CPython numbers the contents of its dicts: a number that has not changed says that nothing in the
// dict has. From 3.13 on we do without, as it is about to be removed (PEP 699).
#if PY_VERSION_HEX < 0x030D0000
constexpr bool kHasVersions = true;
uint64_t version_of(PyObject* dict) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#pragma GCC diagnostic pop
}
#else
constexpr bool kHasVersions = false;
uint64_t version_of(PyObject*) { return 0; }
#endif

constexpr Py_ssize_t kAtOnce = 16;

// Find the dicts of attributes of the objects of a tuple from the first one on, kAtOnce at most.
// After a model has run, each of hundreds is a cache miss, so the memory of all is asked for before
// any is read. The objects keep them. False if Python has raised an error.
bool find_dicts(PyObject* objects, Py_ssize_t first, PyObject** dicts) {
  const Py_ssize_t end = std::min(first + kAtOnce, PyTuple_Size(objects));
  for (Py_ssize_t i = first; i < end; ++i) {
    __builtin_prefetch(PyTuple_GetItem(objects, i));
  }
  for (Py_ssize_t i = first; i < end; ++i) {
    THPObjectPtr attributes = attributes_of(PyTuple_GetItem(objects, i));
    if (!attributes) {
      return false;
    }
    dicts[i - first] = attributes.get();
    __builtin_prefetch(attributes.get());
  }
  return true;
}

// values_of(objects: tuple) -> list: the versions of their dicts of attributes as a bytearray, then
// for each object the number of its attributes, and the name and the value of each.
PyObject* values_of(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (!takes(count, 1)) {
    return nullptr;
  }
  const Py_ssize_t objects = PyTuple_Size(args[0]);
  THPObjectPtr found(objects < 0 ? nullptr : PyList_New(1));
  PyObject* versions = found ? PyByteArray_FromStringAndSize(nullptr, objects * sizeof(uint64_t))
                             : nullptr;
  if (!versions || PyList_SetItem(found, 0, versions) != 0) {
    return nullptr;
  }
  auto* version = reinterpret_cast<uint64_t*>(PyByteArray_AsString(versions));
  for (Py_ssize_t i = 0; i < objects; ++i) {
    THPObjectPtr attributes = attributes_of(PyTuple_GetItem(args[0], i));
    THPObjectPtr size(attributes ? PyLong_FromSsize_t(PyDict_Size(attributes)) : nullptr);
    if (!size || PyList_Append(found, size) != 0) {
      return nullptr;
    }
    version[i] = version_of(attributes);
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(attributes, &at, &name, &value);) {
      if (PyList_Append(found, name) != 0 || PyList_Append(found, value) != 0) {
        return nullptr;
      }
    }
  }
  return PyErr_Occurred() ? nullptr : found.release();
}

// have_values(objects: tuple, values: list) -> bool: whether values_of would give the same objects.
PyObject* have_values(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (!takes(count, 2)) {
    return nullptr;
  }
  PyObject* wanted = args[1];
  const Py_ssize_t all = PyList_Size(wanted), objects = PyTuple_Size(args[0]);
  PyObject* versions = all > 0 ? PyList_GetItem(wanted, 0) : nullptr;
  if (!versions || objects < 0 || !PyByteArray_Check(versions)) {
    PyErr_Format(PyExc_TypeError, "expected a tuple, and the list that values_of gave for it");
    return nullptr;
  }
  if (PyByteArray_Size(versions) != objects * static_cast<Py_ssize_t>(sizeof(uint64_t))) {
    Py_RETURN_FALSE;
  }
  auto* version = reinterpret_cast<uint64_t*>(PyByteArray_AsString(versions));
  PyObject* dicts[kAtOnce];
  Py_ssize_t next = 1;
  for (Py_ssize_t i = 0; i < objects; ++i) {
    if (i % kAtOnce == 0 && !find_dicts(args[0], i, dicts)) {
      return nullptr;
    }
    PyObject* attributes = dicts[i % kAtOnce];
    const Py_ssize_t size = PyDict_Size(attributes);
    const uint64_t its_version = version_of(attributes);
    if (kHasVersions && version[i] == its_version) {
      next += 1 + 2 * size;
      continue;
    }
    if (next + 2 * size >= all || PyLong_AsSsize_t(PyList_GetItem(wanted, next++)) != size) {
      Py_RETURN_FALSE;
    }
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(attributes, &at, &name, &value);) {
      if (name != PyList_GetItem(wanted, next) || value != PyList_GetItem(wanted, next + 1)) {
        Py_RETURN_FALSE;
      }
      next += 2;
    }
    version[i] = its_version;
  }
  if (PyErr_Occurred()) {
    return nullptr;
  }
  return PyBool_FromLong(next == all);
}

// lie_at(dicts: tuple, addresses: list) -> bool: whether the tensors in dicts of tensors and None
// lie at these addresses.
PyObject* lie_at(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (!takes(count, 2)) {
    return nullptr;
  }
  const Py_ssize_t all = PyList_Size(args[1]);
  Py_ssize_t next = 0;
  for (Py_ssize_t i = 0; i < PyTuple_Size(args[0]); ++i) {
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(PyTuple_GetItem(args[0], i), &at, &name, &value);) {
      if (value == Py_None) {
        continue;
      }
      TORCH_CHECK_TYPE(THPVariable_Check(value), "expected a tensor, got ",
                       Py_TYPE(value)->tp_name);
      const void* address = THPVariable_Unpack(value).const_data_ptr();
      if (next == all || PyLong_AsVoidPtr(PyList_GetItem(args[1], next++)) != address) {
        Py_RETURN_FALSE;
      }
    }
  }
  if (PyErr_Occurred()) {
    return nullptr;
  }
  return PyBool_FromLong(next == all);
  END_HANDLE_TH_ERRORS
}

// The tensor that is referred to weakly, which the reference does not keep; empty if it lives no more.
THPObjectPtr referred(PyObject* reference) {
#if PY_VERSION_HEX < 0x030D0000
  PyObject* tensor = PyWeakref_GetObject(reference);
  Py_XINCREF(tensor);
#else
  PyObject* tensor = nullptr;
  PyWeakref_GetRef(reference, &tensor);
#endif
  THPObjectPtr held(tensor);
  return tensor == Py_None ? THPObjectPtr() : std::move(held);
}

// Ask for the memory of some of the tensors, from the first one on, before any is looked at.
void fetch_tensors(PyObject* references, Py_ssize_t first, Py_ssize_t all) {
  const Py_ssize_t end = std::min(first + kAtOnce, all);
  for (Py_ssize_t i = first; i < end; ++i) {
    __builtin_prefetch(PyTuple_GetItem(references, i));
  }
  for (Py_ssize_t i = first; i < end; ++i) {
    THPObjectPtr tensor = referred(PyTuple_GetItem(references, i));
    if (tensor && THPVariable_Check(tensor.get())) {
      const auto* bytes = reinterpret_cast<const char*>(
          THPVariable_Unpack(tensor.get()).unsafeGetTensorImpl());
      for (size_t line = 0; line < sizeof(c10::TensorImpl); line += 64) {
        __builtin_prefetch(bytes + line);
      }
    }
  }
}

// are_as_seen(references: tuple, seen: list) -> bool: whether tensors, which are referred to weakly,
// live and have these versions and addresses, the version before the address of each.
PyObject* are_as_seen(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (!takes(count, 2)) {
    return nullptr;
  }
  const Py_ssize_t all = PyTuple_Size(args[0]);
  if (all < 0 || PyList_Size(args[1]) != 2 * all) {
    return PyErr_Occurred() ? nullptr : PyBool_FromLong(false);
  }
  for (Py_ssize_t i = 0; i < all; ++i) {
    if (i % kAtOnce == 0) {
      fetch_tensors(args[0], i, all);
    }
    THPObjectPtr tensor = referred(PyTuple_GetItem(args[0], i));
    if (PyErr_Occurred()) {
      return nullptr;
    }
    if (!tensor) {
      Py_RETURN_FALSE;
    }
    TORCH_CHECK_TYPE(THPVariable_Check(tensor.get()), "expected a tensor, got ",
                     Py_TYPE(tensor.get())->tp_name);
    const auto& found = THPVariable_Unpack(tensor.get());
    if (PyLong_AsLongLong(PyList_GetItem(args[1], 2 * i)) != found._version() ||
        PyLong_AsVoidPtr(PyList_GetItem(args[1], 2 * i + 1)) != found.const_data_ptr()) {
      return PyErr_Occurred() ? nullptr : PyBool_FromLong(false);
    }
  }
  return PyBool_FromLong(true);
  END_HANDLE_TH_ERRORS
}

template <typename T>
int64_t sum_of(const at::Tensor& values, int64_t first, int64_t end) {
  const T* bits = static_cast<const T*>(values.const_data_ptr());
  // Unsigned, so that it may overflow as torch's sum does.
  uint64_t sum = 0;
  for (int64_t i = first; i < end; ++i) {
    sum += static_cast<uint64_t>(static_cast<int64_t>(bits[i]));
  }
  return static_cast<int64_t>(sum);
}

// sum_of_bits(values: Tensor, first: int, count: int) -> int: the sum of so many values from the
// first on, or of as many as there are, as if their bits were those of integers. The tensor has 2
// or 4 bytes a value, and memory without gaps.
PyObject* sum_of_bits(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (!takes(count, 3)) {
    return nullptr;
  }
  TORCH_CHECK_TYPE(THPVariable_Check(args[0]), "expected a tensor, got ",
                   Py_TYPE(args[0])->tp_name);
  const auto& values = THPVariable_Unpack(args[0]);
  const int64_t first = PyLong_AsLongLong(args[1]), most = PyLong_AsLongLong(args[2]);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  const int64_t size = static_cast<int64_t>(values.element_size());
  TORCH_CHECK_VALUE(first >= 0 && most >= 0 && (size == 2 || size == 4) &&
                        values.device().is_cpu() && values.is_non_overlapping_and_dense(),
                    "sum_of_bits: cannot sum ", most, " values from ", first, " on of a tensor of ",
                    values.sizes(), " with strides ", values.strides(), ", ", size,
                    " bytes each, on ", values.device());
  const int64_t end = std::min(first + most, values.numel());
  return PyLong_FromLongLong(size == 2 ? sum_of<int16_t>(values, first, end)
                                       : sum_of<int32_t>(values, first, end));
  END_HANDLE_TH_ERRORS
}

// any_has(objects: tuple, *names: str) -> bool: whether an object has an attribute of its own by one
// of these names that is true.
PyObject* any_has(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count == 0) {
    takes(count, 1);
    return nullptr;
  }
  for (Py_ssize_t i = 0; i < PyTuple_Size(args[0]); ++i) {
    THPObjectPtr attributes = attributes_of(PyTuple_GetItem(args[0], i));
    for (Py_ssize_t name = 1; attributes && name < count; ++name) {
      PyObject* value = PyDict_GetItemWithError(attributes, args[name]);
      if (value && PyObject_IsTrue(value) == 1) {
        Py_RETURN_TRUE;
      }
    }
    if (PyErr_Occurred()) {
      return nullptr;
    }
  }
  if (PyErr_Occurred()) {
    return nullptr;
  }
  Py_RETURN_FALSE;
}

}  // namespace

PyMethodDef module_state_methods[] = {
    {"values_of", fast(values_of), METH_FASTCALL, "Attributes of objects, one after the other."},
    {"have_values", fast(have_values), METH_FASTCALL, "Whether objects have these attributes."},
    {"lie_at", fast(lie_at), METH_FASTCALL, "Whether tensors in dicts lie at these addresses."},
    {"are_as_seen", fast(are_as_seen), METH_FASTCALL, "Whether nobody wrote to tensors."},
    {"sum_of_bits", fast(sum_of_bits), METH_FASTCALL, "The sum of values as integers."},
    {"any_has", fast(any_has), METH_FASTCALL, "Whether an attribute of any object is true."},
    {nullptr, nullptr, 0, nullptr}};
