// A recorded frame as a list of operator calls, run without Python. It is built and called by
// engine/execution/native_program.py.
#include <ATen/ScalarOps.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <string>
#include <utility>
#include <vector>

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

// An argument, or an item of one that is a list, which differs from frame to frame.
struct Place {
  int64_t argument;
  int64_t item;    // -1: the argument itself
  int64_t source;  // a value of the frame, or where `factor` is not 0 one of its sizes
  int64_t factor;  // 0: a tensor; else the integer is the size times this
};

struct Step {
  c10::OperatorHandle op;
  std::vector<IValue> arguments;
  std::vector<Place> places;
  std::vector<int64_t> results;  // which values they become, -1: nobody reads it
  std::vector<int64_t> over;     // values that no later step reads
  bool returns_list;
};

struct Program : torch::CustomClassHolder {
  // Args: number of tensors that a frame is given, and of all that a frame has.
  Program(int64_t given, int64_t values) : given_(given), values_(values) {}

  void add(const std::string& name, const std::string& overload, const IValue& arguments,
           const std::vector<int64_t>& places, std::vector<int64_t> results,
           std::vector<int64_t> over) {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
    const auto& schema = op.schema();
    const auto& given = arguments.toTupleRef().elements();
    TORCH_CHECK_VALUE(given.size() == schema.arguments().size(), name, " takes ",
                      schema.arguments().size(), " arguments, got ", given.size());
    Step step{op, {}, {}, std::move(results), std::move(over), false};
    for (size_t i = 0; i < given.size(); ++i) {
      step.arguments.push_back(converted(given[i], schema.arguments()[i].type()));
    }
    for (size_t i = 0; i + 3 < places.size(); i += 4) {
      step.places.push_back({places[i], places[i + 1], places[i + 2], places[i + 3]});
    }
    const auto& returns = schema.returns();
    step.returns_list = returns.size() == 1 && returns[0].type()->kind() == TypeKind::ListType;
    steps_.push_back(std::move(step));
  }

  void give(std::vector<int64_t> results) { results_ = std::move(results); }

  std::vector<at::Tensor> run(std::vector<at::Tensor> given, const std::vector<int64_t>& sizes) {
    TORCH_CHECK_VALUE(static_cast<int64_t>(given.size()) == given_, "expected ", given_,
                      " tensors, got ", given.size());
    // The kernels alone: nothing here is differentiated, and views need not know their base.
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    std::vector<at::Tensor> values = std::move(given);
    values.resize(values_);
    torch::jit::Stack stack;
    for (const Step& step : steps_) {
      stack.assign(step.arguments.begin(), step.arguments.end());
      fill(step, values, sizes, stack);
      step.op.callBoxed(stack);
      take(step, stack, values);
      for (const int64_t value : step.over) {
        values[value].reset();
      }
    }
    std::vector<at::Tensor> results;
    results.reserve(results_.size());
    for (const int64_t value : results_) {
      results.push_back(values[value]);
    }
    return results;
  }

 private:
  static void fill(const Step& step, const std::vector<at::Tensor>& values,
                   const std::vector<int64_t>& sizes, torch::jit::Stack& stack) {
    int64_t copied = -1;  // the list that is this call's own
    for (const Place& place : step.places) {
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

  static void take(const Step& step, const torch::jit::Stack& stack,
                   std::vector<at::Tensor>& values) {
    if (!step.returns_list) {
      for (size_t i = 0; i < step.results.size(); ++i) {
        // An op that gives nothing has one result here, which nobody reads.
        if (step.results[i] >= 0) {
          values[step.results[i]] = stack[i].toTensor();
        }
      }
      return;
    }
    const auto list = stack[0].toTensorVector();
    TORCH_CHECK(list.size() == step.results.size(), step.op.schema().name(), " gave ", list.size(),
                " tensors, ", step.results.size(), " in the recorded frame");
    for (size_t i = 0; i < step.results.size(); ++i) {
      if (step.results[i] >= 0) {
        values[step.results[i]] = list[i];
      }
    }
  }

  int64_t given_;
  int64_t values_;
  std::vector<Step> steps_;
  std::vector<int64_t> results_;
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  m.class_<Program>("Program")
      .def(torch::init<int64_t, int64_t>())
      .def("add", &Program::add)
      .def("give", &Program::give)
      .def("run", &Program::run);
}
