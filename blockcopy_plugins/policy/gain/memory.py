"""What the gain policy keeps of each stream; constant in size, whatever the length of the video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.policy.picture import cells_to_grid

from .spread import MeanSpread

# A gain below this cannot be told from none: it is added before a logarithm is taken. A tenth of
# what a sure change of class, or an object that came, counts.
GAIN_FLOOR = 0.1
_SURPRISE_STEP = 0.3


@dataclass(frozen=True, eq=False)
class BlockMaps:
    """What is known of each block, float32 ``(N, GH, GW)`` each.

    Attributes:
        log_gain: ``log(gain + GAIN_FLOOR)`` as last seen.
        surprise: Running mean of what was seen minus what had been predicted without it: how the
            block differs from others that look the same (leaves move, and bring nothing).
        age: Frames since the block was executed, 1 right after.
        stale: Picture difference around the block when it was executed, of blocks that were not:
            how old what it read from its neighbours was.
        output: Mean of the last output's map in the block, see
            :meth:`~blockcopy_plugins.policy.information_gain.InformationGain.output_map`.
        output_peak: Highest value of that map in the block.
    """

    log_gain: Tensor
    surprise: Tensor
    age: Tensor
    stale: Tensor
    output: Tensor
    output_peak: Tensor

    @classmethod
    def unknown(cls, shape: Sequence[int], device: torch.device) -> BlockMaps:
        """Return what is known of blocks that were executed once, ``shape = (N, GH, GW)``."""
        zero = torch.zeros(tuple(shape), device=device)
        return cls(
            log_gain=torch.full_like(zero, math.log(GAIN_FLOOR)),
            surprise=zero,
            age=torch.ones_like(zero),
            stale=zero,
            output=zero,
            output_peak=zero,
        )

    @classmethod
    def join(cls, parts: Sequence[BlockMaps]) -> BlockMaps:
        """Join the maps of some images; one alone is not copied."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(torch.cat, columns))

    def after(self, grid: Tensor, stale: Tensor) -> BlockMaps:
        """Return what is known once some blocks have run; nothing is written in place.

        Args:
            grid: bool ``(N, GH, GW)``, what was executed.
            stale: float32 ``(N, GH, GW)``, see the attribute, of what was executed now.
        """
        age = torch.where(grid, 1.0, self.age + 1)
        return replace(self, age=age, stale=torch.where(grid, stale, self.stale))

    def with_gain(self, grid: Tensor, gain: Tensor, expected: Tensor, habit: Tensor) -> BlockMaps:
        """Return what is known once a gain was seen.

        Args:
            grid: bool ``(N, GH, GW)``, what was executed.
            gain: float32 ``(N, GH, GW)``.
            expected: float32 ``(N, GH, GW)``: the ``log(gain + GAIN_FLOOR)`` that was predicted.
            habit: What of it is the block's surprise: the regression's weight of that, 0-dim.
        """
        seen = gain.add(GAIN_FLOOR).log_()
        surprise = seen - expected + (habit - 1) * self.surprise
        # That nothing came where nothing was expected says little.
        told = torch.maximum(gain, expected.exp() - GAIN_FLOOR).clamp_min_(0)
        step = _SURPRISE_STEP * told / (told + GAIN_FLOOR) * grid
        return replace(
            self,
            log_gain=torch.where(grid, seen, self.log_gain),
            surprise=torch.addcmul(self.surprise, step, surprise).clamp_(-4, 4),
        )

    def with_output(self, output: Tensor, cells: int) -> BlockMaps:
        """Return what is known once there is an output.

        Args:
            output: float32 ``(N, h, w)``, its map on cells.
            cells: Side of a block in cells.
        """
        mean = cells_to_grid(output, cells, "mean")
        return replace(self, output=mean, output_peak=cells_to_grid(output, cells, "max"))

    def image(self, index: int) -> BlockMaps:
        """Return a copy of the maps of one image: a view would keep the whole batch."""
        if len(self.age) == 1:
            return self
        return type(self)(*(value[index : index + 1].clone() for value in vars(self).values()))


@dataclass(eq=False)
class StreamMemory:
    """What is kept of a stream.

    Attributes:
        picture: float32 ``(3, h, w)`` on cells: each block as last executed.
        maps: Of each block, N = 1.
        summary: The last output, for the information gain; None if there was none.
        account: Blocks that the stream has saved up.
        share: What the stream may execute, in units of the budget's rate; 1 for one that is alone.
        spread: Over which share of the blocks the gain to be had is spread.
        worth: float32 ``(GH, GW)``, predicted gain of each block in the last frame; None before
            the second frame.
        frames: How many it has had.
    """

    picture: Tensor
    maps: BlockMaps
    summary: Any
    account: float = 0.0
    share: float = 1.0
    spread: MeanSpread = field(default_factory=MeanSpread)
    worth: Tensor | None = None
    frames: int = 1

    def fits(self, shape: tuple[int, int, int], device: torch.device) -> bool:
        """Return whether this is the memory of frames of a shape, ``(3, h, w)`` on cells."""
        return self.picture.shape == shape and self.picture.device == device


def executed_picture(before: Tensor, now: Tensor, grid: Tensor, cells: int) -> Tensor:
    """Return ``before`` with the executed blocks of ``now``, float32 ``(3, h, w)`` on cells."""
    blocks = (before.shape[0], grid.shape[0], cells, grid.shape[1], cells)
    chosen = grid[:, None, :, None]
    return torch.where(chosen, now.view(blocks), before.view(blocks)).view(before.shape)
