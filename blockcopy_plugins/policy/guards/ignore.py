"""A guard: a zone of the picture that never runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext

from .base import Guard
from .zone import Zone


class Ignore(Guard):
    """Promises that a block that lies inside a zone runs only in a stream's first frame.

    No other guard can make it run either. A block at the image's edge lies inside if all its pixels
    that belong to the picture do.

    Args:
        mask: The zone: an image file in which it is white, a bool array ``(h, w)``, or a polygon or
            polygons ``[[x, y], ...]``. Pixels are those of the network's input, after resizing and
            padding; an image or array is scaled to it.
        size: ``(width, height)`` of the picture that polygons are drawn on, if it is another one.

    Raises:
        ConfigError: If the mask is none of these.
    """

    def __init__(self, mask: Any, size: Sequence[int] | None = None) -> None:
        self.zone = Zone(mask, size)

    @property
    def name(self) -> str:
        """See :attr:`Guard.name`."""
        return f"Ignore({self.zone.label})"

    def demand(self, frame: Tensor, context: PolicyContext) -> tuple[None, Tensor]:
        """Forbid the zone's blocks.

        Raises:
            ConfigError: If the mask does not fit the frame.
        """
        size = (frame.shape[2], frame.shape[3])
        blocks = self.zone.blocks(size, context.block_size, True, frame.device)
        return None, blocks.expand(context.grid_shape)

    def rate_bounds(self, frame_size: tuple[int, int], block_size: int) -> tuple[float, Tensor]:
        """See :meth:`Guard.rate_bounds`."""
        blocks = self.zone.blocks(frame_size, block_size, True, torch.device("cpu"))
        return 0.0, 1 - blocks.float()
