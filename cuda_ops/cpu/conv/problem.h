// One convolution of executed blocks, as the kernels of every instruction set get it. Plain data, and
// no other header that compiles functions: code for one processor must not be linked into the rest.
#pragma once

#include <cstddef>
#include <cstdint>

#include "blockcopy/rings.h"

namespace blockcopy {

enum class ConvElement : int { kFloat32, kBFloat16 };

// In the order of kActivationNames in affine.h.
enum class ConvActivation : int {
  kNone,
  kSigmoid,
  kSilu,
  kHardsigmoid,
  kHardswish,
  kGelu,
  kGeluTanh,
  kMish,
};

struct ConvShape {
  int64_t channels;
  int64_t channels_out;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t dilation_h, dilation_w;
};

// What happens to a sum before it is stored: `sum * scale + shift + residual`, values below 0 times
// the slope, the activation, then clamped. Behind the values of the channels there are kSpare more.
struct ConvEpilogue {
  static constexpr int64_t kSpare = 16;  // floats of the widest vector
  const float* scale;    // (C_out), or null for 1; then there is a shift too
  const float* shift;    // (C_out), or null for 0
  const void* residual;  // of the shape of the result, or null
  const float* slope;    // (C_out), or null for 1
  ConvActivation activation;
  float low;
  float high;
};

// Where a pixel of the input is found. A pixel has `channels` elements.
struct ConvSource {
  const void* map;  // (slots, map_h, map_w, channels), or (slots, grid_h * grid_w, ring, channels)
  int64_t map_h, map_w;
  RingShape ring;  // with a border of 0 the map has all of its pixels
  // The windows, as in the gather: row y of a block in block row gy reads map row
  // rows[gy * window_h + y], -1 outside the image. Null: block i is slot i of the map, as it is.
  const int32_t* rows;
  const int32_t* cols;
  int64_t window_h, window_w;
  const int32_t* blocks;  // (count, 3): slot, gy, gx; null with rows
  // For each entry of cols, how many entries from it on are neighbours in memory.
  const int32_t* col_runs;
  // Pixels of executed blocks are read from here if it is not null: (count, input_h, input_w,
  // channels). executed[(slot * grid_h + gy) * grid_w + gx] is the block's place in it, or -1.
  const void* packed;
  int64_t input_h, input_w;   // a block in pixels of the input
  const int32_t* row_blocks;  // for each entry of rows, in which block row it is
  const int32_t* col_blocks;
  const int32_t* executed;
  int64_t grid_h, grid_w;
  const void* zeros;   // a pixel outside the image
  const void* beyond;  // the same somewhere else: all inputs of outputs outside the image
};

struct ConvProblem {
  ConvElement element;
  ConvShape shape;
  ConvSource source;
  int64_t count;             // blocks
  int64_t block_h, block_w;  // of the result
  // The result as a whole map, of which only outputs inside have a meaning: block i lies at
  // places[3 * i + 1] and places[3 * i + 2], counted in blocks. Null: all are inside.
  const int32_t* places;
  int64_t map_h, map_w;
  const void* weight;        // as pack_weight or pack_winograd left it
  ConvEpilogue epilogue;
  void* out;  // (count, block_h, block_w, channels_out)
};

// A map whose pixels, of channels side by side, lie at regular distances, counted in elements.
struct JoinedMap {
  const void* data;  // null: there is none
  int64_t width;     // channels
  int64_t block_step, row_step, pixel_step;
};

// Maps side by side in the channels of one, and the operations on their values.
struct JoinProblem {
  ConvElement element;
  int64_t rows, row_pixels;  // of a block; one row of all pixels where every map is dense
  int64_t channels;          // of all parts
  int64_t count;             // parts
  const JoinedMap* parts;
  int64_t widest;      // channels of a part
  JoinedMap added;     // before all else
  JoinedMap residual;  // in place of that of the epilogue
  bool copies;         // nothing is done to the values
  ConvEpilogue epilogue;
  void* out;  // (pixels, channels)
};

// Blocks of a map that is enlarged or reduced bilinearly.
struct ResizeProblem {
  ConvElement element;
  const void* map;  // (slots, map_h, map_w, channels)
  int64_t map_h, map_w, channels;
  const int32_t* blocks;     // (count, 3): slot, gy, gx
  const int32_t* rows;       // two for each row of a block, (grid_h, block_h, 2); below 0: none
  const int32_t* cols;       // the same for columns
  const float* row_weights;  // of the second of two, (grid_h, block_h)
  const float* col_weights;
  int64_t block_h, block_w;
  int64_t widest;  // columns of the map that are made one row of floats, see resize
  void* out;  // (count, block_h, block_w, channels)
};

// Kernels of one instruction set. The work is cut into tasks for a number of threads; the tasks may
// run in any order and at the same time, each with its own scratch memory.
struct ConvKernels {
  const char* name;
  int64_t lanes;  // floats in a vector
  int64_t pair;   // inputs in bfloat16 that are multiplied at once

  // Number of elements of a packed weight.
  int64_t (*weight_size)(const ConvShape&);
  // `weight`: (C_out, kernel_h, kernel_w, C_in), of `element`.
  void (*pack_weight)(const ConvShape&, ConvElement, const void* weight, void* packed);
  int64_t (*direct_tasks)(const ConvProblem&, int64_t threads);
  int64_t (*direct_scratch)(const ConvProblem&);  // bytes
  void (*direct)(const ConvProblem&, int64_t threads, int64_t task, void* scratch);

  // The same if each channel is convolved separately: channels_out is a multiple of channels, output i
  // is of channel i / (channels_out / channels), and the weight is (kernel_h * kernel_w, channels_out)
  // in float32, whatever the element.
  int64_t (*depthwise_tasks)(const ConvProblem&, int64_t threads);
  int64_t (*depthwise_scratch)(const ConvProblem&);
  void (*depthwise)(const ConvProblem&, int64_t threads, int64_t task, void* scratch);

  // The same for 3x3, 3x1 and 1x3 kernels of stride 1 and a multiple of `lanes` channels.
  int64_t (*winograd_points)(const ConvShape&);
  // (taps, points): the contribution of one weight of a kernel to each point.
  void (*winograd_matrix)(const ConvShape&, double* matrix);
  int64_t (*winograd_size)(const ConvShape&);
  // `weight`: (C_out, C_in) of one point, in float32, whatever the element.
  void (*pack_winograd)(const ConvShape&, int64_t point, const float* weight, float* packed);
  int64_t (*winograd_tasks)(const ConvProblem&, int64_t threads);
  int64_t (*winograd_scratch)(const ConvProblem&);
  void (*winograd)(const ConvProblem&, int64_t threads, int64_t task, void* scratch);
  // Whether `direct` is the faster one for a problem with weights of both.
  bool (*direct_is_faster)(const ConvProblem&);

  // Joins the pixels from `first` to `end`.
  void (*join)(const JoinProblem&, int64_t first, int64_t end);
  // Makes the rows of blocks from `first` to `end`, row `y` of block `i` being `i * block_h + y`.
  // `row` has room for `widest * channels + 2 * lanes` floats.
  void (*resize)(const ResizeProblem&, int64_t first, int64_t end, float* row);
};

// Null if the compiler or the processor does not support them.
const ConvKernels* conv_kernels_avx512_bf16();
const ConvKernels* conv_kernels_avx512();
const ConvKernels* conv_kernels_avx2();

}  // namespace blockcopy
