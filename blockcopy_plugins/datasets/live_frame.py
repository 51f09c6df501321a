"""One frame of a source that is read from its first frame to its last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blockcopy_plugins.policy import MotionField

if TYPE_CHECKING:
    import av


class DecodedFrame:
    """A picture as FFmpeg's decoder gave it, to be read only: later ones may be made from it.

    PyAV's frames can be neither copied nor pickled, so that a copy of this is empty.

    Attributes:
        frame: The picture; None in a copy.
    """

    __slots__ = ("frame",)

    def __init__(self, frame: av.VideoFrame | None = None) -> None:
        self.frame = frame

    def __reduce__(self) -> tuple[type[DecodedFrame], tuple[()]]:
        return DecodedFrame, ()


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame and its time.

    Attributes:
        index: Number in the source, from 0; frames that were dropped have one too.
        time: Seconds: for a file, as the container states; for a live source, since reading began;
            None if it is not known.
        image: uint8, shape (H, W, 3), BGR.
        motion: How far the video has moved since its first frame, by its codec's motion vectors;
            None if they are not exported.
        decoded: The picture before it was converted; None if there was no decoder, or it had to be
            turned or mirrored.
    """

    index: int
    time: float | None
    image: np.ndarray
    motion: MotionField | None = None
    decoded: DecodedFrame | None = None
