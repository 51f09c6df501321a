"""What each implementation of convolutions on blocks must be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ...ops.block_conv import SlidingWindow
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor

STATE_OP = "aten.convolution.default"
"""By what name the input of a convolution is kept in the state, whoever runs it."""


class ConvShape(NamedTuple):
    """A convolution of maps of one size.

    Attributes:
        window: Kernel, stride, padding, dilation, and the block of the result.
        size_out: ``(H, W)`` of the result.
        local: Blocks read nothing but themselves.
        groups: Groups of channels.
        dense_macs: MACs on the whole map, of all images.
        block_macs: MACs of one block.
    """

    window: SlidingWindow
    size_out: tuple[int, int]
    local: bool
    groups: int
    dense_macs: int
    block_macs: int

    def executed_macs(self, frame: Frame) -> int:
        """MACs of the executed blocks of a frame."""
        if frame.whole:
            return self.dense_macs
        return frame.layout(self.size_out, self.window.block_out).executed * self.block_macs


class ConvImplementation(Protocol):
    """One way to convolve packed blocks."""

    def not_supported_reasons(self, x: Tensor, weight: Tensor, groups: int) -> Sequence[str]:
        """Why it cannot run a convolution, in words; nothing if it can.

        Args:
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``.
            groups: Groups of channels.
        """

    def plan(self, frame: Frame, x: BlockTensor, weight: Tensor, shape: ConvShape) -> Any:
        """What is the same in all frames of one size about a convolution.

        Args:
            frame: The frame being run.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``.
            shape: Of the convolution.
        """

    def run(
        self, frame: Frame, x: BlockTensor, weight: Tensor, bias: Tensor | None, plan: Any
    ) -> BlockTensor:
        """Convolve, or have it wait for what follows.

        Args:
            frame: The frame being run.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``, one without :meth:`not_supported_reasons`.
            bias: ``(C_out,)`` or None.
            plan: From :meth:`plan`.

        Returns:
            ``(N, C_out, *size_out)``.
        """
