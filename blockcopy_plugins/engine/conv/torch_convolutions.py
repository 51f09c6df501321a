"""Convolutions by torch: blocks are gathered with their halo, and the ops that follow are fused.

Bias, batch norm, addition and bounds would each read and write the whole result of a convolution.
Where there is a kernel for it, they are one pass: see :func:`.ops.finish_conv_`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PaddedMap
from ..tensor.pending_map import PendingMap
from .block_windows import gather_windows
from .implementation import STATE_OP, ConvShape
from .pending_conv import PendingConvolutions

aten = torch.ops.aten


class TorchConvolutions:
    """An :class:`~.implementation.ConvImplementation` for every convolution.

    Args:
        fuse: Defer convolutions until the ops that follow are known.

    Attributes:
        devices: Kinds of device on which they are deferred.
    """

    def __init__(self, fuse: bool) -> None:
        self.fuse = fuse
        self.devices = frozenset({"cuda"} if ops.has_kernel("finish_conv_", "cuda") else ())
        self._pending = PendingConvolutions()

    def __reduce__(self):
        # Another machine may have other kernels.
        return TorchConvolutions, (self.fuse,)

    def not_supported_reasons(self, x: Tensor, weight: Tensor, groups: int) -> Sequence[str]:
        """See :class:`~.implementation.ConvImplementation`."""
        return ()

    def plan(self, frame: Frame, x: BlockTensor, weight: Tensor, shape: ConvShape) -> ConvShape:
        """See :class:`~.implementation.ConvImplementation`."""
        return shape

    def run(
        self, frame: Frame, x: BlockTensor, weight: Tensor, bias: Tensor | None, plan: ConvShape
    ) -> BlockTensor:
        """See :class:`~.implementation.ConvImplementation`."""
        window, groups = plan.window, plan.groups
        if frame.whole:
            if not plan.local and not isinstance(x, PaddedMap):  # whose map is kept already
                frame.keep(x, STATE_OP)
            how = (window.stride, window.padding, window.dilation, False, (0, 0), groups)

            def convolve(bias: Tensor | None = None) -> Tensor:
                return aten.convolution.default(x.packed, weight, bias, *how)
        elif plan.local:

            def convolve(bias: Tensor | None = None) -> Tensor:
                packed, stride = x.packed, window.stride
                if window.kernel == (1, 1) and stride != (1, 1):
                    # Pixels that no output reads go first: oneDNN's strided 1x1 convolution is
                    # slower.
                    packed = packed[:, :, :: stride[0], :: stride[1]]
                    packed = packed.contiguous(memory_format=torch.channels_last)
                    stride = (1, 1)
                return F.conv2d(packed, weight, bias, stride, 0, window.dilation, groups)
        else:
            gathered = gather_windows(frame, STATE_OP, x, window, plan.size_out, 0.0)

            def convolve(bias: Tensor | None = None) -> Tensor:
                return window.convolve(gathered, weight, bias, groups)

        if not self._takes_along(x, weight, bias):
            frame.count_blocks(plan.executed_macs(frame), plan.dense_macs, window.block_out)
            return BlockTensor(convolve(bias), plan.size_out, window.block_out, frame)
        bias = None if bias is None else bias.contiguous()

        def compute(pending: PendingMap) -> Tensor:
            out = convolve().contiguous(memory_format=torch.channels_last)
            ops.finish_conv_(
                out,
                bias,
                pending.norm,
                pending.eps,
                pending.residual,
                pending.low,
                pending.high,
            )
            return out

        return self._pending.run(frame, x, weight.shape[0], plan, compute)

    def _takes_along(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether the ops after a convolution can be one pass."""
        return (
            self.fuse
            and x.device.type in self.devices
            and x.dtype in ops.FINISH_DTYPES
            and weight.dtype == x.dtype
            and (bias is None or (type(bias) is not BlockTensor and bias.dtype == x.dtype))
        )
