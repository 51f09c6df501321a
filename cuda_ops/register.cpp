// Schemas of the blockcopy:: operators, and the Python module whose import registers them.
#include <Python.h>
#include <torch/library.h>

#include <vector>

TORCH_LIBRARY(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "gather(Tensor state, Tensor blocks, Tensor rows, Tensor cols, float fill) -> Tensor", tags);
  m.def(
      "gather_out(Tensor state, Tensor blocks, Tensor rows, Tensor cols, float fill, "
      "Tensor(a!) out) -> ()",
      tags);
  m.def("scatter_(Tensor(a!) state, Tensor packed, Tensor blocks) -> ()", tags);
  m.def("scatter_border_(Tensor(a!) state, Tensor packed, Tensor blocks, int border) -> ()", tags);
  m.def("copy_border_(Tensor(a!) state, Tensor map, int[] slots, int[] block, int border) -> ()",
        tags);
  m.def("conv_kernels() -> str[]");
  m.def("conv_prepare(Tensor weight, bool winograd, str kernels='') -> Tensor", tags);
  m.def(
      "conv_blocks(Tensor source, Tensor? packed, Tensor? blocks, Tensor? rows, Tensor? cols, "
      "Tensor weight, Tensor(a!) prepared, Tensor? bias, Tensor?[] norm, float eps, int[] stride, "
      "int[] dilation, int[] block_out, Tensor? residual, float low, float high, "
      "Tensor(b!) workspace, Tensor? slope=None) -> Tensor",
      tags);
  m.def(
      "join_maps(Tensor[] parts, Tensor? added, Tensor?[] norm, float eps, Tensor? residual, "
      "Tensor? slope, float low, float high) -> Tensor",
      tags);
  m.def(
      "finish_conv_(Tensor(a!) sums, Tensor? bias, Tensor?[] norm, float eps, Tensor? residual, "
      "float low, float high) -> ()",
      tags);
  m.def(
      "resize_blocks(Tensor state, Tensor blocks, Tensor rows, Tensor cols, Tensor row_weights, "
      "Tensor col_weights) -> Tensor",
      tags);
  m.def("planes(Tensor map) -> Tensor", tags);
  m.def(
      "roi_align(Tensor map, Tensor rois, int[] size, float scale, int sampling, bool aligned) "
      "-> Tensor",
      tags);
  m.def(
      "block_moments(Tensor map, Tensor? places, int[] block, int[] blocks, int[] size, "
      "int groups) -> Tensor",
      tags);
  m.def("scale_shift(Tensor map, Tensor? places, Tensor scale, Tensor shift) -> Tensor", tags);
  m.def("reduce_picture(Tensor frame, int side) -> Tensor", tags);
  m.def("sample_picture(Tensor frame, int side, int step, int[] size) -> Tensor", tags);
  m.def(
      "move_map(Tensor value, Tensor copied, Tensor cells, Tensor rows, Tensor columns, "
      "Tensor row_weights, Tensor column_weights, bool nearest, bool everywhere) -> Tensor",
      tags);
  m.def("merge_picture(Tensor before, Tensor now, Tensor grid, int cells) -> Tensor", tags);
  m.def(
      "predict_gain(Tensor picture, Tensor executed, Tensor maps, Tensor weights, "
      "Tensor? forbidden, int cells, float difference_floor, float gain_floor, "
      "float least_worth, float waiting) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      tags);
  m.def(
      "remember_gain(Tensor maps, Tensor grid, Tensor change, Tensor expected, Tensor weights, "
      "Tensor? gain, Tensor? output, bool everywhere, float gain_floor, float step) -> Tensor",
      tags);
  m.def(
      "pick_blocks(Tensor scores, Tensor ages, Tensor? forbidden, Tensor? required, int[] counts, "
      "int[] oldest, float tie) -> Tensor",
      tags);
  m.def(
      "ridge_sums(Tensor products, Tensor targets, Tensor features, Tensor values, Tensor seen, "
      "float decay) -> (Tensor, Tensor)",
      tags);
  m.def("ridge_weights(Tensor products, Tensor targets, Tensor prior, float strength) -> Tensor",
        tags);
  m.def(
      "softmax_change(Tensor logits, Tensor? previous, Tensor grid, Tensor rows, Tensor columns, "
      "Tensor cell_rows, Tensor cell_columns, int cells, float clip) -> (Tensor, Tensor)",
      tags);
  m.def(
      "keep_softmax_(Tensor(a!) kept, Tensor fresh, Tensor grid, Tensor cell_rows, "
      "Tensor cell_columns, int cells) -> ()",
      tags);
  m.def(
      "block_divergence(Tensor previous, Tensor current, int[] size, int[] grid, int block_size, "
      "int cells, float clip) -> Tensor",
      tags);
  m.def("all_finite(Tensor values) -> Tensor", tags);
  m.def(
      "match_boxes(Tensor boxes, Tensor labels, Tensor others, Tensor other_labels) "
      "-> (Tensor, Tensor)",
      tags);
  m.def(
      "box_change(Tensor boxes, Tensor scores, Tensor labels, Tensor? old_boxes, "
      "Tensor? old_scores, Tensor? old_labels, int[] size, int block_size, int cells) "
      "-> (Tensor, Tensor)",
      tags);
  m.def("paint_regions(Tensor values, Tensor regions, Tensor? bits, int[] size) -> Tensor", tags);
  m.def("crop_masks(Tensor masks, Tensor indices, Tensor regions) -> Tensor", tags);
  m.def(
      "cover_cells(Tensor bits, Tensor regions, Tensor cells, Tensor rows, Tensor columns) "
      "-> Tensor",
      tags);
  m.def(
      "shared_pixels(Tensor bits, Tensor regions, Tensor other_bits, Tensor other_regions, "
      "Tensor pairs) -> Tensor",
      tags);
}

// An empty module: everything above and in the other files happens when the library is loaded.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", "Kernels of the blockcopy:: operators.", -1,
      nullptr,               nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
