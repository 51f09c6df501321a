"""top_scores and above, beside torch's sort and nonzero."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops.top_scores import (
    above,
    top_scores,
)

TOP = [pytest.param(top_scores, id="op"), pytest.param(top_scores.reference, id="twin")]
ABOVE = [pytest.param(above, id="op"), pytest.param(above.reference, id="twin")]
# Signs, ties, what is no number, and values that share all but the last bits.
ODD = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 0.5, 0.5, 0.50000006, -1e-40, 1e-40]


@pytest.mark.parametrize("implementation", TOP)
@given(
    scores=st.lists(st.sampled_from(ODD) | st.floats(-3, 3, width=32), max_size=300),
    count=st.integers(0, 320),
)
@settings(deadline=None, max_examples=150)
def test_it_is_the_beginning_of_a_stable_sort(implementation, scores, count):
    scores = torch.tensor(scores, dtype=torch.float32)
    values, places = implementation(scores, count)
    wanted, order = scores.sort(descending=True, stable=True)
    assert places.tolist() == order[:count].tolist()
    torch.testing.assert_close(values, wanted[:count], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["spread", "few values", "one value", "strided"])
def test_of_many_scores(kind):
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(100_003, generator=draw).sigmoid()
    if kind == "few values":
        scores = (scores * 20).round() / 20
    if kind == "one value":
        scores.fill_(0.25)
    if kind == "strided":
        scores = torch.stack((scores, scores.flip(0)), 1)[:, 0]
    values, places = top_scores(scores, 1000)
    wanted, order = scores.sort(descending=True, stable=True)
    assert torch.equal(places, order[:1000]) and torch.equal(values, wanted[:1000])


@pytest.mark.parametrize("implementation", ABOVE)
@given(values=st.lists(st.sampled_from(ODD), max_size=200), bound=st.sampled_from(ODD[3:]))
@settings(deadline=None, max_examples=100)
def test_above_finds_all_in_order(implementation, values, bound):
    values = torch.tensor(values, dtype=torch.float32)
    wanted = [i for i, value in enumerate(values.tolist()) if value > torch.tensor(bound).item()]
    assert implementation(values, bound).tolist() == wanted


def test_above_looks_at_all_parts_of_a_large_map():
    values = torch.zeros(3, 70_000)
    there = [0, 65_535, 65_536, 100_000, 209_999]
    values.view(-1)[there] = 1.0
    assert above(values, 0.5).tolist() == there
    assert above(values.t(), 0.5).tolist() == (values.t().flatten() > 0.5).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("implementation", TOP)
@pytest.mark.parametrize(
    "arguments, error, what",
    [
        ((torch.zeros(2, 3), 1), ValueError, r"shape .*2, 3.*expected \(n\)"),
        ((torch.zeros(3), -1), ValueError, r"count is -1"),
        ((torch.zeros(3).double(), 1), TypeError, r"expected torch.float32"),
        ((torch.zeros(3, requires_grad=True), 1), RuntimeError, r"grad"),
    ],
)
def test_bad_input(implementation, arguments, error, what):
    with pytest.raises(error, match=what):
        implementation(*arguments)


def test_opcheck():
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    scores = torch.randn(50)
    torch.library.opcheck(torch.ops.blockcopy.top_scores.default, (scores, 20), test_utils=utils)
    torch.library.opcheck(torch.ops.blockcopy.above.default, (scores, 0.5), test_utils=utils)
