"""A convolution to few channels as one to more channels, of several pixels of a row at once.

The kernels compute as many output channels at once as a vector has values, and with fewer channels
the rest of it is wasted. A convolution of stride 1 to C channels is also one of stride ``p`` along
the rows to ``p * C`` channels, whose kernel has ``p - 1`` more columns: for each of ``p``
neighbouring pixels the same taps, shifted by a column and with zeros around. Channels last, its
result is in memory what that of the other is, and it reads the same windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ops.block_conv import SlidingWindow
from .phases import Repeats

# With so few columns, as many zeros would be multiplied.
_LEAST_COLUMNS = 3


@dataclass(frozen=True)
class Neighbours:
    """How many pixels of a row are computed at once.

    Attributes:
        pixels: At least 2.
    """

    pixels: int

    @classmethod
    def that_fill(
        cls, lanes: int, channels: int, window: SlidingWindow, width: int
    ) -> Neighbours | None:
        """As many as fill a vector.

        Args:
            lanes: Values of a vector.
            channels: Of the result.
            window: The convolution's.
            width: Of a result, in pixels: they are parted into these neighbours.

        Returns:
            A :class:`Neighbours`; ``None`` if there is nothing to gain.
        """
        plain = window.stride == window.dilation == (1, 1)
        if not plain or window.kernel[1] < _LEAST_COLUMNS:
            return None
        pixels = 1
        while 2 * pixels * channels <= lanes and width % (2 * pixels) == 0:
            pixels *= 2
        return cls(pixels) if pixels > 1 else None

    @property
    def copies(self) -> int:
        """How often each value of a weight is in the stacked one."""
        return self.pixels

    def stack(self, weight: Tensor) -> Tensor:
        """The weight ``(pixels * C_out, C, kh, kw + pixels - 1)`` of ``(C_out, C, kh, kw)``."""
        out, channels, height, width = weight.shape
        taps = weight.new_zeros(self.pixels, out, channels, height, width + self.pixels - 1)
        for i in range(self.pixels):
            taps[i, ..., i : i + width] = weight
        return taps.flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def per_channel(self, values: Tensor | None) -> Tensor | None:
        """``(pixels * C,)`` of ``(C,)``."""
        return None if values is None else self.repeats.of(values)

    @property
    def repeats(self) -> Repeats:
        """How a parameter of each channel becomes one of each channel and pixel."""
        return Repeats(self.pixels)

    def size(self, size: Sequence[int]) -> tuple[int, int]:
        """``(H, W)`` of a map, or of a part of it, with neighbours as one pixel."""
        return size[0], -(-size[1] // self.pixels)

    def together(self, map_: Tensor | None) -> Tensor | None:
        """``(n, C, H, W)`` as ``(n, pixels * C, H, W / pixels)``, channels last."""
        if map_ is None:
            return None
        n, channels, height, width = map_.shape
        shape = n, height, width // self.pixels, channels * self.pixels
        return map_.permute(0, 2, 3, 1).reshape(shape).permute(0, 3, 1, 2)

    def apart(self, map_: Tensor) -> Tensor:
        """The inverse of :meth:`together`."""
        n, channels, height, width = map_.shape
        shape = n, height, width * self.pixels, channels // self.pixels
        found = map_.permute(0, 2, 3, 1).reshape(shape).permute(0, 3, 1, 2)
        # A view keeps the tensor that it is a view of, which nobody is to hold after the frame.
        return found.detach()
