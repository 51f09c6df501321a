// blockcopy::ridge_sums and ridge_weights on CPU: a small least squares problem, kept as its sums.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "blockcopy/checked.h"

namespace blockcopy {
namespace {

std::tuple<at::Tensor, at::Tensor> ridge_sums_cpu(const at::Tensor& products,
                                                  const at::Tensor& targets,
                                                  const at::Tensor& features,
                                                  const at::Tensor& values, const at::Tensor& seen,
                                                  double decay) {
  TORCH_CHECK_VALUE(features.dim() == 2, "blockcopy: features must be (m, n), found ",
                    features.sizes());
  const int64_t samples = features.size(0), count = features.size(1);
  const at::Tensor kept[] = {
      checked("products", products, at::kDouble, {count, count}).contiguous(),
      checked("targets", targets, at::kDouble, {count}).contiguous(),
      checked("features", features, at::kFloat, {samples, count}).contiguous(),
      checked("values", values, at::kFloat, {samples}).contiguous(),
      checked("seen", seen, at::kBool, {samples}).contiguous()};
  at::Tensor new_products = at::empty({count, count}, products.options());
  at::Tensor new_targets = at::empty({count}, targets.options());
  double* const table = new_products.mutable_data_ptr<double>();
  double* const right = new_targets.mutable_data_ptr<double>();
  for (int64_t i = 0; i < count * count; ++i) {
    table[i] = decay * kept[0].const_data_ptr<double>()[i];
  }
  for (int64_t i = 0; i < count; ++i) {
    right[i] = decay * kept[1].const_data_ptr<double>()[i];
  }
  const float* const rows = kept[2].const_data_ptr<float>();
  for (int64_t sample = 0; sample < samples; ++sample) {
    if (!kept[4].const_data_ptr<bool>()[sample]) {
      continue;
    }
    const float* const row = rows + sample * count;
    const double value = kept[3].const_data_ptr<float>()[sample];
    for (int64_t i = 0; i < count; ++i) {
      const double factor = row[i];
      right[i] += factor * value;
      for (int64_t j = 0; j < count; ++j) {
        table[i * count + j] += factor * row[j];
      }
    }
  }
  return {new_products, new_targets};
}

// By Cholesky: the matrix is positive definite, a sum of squares and a positive diagonal.
at::Tensor ridge_weights_cpu(const at::Tensor& products, const at::Tensor& targets,
                             const at::Tensor& prior, double strength) {
  const int64_t count = prior.numel();
  const at::Tensor kept[] = {
      checked("products", products, at::kDouble, {count, count}).contiguous(),
      checked("targets", targets, at::kDouble, {count}).contiguous(),
      checked("prior", prior, at::kDouble, {count}).contiguous()};
  std::vector<double> lower(kept[0].const_data_ptr<double>(),
                            kept[0].const_data_ptr<double>() + count * count);
  at::Tensor out = at::empty({count}, prior.options());
  double* const weight = out.mutable_data_ptr<double>();
  for (int64_t i = 0; i < count; ++i) {
    weight[i] = kept[1].const_data_ptr<double>()[i] + strength * kept[2].const_data_ptr<double>()[i];
    for (int64_t j = 0; j <= i; ++j) {
      double sum = lower[i * count + j] + (i == j ? strength : 0.0);
      for (int64_t k = 0; k < j; ++k) {
        sum -= lower[i * count + k] * lower[j * count + k];
      }
      lower[i * count + j] = i == j ? std::sqrt(sum) : sum / lower[j * count + j];
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < i; ++k) {
      weight[i] -= lower[i * count + k] * weight[k];
    }
    weight[i] /= lower[i * count + i];
  }
  for (int64_t i = count - 1; i >= 0; --i) {
    for (int64_t k = i + 1; k < count; ++k) {
      weight[i] -= lower[k * count + i] * weight[k];
    }
    weight[i] /= lower[i * count + i];
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "ridge_sums(Tensor products, Tensor targets, Tensor features, Tensor values, Tensor seen, "
      "float decay) -> (Tensor, Tensor)",
      tags);
  m.def("ridge_weights(Tensor products, Tensor targets, Tensor prior, float strength) -> Tensor",
        tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("ridge_sums", &ridge_sums_cpu);
  m.impl("ridge_weights", &ridge_weights_cpu);
}

}  // namespace blockcopy
