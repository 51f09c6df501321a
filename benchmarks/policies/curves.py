"""Curves of a figure over the executed rate, and what is read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Rates at which curves are compared, and those that tables show.
GRID = tuple(round(0.1 + 0.01 * step, 2) for step in range(61))
SHOWN = (0.1, 0.2, 0.3, 0.5, 0.7)
# What each figure is, in full.
TITLES = {
    "AP50": "AP50",
    "mIoU": "mean IoU",
    "fidelity_AP50": "AP50 against the dense detections",
    "fidelity_class_AP50": "AP50 against the dense detections, mean over classes",
    "agreement": "pixels with the dense label",
    "fidelity_mIoU": "mean IoU against the dense labels",
}

Point = tuple[float, float]


class Curve:
    """The straight lines through some points.

    Args:
        points: Executed rate and figure, of a policy's runs, in any order. Of several at the same
            rate the mean counts.
        ends: Points that every policy shares: to execute nothing but the first frame, and all.
            They are no measurement of this policy, so what lies between them and its own points is
            a guess.
    """

    def __init__(self, points: Sequence[Point], ends: Sequence[Point] = ()) -> None:
        by_rate: dict[float, list[float]] = {}
        for rate, value in points:
            by_rate.setdefault(rate, []).append(value)
        self.measured = (min(by_rate), max(by_rate)) if by_rate else None
        for rate, value in ends:
            by_rate.setdefault(rate, [value])
        self._rates = sorted(by_rate)
        self._values = [float(np.mean(by_rate[rate])) for rate in self._rates]

    def at(self, rates: Sequence[float]) -> list[float | None]:
        """Figures at some rates; None beyond the outermost points."""
        if not self._rates:
            return [None] * len(rates)
        found = np.interp(rates, self._rates, self._values)
        # The mean of a run is rarely exactly the rate that was asked for.
        low, high = self._rates[0] - 0.01, self._rates[-1] + 0.01
        return [
            float(value) if low <= rate <= high else None
            for rate, value in zip(rates, found, strict=True)
        ]

    def area(self) -> float | None:
        """Mean over the rates of :data:`GRID`, by trapezoids; None if the curve ends before."""
        values = self.at(GRID)
        if None in values:
            return None
        return float(np.mean(np.add(values[:-1], values[1:]) / 2))  # equal steps

    def summary(self) -> dict[str, Any]:
        """What tables show, for JSON."""
        shown = self.at(SHOWN)
        return {
            "area": self.area(),
            "measured": self.measured,
            "at": {f"{rate:g}": value for rate, value in zip(SHOWN, shown, strict=True)},
        }


def curves_of(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Curve]]]:
    """The curves of all policies of a clip and model.

    Args:
        result: An entry of ``results`` of the JSON file.

    Returns:
        Policy -> window -> figure -> curve.
    """
    by_policy: dict[str, list[Mapping]] = {}
    for run in result["runs"]:
        if "reason" not in run:
            by_policy.setdefault(run["policy"], []).append(run["windows"])
    ends = [result[end]["windows"] for end in ("nothing", "dense") if result.get(end)]
    return {
        policy: {
            window: {
                figure: Curve(_points(runs, window, figure), _points(ends, window, figure))
                for figure in result["figures"]
            }
            for window in result["dense"]["windows"]
        }
        for policy, runs in by_policy.items()
    }


def _points(runs: Sequence[Mapping], window: str, figure: str) -> list[Point]:
    found = [run[window] for run in runs if window in run]
    return [
        (entry["executed_rate"], entry[figure]) for entry in found if entry.get(figure) is not None
    ]
