"""``block_size='auto'``: the block size that suits a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import lcm
from typing import Any

import torch

from ..config import BlockCopyConfig
from .adapter import Call
from .execution.converted_model import ConvertedModel
from .execution.frame_run import FrameRun
from .execution.geometry_cache import GeometryCache
from .frame.frame import Frame
from .frame.host_grid import HostGrid
from .geometry import grid_size
from .state.store import StateStore

SMALL, USUAL, LARGE, LARGEST = 32, 64, 128, 256
# The share of the MACs that could run on blocks that a block size may leave on whole maps, and the
# share for which blocks get larger than LARGE.
_LEFT, _MUCH = 0.02, 0.1
# How often the first frame is run to see the strides.
_LOOKS = 3


def choose_block_size(macs: Mapping[Fraction, int]) -> int:
    """Return the block size, px, that costs the least for the same answer.

    This is 64 px, which at the same executed rate is at least as good as 128 px; 32 px are no
    better (measured in ``docs/results.md``; speed depends on the machine and is not considered).
    If strides that do not divide 64 have more than 2 % of the network's MACs, which would then run
    on whole maps, it is the nearest size to 64 from 32 to 128 px that leaves no more than this
    there, or the one that leaves the least. If that is more than 10 %, as with patches of 14 px
    beside a stride of 32, a size to 256 px will do that leaves no more than 2 %.

    Args:
        macs: MACs of the ops that run on blocks, by stride.
    """
    total = sum(macs.values())

    def cost(size: int) -> tuple[int, int]:
        left = sum(count for stride, count in macs.items() if (size / stride).denominator != 1)
        return left if left > _LEFT * total else 0, abs(size - USUAL)

    usual, larger = (
        min(sizes, key=cost) for sizes in (range(SMALL, LARGE + 1), range(LARGE + 1, LARGEST + 1))
    )
    return larger if cost(usual)[0] > _MUCH * total and not cost(larger)[0] else usual


def resolve_block_size(
    converted: ConvertedModel, call: Call, original: Callable
) -> BlockCopyConfig:
    """Choose the block size of a converted model, by running its first frame once more.

    That run executes all blocks, on a state of its own that is thrown away; only its strides count.
    What has strides that do not divide its blocks, such as patches of 14 px, would tell nothing of
    the layers behind: the frame is then run with blocks that all strides seen so far divide.

    Returns:
        Its options with that block size.
    """
    size, tried, refused = LARGE, set(), set()
    macs: Counter[Fraction] = Counter()
    while size not in tried and len(tried) < _LOOKS:
        tried.add(size)
        seen, tiles = _look_at_strides(converted, call, original, size)
        macs |= seen
        refused |= {Fraction(size / width) for tile in tiles for width in tile if width % 1}
        period = lcm(*(stride.numerator for stride in refused))
        if 1 < period <= LARGEST:
            size = max(1, round(LARGE / period)) * period
    return replace(converted.config, block_size=choose_block_size(macs))


def _look_at_strides(
    converted: ConvertedModel, call: Call, original: Callable, size: int
) -> tuple[Counter[Fraction], set]:
    """MACs by stride with blocks of a size, and the blocks of the maps that ops gave or refused."""
    config, frame = converted.config, call.frame
    store = StateStore()
    streams = [store.add_stream(image, image) for image in range(len(frame))]
    host = torch.ones(
        (len(frame), *grid_size(*frame.shape[2:], size)), dtype=torch.bool, device="cpu"
    )
    probe = replace(converted, config=replace(config, block_size=size, strict=False))
    blocks = (host.to(frame.device), HostGrid(host))
    work = FrameRun(probe, call, original, *blocks, store, streams, GeometryCache())
    try:
        strides = work.open(_StrideFrame)
        work.run(strides, frame)
    finally:
        work.close()
        converted.active.end()
    return strides.macs, strides.counts.tiles


class _StrideFrame(Frame):
    """Counts MACs by stride.

    Attributes:
        macs: MACs of ops that ran on blocks, by the larger stride of the map that they returned.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.macs: Counter[Fraction] = Counter()

    def count_blocks(self, executed: int, dense: int, block: tuple[int, int]) -> None:
        """See :meth:`Frame.count_blocks`."""
        super().count_blocks(executed, dense, block)
        self.macs[max(Fraction(self.block_size) / width for width in block)] += dense
