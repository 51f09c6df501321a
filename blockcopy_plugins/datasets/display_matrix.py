"""How the frames of a video must be turned and mirrored before they are shown."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av


@dataclass(frozen=True)
class Orientation:
    """The change to make to a stored picture.

    Attributes:
        turns: Quarter turns counterclockwise, 0 to 3.
        flipped: Whether it is then mirrored from top to bottom.
    """

    turns: int = 0
    flipped: bool = False

    @property
    def swaps(self) -> bool:
        """Whether rows become columns."""
        return self.turns % 2 == 1

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Turn and mirror a picture.

        Args:
            image: Shape (H, W, C).

        Returns:
            A view of it, shape (H, W, C) or (W, H, C).
        """
        image = np.rot90(image, self.turns)
        return image[::-1] if self.flipped else image


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Read the display matrix of a decoded frame.

    The rules are those of FFmpeg's own tools (``ffmpeg_filter.c``, autorotation). A rotation that
    is not a multiple of a quarter turn, where FFmpeg would fill up the corners, is ignored.
    """
    for data in getattr(frame, "side_data", None) or ():
        if data.type.name == "DISPLAYMATRIX":
            return orientation_of_matrix(struct.unpack("=9i", bytes(data)[:36]))
    return Orientation()


def orientation_of_matrix(matrix: tuple[int, ...]) -> Orientation:
    """Return the change that a display matrix asks for.

    Args:
        matrix: ``a, b, u, c, d, v, x, y, w``, fixed point, as FFmpeg has it.
    """
    across, down = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not across or not down:
        return Orientation()
    turned = math.degrees(math.atan2(matrix[1] / down, matrix[0] / across))
    angle = round(turned) % 360
    if angle == 90:  # clockwise
        return Orientation(1, True) if matrix[3] > 0 else Orientation(3)
    if angle == 270:
        return Orientation(3, True) if matrix[3] < 0 else Orientation(1)
    if angle == 180:
        return Orientation(2, matrix[4] >= 0)
    return Orientation(0, angle == 0 and matrix[4] < 0)
