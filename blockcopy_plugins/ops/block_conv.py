"""Convolution of executed blocks with the full map of earlier frames as their surroundings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, GridError
from .conv_blocks import conv_blocks, conv_kernels, conv_prepare
from .conv_obstacles import conv_obstacles
from .gather import gather
from .scatter import scatter_
from .window import tap_table, window_table


@dataclass(frozen=True)
class SlidingWindow:
    """Shape of a sliding-window op on blocks; every field is a pair (rows, columns).

    Attributes:
        kernel: Taps.
        stride: Step between outputs in input pixels.
        padding: Padding before the first input pixel.
        dilation: Distance of the taps in input pixels.
        block_out: Height and width of a block in pixels of the output map.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    block_out: tuple[int, int]

    @property
    def by_taps(self) -> bool:
        """Whether the taps of each output are gathered side by side.

        This is done if the contiguous window would be larger than all taps together: for dilations
        that are wide compared with the block.
        """
        window = taps = 1
        for axis in (0, 1):
            window *= self.window_size(axis)
            taps *= self.block_out[axis] * self.kernel[axis]
        return window > taps

    def window_size(self, axis: int) -> int:
        """Width of the contiguous input window of a block, in pixels."""
        return (
            (self.block_out[axis] - 1) * self.stride[axis]
            + (self.kernel[axis] - 1) * self.dilation[axis]
            + 1
        )

    def table(self, axis: int, blocks: int, size: int) -> Tensor:
        """Index table of the gather along one axis.

        Args:
            axis: 0 for rows, 1 for columns.
            blocks: Blocks along the axis.
            size: Width of the input map in pixels.

        Returns:
            int32 ``(blocks, width)``, see :mod:`blockcopy_plugins.ops.window`.
        """
        return self._table(tap_table if self.by_taps else window_table, axis, blocks, size)

    def contiguous_table(self, axis: int, blocks: int, size: int) -> Tensor:
        """Like :meth:`table`, but always for the contiguous windows, even if they are larger.

        :func:`.conv_blocks.conv_blocks` reads these, and copies none of them.
        """
        return self._table(window_table, axis, blocks, size)

    def _table(self, make, axis: int, blocks: int, size: int) -> Tensor:
        return make(
            blocks=blocks,
            block_out=self.block_out[axis],
            size=size,
            kernel=self.kernel[axis],
            stride=self.stride[axis],
            padding=self.padding[axis],
            dilation=self.dilation[axis],
        )

    def convolve(
        self, gathered: Tensor, weight: Tensor, bias: Tensor | None, groups: int
    ) -> Tensor:
        """Convolve windows that were gathered with this object's tables, without padding.

        Args:
            gathered: ``(n, C, wh, ww)``.
            weight: ``(C_out, C / groups, kh, kw)``.
            bias: ``(C_out,)`` or ``None``.
            groups: Groups of the convolution.

        Returns:
            ``(n, C_out, *block_out)``, channels last.
        """
        if self.by_taps:
            return F.conv2d(gathered, weight, bias, stride=self.kernel, groups=groups)
        return F.conv2d(gathered, weight, bias, self.stride, 0, self.dilation, groups)


def block_conv2d(
    state: Tensor,
    packed: Tensor,
    grid: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve the executed blocks of a feature map; pixels outside them are read from the state.

    Equal to the executed blocks of ``F.conv2d(state', ...)``, where ``state'`` is ``state`` with
    the packed blocks written into it. Borders are zero at the edge of the map and nowhere else.

    Args:
        state: ``(N, C, H, W)``, channels last: the map as earlier frames left it. The packed blocks
            are written into it, except for the part of an edge block that lies beyond the map.
        packed: ``(n_executed, C, bh, bw)``: the new blocks, in the order of ``grid.nonzero()``.
        grid: bool ``(N, GH, GW)``, True = executed.
        weight: ``(C_out, C / groups, kh, kw)``.
        bias: ``(C_out,)`` or ``None``.
        stride: Must divide the block.
        padding: Zero padding in pixels of the map.
        dilation: Distance of the taps; may be wider than a block.
        groups: Groups of the convolution.

    Returns:
        ``(n_executed, C_out, bh / stride, bw / stride)``, channels last. Output pixel ``o`` of the
        dense result belongs to block ``o // (bh / stride)``.

    Raises:
        GridError: If grid, packed and state do not fit each other, or the stride does not divide
            the block.
        ConfigError: If weight, bias or groups do not fit the state, or the map is smaller than the
            kernel. On any error the state is as it was.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    _check(state, packed, grid, stride)
    _check_weight(state, weight, bias, padding, dilation, groups)
    block = tuple(packed.shape[2:])
    shape = SlidingWindow(
        kernel=tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        block_out=(block[0] // stride[0], block[1] // stride[1]),
    )
    blocks = grid.nonzero().to(torch.int32).contiguous()
    scatter_(state, packed, blocks)
    given = (state, packed, weight) if bias is None else (state, packed, weight, bias)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    by_kernel = conv_kernels() and not (needs_grad or conv_obstacles(state, weight, groups))
    table = shape.contiguous_table if by_kernel else shape.table
    rows, cols = (
        table(axis, grid.shape[1 + axis], state.shape[2 + axis]).to(state.device) for axis in (0, 1)
    )
    if not by_kernel:
        return shape.convolve(gather(state, blocks, rows, cols), weight, bias, groups)
    prepared = conv_prepare(weight, False)
    nothing = torch.empty(0, dtype=torch.uint8)
    how = ((), 0.0, stride, dilation, shape.block_out, None, -math.inf, math.inf, nothing)
    return conv_blocks(state, None, blocks, rows, cols, weight, prepared, bias, *how)


def _check(state: Tensor, packed: Tensor, grid: Tensor, stride: tuple[int, int]) -> None:
    if grid.dtype != torch.bool or grid.dim() != 3 or len(grid) != len(state):
        raise GridError(
            f"grid is {grid.dtype} {tuple(grid.shape)}, expected torch.bool (N, GH, GW) with "
            f"N = {len(state)}, the batch of the state."
        )
    executed = int(grid.sum())
    if packed.dim() != 4 or packed.shape[:2] != (executed, state.shape[1]):
        raise GridError(
            f"packed is {tuple(packed.shape)}, expected ({executed}, {state.shape[1]}, bh, bw): "
            "one row for each True of the grid, with the channels of the state."
        )
    for axis, name in ((0, "height"), (1, "width")):
        block, blocks, size = packed.shape[2 + axis], grid.shape[1 + axis], state.shape[2 + axis]
        if not (blocks - 1) * block < size <= blocks * block:
            raise GridError(
                f"{blocks} blocks of {block} px do not cover the {name} of the state, {size} px. "
                f"Use a grid of ceil({size} / {block}) blocks."
            )
        if block % stride[axis]:
            raise GridError(
                f"stride {stride[axis]} does not divide the block {name} {block}. "
                "Use a block size that is a multiple of the network's total stride."
            )


def _check_weight(state: Tensor, weight: Tensor, bias: Tensor | None, padding, dilation, groups):
    channels = state.shape[1]
    fits = weight.dim() == 4 and groups >= 1 and weight.shape[1] * groups == channels
    if not fits or weight.shape[0] % groups:
        raise ConfigError(
            f"weight is {tuple(weight.shape)} with groups={groups}, expected "
            f"(C_out, {channels} / groups, kh, kw) with C_out a multiple of groups."
        )
    if weight.dtype != state.dtype and not torch.is_autocast_enabled(state.device.type):
        raise ConfigError(
            f"weight is {weight.dtype}, but the state is {state.dtype}. Convert one of them."
        )
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ConfigError(f"bias is {tuple(bias.shape)}, expected ({len(weight)},).")
    for axis, name in ((0, "height"), (1, "width")):
        reach = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        if state.shape[2 + axis] + 2 * padding[axis] < reach:
            raise ConfigError(
                f"the kernel reaches over {reach} px, more than the {name} of the padded state, "
                f"{state.shape[2 + axis] + 2 * padding[axis]} px."
            )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
