// blockcopy::top_scores and blockcopy::above on CPU: what a detector keeps of its many scores,
// without sorting or copying the rest.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"

namespace blockcopy {
namespace {

constexpr int kBinBits = 12;            // of a key, by which scores are counted
constexpr int64_t kPart = 1 << 16;      // scores that a thread looks at in turn
constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();

// Greater scores have greater keys; NaN is the greatest, as in torch's sort.
inline uint32_t key_of(float score) {
  if (std::isnan(score)) {
    return std::numeric_limits<uint32_t>::max();
  }
  score += 0.0f;  // -0 is 0
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

// A key with its place: of equal scores the first is the greater.
inline uint64_t entry_of(uint32_t key, int64_t place) {
  return static_cast<uint64_t>(key) << 32 | (~static_cast<uint32_t>(place));
}

// The smallest key of a bin so that it and all above hold at least `count` scores.
uint32_t least_key(const float* scores, int64_t total, int64_t count) {
  std::vector<int64_t> bins(size_t{1} << kBinBits);
  for (int64_t i = 0; i < total; ++i) {
    ++bins[key_of(scores[i]) >> (32 - kBinBits)];
  }
  int64_t found = 0;
  size_t bin = bins.size();
  while (bin > 0 && found < count) {
    found += bins[--bin];
  }
  return static_cast<uint32_t>(bin) << (32 - kBinBits);
}

std::tuple<at::Tensor, at::Tensor> top_scores_cpu(const at::Tensor& scores_, int64_t count) {
  check_no_grad("top_scores", scores_.requires_grad());
  TORCH_CHECK_VALUE(scores_.dim() == 1 && count >= 0, "blockcopy::top_scores: scores have shape ",
                    scores_.sizes(), " and count is ", count, ", expected (n) and 0 or more");
  TORCH_CHECK_TYPE(scores_.scalar_type() == at::kFloat, "blockcopy::top_scores: scores have dtype ",
                   scores_.scalar_type(), ", expected torch.float32");
  TORCH_CHECK_VALUE(scores_.numel() < kMost, "blockcopy::top_scores: there are ", scores_.numel(),
                    " scores, expected fewer than ", kMost);
  const at::Tensor scores = scores_.contiguous();
  const int64_t total = scores.numel();
  const int64_t kept = std::min(count, total);
  at::Tensor values = at::empty({kept}, scores.options());
  at::Tensor places = at::empty({kept}, scores.options().dtype(at::kLong));
  const float* data = scores.const_data_ptr<float>();
  const uint32_t least = kept < total ? least_key(data, total, kept) : 0;
  std::vector<uint64_t> entries;
  for (int64_t i = 0; i < total; ++i) {
    const uint32_t key = key_of(data[i]);
    if (key >= least) {
      entries.push_back(entry_of(key, i));
    }
  }
  const auto greater = std::greater<uint64_t>();
  if (static_cast<int64_t>(entries.size()) > kept) {
    std::nth_element(entries.begin(), entries.begin() + kept, entries.end(), greater);
  }
  std::sort(entries.begin(), entries.begin() + kept, greater);
  float* value = values.mutable_data_ptr<float>();
  int64_t* place = places.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < kept; ++i) {
    place[i] = static_cast<int64_t>(~static_cast<uint32_t>(entries[i]));
    value[i] = data[place[i]];
  }
  return {values, places};
}

// Whether any of some values is above; without a branch for each, so that they are looked at
// several at a time.
BLOCKCOPY_CLONES bool any_above(const float* values, int64_t count, float bound) {
  int found = 0;
  for (int64_t i = 0; i < count; ++i) {
    found |= values[i] > bound;
  }
  return found != 0;
}

at::Tensor above_cpu(const at::Tensor& values_, double bound_) {
  check_no_grad("above", values_.requires_grad());
  TORCH_CHECK_TYPE(values_.scalar_type() == at::kFloat, "blockcopy::above: values have dtype ",
                   values_.scalar_type(), ", expected torch.float32");
  const at::Tensor values = values_.contiguous();
  const float bound = static_cast<float>(bound_);
  const float* data = values.const_data_ptr<float>();
  const int64_t total = values.numel(), parts = (total + kPart - 1) / kPart;
  std::vector<std::vector<int64_t>> found(parts);
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    constexpr int64_t kRun = 64;
    for (int64_t part = begin; part < end; ++part) {
      const int64_t last = std::min(total, (part + 1) * kPart);
      for (int64_t start = part * kPart; start < last; start += kRun) {
        const int64_t count = std::min(kRun, last - start);
        if (!any_above(data + start, count, bound)) {
          continue;
        }
        for (int64_t i = start; i < start + count; ++i) {
          if (data[i] > bound) {
            found[part].push_back(i);
          }
        }
      }
    }
  });
  int64_t count = 0;
  for (const auto& part : found) {
    count += static_cast<int64_t>(part.size());
  }
  at::Tensor out = at::empty({count}, values.options().dtype(at::kLong));
  int64_t* place = out.mutable_data_ptr<int64_t>();
  for (const auto& part : found) {
    place = std::copy(part.begin(), part.end(), place);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("top_scores(Tensor scores, int count) -> (Tensor, Tensor)", tags);
  m.def("above(Tensor values, float bound) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("top_scores", &top_scores_cpu);
  m.impl("above", &above_cpu);
}

}  // namespace blockcopy
