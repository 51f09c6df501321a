"""``block_size='auto'``: the size of blocks that fits a network."""

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
# MACs that may run on whole maps because of the block size, of those that could run on blocks.
_LEFT = 0.02


def choose_block_size(macs: Mapping[Fraction, int]) -> int:
    """Return the block size that costs least for the same answer, px.

    64 px: at least as good as 128 px at the same executed rate; 32 px are no better than 64
    (measured in ``docs/results.md``; how fast each is depends on the machine, and is not looked
    at). Where strides that 64 is no multiple of have more than 2 % of the network's MACs, which
    would then run on whole maps, 128 px if they lose less.

    Args:
        macs: Of the ops that run on blocks, by their stride.
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

    That run is whole, on a state of its own that is forgotten: only the strides that it shows are
    of interest.

    Args:
        converted: The model.
        call: Its first call.
        original: The model's own forward.

    Returns:
        Its options, with that block size.
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
        macs: Of ops that ran on blocks, by the larger stride of the map that they gave.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.macs: Counter[Fraction] = Counter()

    def count_blocks(self, executed: int, dense: int, block: tuple[int, int]) -> None:
        """See :meth:`Frame.count_blocks`."""
        super().count_blocks(executed, dense, block)
        self.macs[max(Fraction(self.block_size) / width for width in block)] += dense
