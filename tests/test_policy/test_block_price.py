"""What a block must be worth, by hand and as properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.policy.gain.price import BlockPrice

WORTHS = st.lists(st.floats(1e-4, 8.0), min_size=4, max_size=40)


def test_the_first_price_buys_the_budget_of_a_frame():
    scores = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7])
    assert BlockPrice.first(scores, 2.0).value == pytest.approx(0.7)
    assert BlockPrice.first(scores, 0.2).value == pytest.approx(0.9)
    assert BlockPrice.first(scores, 99.0).value == pytest.approx(0.1)


def test_what_is_worth_the_price_runs():
    scores = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.2, 0.2, 0.2, 0.2])
    assert BlockPrice(0.4).count(scores, account=2.0, budget=2.0) == 3
    # A frame's blocks saved up make it cheaper by exp(-1/2), as many owed dearer.
    assert BlockPrice(0.4).count(scores, account=12.0, budget=2.0) == 4
    assert BlockPrice(0.45).count(scores, account=-3.0, budget=2.0) == 2


def test_where_the_budget_pays_for_all_that_is_worth_it_the_rest_is_spent():
    scores = torch.full((10,), 0.01)
    assert BlockPrice(0.05).count(scores, account=3.0, budget=3.0) == 3
    # Of savings a fifth a frame; of debts as much is paid back.
    assert BlockPrice(0.05).count(scores, account=8.0, budget=3.0) == 4
    assert BlockPrice(0.05).count(scores, account=-2.0, budget=3.0) == 0
    # Above the gain that cannot be told from none it is kept.
    assert BlockPrice(0.2).count(scores, account=8.0, budget=3.0) == 0


def test_the_price_follows_what_is_wanted():
    scores = torch.tensor([0.5, 0.6, 0.1, 0.1])
    assert BlockPrice(0.4).after(scores, 2.0).value == pytest.approx(0.4)
    assert BlockPrice(0.4).after(scores, 1.0).value == pytest.approx(0.4 * math.exp(0.03))
    assert BlockPrice(0.8).after(scores, 1.0).value == pytest.approx(0.8 * math.exp(-0.03))


@given(WORTHS, st.floats(1e-4, 8.0), st.floats(-1, 1), st.floats(0, 1))
def test_neither_savings_nor_debts_get_larger_than_a_frame(worths, value, saved, share):
    scores = torch.tensor(worths)
    blocks, budget = len(worths), share * len(worths)
    account = min(saved * blocks + budget, 2.0 * blocks)
    count = BlockPrice(value).count(scores, account, budget)
    assert 0 <= count <= blocks
    assert account - count <= blocks + 1 and (not count or account - count >= -blocks)


@given(WORTHS, st.floats(0.11, 8.0), st.floats(0.5, 1.0))
def test_of_what_is_worth_more_more_runs(worths, value, factor):
    scores = torch.tensor(worths)
    cheap, dear = BlockPrice(value * factor), BlockPrice(value)
    assert cheap.count(scores, 2.0, 2.0) >= dear.count(scores, 2.0, 2.0) or value * factor <= 0.1
    assert dear.count(scores * 2, 2.0, 2.0) >= dear.count(scores, 2.0, 2.0)
