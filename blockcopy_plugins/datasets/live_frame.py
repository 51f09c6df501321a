"""One frame of a source that is read from its first frame to its last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blockcopy_plugins.policy import MotionField


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame and when it was.

    Attributes:
        index: Number in the source, from 0; frames that were dropped have one too.
        time: Seconds: of a file by its container, of a live source since reading began; None where
            nobody knows.
        image: uint8, shape (H, W, 3), BGR.
        motion: How far the video has moved since its first frame, by its codec's motion vectors;
            None where they are not exported.
    """

    index: int
    time: float | None
    image: np.ndarray
    motion: MotionField | None = None
