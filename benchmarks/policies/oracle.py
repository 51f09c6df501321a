"""Policies that know the dense outputs beforehand: for measuring what is possible, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import (
    AllPolicy,
    Geometry,
    InformationGain,
    Policy,
    PolicyContext,
    TaskOutput,
)


class DenseRecorder(AllPolicy):
    """Executes every block, and keeps what policies are shown of the outputs.

    Args:
        gain: What summarises outputs.

    Attributes:
        summaries: Of each frame of the one stream, in order.
    """

    needs_outputs = True

    def __init__(self, gain: InformationGain) -> None:
        self.summaries: list[Any] = []
        self._gain = gain

    def feedback(
        self,
        frame: Tensor,
        grid: Tensor,
        outputs: Sequence[TaskOutput] | None,
        context: PolicyContext,
    ) -> dict[str, float]:
        """Keep the summary."""
        self.summaries.append(self._gain.summarise(outputs[0], geometry_of(frame, context)))
        return super().feedback(frame, grid, outputs, context)


class OraclePolicy(Policy):
    """Executes the blocks in which the output that is shown is farthest from the dense one.

    A block's score is the information gain from the last output shown to the dense output of the
    present frame. The best run, so many a frame that the mean over frames is the target to a block;
    among equals those that have waited longest. It takes one stream, of the frames that were
    recorded, and no other.

    It is best in each frame for itself. Over many it need not be: a block that gains nothing now
    may be what its neighbours read later.

    Args:
        summaries: Of the dense outputs of each frame, by ``gain``.
        gain: What compares outputs.
        target: Executed blocks / all blocks, 0 to 1.
        neighbours: Weight of the mean score of a block's up to eight neighbours, 0 to 1; its own
            score has the rest.
    """

    needs_outputs = True

    def __init__(
        self,
        summaries: Sequence[Any],
        gain: InformationGain,
        target: float,
        neighbours: float = 0.0,
    ) -> None:
        for name, value in (("target", target), ("neighbours", neighbours)):
            if not 0 <= value <= 1:
                raise ConfigError(f"the oracle's {name} must be from 0 to 1, found {value!r}")
        self.target = target
        self.neighbours = neighbours
        self._summaries = summaries
        self._gain = gain
        self._shown: Any = None
        self._age: Tensor | None = None

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return the best blocks.

        Raises:
            ConfigError: If there is more than one stream, or more frames than were recorded.
        """
        if context.grid_shape[0] != 1 or context.frame_index[0] >= len(self._summaries):
            raise ConfigError(
                f"the oracle knows {len(self._summaries)} frames of one stream, but was asked for "
                f"frame {context.frame_index[0]} of {context.grid_shape[0]} streams"
            )
        grid = torch.zeros(context.grid_shape, dtype=torch.bool)
        if self._shown is None:
            return grid  # the engine executes a stream's first frame
        index = context.frame_index[0]
        scores = self._gain.compare(
            self._shown, self._summaries[index], geometry_of(frame, context)
        ).cpu()
        if self.neighbours:
            scores = torch.lerp(scores, neighbours_mean(scores), self.neighbours)
        blocks = scores.numel()
        count = _due(index, self.target * blocks) - _due(index - 1, self.target * blocks)
        by_age = self._age.flatten().argsort(descending=True, stable=True)
        order = by_age[scores.flatten()[by_age].argsort(descending=True, stable=True)]
        grid.view(-1)[order[:count]] = True
        return grid

    def feedback(
        self,
        frame: Tensor,
        grid: Tensor,
        outputs: Sequence[TaskOutput] | None,
        context: PolicyContext,
    ) -> dict[str, float]:
        """Keep what was shown."""
        self._shown = self._gain.summarise(outputs[0], geometry_of(frame, context))
        executed = grid[0].cpu()
        age = torch.zeros(executed.shape, dtype=torch.int64) if self._age is None else self._age
        self._age = torch.where(executed, 0, age + 1)
        return super().feedback(frame, grid, outputs, context)

    def reset(self, streams=None) -> None:
        """Forget the stream."""
        self._shown = self._age = None


def geometry_of(frame: Tensor, context: PolicyContext) -> Geometry:
    """Where the blocks of a call's frames are."""
    return Geometry(tuple(frame.shape[2:]), tuple(context.grid_shape[1:]), context.block_size)


def neighbours_mean(scores: Tensor) -> Tensor:
    """Mean of the up to eight blocks around each block, 0 where there is none.

    Args:
        scores: ``(GH, GW)``.
    """
    around = torch.ones(1, 1, 3, 3)
    around[..., 1, 1] = 0
    total, count = (
        F.conv2d(values[None, None].float(), around, padding=1)[0, 0]
        for values in (scores, torch.ones_like(scores))
    )
    return total / count.clamp_min(1)


def _due(frames: int, each: float) -> int:
    """Blocks that are due after so many frames behind the first."""
    return math.floor(frames * each + 1e-6)
