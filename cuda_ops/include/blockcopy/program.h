// A recorded frame as a list of operator calls, run without Python.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <torch/custom_class.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "blockcopy/direct_call.h"

namespace blockcopy {

// An argument, or an item of one that is a list, which differs from frame to frame.
struct Place {
  int64_t argument;
  int64_t item;    // -1: the argument itself
  int64_t source;  // a value of the frame, or where `factor` is not 0 one of its sizes
  int64_t factor;  // 0: a tensor; else the integer is the size times this
};

// Where a tensor that differs from frame to frame is written in a direct call.
struct TensorSlot {
  at::Tensor* target;
  int64_t source;
};

// Some of the items that the steps of a program have in one vector, one step after the other.
struct Range {
  uint32_t begin = 0;
  uint32_t end = 0;
};

// A call as the dispatcher takes it.
struct BoxedCall {
  c10::OperatorHandle op;
  std::vector<c10::IValue> arguments;
  std::vector<Place> places;
  bool returns_list;
};

// After another model has run, each piece of memory is a cache miss. So what the steps need lies
// together, in the order in which they run.
struct Step {
  DirectCall* direct = nullptr;  // nullptr: through the dispatcher
  Range tensors;
  Range results;  // which values they become, -1: nobody reads it
  Range over;     // values that no later step reads
};

class Program : public torch::CustomClassHolder {
 public:
  // Args: number of tensors that a frame is given, and of all that a frame has.
  Program(int64_t given, int64_t values) : given_(given), values_(values) {}
  ~Program() override;

  // Add a step. `arguments` is a tuple with all arguments of an operator, `places` says four by four
  // which differ, `results` which values its results become, and `over` which values end with it.
  void add(const std::string& name, const std::string& overload, const c10::IValue& arguments,
           const std::vector<int64_t>& places, const std::vector<int64_t>& results,
           const std::vector<int64_t>& over);

  // Say which values a frame gives.
  void give(std::vector<int64_t> results) { results_ = std::move(results); }

  std::vector<at::Tensor> run(std::vector<at::Tensor> given, const int64_t* sizes);

  // Where it is, for run_program.
  int64_t address() const { return reinterpret_cast<int64_t>(this); }

 private:
  void call_directly(Step& step, BoxedCall& boxed, const std::string& name);
  void run_directly(const Step& step, std::vector<at::Tensor>& values) const;
  void run_boxed(size_t index, const int64_t* sizes, std::vector<at::Tensor>& values,
                 torch::jit::Stack& stack) const;

  int64_t given_;
  int64_t values_;
  std::vector<int64_t> results_;
  std::vector<Step> steps_;
  std::vector<TensorSlot> tensors_;
  std::vector<int64_t> made_;
  std::vector<int64_t> over_;
  std::vector<BoxedCall> boxed_;
  Arena arena_;
  std::mutex at_work_;
};

}  // namespace blockcopy
