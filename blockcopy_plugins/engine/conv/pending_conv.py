"""Convolutions that wait for the ops behind them, so that all of it is one pass over memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from ..tensor.pending_map import ConvCall, PendingMap
from .implementation import ConvShape


class PendingConvolutions:
    """Lets convolutions wait, but where the model reads their sums as they are too."""

    def __init__(self) -> None:
        # Places in the model at which they do not wait.
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
        """Count a convolution, and run it now or have it wait.

        Args:
            frame: The frame being run.
            x: Its input.
            channels: Of its result.
            shape: Of the convolution.
            compute: ``compute(pending)`` convolves and does what follows: packed blocks.
            waits: Whether it may wait.

        Returns:
            ``(N, channels, *size_out)``.
        """
        path, block = frame.path, shape.window.block_out
        macs = shape.executed_macs(frame)
        frame.count_blocks(macs, shape.dense_macs, block)

        def run(pending: PendingMap) -> Tensor:
            frame.enter(path)  # for who counts what runs where
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
