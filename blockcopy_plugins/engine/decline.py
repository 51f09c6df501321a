"""Why an op cannot run on blocks."""

from __future__ import annotations

from fractions import Fraction


class Decline:
    """What a strategy returns for arguments that it cannot run on blocks.

    Args:
        reason: Why, for the report.
        tile: The block size that the result would have, if it is not a whole number of pixels.
    """

    def __init__(self, reason: str, tile: tuple[Fraction, Fraction] | None = None) -> None:
        self.reason = reason
        self.tile = tile
