// Quick looks at the attributes of hundreds of modules, taken before each frame; see
// engine/execution/model_watch.py, which does the same in Python where there is no extension.
#include "blockcopy/module_state.h"

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

// values_of(objects: tuple) -> list: for each object the number of its attributes, then each.
PyObject* values_of(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (!takes(count, 1)) {
    return nullptr;
  }
  THPObjectPtr found(PyList_New(0));
  for (Py_ssize_t i = 0; found && i < PyTuple_Size(args[0]); ++i) {
    THPObjectPtr attributes = attributes_of(PyTuple_GetItem(args[0], i));
    THPObjectPtr size(attributes ? PyLong_FromSsize_t(PyDict_Size(attributes)) : nullptr);
    if (!size || PyList_Append(found, size) != 0) {
      return nullptr;
    }
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(attributes, &at, &name, &value);) {
      if (PyList_Append(found, value) != 0) {
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
  const Py_ssize_t all = PyList_Size(wanted);
  Py_ssize_t next = 0;
  for (Py_ssize_t i = 0; i < PyTuple_Size(args[0]); ++i) {
    THPObjectPtr attributes = attributes_of(PyTuple_GetItem(args[0], i));
    if (!attributes) {
      return nullptr;
    }
    const Py_ssize_t size = PyDict_Size(attributes);
    if (next + size >= all || PyLong_AsSsize_t(PyList_GetItem(wanted, next++)) != size) {
      Py_RETURN_FALSE;
    }
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(attributes, &at, &name, &value);) {
      if (value != PyList_GetItem(wanted, next++)) {
        Py_RETURN_FALSE;
      }
    }
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

PyCFunction fast(_PyCFunctionFast function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

PyMethodDef module_state_methods[] = {
    {"values_of", fast(values_of), METH_FASTCALL, "Attributes of objects, one after the other."},
    {"have_values", fast(have_values), METH_FASTCALL, "Whether objects have these attributes."},
    {"lie_at", fast(lie_at), METH_FASTCALL, "Whether tensors in dicts lie at these addresses."},
    {"any_has", fast(any_has), METH_FASTCALL, "Whether an attribute of any object is true."},
    {nullptr, nullptr, 0, nullptr}};
