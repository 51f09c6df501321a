"""Runs a frame a second time, on all blocks, to find out what the policy's choice has cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import GridError
from ..host_transfer import upload
from ..policy import PolicyContext, TaskOutput
from ..policy.comparison import Comparison
from .execution.frame_run import FrameRun
from .frame.counts import FrameCounts
from .frame.host_grid import HostGrid


class WholeRun:
    """The second run of a frame, on all blocks of some of its images.

    By the first law, its output is the dense one, whatever the first run left in the state: every
    entry is written completely, under the same frame number, as after a frame that failed before it
    changed anything. Images that are not asked for run on no block and, by the second law, return
    the first run's output again.

    Args:
        work: The first run.
        images: The policy's choice, one bool for each image.
        context: Of the call.

    Attributes:
        before: The task's outputs of the first run, set by the caller.
        grid: bool ``(N, GH, GW)`` on the frame's device, the blocks of both runs.
        blocks: The same in host memory.

    Raises:
        GridError: If ``images`` does not fit the batch.
    """

    def __init__(self, work: FrameRun, images: Sequence[bool], context: PolicyContext) -> None:
        if len(images) != len(work.host):
            raise GridError(
                f"the policy named {len(images)} image(s) to compare, but the batch has "
                f"{len(work.host)}; give one bool for each"
            )
        self._images = tuple(bool(image) for image in images)
        self._work = work
        asked = torch.tensor(self._images, device="cpu")
        whole = asked[:, None, None].expand(work.host.shape)
        if context.forbidden is not None:
            whole = whole & ~context.host_forbidden
        whole = whole.contiguous()
        grid = upload(whole, work.grid.device)
        self._again = work.again(grid, HostGrid(whole))
        self.before: list[TaskOutput] | None = None
        self.grid, self.blocks = work.grid | grid, HostGrid(work.host | whole)

    def run(self) -> Any:
        """Run; returns what the model returns."""
        return self._again.run_eagerly()

    def close(self) -> None:
        """End the frame."""
        self._again.close()

    @property
    def comparison(self) -> Comparison:
        """What the policy is told."""
        return Comparison(self._images, self._work.host, self.before)

    @property
    def touched_state(self) -> bool:
        """Whether state may have been written."""
        return self._again.touched_state

    @property
    def counts(self) -> FrameCounts:
        """MACs of both runs, next to those of one dense frame."""
        first, again = self._work.counts, self._again.counts
        modules = {path: list(macs) for path, macs in first.by_module().items()}
        for path, (executed, dense) in again.by_module().items():
            modules.setdefault(path, [0, dense])[0] += executed
        return FrameCounts(
            # Ops on whole maps ran twice, too.
            blocks=first.blocks + again.blocks + again.densified,
            blocks_dense=first.blocks_dense,
            densified=first.densified,
            tiles=first.tiles | again.tiles,
            by_op=first.by_op,
            modules=modules,
        )
