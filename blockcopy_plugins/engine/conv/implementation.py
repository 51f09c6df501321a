"""What each implementation of convolutions on blocks must be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ...ops.block_conv import SlidingWindow
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor

STATE_OP = "aten.convolution.default"
"""The name under which a convolution's input is kept in the state, whatever runs it."""


class ConvShape(NamedTuple):
    """A convolution of maps of one size.

    Attributes:
        window: Kernel, stride, padding, dilation, and the block of the result.
        size_out: ``(H, W)`` of the result.
        local: Each block reads only itself.
        groups: Groups of channels.
        dense_macs: MACs on the whole maps of all images.
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
        """Why it cannot run a convolution, in words; empty if it can.

        Args:
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``.
            groups: Groups of channels.
        """

    def plan(self, frame: Frame, x: BlockTensor, weight: Tensor, shape: ConvShape) -> Any:
        """Work out what a convolution has in common in all frames of one size.

        Args:
            frame: The frame being run.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``.
            shape: The convolution.
        """

    def run(
        self, frame: Frame, x: BlockTensor, weight: Tensor, bias: Tensor | None, plan: Any
    ) -> BlockTensor:
        """Convolve, now or deferred until the ops that follow are known.

        Args:
            frame: The frame being run.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``, one without :meth:`not_supported_reasons`.
            bias: ``(C_out,)`` or None.
            plan: From :meth:`plan`.

        Returns:
            ``(N, C_out, *size_out)``.
        """
