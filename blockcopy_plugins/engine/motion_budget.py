"""What an estimate of motion may cost: a twentieth of a whole frame, or 3 ms, whichever is more."""

from __future__ import annotations

from collections import deque
from statistics import median

SHARE = 0.05
"""Of the time that the network takes for a whole frame."""

LEAST_SECONDS = 3e-3

# Measures of which the median counts; it is asked once there are so many.
_MEASURES = 9
_LEAST_MEASURES = 5


class MotionBudget:
    """Holds the time of the estimate, of one image, against that of the network.

    Both are CPU times of the calling thread, so that other programs do not make a picture coarser.

    Attributes:
        coarsened: How often the estimate was made coarser.
    """

    def __init__(self) -> None:
        self.coarsened = 0
        self._whole: deque[float] = deque(maxlen=_MEASURES)
        self._motion: deque[float] = deque(maxlen=_MEASURES)

    @property
    def seconds(self) -> float | None:
        """What an estimate takes, ``None`` where that is not known."""
        return median(self._motion) if self._motion else None

    @property
    def limit(self) -> float:
        """What it may take, seconds."""
        return max(LEAST_SECONDS, SHARE * median(self._whole) if self._whole else 0.0)

    @property
    def is_over(self) -> bool:
        """Whether it takes more."""
        enough = len(self._motion) >= _LEAST_MEASURES and len(self._whole) >= 2
        return enough and self.seconds > self.limit

    def note_whole(self, seconds: float) -> None:
        """The network has run on all blocks of an image."""
        self._whole.append(seconds)

    def note_motion(self, seconds: float) -> None:
        """The motion of an image has been estimated."""
        self._motion.append(seconds)

    def note_coarser(self) -> None:
        """The estimate looks at less from now on."""
        self.coarsened += 1
        self._motion.clear()
