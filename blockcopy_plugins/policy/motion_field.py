"""How far a video has moved, by the motion vectors of its codec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError


@dataclass(frozen=True, eq=False)
class MotionField:
    """The sum of a video's motion vectors, from its first frame to the present one.

    The field of a frame minus that of an earlier one is the motion in between, whatever frames were
    dropped. Nobody writes to a field's tensors; a copy of a field is the field itself.

    Args:
        displacement: float64 ``(rows, columns, 2)`` in host memory: for each cell of the picture,
            how far its content has moved to the right and down, in pixels of the picture.
        renewed: int64 ``(rows, columns)`` in host memory: how often a cell was coded anew (intra),
            without a vector.
        size: ``(H, W)`` of the picture, px.
        cell: Side of a cell, px of the picture.
        origin: ``(x, y)`` of the first cell's corner in the picture, px; not ``(0, 0)`` if pictures
            are turned before they are shown.
        scale: Pixels of the network's input per pixel of the picture, rows and columns; None if the
            network's input is the picture, resized and not padded.

    Raises:
        FrameError: If a shape or dtype is not as above.
    """

    displacement: Tensor
    renewed: Tensor
    size: tuple[int, int]
    cell: int = 16
    origin: tuple[int, int] = (0, 0)
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.renewed.shape)
        if (
            len(shape) != 2
            or 0 in shape
            or self.renewed.dtype != torch.int64
            or tuple(self.displacement.shape) != (*shape, 2)
            or self.displacement.dtype != torch.float64
        ):
            raise FrameError(
                "a motion field has displacement float64 (rows, columns, 2) and renewed int64 "
                f"(rows, columns), found {self.displacement.dtype} "
                f"{tuple(self.displacement.shape)} and {self.renewed.dtype} {shape}"
            )
        if min(self.size) < 1 or self.cell < 1 or (self.scale and min(self.scale) <= 0):
            raise FrameError(
                f"a motion field has size={self.size}, cell={self.cell} and scale={self.scale}, "
                "expected values above 0"
            )

    def at_scale(self, rows: float, columns: float) -> MotionField:
        """Return the same field for a network's input of another scale than the picture's.

        Args:
            rows: Pixels of the network's input per pixel of the picture, downwards.
            columns: The same to the right.
        """
        return replace(self, scale=(rows, columns))

    def __deepcopy__(self, memo: dict[int, Any]) -> MotionField:
        return self
