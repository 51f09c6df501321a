"""Convolutions by torch that take along what follows them: bias, batch norm, addition, bounds.

For devices whose convolutions are not this package's own. Each of these ops alone reads and writes
the whole of what a convolution gave; together they are one pass, see :func:`.ops.finish_conv_`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import ops
from ..tensor.block_tensor import BlockTensor
from ..tensor.pending_map import ConvCall, PendingMap

if TYPE_CHECKING:
    from ..frame.frame import Frame


def _devices() -> frozenset[str]:
    return frozenset({"cuda"} if ops.has_kernel("finish_conv_", "cuda") else ())


@dataclass
class Epilogues:
    """What waits behind convolutions, and what must not.

    Args:
        fuse: Let convolutions wait.

    Attributes:
        devices: Kinds of device on which they do.
    """

    fuse: bool
    devices: frozenset[str] = field(default_factory=_devices)
    # Places in the model whose sums are read as they are too: they do not wait.
    _eager: set[str] = field(default_factory=set)

    def __reduce__(self):
        # Another machine may have other kernels.
        return Epilogues, (self.fuse,)

    def take(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether the ops behind a convolution can be one pass."""
        return (
            self.fuse
            and x.device.type in self.devices
            and x.dtype in ops.FINISH_DTYPES
            and weight.dtype == x.dtype
            and (bias is None or (type(bias) is not BlockTensor and bias.dtype == x.dtype))
        )

    def run(
        self,
        frame: Frame,
        x: BlockTensor,
        sums: Callable[[], Tensor],
        bias: Tensor | None,
        shape: tuple[int, tuple[int, int], tuple[int, int]],
        macs: int,
    ) -> BlockTensor:
        """Have a convolution wait for what follows it.

        Args:
            frame: The frame at work.
            x: Its input.
            sums: Convolves, without a bias: packed blocks in memory of their own.
            bias: ``(C_out,)`` or None.
            shape: Channels, ``(H, W)`` and block of the result.
            macs: What it costs to run it once more.

        Returns:
            ``(N, C_out, H, W)``.
        """
        path = frame.path
        channels, size, block = shape
        bias = None if bias is None else bias.contiguous()

        def run(pending: PendingMap) -> Tensor:
            frame.enter(path)  # for who counts what runs where
            out = sums().contiguous(memory_format=torch.channels_last)
            ops.finish_conv_(
                out,
                bias,
                pending.norm,
                pending.eps,
                pending.residual,
                pending.low,
                pending.high,
            )
            frame.leave(path)
            return out

        def run_again() -> None:
            self._eager.add(path)
            frame.enter(path)
            frame.count_blocks(macs, 0, block)
            frame.leave(path)

        pending = PendingMap(ConvCall(run, run_again))
        if path in self._eager:
            return BlockTensor(pending.compute(), size, block, frame)
        return BlockTensor.of_pending(pending, x, channels, size, block)
