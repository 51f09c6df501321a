// blockcopy::batch_pictures on CPU: pictures in bytes, each value looked up, padded and stacked.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace blockcopy {
namespace {

// Rows are dealt to threads in chunks of about so many values.
constexpr int64_t kChunk = 16 * 1024;
constexpr int64_t kBytes = 256;

void check(at::TensorList pictures, const at::Tensor& tables, at::IntArrayRef channels,
           int64_t height, int64_t width) {
  TORCH_CHECK_VALUE(!pictures.empty(), "blockcopy::batch_pictures: there are no pictures");
  TORCH_CHECK_VALUE(tables.dim() == 2 && tables.size(1) == kBytes &&
                        tables.size(0) == static_cast<int64_t>(channels.size()),
                    "blockcopy::batch_pictures: tables have shape ", tables.sizes(),
                    ", expected (", channels.size(), ", 256), one for each of the channels");
  TORCH_CHECK_TYPE(tables.scalar_type() == at::kFloat,
                   "blockcopy::batch_pictures: tables have dtype ", tables.scalar_type(),
                   ", expected torch.float32");
  for (const at::Tensor& picture : pictures) {
    TORCH_CHECK_VALUE(picture.dim() == 3 && picture.size(1) <= height && picture.size(2) <= width,
                      "blockcopy::batch_pictures: a picture has shape ", picture.sizes(),
                      ", expected (C, h, w) of at most ", height, " x ", width);
    TORCH_CHECK_TYPE(picture.scalar_type() == at::kByte,
                     "blockcopy::batch_pictures: a picture has dtype ", picture.scalar_type(),
                     ", expected torch.uint8");
    for (const int64_t channel : channels) {
      TORCH_CHECK_INDEX(channel >= 0 && channel < picture.size(0),
                        "blockcopy::batch_pictures: channel ", channel, " of a picture with ",
                        picture.size(0));
    }
  }
}

at::Tensor batch_pictures_cpu(at::TensorList pictures, const at::Tensor& tables_,
                              at::IntArrayRef channels, int64_t height, int64_t width,
                              double fill_) {
  check(pictures, tables_, channels, height, width);
  const at::Tensor tables = tables_.contiguous();
  const auto planes = static_cast<int64_t>(channels.size());
  const at::Tensor out =
      at::empty({static_cast<int64_t>(pictures.size()), planes, height, width}, tables.options());
  if (out.numel() == 0) {
    return out;
  }
  const float* table_data = tables.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  const auto fill = static_cast<float>(fill_);
  const int64_t rows = out.numel() / width;
  const int64_t chunk = std::max<int64_t>(1, kChunk / width);
  at::parallel_for(0, rows, chunk, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t plane = index / height, y = index % height;
      const at::Tensor& picture = pictures[plane / planes];
      const int64_t channel = plane % planes;
      const float* table = table_data + channel * kBytes;
      float* target = out_data + index * width;
      int64_t x = 0;
      if (y < picture.size(1)) {
        const int64_t step = picture.stride(2), seen = picture.size(2);
        const uint8_t* source = picture.const_data_ptr<uint8_t>() +
                                channels[channel] * picture.stride(0) + y * picture.stride(1);
        if (step == 1) {
          for (; x < seen; ++x) {
            target[x] = table[source[x]];
          }
        } else {
          for (; x < seen; ++x) {
            target[x] = table[source[x * step]];
          }
        }
      }
      std::fill(target + x, target + width, fill);
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "batch_pictures(Tensor[] pictures, Tensor tables, int[] channels, int height, int width, "
      "float fill) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("batch_pictures", &batch_pictures_cpu); }

}  // namespace blockcopy
