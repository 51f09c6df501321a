"""Whether moved or copied outputs have been better, where both were checked."""

from __future__ import annotations

import math

_MEMORY = 10


class SelfCheck:
    """Running means of how well moved and copied outputs agreed with fresh ones.

    Means over about the last ten whole frames of a stream.

    Attributes:
        checks: Number of checks.
        moved: Mean agreement of moved outputs with those of the whole frame, 0 to 1.
        copied: Likewise of copied outputs.
    """

    def __init__(self) -> None:
        self.checks = 0
        self.moved = math.nan
        self.copied = math.nan

    @property
    def pays(self) -> bool:
        """Whether to move outputs: until that was checked, and then if moving was better."""
        return not self.checks or self.moved > self.copied

    def add(self, moved: float, copied: float) -> None:
        """Note a whole frame.

        Args:
            moved: Agreement with it of what would have been delivered, moved; 0 to 1.
            copied: Likewise, copied.
        """
        if not (math.isfinite(moved) and math.isfinite(copied)):
            return
        self.checks += 1
        weight = max(1 / self.checks, 1 / _MEMORY)
        before = (0.0, 0.0) if self.checks == 1 else (self.moved, self.copied)
        self.moved = before[0] + weight * (moved - before[0])
        self.copied = before[1] + weight * (copied - before[1])
