"""When comparisons are due: often at first and after surprises, rarely later."""

from __future__ import annotations

_FIRST_GAP = 3.0
_GROWTH = 1.5
_GOLDEN = 0.618


class ComparisonSchedule:
    """Says when the next comparison is due, in images.

    Gaps begin at 3 images and grow by half with each comparison up to ``every``. They are slightly
    irregular, so that they do not keep in step with a policy that executes every nth frame whole.

    Args:
        every: Images between comparisons in the long run.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._step = 0
        self._count = 0
        self._since = 0

    def is_due(self, ahead: int = 0) -> bool:
        """Return whether a comparison is due.

        Args:
            ahead: Number of images that come before it.
        """
        gap = min(_FIRST_GAP * _GROWTH**self._step, float(self.every))
        irregular = gap * (0.75 + 0.5 * (self._count * _GOLDEN % 1))
        return self._since + ahead >= irregular

    def passed(self, images: int) -> None:
        """Count images that have run."""
        self._since += images

    def compared(self) -> None:
        """Note that a comparison was made."""
        self._since = 0
        self._count += 1
        if _FIRST_GAP * _GROWTH**self._step < self.every:
            self._step += 1

    def hurry(self) -> None:
        """Make the next comparisons come sooner: earlier findings may no longer hold."""
        self._step //= 2

    def pick(self, images: int) -> int:
        """Return which of these images is compared, each equally often."""
        return int(self._count * _GOLDEN % 1 * images)
