"""The channels of each pixel in another order: group by group."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _check(map: Tensor, groups: int) -> None:
    torch._check_value(
        map.dim() == 4
        and map.is_contiguous(memory_format=torch.channels_last)
        and groups > 0
        and map.shape[1] % groups == 0,
        lambda: (
            f"blockcopy::shuffle_channels: map has shape {tuple(map.shape)} and strides "
            f"{map.stride()}, expected (N, C, H, W), channels last, with C a multiple of {groups} "
            "groups"
        ),
    )


def _fake(map: Tensor, groups: int) -> Tensor:
    _check(map, groups)
    return torch.empty_like(map, memory_format=torch.channels_last)


@operator("shuffle_channels(Tensor map, int groups) -> Tensor", fake=_fake)
def shuffle_channels(map: Tensor, groups: int) -> Tensor:
    """Take the first channel of each group, then the second of each, and so on.

    As ``torch.channel_shuffle``, and as ``view``, ``transpose`` and ``reshape``, which on maps that
    lie channels last copy value by value.

    Args:
        map: ``(N, C, H, W)``, channels last, of a dtype of at most 8 bytes.
        groups: Number of groups of neighbouring channels.

    Returns:
        A tensor of the shape and dtype of ``map``, channels last.

    Raises:
        ValueError: If the map is not channels last, or the groups do not divide its channels.
        RuntimeError: If gradients are recorded and the map requires grad.
    """
    check_no_grad("shuffle_channels", map)
    _check(map, groups)
    out = map.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
    return out.contiguous(memory_format=torch.channels_last)
