"""The table of strategies: which aten op runs on blocks, and how.

A strategy is ``strategy(frame, func, args, kwargs)``. It returns the op's result, or a
:class:`~.densify.Decline` with the reason why these arguments cannot run on blocks; then the op
runs on the whole map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.utils._pytree import tree_map

from ..composite import take_apart
from ..frame.frame import Frame
from ..tensor.axes import CHANNEL_OPS, is_pointwise
from ..tensor.block_tensor import BlockTensor
from . import attention, channels, group_norm, padding, pixels, pointwise, resize, sliding
from .densify import Decline, run_dense, run_dense_and_pack
from .groups_as_images import takes_groups

__all__ = ["STRATEGIES", "Decline", "run_dense", "run_dense_and_pack", "run_op"]

aten = torch.ops.aten


def _packed_again(reason: str, as_claimed: bool = False) -> Callable:
    def strategy(frame: Frame, func, args, kwargs):
        return run_dense_and_pack(frame, func, args, kwargs, reason, as_claimed)

    return strategy


STRATEGIES: Mapping[object, Callable] = MappingProxyType(
    {
        aten.convolution.default: takes_groups(sliding.convolution),
        # Whole composite ops arrive in inference mode. To take them apart costs another dispatch.
        aten.conv2d.default: takes_groups(sliding.conv2d),
        aten.max_pool2d_with_indices.default: takes_groups(sliding.max_pool),
        aten.max_pool2d.default: takes_groups(sliding.max_pool_values),
        aten.max_unpool2d.default: sliding.max_unpool,
        aten.avg_pool2d.default: takes_groups(sliding.avg_pool),
        aten.upsample_nearest2d.default: takes_groups(resize.nearest),
        aten._upsample_nearest_exact2d.default: takes_groups(resize.nearest),
        aten.upsample_bilinear2d.default: takes_groups(resize.bilinear),
        aten.upsample_nearest2d.vec: resize.by_scale,
        aten._upsample_nearest_exact2d.vec: resize.by_scale,
        aten.upsample_bilinear2d.vec: resize.by_scale,
        aten.upsample_bicubic2d.vec: resize.by_scale,
        aten._upsample_bilinear2d_aa.vec: resize.by_scale,
        aten._upsample_bicubic2d_aa.vec: resize.by_scale,
        aten.native_batch_norm.default: pointwise.batch_norm,
        aten._native_batch_norm_legit.default: pointwise.batch_norm,
        aten._native_batch_norm_legit_no_training.default: pointwise.batch_norm,
        aten.cudnn_batch_norm.default: pointwise.batch_norm,
        aten.native_group_norm.default: takes_groups(group_norm.group_norm),
        aten.upsample_bicubic2d.default: _packed_again("bicubic resize"),
        # torch 2.13 gets these wrong for channels-last maps of one column.
        aten._upsample_bilinear2d_aa.default: _packed_again("resize with anti-aliasing", True),
        aten._upsample_bicubic2d_aa.default: _packed_again("resize with anti-aliasing", True),
        aten.clone.default: pointwise.copy_like,
        aten._to_copy.default: pointwise.copy_like,
        aten.zeros_like.default: pointwise.copy_like,
        aten.ones_like.default: pointwise.copy_like,
        aten.full_like.default: pointwise.copy_like,
        aten.empty_like.default: pointwise.copy_like,
        aten.detach.default: pointwise.alias,
        aten.alias.default: pointwise.alias,
        aten.copy_.default: pointwise.copy_into,
        aten.new_zeros.default: pointwise.new_tensor,
        aten.new_ones.default: pointwise.new_tensor,
        aten.new_full.default: pointwise.new_tensor,
        aten.new_empty.default: pointwise.new_tensor,
        **dict.fromkeys(CHANNEL_OPS, channels.over_channels),
        aten.cat.default: channels.cat,
        aten.stack.default: channels.stack,
        aten.mm.default: channels.matrix_product,
        aten.addmm.default: channels.matrix_product,
        aten.bmm.default: attention.batched_product,
        aten.baddbmm.default: attention.added_product,
        aten.scaled_dot_product_attention.default: attention.attention,
        aten._scaled_dot_product_flash_attention_for_cpu.default: attention.attention,
        aten.slice.Tensor: pixels.pixel_slice,
        aten.pixel_shuffle.default: pixels.shuffle,
        aten.pixel_unshuffle.default: pixels.unshuffle,
        aten.im2col.default: pixels.patches,
        aten.roll.default: pixels.roll,
        aten.constant_pad_nd.default: padding.constant,
        aten.reflection_pad2d.default: padding.reflect,
        aten.replication_pad2d.default: padding.replicate,
    }
)

_TAKE_PADDED = frozenset(
    {
        aten.convolution.default,
        aten.conv2d.default,
        aten.max_pool2d_with_indices.default,
        aten.max_pool2d.default,
        aten.max_unpool2d.default,
        aten.avg_pool2d.default,
        aten.im2col.default,
    }
)

POINTWISE_MODULES = frozenset(
    {
        nn.Identity,
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.ELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Sigmoid,
        nn.Tanh,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.BatchNorm2d,
        nn.Dropout,
        nn.Dropout2d,
    }
)


def run_op(frame: Frame, func, args, kwargs, on_use: bool = False):
    """Execute an aten op that met a BlockTensor of ``frame``.

    Args:
        frame: The frame at work.
        func: The op.
        args: Its arguments.
        kwargs: Its keyword arguments.
        on_use: There are :class:`~..dense_on_use.DenseOnUse` tensors among them.

    Returns:
        The op's result: BlockTensors where it ran on blocks.
    """
    if on_use and func not in _TAKE_PADDED:
        return run_dense(frame, func, args, kwargs, "it reads a padding or positions of a pooling")
    strategy = STRATEGIES.get(func)
    if strategy is None and is_pointwise(func):
        strategy = pointwise.pointwise
    if strategy is None:
        # In inference mode composite ops arrive whole; elsewhere torch has taken them apart.
        out = take_apart(func, args, kwargs)
        if out is not NotImplemented:
            return out
        return _run_on_whole_maps(frame, func, args, kwargs, "no strategy for this op")
    out = strategy(frame, func, args, kwargs)
    if isinstance(out, Decline):
        if out.tile is not None:
            frame.counts.tiles.add(out.tile)
        return _run_on_whole_maps(frame, func, args, kwargs, out.reason)
    return out


def _run_on_whole_maps(frame: Frame, func, args, kwargs, reason: str):
    """As :func:`run_dense`; of maps that were cut into blocks for nothing as they were before."""

    def before(value):
        if isinstance(value, BlockTensor) and value.source is not None:
            return value.source.contiguous()
        return value

    args, kwargs = tree_map(before, (list(args), dict(kwargs)))
    return run_dense(frame, func, args, kwargs, reason)
