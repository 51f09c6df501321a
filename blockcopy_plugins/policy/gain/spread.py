"""The share of a frame's blocks over which its gain is spread."""

from __future__ import annotations

# Weight of a new value in the running means.
_SPREAD_STEP = 0.3
# Mean worth of a frame's blocks below which there is nothing to gain in the frame.
_NOISE = 1e-3


class MeanSpread:
    """The mean spread of the last frames, each weighted by how much there was to gain in it.

    If nothing moves, the little worth there is is the same everywhere; that does not mean a moving
    camera.

    Attributes:
        value: The mean, 0 to 1; 1 before anything was measured.
        weight: Running mean of the frames' worth.
    """

    def __init__(self, value: float = 1.0, weight: float = 0.0) -> None:
        self.value = value
        self.weight = weight

    @property
    def measured(self) -> bool:
        """Whether a frame is in the mean."""
        return self.weight > 0

    @property
    def says_nothing(self) -> bool:
        """Whether there was nothing to gain in the last frames, wherever it might have been."""
        return self.measured and self.weight < _NOISE

    def after(self, spread: float, worth: float) -> MeanSpread:
        """Return the mean with one more frame in it.

        Args:
            spread: The frame's spread.
            worth: Mean over the frame's blocks, above 0.
        """
        weight = self.weight + _SPREAD_STEP * (worth - self.weight)
        part = _SPREAD_STEP * worth / (weight + _NOISE)
        return MeanSpread(self.value + part * (spread - self.value), weight)
