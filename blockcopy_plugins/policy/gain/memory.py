"""The gain policy's memory of each stream; constant in size, however long the video is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.ops.block_gain import MAPS

from .blocks_or_whole import BlocksOrWhole
from .price import BlockPrice
from .skipped_worth import SkippedWorth
from .spread import MeanSpread

# A gain below this cannot be told from none: it is added before a logarithm is taken. It is a tenth
# of the gain of a clear change of class, or of an object that came.
GAIN_FLOOR = 0.1
# Weight of a new value in the running mean of a block's surprises.
SURPRISE_STEP = 0.3

LOG_GAIN, SURPRISE, AGE, STALE, OUTPUT, OUTPUT_PEAK = range(len(MAPS))
"""The place of each map in a tensor of maps.

``LOG_GAIN``: ``log(gain + GAIN_FLOOR)`` as last seen. ``SURPRISE``: running mean of the seen value
minus the one predicted without it: how the block differs from others that look the same (leaves
move, and bring nothing). ``AGE``: frames since the block was executed, 1 right after it. ``STALE``:
picture difference of the blocks around it that were not executed with it: how old the features were
that it read from its neighbours. ``OUTPUT`` and ``OUTPUT_PEAK``: mean and highest value of the last
output's map in the block, see
:meth:`~blockcopy_plugins.policy.information_gain.InformationGain.output_map`.
"""


def unknown_maps(grid: Sequence[int], device: torch.device) -> Tensor:
    """Return the maps of blocks that were executed once.

    Args:
        grid: ``(GH, GW)``.
        device: The frames' device.

    Returns:
        float32 ``(6, GH, GW)``.
    """
    maps = torch.zeros((len(MAPS), *grid), device=device)
    maps[LOG_GAIN] = math.log(GAIN_FLOOR)
    maps[AGE] = 1.0
    return maps


def waited(maps: Tensor) -> Tensor:
    """Return the maps after a frame in which nothing ran; writes nothing in place."""
    maps = maps.clone()
    maps[AGE] += 1
    return maps


@dataclass(eq=False)
class StreamMemory:
    """The data kept for a stream.

    Attributes:
        picture: float32 ``(3, h, w)`` on cells: each block as last executed.
        maps: float32 ``(6, GH, GW)``, what is known of each block: see :data:`LOG_GAIN`.
        summary: The last output, for the information gain; None if there was none.
        account: Blocks that the stream has saved up.
        share: The stream's share, in units of the budget's rate; 1 for a single stream.
        spread: The share of the blocks over which the gain is spread.
        skipped: What the blocks that its budget does not pay for would bring.
        trial: Whether blocks or whole frames are better, where everything moves.
        price: Worth that its blocks must have; None before that mattered.
        worth: float32 ``(GH, GW)``, predicted gain of each block in the last frame; None before
            the second frame.
        frames: Number of frames it has had.
    """

    picture: Tensor
    maps: Tensor
    summary: Any
    account: float = 0.0
    share: float = 1.0
    spread: MeanSpread = field(default_factory=MeanSpread)
    skipped: SkippedWorth = SkippedWorth()
    trial: BlocksOrWhole = field(default_factory=BlocksOrWhole)
    price: BlockPrice | None = None
    worth: Tensor | None = None
    frames: int = 1

    def fits(self, shape: tuple[int, int, int], device: torch.device) -> bool:
        """Return whether this is the memory of frames of a shape, ``(3, h, w)`` on cells."""
        return self.picture.shape == shape and self.picture.device == device
