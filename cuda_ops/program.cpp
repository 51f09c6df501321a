// A recorded frame as a list of operator calls, run without Python. It is built and called by
// engine/execution/native_program.py.
#include "blockcopy/program.h"

#include <ATen/ScalarOps.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/object_ptr.h>
#include <torch/library.h>

#include <algorithm>
#include <map>
#include <utility>

#include "blockcopy/module_functions.h"

namespace blockcopy {
namespace {

using c10::IValue;
using c10::TypeKind;
using c10::TypePtr;

// What Python's values become for an operator that takes them as `type`: sequences come as tuples,
// numbers may stand for tensors, and integers for floats.
IValue converted(const IValue& value, const TypePtr& type) {
  if (value.isNone()) {
    return value;
  }
  switch (type->kind()) {
    case TypeKind::OptionalType:
      return converted(value, type->castRaw<c10::OptionalType>()->getElementType());
    case TypeKind::ListType: {
      const TypePtr item = type->castRaw<c10::ListType>()->getElementType();
      TORCH_CHECK_TYPE(value.isTuple(), "expected a sequence for ", type->str(), ", got ",
                       value.tagKind());
      c10::impl::GenericList list(item);
      for (const IValue& element : value.toTupleRef().elements()) {
        list.push_back(converted(element, item));
      }
      return list;
    }
    case TypeKind::FloatType:
      return value.isInt() ? IValue(static_cast<double>(value.toInt())) : value;
    case TypeKind::TensorType: {
      if (!value.isScalar()) {
        break;
      }
      at::Tensor number = c10::scalar_to_tensor(value.toScalar());
      number.unsafeGetTensorImpl()->set_wrapped_number(true);
      return number;
    }
    default:
      break;
  }
  TORCH_CHECK_TYPE(value.type()->isSubtypeOf(*type), "expected ", type->str(), ", got ",
                   value.tagKind());
  return value;
}

// Adds the items of one step to those of all.
template <typename Item>
Range appended(std::vector<Item>& all, const std::vector<Item>& own) {
  const auto begin = static_cast<uint32_t>(all.size());
  all.insert(all.end(), own.begin(), own.end());
  return {begin, static_cast<uint32_t>(all.size())};
}

void fill(const BoxedCall& boxed, const std::vector<at::Tensor>& values, const int64_t* sizes,
          torch::jit::Stack& stack) {
  int64_t copied = -1;  // the list that is this call's own
  for (const Place& place : boxed.places) {
    const IValue value = place.factor == 0 ? IValue(values[place.source])
                                           : IValue(sizes[place.source] * place.factor);
    IValue& argument = stack[place.argument];
    if (place.item < 0) {
      argument = value;
      continue;
    }
    if (copied != place.argument) {
      argument = argument.toList().copy();
      copied = place.argument;
    }
    argument.toList().set(place.item, value);
  }
}

std::map<std::string, DirectCallMaker>& direct_call_makers() {
  static std::map<std::string, DirectCallMaker> makers;
  return makers;
}

}  // namespace

DirectCallMaker direct_call_maker(const std::string& op) {
  const auto& makers = direct_call_makers();
  const auto found = makers.find(op);
  return found == makers.end() ? nullptr : found->second;
}

void add_direct_call(const char* op, DirectCallMaker maker) {
  direct_call_makers()["blockcopy::" + std::string(op)] = maker;
}

Program::~Program() {
  for (const Step& step : steps_) {
    if (step.direct) {
      step.direct->~DirectCall();
    }
  }
}

void Program::add(const std::string& name, const std::string& overload, const IValue& arguments,
                  const std::vector<int64_t>& places, const std::vector<int64_t>& results,
                  const std::vector<int64_t>& over) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
  const auto& schema = op.schema();
  const auto& given = arguments.toTupleRef().elements();
  TORCH_CHECK_VALUE(given.size() == schema.arguments().size(), name, " takes ",
                    schema.arguments().size(), " arguments, got ", given.size());
  BoxedCall boxed{op, {}, {}, false};
  for (size_t i = 0; i < given.size(); ++i) {
    boxed.arguments.push_back(converted(given[i], schema.arguments()[i].type()));
  }
  for (size_t i = 0; i + 3 < places.size(); i += 4) {
    boxed.places.push_back({places[i], places[i + 1], places[i + 2], places[i + 3]});
  }
  const auto& returns = schema.returns();
  boxed.returns_list = returns.size() == 1 && returns[0].type()->kind() == TypeKind::ListType;
  Step step;
  step.results = appended(made_, results);
  step.over = appended(over_, over);
  if (!boxed.returns_list && results.size() <= 1) {
    call_directly(step, boxed, name);
  }
  steps_.push_back(step);
  boxed_.push_back(std::move(boxed));
}

// Have a step call its kernel directly, if there is one and only tensors differ from frame to frame.
void Program::call_directly(Step& step, BoxedCall& boxed, const std::string& name) {
  const DirectCallMaker make = direct_call_maker(name);
  const auto& places = boxed.places;
  const auto is_number = [](const Place& place) { return place.factor != 0; };
  if (!make || std::any_of(places.begin(), places.end(), is_number)) {
    return;
  }
  for (const Place& place : places) {
    if (place.item < 0) {
      boxed.arguments[place.argument] = at::Tensor();  // each frame brings one
    }
  }
  DirectCall* call = make(boxed.arguments, arena_);
  std::vector<TensorSlot> tensors;
  bool is_known = true;
  for (const Place& place : places) {
    tensors.push_back({call->tensor(place.argument, place.item), place.source});
    is_known = is_known && tensors.back().target;
  }
  if (!is_known) {
    call->~DirectCall();
    return;
  }
  step.direct = call;
  step.tensors = appended(tensors_, tensors);
}

std::vector<at::Tensor> Program::run(std::vector<at::Tensor> given, const int64_t* sizes) {
  TORCH_CHECK_VALUE(static_cast<int64_t>(given.size()) == given_, "expected ", given_,
                    " tensors, got ", given.size());
  // Results of frames are ordinary tensors, also where the caller is in inference mode.
  const c10::InferenceMode no_inference(false);
  const at::NoGradGuard no_grad;
  // The kernels alone: nothing here is differentiated, and views need not know their base.
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  // Direct calls hold the arguments of one run at a time, and profilers do not see them.
  const std::unique_lock<std::mutex> alone(at_work_, std::try_to_lock);
  const bool directly = alone.owns_lock() && !at::hasCallbacks();
  std::vector<at::Tensor> values = std::move(given);
  values.resize(values_);
  torch::jit::Stack stack;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    if (directly && step.direct) {
      run_directly(step, values);
    } else {
      run_boxed(i, sizes, values, stack);
    }
    for (uint32_t k = step.over.begin; k < step.over.end; ++k) {
      values[over_[k]].reset();
    }
  }
  std::vector<at::Tensor> results;
  results.reserve(results_.size());
  for (const int64_t value : results_) {
    results.push_back(values[value]);
  }
  return results;
}

void Program::run_directly(const Step& step, std::vector<at::Tensor>& values) const {
  // Nothing of a frame is kept beyond the step, also if the kernel refuses it.
  struct Release {
    const TensorSlot* begin;
    const TensorSlot* end;
    ~Release() {
      std::for_each(begin, end, [](const TensorSlot& slot) { slot.target->reset(); });
    }
  } slots{tensors_.data() + step.tensors.begin, tensors_.data() + step.tensors.end};
  for (const TensorSlot* slot = slots.begin; slot != slots.end; ++slot) {
    *slot->target = values[slot->source];
  }
  at::Tensor result = step.direct->run();
  // An op that gives nothing has one result, which nobody reads.
  if (step.results.end > step.results.begin && made_[step.results.begin] >= 0) {
    values[made_[step.results.begin]] = std::move(result);
  }
}

void Program::run_boxed(size_t index, const int64_t* sizes, std::vector<at::Tensor>& values,
                        torch::jit::Stack& stack) const {
  const BoxedCall& boxed = boxed_[index];
  const Range made = steps_[index].results;
  stack.assign(boxed.arguments.begin(), boxed.arguments.end());
  fill(boxed, values, sizes, stack);
  boxed.op.callBoxed(stack);
  if (!boxed.returns_list) {
    for (uint32_t k = made.begin; k < made.end; ++k) {
      if (made_[k] >= 0) {
        values[made_[k]] = stack[k - made.begin].toTensor();
      }
    }
    return;
  }
  const auto list = stack[0].toTensorVector();
  TORCH_CHECK(list.size() == made.end - made.begin, boxed.op.schema().name(), " gave ", list.size(),
              " tensors, ", made.end - made.begin, " in the recorded frame");
  for (uint32_t k = made.begin; k < made.end; ++k) {
    if (made_[k] >= 0) {
      values[made_[k]] = list[k - made.begin];
    }
  }
}

}  // namespace blockcopy

// run_program(address: int, given: list, sizes: tuple) -> list: the tensors that a frame gives.
// torch's own way to a method reads all arguments by their types in a schema first.
PyObject* run_program(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "run_program: expected 3 arguments, got ", count);
  auto* program = static_cast<blockcopy::Program*>(PyLong_AsVoidPtr(args[0]));
  const Py_ssize_t tensors = PyList_Size(args[1]), numbers = PyTuple_Size(args[2]);
  if (PyErr_Occurred()) {
    return nullptr;
  }
  std::vector<at::Tensor> given;
  given.reserve(tensors);
  for (Py_ssize_t i = 0; i < tensors; ++i) {
    PyObject* item = PyList_GetItem(args[1], i);
    TORCH_CHECK_TYPE(THPVariable_Check(item), "run_program: expected a tensor, got ",
                     Py_TYPE(item)->tp_name);
    given.push_back(THPVariable_Unpack(item));
  }
  std::vector<int64_t> sizes;
  for (Py_ssize_t i = 0; i < numbers; ++i) {
    sizes.push_back(PyLong_AsLongLong(PyTuple_GetItem(args[2], i)));
  }
  if (PyErr_Occurred()) {
    return nullptr;
  }
  std::vector<at::Tensor> results;
  {
    struct WithoutLock {
      PyThreadState* state = PyEval_SaveThread();
      ~WithoutLock() { PyEval_RestoreThread(state); }
    } others_may_run;
    results = program->run(std::move(given), sizes.data());
  }
  THPObjectPtr found(PyList_New(static_cast<Py_ssize_t>(results.size())));
  for (size_t i = 0; found && i < results.size(); ++i) {
    PyObject* item = THPVariable_Wrap(std::move(results[i]));
    if (!item || PyList_SetItem(found, static_cast<Py_ssize_t>(i), item) != 0) {
      return nullptr;
    }
  }
  return found.release();
  END_HANDLE_TH_ERRORS
}

PyMethodDef program_methods[] = {
    {"run_program", fast(run_program), METH_FASTCALL, "Run a program by its address."},
    {nullptr, nullptr, 0, nullptr}};

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  m.class_<blockcopy::Program>("Program")
      .def(torch::init<int64_t, int64_t>())
      .def("add", &blockcopy::Program::add)
      .def("give", &blockcopy::Program::give)
      .def("address", &blockcopy::Program::address);
}
