"""How far block-sparse outputs agree with dense ones, and how certain that is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AgreementEstimate:
    """The mean agreement of delivered outputs with dense ones, as comparisons have shown it.

    Attributes:
        target: The agreement to hold, 0 to 1.
        mean: The agreement at the present executed rate, 0 to 1. 1 before the first comparison.
        low: Lower end of a 90 % interval of that mean. 0 before the first comparison.
        high: Its upper end.
        comparisons: Number of comparisons so far.
        compared_rate: Blocks that were executed only for comparisons / all blocks, over all frames
            except first ones.
    """

    target: float
    mean: float
    low: float
    high: float
    comparisons: int
    compared_rate: float

    def figures(self) -> dict[str, float]:
        """The figures of a frame for logs."""
        return {
            "agreement": self.mean,
            "agreement_low": self.low,
            "agreement_high": self.high,
            "comparisons": float(self.comparisons),
            "compared_rate": self.compared_rate,
        }

    def __str__(self) -> str:
        if not self.comparisons:
            return f"not compared yet (target {self.target:.1%})"
        return (
            f"{self.mean:.1%} (90 % interval {self.low:.1%} to {self.high:.1%}, "
            f"{self.comparisons} comparisons; target {self.target:.1%}); {self.compared_rate:.1%} "
            "of the blocks were executed only for comparisons"
        )
