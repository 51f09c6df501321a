"""Spatial ops on ``(N * g, C, H, W)``, whose images are groups of channels: grouped ops on the map.

A blur of each channel, written for one channel and many images, is a depthwise convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch

from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import from_map
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PoolIndices
from ..torch_internals import named_arguments
from .pool_indices import indices_on_use

AXES = "BCHW"


def takes_groups(strategy: Callable) -> Callable:
    """Extend a strategy for maps to maps whose groups of channels are images.

    Args:
        strategy: Takes a map first; its result is a map, or a tuple with a map first.
    """

    @wraps(strategy)
    def grouped(frame: Frame, func, args, kwargs):
        x = args[0]
        if not isinstance(x, BlockTensor) or x.axes != AXES:
            return strategy(frame, func, args, kwargs)
        map_ = BlockTensor(x.packed_map(), x.size_of_map, x.block, frame)
        rest = _for_all_groups(func, args, kwargs, x.joined)
        if rest is None:
            return Decline("its weight is computed from maps")
        out = strategy(frame, func, (map_, *rest), {})
        if isinstance(out, Decline):
            return out
        first, *others = out if isinstance(out, tuple) else (out,)
        if not isinstance(first, BlockTensor):
            return Decline("its result is not a map of blocks")
        first = _as_groups(first, x.joined)
        if not others:
            return first
        if isinstance(others[0], PoolIndices):
            return first, indices_on_use(frame, func, args, kwargs, first)
        return first, *(part.reshape(x.shape[0], -1) for part in others)

    return grouped


def _as_groups(x: BlockTensor, groups: int) -> BlockTensor:
    """A map of ``g * C`` channels as ``(N * g, C, H, W)``."""
    packed = from_map(x.packed, AXES, (groups, x.shape[1] // groups))
    return BlockTensor(packed, x.size_of_map, x.block, x.frame, axes=AXES, joined=groups)


def _for_all_groups(func, args, kwargs, groups: int) -> list | None:
    """The arguments of an op after its map, with weights repeated for each group."""
    given = named_arguments(func, args, kwargs)
    for name in ("weight", "bias"):
        if isinstance(given.get(name), BlockTensor):
            return None
        if given.get(name) is not None:
            given[name] = torch.cat([given[name]] * groups)
    for name in ("groups", "group", "C"):  # of a convolution, and of a group norm
        if name in given:
            given[name] *= groups
    if "N" in given:
        given["N"] //= groups
    return list(given.values())[1:]
