"""``block_size='auto'``: the block size that suits a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch

from ..config import BlockCopyConfig
from .adapter import Call
from .execution.converted_model import ConvertedModel
from .execution.frame_run import FrameRun
from .execution.geometry_cache import GeometryCache
from .frame.frame import Frame
from .geometry import grid_size
from .state.store import StateStore

USUAL = 64
LARGE = 128
# The share of the MACs that could run on blocks that a block size may leave on whole maps.
_LEFT = 0.02


def choose_block_size(macs: Mapping[Fraction, int]) -> int:
    """Return the block size, px, that costs the least for the same answer.

    This is 64 px, which at the same executed rate is at least as good as 128 px; 32 px are no
    better (measured in ``docs/results.md``; speed depends on the machine and is not considered).
    It is 128 px if strides that do not divide 64 have more than 2 % of the network's MACs, which
    would then run on whole maps, and 128 px leave fewer there.

    Args:
        macs: MACs of the ops that run on blocks, by stride.
    """
    usual, large = (
        sum(count for stride, count in macs.items() if (size / stride).denominator != 1)
        for size in (USUAL, LARGE)
    )
    return LARGE if usual > _LEFT * sum(macs.values()) and large < usual else USUAL


def resolve_block_size(
    converted: ConvertedModel, call: Call, original: Callable
) -> BlockCopyConfig:
    """Choose the block size of a converted model, by running its first frame once more.

    That run executes all blocks, on a state of its own that is thrown away; only its strides count.

    Returns:
        Its options with that block size.
    """
    config, frame = converted.config, call.frame
    store = StateStore()
    streams = [store.add_stream(image, image) for image in range(len(frame))]
    host = torch.ones(
        (len(frame), *grid_size(*frame.shape[2:], LARGE)), dtype=torch.bool, device="cpu"
    )
    probe = replace(converted, config=replace(config, block_size=LARGE, strict=False))
    blocks = (host.to(frame.device), host)
    work = FrameRun(probe, call, original, *blocks, store, streams, GeometryCache())
    try:
        strides = work.open(_StrideFrame)
        work.run(strides, frame)
    finally:
        work.close()
        converted.active.end()
    return replace(config, block_size=choose_block_size(strides.macs))


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
