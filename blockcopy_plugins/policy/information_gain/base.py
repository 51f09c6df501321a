"""The interface of information gains, and where an image's blocks and cells are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.policy.picture import cells_per_block, cells_to_grid
from blockcopy_plugins.policy.task_output import TaskOutput, TaskOutputs


@dataclass(frozen=True)
class Geometry:
    """Where an image's blocks and cells are.

    Args:
        size: ``(H, W)`` of the network's input in pixels.
        grid: ``(GH, GW)``.
        block_size: Side of a block in pixels.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    block_size: int

    @property
    def cells(self) -> int:
        """Side of a block in cells."""
        return cells_per_block(self.block_size)

    @property
    def cell_size(self) -> float:
        """Side of a cell in pixels."""
        return self.block_size / self.cells

    @property
    def map_size(self) -> tuple[int, int]:
        """``(h, w)`` of a map of cells over all blocks."""
        return self.grid[0] * self.cells, self.grid[1] * self.cells


@dataclass(frozen=True, eq=False)
class OutputChange:
    """What a new output shows about each block, and how it changed; nothing is committed yet.

    Args:
        summary: The output's summary.
        gain: float32 ``(GH, GW)``; None if there was nothing to compare with.
        shown: float32 ``(2, GH, GW)``: mean and highest value of the output's map in each block.
        everywhere: Whether ``gain`` and ``shown`` are valid for all blocks, or only for executed
            ones.
    """

    summary: Any
    gain: Tensor | None
    shown: Tensor
    everywhere: bool = True

    def keep(self) -> Any:
        """Return the summary to keep; the one kept before is no longer usable."""
        return self.summary


class InformationGain:
    """How much a task's output on one image changed, block by block.

    An output is first summarised. The summary is small and shares no memory with the output; a
    policy keeps it for each stream until the next frame.
    """

    def summarise(self, output: TaskOutput, geometry: Geometry) -> Any:
        """Return the part of an output that is needed to compare the next one with it."""
        raise NotImplementedError(f"{type(self).__name__} does not implement summarise()")

    def is_finite(self, output: TaskOutput) -> Tensor | None:
        """Say whether an output is finite without waiting for the device that it is on.

        Returns:
            A bool scalar on the device. If it turns out to be False, the summary is unusable. None,
            as here, if :meth:`summarise` checks this itself.
        """
        return None

    def are_finite(self, outputs: TaskOutputs, device: torch.device) -> Tensor | None:
        """Say for each output of a batch whether it is finite, like :meth:`is_finite`.

        Args:
            outputs: One for each image, or None.
            device: The frame's device.

        Returns:
            bool ``(N,)``; None if all of them have been checked, or there are none.
        """
        found = [self.is_finite(output) for output in outputs or ()]
        if all(finite is None for finite in found):
            return None
        looked_at = torch.ones((), dtype=torch.bool, device=device)
        return torch.stack([looked_at if finite is None else finite for finite in found])

    def output_map(self, summary: Any, geometry: Geometry) -> Tensor:
        """Return the output as float32 ``(h, w)`` on cells, 0 to 1, for the policy network."""
        raise NotImplementedError(f"{type(self).__name__} does not implement output_map()")

    def compare(self, previous: Any, current: Any, geometry: Geometry) -> Tensor:
        """Return the gain of each block, float32 ``(GH, GW)``, from two summaries."""
        raise NotImplementedError(f"{type(self).__name__} does not implement compare()")

    def change(
        self, previous: Any, output: TaskOutput, grid: Tensor, geometry: Geometry
    ) -> OutputChange:
        """Summarise an output and compare it with the previous one, where blocks were executed.

        Elsewhere an output does not change, and need not be looked at.

        Args:
            previous: The result of :meth:`OutputChange.keep` for the previous output; None if there
                is none, or if blocks that were not executed should be looked at too.
            output: As for :meth:`summarise`.
            grid: bool ``(GH, GW)`` in host memory, the executed blocks.
            geometry: The image's.

        Raises:
            FrameError: As :meth:`summarise` and :meth:`compare`.
        """
        summary = self.summarise(output, geometry)
        gain = None if previous is None else self.compare(previous, summary, geometry)
        shown = self.output_map(summary, geometry)
        blocks = [cells_to_grid(shown, geometry.cells, kind) for kind in ("mean", "max")]
        return OutputChange(summary, gain, torch.stack(blocks))

    def __call__(self, previous: TaskOutput, current: TaskOutput, geometry: Geometry) -> Tensor:
        """Return the gain of each block, float32 ``(GH, GW)``, from two outputs.

        Raises:
            FrameError: If an output is not finite.
        """
        summaries = []
        for output in (previous, current):
            summaries.append(self.summarise(output, geometry))
            finite = self.is_finite(output)
            if finite is not None and not bool(finite):
                raise FrameError(
                    "the output holds NaN or infinity; the network that made it is broken, or its "
                    "input was"
                )
        return self.compare(*summaries, geometry)


def outputs_not_finite(streams: Sequence[Hashable]) -> FrameError:
    """The error for outputs that turned out, a frame later, not to have been finite."""
    return FrameError(
        f"the dense output of stream {', '.join(map(repr, streams))} held NaN or infinity; the "
        "network that made it is broken, or its input was. On a GPU this is found with the frame "
        "after it, which has not run"
    )
