"""What estimating motion may cost: a twentieth of a whole frame, or 3 ms if that is more."""

from __future__ import annotations

from collections import deque

SHARE = 0.05
"""As a share of the time that the network takes for a whole frame."""

LEAST_SECONDS = 3e-3

# The least of this many measurements counts, so that neither the first ones nor other programs,
# which empty the caches, make a picture coarser.
_MEASURES = 9


class MotionBudget:
    """Compares the time of the estimate for one image with that of the network.

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
        """Seconds that an estimate takes, ``None`` if that is not known."""
        return min(self._motion) if self._motion else None

    @property
    def limit(self) -> float:
        """Seconds that it may take."""
        return max(LEAST_SECONDS, SHARE * min(self._whole) if self._whole else 0.0)

    @property
    def is_over(self) -> bool:
        """Whether it takes more."""
        enough = len(self._motion) == _MEASURES and len(self._whole) >= 2
        return enough and self.seconds > self.limit

    def note_whole(self, seconds: float) -> None:
        """Note that the network has run on all blocks of an image."""
        self._whole.append(seconds)

    def note_motion(self, seconds: float) -> None:
        """Note that the motion of an image has been estimated."""
        self._motion.append(seconds)

    def note_coarser(self) -> None:
        """Note that the estimate uses a coarser picture from now on."""
        self.coarsened += 1
        self._motion.clear()
