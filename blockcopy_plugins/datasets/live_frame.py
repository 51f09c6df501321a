"""One frame of a source that is read from its first frame to its last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame and when it was.

    Attributes:
        index: Number in the source, from 0; frames that were dropped have one too.
        time: Seconds: of a file by its container, of a live source since reading began; None where
            nobody knows.
        image: uint8, shape (H, W, 3), BGR.
    """

    index: int
    time: float | None
    image: np.ndarray
