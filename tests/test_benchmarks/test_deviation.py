"""One measure of how far outputs are apart; garbage is never taken for agreement."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from benchmarks import check
from benchmarks.deviation import deviation

ONES = torch.ones(2)
NAN = float("nan")


def test_the_largest_difference_counts_relative_to_its_own_tensor():
    assert deviation([ONES + 0.5], [ONES]) == 0.5
    assert deviation({"a": 10 * ONES + 1, "b": ONES}, {"b": ONES, "a": 10 * ONES}) == 0.1


@pytest.mark.parametrize("found", [[ONES, NAN * ONES], [NAN * ONES, ONES], [ONES / 0, ONES]])
def test_what_is_no_number_deviates_without_end(found):
    assert deviation(found, [ONES, ONES]) == float("inf")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([ONES, ONES], [ONES]),
        ({"a": ONES}, {"b": ONES}),
        ([torch.ones(3)], [ONES]),
        ([ONES], [0 * ONES]),
        ([ONES], [ONES / 0]),
        ([ONES], [NAN * ONES]),
        ([], []),
    ],
)
def test_what_cannot_be_compared_is_refused(found, expected):
    with pytest.raises(ValueError):
        deviation(found, expected)


def test_a_benchmark_stops_where_blocks_give_nan(monkeypatch):
    class Broken(nn.Conv2d):
        """Gives NaN where it is converted."""

        def forward(self, x):
            out = super().forward(x)
            try:
                bc.handle(self)
            except bc.errors.ConfigError:
                return out
            return out * NAN

    monkeypatch.setattr(check, "build_region", lambda *_: Broken(3, 4, 3, 1, 1).eval())
    with pytest.raises(SystemExit, match="differ from the reference"):
        check.check("broken", 16, "cpu")
