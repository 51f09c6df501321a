"""Convolutions that are deferred, so that they and the ops after them are one pass over memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from ..tensor.pending_map import ConvCall, PendingMap
from .implementation import ConvShape


class PendingConvolutions:
    """Defers convolutions, except where the model also reads their sums as they are."""

    def __init__(self) -> None:
        # Places in the model where they are not deferred.
        self._impatient: set[str] = set()

    def run(
        self,
        frame: Frame,
        x: BlockTensor,
        channels: int,
        shape: ConvShape,
        compute: Callable[[PendingMap], Tensor],
        waits: bool = True,
    ) -> BlockTensor:
        """Count a convolution, and run or defer it.

        Args:
            frame: The frame being run.
            x: Its input.
            channels: Channels of its result.
            shape: The convolution.
            compute: ``compute(pending)`` convolves, does what follows and returns packed blocks.
            waits: Whether it may be deferred.

        Returns:
            ``(N, channels, *size_out)``.
        """
        path, block = frame.path, shape.window.block_out
        macs = shape.executed_macs(frame)
        frame.count_blocks(macs, shape.dense_macs, block)

        def run(pending: PendingMap) -> Tensor:
            frame.enter(path)  # for counts by module
            out = compute(pending)
            frame.leave(path)
            return out

        def run_again() -> None:
            self._impatient.add(path)
            frame.enter(path)
            frame.count_blocks(macs, 0, block)
            frame.leave(path)

        pending = PendingMap(ConvCall(run, run_again))
        if not waits or path in self._impatient:
            return BlockTensor(pending.compute(), shape.size_out, block, frame)
        return BlockTensor.of_pending(pending, x, channels, shape.size_out, block)
