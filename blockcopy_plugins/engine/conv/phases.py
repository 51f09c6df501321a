"""A transposed convolution as an ordinary one, with a group of output channels for each phase.

With stride s, output ``s * q + r`` of a transposed convolution reads inputs near ``q``, and which
taps reach it depends on the phase ``r`` alone. So an ordinary convolution of stride 1 computes all
phases of the outputs at ``q`` as different channels, and the phases are put side by side
afterwards. Its kernel has zeros where a phase has fewer taps than another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Phases:
    """A transposed convolution of dilation 1 as an ordinary one; pairs are of rows and columns.

    Attributes:
        kernel: Taps of the transposed convolution.
        stride: Its stride, and the number of phases.
        padding: Its padding.
        first: The first input that any phase at ``q`` reads, relative to ``q``.
        taps: Taps of the ordinary convolution.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    first: Pair
    taps: Pair

    @classmethod
    def of(cls, kernel: Pair, stride: Pair, padding: Pair) -> Phases:
        """With as few taps as there may be."""
        first, taps = [], []
        for axis in (0, 1):
            reads = [
                _reads(phase, kernel[axis], stride[axis], padding[axis])
                for phase in range(stride[axis])
            ]
            found = [near for phase in reads for near, _ in phase]
            first.append(min(found))
            taps.append(max(found) - min(found) + 1)
        return cls(kernel, stride, padding, (first[0], first[1]), (taps[0], taps[1]))

    def with_taps(self, taps: Pair) -> Phases:
        """The same with more taps, which are zeros before the first."""
        first = tuple(self.first[i] - (taps[i] - self.taps[i]) for i in (0, 1))
        return Phases(self.kernel, self.stride, self.padding, first, taps)

    @property
    def copies(self) -> int:
        """How often each value of a weight is in the stacked one."""
        return 1

    def stack(self, weight: Tensor) -> Tensor:
        """The weight of the ordinary convolution.

        Args:
            weight: ``(C, C_out, kh, kw)`` of the transposed convolution.

        Returns:
            ``(sh * sw * C_out, C, *taps)``, channels last; the phases are in the order of rows,
            then columns.
        """
        channels, out = weight.shape[:2]
        stacked = weight.new_zeros(*self.stride, out, channels, *self.taps)
        rows, columns = (
            [
                (phase, near - self.first[axis], tap)
                for phase in range(self.stride[axis])
                for near, tap in _reads(
                    phase, self.kernel[axis], self.stride[axis], self.padding[axis]
                )
            ]
            for axis in (0, 1)
        )
        for row_phase, row, row_tap in rows:
            for column_phase, column, column_tap in columns:
                taps = weight[:, :, row_tap, column_tap].t()
                stacked[row_phase, column_phase, :, :, row, column] = taps
        return stacked.flatten(0, 2).contiguous(memory_format=torch.channels_last)

    def side_by_side(self, stacked: Tensor, size: Pair) -> Tensor:
        """The map that the transposed convolution gives.

        Args:
            stacked: ``(n, sh * sw * C_out, h, w)``, channels last.
            size: ``(H, W)`` of the map; what lies beyond is cut off.

        Returns:
            ``(n, C_out, H, W)``, channels last.
        """
        high, wide = self.stride
        _, channels, height, width = stacked.shape
        pixels = stacked.permute(0, 2, 3, 1)
        pixels = pixels.reshape(-1, height, width, high, channels // high).transpose(2, 3)
        pixels = pixels.reshape(-1, height * high, width * wide, channels // (high * wide))
        found = pixels.permute(0, 3, 1, 2)
        if size == (height * high, width * wide):
            return found
        found = found[:, :, : size[0], : size[1]]
        return found.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Repeats:
    """The bias of a transposed convolution for all of its phases.

    Attributes:
        times: Phases.
    """

    times: int

    def of(self, bias: Tensor) -> Tensor:
        """``(times * C_out,)`` of ``(C_out,)``."""
        return bias.repeat(self.times)


def _reads(phase: int, kernel: int, stride: int, padding: int) -> list[Pair]:
    """What a phase reads along one axis: inputs relative to ``q``, and the taps they meet.

    Output ``o`` reads the inputs ``i`` with ``o = i * stride - padding + tap``.
    """
    taps = range((phase + padding) % stride, kernel, stride)
    return [((phase + padding - tap) // stride, tap) for tap in taps]
