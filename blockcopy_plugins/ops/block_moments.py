"""The two passes of a norm over blocks: moments of each block, and a scale and shift of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _check_map(name: str, map: Tensor, places: Tensor | None) -> None:
    torch._check_value(
        map.dim() == 4,
        lambda: (
            f"blockcopy::{name}: map must be 4-D (N, C, H, W), but has shape {tuple(map.shape)}"
        ),
    )
    torch._check_type(
        map.is_floating_point(),
        lambda: (
            f"blockcopy::{name}: map has dtype {map.dtype}, expected a floating point type of 16 "
            "to 64 bits"
        ),
    )
    if places is not None:
        torch._check_value(
            tuple(places.shape) == (map.shape[0], 3),
            lambda: (
                f"blockcopy::{name}: places has shape {tuple(places.shape)}, expected "
                f"({map.shape[0]}, 3), contiguous"
            ),
        )
        torch._check_type(
            places.dtype == torch.int32,
            lambda: f"blockcopy::{name}: places has dtype {places.dtype}, expected int32",
        )


def _check_moments(map, places, block, blocks, size, groups) -> None:
    _check_map("block_moments", map, places)
    torch._check_value(
        groups > 0
        and map.shape[1] % groups == 0
        and min(block) > 0
        and tuple(map.shape[2:]) == tuple(size if places is None else block),
        lambda: (
            f"blockcopy::block_moments: map of shape {tuple(map.shape)} does not fit blocks of "
            f"{tuple(block)}, size {tuple(size)} and {groups} groups"
        ),
    )


def _check_scale(map, places, scale, shift) -> None:
    _check_map("scale_shift", map, places)
    torch._check_value(
        scale.dim() == 2
        and scale.shape[1] == map.shape[1]
        and scale.shape == shift.shape
        and (places is not None or scale.shape[0] == map.shape[0]),
        lambda: (
            f"blockcopy::scale_shift: scale {tuple(scale.shape)} and shift {tuple(shift.shape)} do "
            f"not fit a map of shape {tuple(map.shape)}"
        ),
    )


def _block_moments_fake(map, places, block, blocks, size, groups) -> Tensor:
    _check_moments(map, places, block, blocks, size, groups)
    count = map.shape[0] if places is not None else map.shape[0] * blocks[0] * blocks[1]
    return map.new_empty((count, 1 + 2 * groups), dtype=torch.float64)


def _scale_shift_fake(map, places, scale, shift) -> Tensor:
    _check_scale(map, places, scale, shift)
    return torch.empty_like(map, memory_format=torch.channels_last)


@operator(
    "block_moments(Tensor map, Tensor? places, int[] block, int[] blocks, int[] size, "
    "int groups) -> Tensor",
    fake=_block_moments_fake,
)
def block_moments(
    map: Tensor,
    places: Tensor | None,
    block: Sequence[int],
    blocks: Sequence[int],
    size: Sequence[int],
    groups: int,
) -> Tensor:
    """Mean and spread of each group of channels over each block, leaving out pixels off the map.

    Args:
        map: Packed blocks ``(n, C, *block)``, or without ``places`` a whole map ``(N, C, *size)``;
            channels last, or it is copied.
        places: int32 ``(n, 3)``: image or slot, block row, block column.
        block: Height and width of a block, in pixels of the map.
        blocks: Rows and columns of blocks. Ignored if ``places`` is given.
        size: ``(H, W)`` of the map.
        groups: Number of groups of neighbouring channels.

    Returns:
        float64 ``(n, 1 + 2 * groups)``, without ``places`` ``(N * blocks[0] * blocks[1], ...)`` row
        by row: for each block the number of values of a group, each group's mean, and its sum of
        squared distances from that mean. All 0 for a block that lies entirely off the map.

    Raises:
        ValueError: If shapes do not fit each other.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and the map requires grad.
    """
    check_no_grad("block_moments", map)
    _check_moments(map, places, block, blocks, size, groups)
    if places is None:
        rows, cols = blocks
        pad = (0, cols * block[1] - size[1], 0, rows * block[0] - size[0])
        packed = F.pad(map, pad).unflatten(3, (cols, block[1])).unflatten(2, (rows, block[0]))
        packed = packed.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        cell = torch.arange(len(packed), device=map.device) % (rows * cols)
        at = [cell // cols, cell % cols]
    else:
        packed = map
        at = [places[:, 1], places[:, 2]]
    count, channels, height, width = packed.shape
    inside = [
        at[i][:, None] * block[i] + torch.arange(block[i], device=map.device) < size[i]
        for i in (0, 1)
    ]
    inside = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    values = torch.where(inside, packed.double(), 0)
    pixels = inside.sum((2, 3), dtype=torch.float64) * (channels // groups)
    values = values.view(count, groups, channels // groups, height, width)
    mean = values.sum((2, 3, 4)) / pixels.clamp(min=1)
    apart = torch.where(inside[:, None], values - mean[:, :, None, None, None], 0)
    return torch.cat((pixels, mean, apart.square().sum((2, 3, 4))), 1)


@operator(
    "scale_shift(Tensor map, Tensor? places, Tensor scale, Tensor shift) -> Tensor",
    fake=_scale_shift_fake,
)
def scale_shift(map: Tensor, places: Tensor | None, scale: Tensor, shift: Tensor) -> Tensor:
    """``map * scale + shift``, with a scale and shift for each image and channel.

    Args:
        map: ``(n, C, H, W)``; channels last, or it is copied.
        places: int32 ``(n, 3)``, of which the first column is the image of each block; None if
            there are as many images as maps.
        scale: ``(N, C)``.
        shift: ``(N, C)``.

    Returns:
        A tensor with the shape and dtype of ``map``, channels last; computed in float32 at least.

    Raises:
        ValueError: If shapes do not fit each other.
        TypeError: If a dtype does not fit.
        IndexError: If ``places`` names an image that ``scale`` does not have (on a CPU).
        RuntimeError: If gradients are recorded and the map requires grad.
    """
    check_no_grad("scale_shift", map)
    _check_scale(map, places, scale, shift)
    work = torch.promote_types(map.dtype, torch.float32)
    if places is not None:
        scale, shift = (value.index_select(0, places[:, 0].long()) for value in (scale, shift))
    scale, shift = (value.to(work)[:, :, None, None] for value in (scale, shift))
    out = torch.addcmul(shift, map.to(work), scale).to(map.dtype)
    return out.contiguous(memory_format=torch.channels_last)
