"""Block operators: native if the extension was built, otherwise pure PyTorch."""

from __future__ import annotations

from blockcopy_plugins.ops.all_finite import all_finite
from blockcopy_plugins.ops.bitmaps import cover_cells, crop_masks, shared_pixels
from blockcopy_plugins.ops.block_conv import block_conv2d
from blockcopy_plugins.ops.block_divergence import block_divergence
from blockcopy_plugins.ops.block_moments import block_moments, scale_shift
from blockcopy_plugins.ops.block_sparse_conv import BlockSparseConv2d
from blockcopy_plugins.ops.block_sums import block_sums
from blockcopy_plugins.ops.conv_blocks import FLOPS, conv_blocks, conv_kernels, conv_prepare
from blockcopy_plugins.ops.conv_obstacles import NO_KERNELS, conv_obstacles
from blockcopy_plugins.ops.finish_conv import (
    FINISH_DTYPES,
    finish_conv_,
)
from blockcopy_plugins.ops.gather import gather, gather_reference
from blockcopy_plugins.ops.join_maps import join_maps
from blockcopy_plugins.ops.library import extension_status, has_extension, has_kernel
from blockcopy_plugins.ops.match_boxes import match_boxes
from blockcopy_plugins.ops.max_positions import max_positions
from blockcopy_plugins.ops.output_map import copy_blocks_, scatter_planes_
from blockcopy_plugins.ops.paint_regions import paint_regions
from blockcopy_plugins.ops.planes import planes
from blockcopy_plugins.ops.pool_blocks import pool_blocks
from blockcopy_plugins.ops.reduce_picture import reduce_picture
from blockcopy_plugins.ops.resize_blocks import resize_blocks
from blockcopy_plugins.ops.rings import copy_rings_, scatter_rings_
from blockcopy_plugins.ops.scatter import scatter_
from blockcopy_plugins.ops.shuffle_channels import shuffle_channels

__all__ = [
    "FINISH_DTYPES",
    "FLOPS",
    "NO_KERNELS",
    "BlockSparseConv2d",
    "all_finite",
    "block_conv2d",
    "block_divergence",
    "block_moments",
    "block_sums",
    "conv_blocks",
    "conv_kernels",
    "conv_obstacles",
    "conv_prepare",
    "copy_blocks_",
    "copy_rings_",
    "cover_cells",
    "crop_masks",
    "extension_status",
    "finish_conv_",
    "gather",
    "gather_reference",
    "has_extension",
    "has_kernel",
    "join_maps",
    "match_boxes",
    "max_positions",
    "paint_regions",
    "planes",
    "pool_blocks",
    "reduce_picture",
    "resize_blocks",
    "scale_shift",
    "scatter_",
    "scatter_planes_",
    "scatter_rings_",
    "shared_pixels",
    "shuffle_channels",
]
