// Kernels that a program (program.cpp) calls without torch's dispatcher.
//
// A call through the dispatcher puts each argument on a stack and takes it off again, one by one,
// with a reference counted on the way, and nothing of it is in the caches after another model has
// run. Here arguments are read once, when a program is made, and kept as the kernel wants them, all
// of them in one piece of memory; only those that differ are set in each frame.
#pragma once

#include <ATen/core/TensorBody.h>
#include <ATen/core/ivalue.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <memory_resource>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace blockcopy {

// How an argument of type T of a kernel is kept from call to call: read from an IValue of the type
// in the operator's schema, and given to the kernel. `tensor` is where a tensor that differs from
// frame to frame is written, nullptr if it cannot be; `item` is -1 but for lists.
template <typename T>
struct KeptArgument {
  using Value = std::decay_t<T>;
  Value value;
  explicit KeptArgument(const c10::IValue& given) : value(given.to<Value>()) {}
  const Value& give() const { return value; }
  at::Tensor* tensor(int64_t item) {
    if constexpr (std::is_same_v<Value, at::Tensor>) {
      return item < 0 ? &value : nullptr;
    }
    return nullptr;
  }
};

template <>
struct KeptArgument<const std::optional<at::Tensor>&> {
  std::optional<at::Tensor> value;
  explicit KeptArgument(const c10::IValue& given)
      : value(given.isNone() ? std::nullopt : std::make_optional(given.toTensor())) {}
  const std::optional<at::Tensor>& give() const { return value; }
  at::Tensor* tensor(int64_t item) {
    if (item >= 0) {
      return nullptr;
    }
    value.emplace();
    return &*value;
  }
};

template <>
struct KeptArgument<at::TensorList> {
  std::vector<at::Tensor> value;
  explicit KeptArgument(const c10::IValue& given) {
    for (const c10::IValue& item : given.toListRef()) {
      value.push_back(item.isNone() ? at::Tensor() : item.toTensor());
    }
  }
  at::TensorList give() const { return value; }
  at::Tensor* tensor(int64_t item) { return item < 0 ? nullptr : &value.at(item); }
};

using Integers = c10::SmallVector<int64_t, 4>;

inline Integers integers_of(const c10::IValue& given) {
  const std::vector<int64_t> found = given.toIntVector();
  return Integers(found.begin(), found.end());
}

template <>
struct KeptArgument<at::IntArrayRef> {
  Integers value;
  explicit KeptArgument(const c10::IValue& given) : value(integers_of(given)) {}
  at::IntArrayRef give() const { return value; }
  at::Tensor* tensor(int64_t) { return nullptr; }
};

template <>
struct KeptArgument<at::OptionalIntArrayRef> {
  std::optional<Integers> value;
  explicit KeptArgument(const c10::IValue& given) {
    if (!given.isNone()) {
      value = integers_of(given);
    }
  }
  at::OptionalIntArrayRef give() const {
    return value ? at::OptionalIntArrayRef(*value) : std::nullopt;
  }
  at::Tensor* tensor(int64_t) { return nullptr; }
};

template <>
struct KeptArgument<c10::string_view> {
  std::string value;
  explicit KeptArgument(const c10::IValue& given) : value(given.toStringRef()) {}
  c10::string_view give() const { return value; }
  at::Tensor* tensor(int64_t) { return nullptr; }
};

// One call of a kernel with its arguments. What the pointers of tensor() point to is to be set
// before each run.
class DirectCall {
 public:
  virtual ~DirectCall() = default;
  virtual at::Tensor* tensor(int64_t argument, int64_t item) = 0;
  // The kernel's result; an undefined tensor if it gives none.
  virtual at::Tensor run() const = 0;
};

template <typename Result, typename... Arguments>
class DirectCallOf final : public DirectCall {
 public:
  using Kernel = Result (*)(Arguments...);
  static_assert(std::is_void_v<Result> || std::is_same_v<Result, at::Tensor>,
                "A kernel that is called directly gives a tensor or nothing");

  DirectCallOf(Kernel kernel, const std::vector<c10::IValue>& given)
      : DirectCallOf(kernel, given, std::index_sequence_for<Arguments...>()) {}

  at::Tensor* tensor(int64_t argument, int64_t item) override {
    at::Tensor* found = nullptr;
    visit(argument, [&](auto& kept) { found = kept.tensor(item); });
    return found;
  }

  at::Tensor run() const override {
    return std::apply(
        [&](const auto&... kept) {
          if constexpr (std::is_void_v<Result>) {
            kernel_(kept.give()...);
            return at::Tensor();
          } else {
            return kernel_(kept.give()...);
          }
        },
        kept_);
  }

 private:
  template <size_t... I>
  DirectCallOf(Kernel kernel, const std::vector<c10::IValue>& given, std::index_sequence<I...>)
      : kernel_(kernel), kept_(KeptArgument<Arguments>(given.at(I))...) {}

  template <typename Visitor>
  void visit(int64_t argument, const Visitor& visitor) {
    int64_t place = 0;
    std::apply([&](auto&... kept) { ((place++ == argument ? visitor(kept) : void()), ...); }, kept_);
  }

  Kernel kernel_;
  std::tuple<KeptArgument<Arguments>...> kept_;
};

// Makes a call in the memory of an arena; who asks for it has to destroy it.
using Arena = std::pmr::monotonic_buffer_resource;
using DirectCallMaker = DirectCall* (*)(const std::vector<c10::IValue>&, Arena&);

// The kernels that can be called directly, by the operator's name ("blockcopy::gather"); nullptr if
// one cannot.
DirectCallMaker direct_call_maker(const std::string& op);
void add_direct_call(const char* op, DirectCallMaker maker);

template <auto kernel>
struct DirectCallOfKernel;

template <typename Result, typename... Arguments, Result (*kernel)(Arguments...)>
struct DirectCallOfKernel<kernel> {
  static DirectCall* make(const std::vector<c10::IValue>& given, Arena& arena) {
    using Call = DirectCallOf<Result, Arguments...>;
    return new (arena.allocate(sizeof(Call), alignof(Call))) Call(kernel, given);
  }
};

// Registers the CPU kernel of an operator: `const CalledDirectly<&gather_cpu> gather("gather");`
template <auto kernel>
struct CalledDirectly {
  explicit CalledDirectly(const char* op) { add_direct_call(op, &DirectCallOfKernel<kernel>::make); }
};

}  // namespace blockcopy
