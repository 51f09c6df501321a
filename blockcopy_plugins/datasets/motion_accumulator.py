"""Adds up the motion vectors of a video while it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.policy import MotionField

if TYPE_CHECKING:
    import av

_CELL = 16  # px; a macroblock
_KEY_FRAME_DIFFERENCE = 8.0  # grey levels; the change of quality at a key frame is smaller
# A video that has vectors may begin with frames that have none, but not with this many.
_PREDICTED_WITHOUT, _ALL_WITHOUT = 3, 12


class MotionAccumulator:
    """How far a video has moved, frame by frame.

    Vectors of predicted frames are added to the field of the last reference frame that was shown
    (I or P), those of B frames without changing it. FFmpeg does not say which earlier frame a
    vector points to, so the last one is assumed: if an encoder uses several, and in pyramids of B
    frames, displacements are right only up to a factor. For MPEG-4's B frames FFmpeg gives zeros;
    their motion is seen with the next P frame. A vector counts at the place that the picture moved
    to, and also at the place that it came from, if nothing there moved further.

    A macroblock without a vector in a predicted frame is renewed. Key frames have no vectors at
    all: there, a macroblock that differs from the frame before by 8 of 256 grey levels on average
    is renewed, and the rest does not change. (They are the only frames whose pixels are looked at.)

    Args:
        name: The video's name.
        codec: The codec's name.
        to_grey: Makes uint8 ``(H, W)`` from a decoded frame.
    """

    def __init__(
        self, name: str, codec: str, to_grey: Callable[[av.VideoFrame], np.ndarray]
    ) -> None:
        self._name, self._codec, self._to_grey = name, codec, to_grey
        self._seen = False  # any vector
        self._without = self._predicted_without = 0
        self._before: av.VideoFrame | None = None
        self._total = self._reference = np.zeros((0, 0, 2))
        self._renewed = np.zeros((0, 0), np.int64)
        # Frames since the reference, and from the reference before it to it.
        self._since, self._distance = 0, 1

    def add(self, frame: av.VideoFrame) -> None:
        """Take the next frame, in the order in which frames are shown.

        Args:
            frame: As the decoder gave it, with its side data.

        Raises:
            FrameError: If the video turns out to have no motion vectors.
        """
        shape = (-(-frame.height // _CELL), -(-frame.width // _CELL))
        before = self._before
        if before is None or (frame.height, frame.width) != (before.height, before.width):
            # Another size means another picture: the reader also begins again.
            before = None
            self._total = self._reference = np.zeros((*shape, 2))
            self._renewed = np.zeros(shape, np.int64)
        kind = _picture_type(frame)
        self._since += 1
        side_data = frame.side_data.get("MOTION_VECTORS")
        if side_data is not None:
            # The distance to the next reference is not stated; the last distance is assumed.
            ahead = self._since / max(self._distance - self._since, 1)
            moved, has_vector = _displacements(side_data.to_ndarray(), shape, ahead)
            total = np.where(has_vector[..., None], self._reference + moved, self._total)
            renewed = ~has_vector
        else:
            total = self._total
            if before is None:
                renewed = np.zeros(shape, bool)
            elif kind == "I":
                pictures = (self._to_grey(before), self._to_grey(frame))
                renewed = _difference(*pictures, shape) > _KEY_FRAME_DIFFERENCE
            else:
                renewed = np.ones(shape, bool)
        self._refuse_none(side_data is not None, kind)
        self._total = total
        if kind != "B":
            self._reference = total
            self._since, self._distance = 0, self._since
        # New arrays: fields that were handed out do not change.
        self._renewed = self._renewed + renewed
        self._before = frame

    def field(self, quarter_turns: int = 0) -> MotionField:
        """The sum of the motion in the frames so far.

        Args:
            quarter_turns: How often the picture is turned by 90 degrees counterclockwise, as by
                ``np.rot90``, before it is shown.

        Raises:
            FrameError: If there was no frame yet.
        """
        if self._before is None:
            raise FrameError(f"no frame of {self._name!r} was read yet, so nothing has moved")
        height, width = self._before.height, self._before.width
        displacement, renewed, origin = self._total, self._renewed, (0, 0)
        for _ in range(quarter_turns % 4):
            # Right becomes up: the last column, which may reach over the edge, comes first.
            x, y = np.moveaxis(displacement, -1, 0)
            displacement = np.rot90(np.stack((y, -x), -1))
            over = origin[0] + _CELL * renewed.shape[1] - width
            renewed = np.rot90(renewed)
            origin = (origin[1], -over)
            height, width = width, height
        return MotionField(
            torch.from_numpy(np.ascontiguousarray(displacement)),
            torch.from_numpy(np.ascontiguousarray(renewed)),
            (height, width),
            _CELL,
            origin,
        )

    def _refuse_none(self, has_vectors: bool, kind: str) -> None:
        if self._seen or has_vectors:
            self._seen = True
            return
        self._without += 1
        self._predicted_without += kind != "I"
        if self._predicted_without >= _PREDICTED_WITHOUT:
            raise no_motion_vectors(self._name, f"FFmpeg gives none for its codec, {self._codec}")
        if self._without >= _ALL_WITHOUT:
            raise no_motion_vectors(
                self._name, f"all of its first {self._without} frames are key frames"
            )


def no_motion_vectors(name: str, reason: str) -> FrameError:
    """The error for a source that has no motion vectors.

    Args:
        name: The source's name.
        reason: The reason why it has none.
    """
    return FrameError(
        f"{name!r} has no motion vectors: {reason}. Give a video in H.264 with predicted frames "
        "(ffmpeg -i IN -c:v libx264 OUT.mp4), or use a policy that looks at pictures, such as "
        "FrameDifferencePolicy"
    )


def _picture_type(frame: av.VideoFrame) -> str:
    """``'I'``, ``'P'``, ``'B'`` or another letter that FFmpeg uses."""
    kind = frame.pict_type
    # A name, or in newer versions of PyAV, FFmpeg's number.
    name = getattr(kind, "name", None) or {1: "I", 2: "P", 3: "B"}.get(int(kind), "?")
    return {"SI": "I", "BI": "I"}.get(name, name)


def _displacements(
    vectors: np.ndarray, shape: tuple[int, int], ahead: float
) -> tuple[np.ndarray, np.ndarray]:
    """Displacements of the cells of a picture since the reference, by the vectors of one frame.

    Args:
        vectors: FFmpeg's ``AVMotionVector`` entries.
        shape: Rows and columns of cells.
        ahead: Frames from the reference to the next one.

    Returns:
        float64 ``(rows, columns, 2)``, x and y in px, and bool ``(rows, columns)``, the cells that
        have a vector.
    """
    past = vectors["source"] < 0
    # A vector points to where the picture comes from, or to where it goes to.
    factor = np.where(past, -1.0, ahead) / vectors["motion_scale"]
    x, y = factor * vectors["motion_x"], factor * vectors["motion_y"]
    to_x, to_y = vectors["dst_x"].astype(np.int64), vectors["dst_y"].astype(np.int64)
    cell = _cell_of(to_x, to_y, shape)
    area = vectors["w"].astype(np.float64) * vectors["h"]

    count = shape[0] * shape[1]
    moved = np.zeros((count, 2))
    has_vector = np.zeros(count, bool)
    # If a cell has vectors of both kinds, those from the past refer to the reference.
    for which in (~past, past):
        if not which.any():
            continue
        where, weight = cell[which], area[which]
        total = np.bincount(where, weight, count)
        found = total > 0
        for axis, value in enumerate((x, y)):
            mean = np.bincount(where, weight * value[which], count)
            moved[found, axis] = mean[found] / total[found]
        has_vector |= found

    came = _cell_of(to_x - np.rint(x).astype(np.int64), to_y - np.rint(y).astype(np.int64), shape)
    (leaves,) = np.nonzero(past & (came != cell))
    if len(leaves):
        # The furthest last: among values written to one place, the last one stays.
        leaves = leaves[np.argsort(np.hypot(x[leaves], y[leaves]), kind="stable")]
        left = np.zeros((count, 2))
        left[came[leaves], 0], left[came[leaves], 1] = x[leaves], y[leaves]
        further = np.hypot(left[:, 0], left[:, 1]) > np.hypot(moved[:, 0], moved[:, 1])
        moved[further & has_vector] = left[further & has_vector]
    return moved.reshape(*shape, 2), has_vector.reshape(shape)


def _cell_of(x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    row = np.clip(y // _CELL, 0, shape[0] - 1)
    return row * shape[1] + np.clip(x // _CELL, 0, shape[1] - 1)


def _difference(one: np.ndarray, other: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean difference of two grey pictures in each cell, float ``(rows, columns)``."""
    difference = np.maximum(one, other) - np.minimum(one, other)
    rest = [(0, cells * _CELL - side) for cells, side in zip(shape, one.shape, strict=True)]
    difference = np.pad(difference, rest, mode="edge")
    # Rows first: their values lie side by side.
    of_rows = difference.reshape(shape[0], _CELL, -1).sum(1, dtype=np.uint16)
    return of_rows.reshape(*shape, _CELL).sum(2, dtype=np.uint32) / _CELL**2
