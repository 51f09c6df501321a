"""pick_blocks against a sort in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.ops.pick_blocks import pick_blocks

IMPLEMENTATIONS = [
    pytest.param(pick_blocks, id="op"),
    pytest.param(pick_blocks.reference, id="twin"),
]


def definition(scores, ages, forbidden, required, count, oldest, tie=1e-3):
    """One image, lists of floats and bools; which are picked."""
    places = range(len(scores))
    score = [-math.inf if forbidden[i] else scores[i] for i in places]
    waited = [-math.inf if forbidden[i] else ages[i] + tie * scores[i] for i in places]
    for i in sorted(places, key=lambda i: -waited[i])[:oldest]:  # sorted() keeps equals in order
        score[i] = math.inf
    score = [math.inf if required[i] else score[i] for i in places]
    chosen = set(sorted(places, key=lambda i: -score[i])[:count])
    return [i in chosen for i in places]


@st.composite
def cases(draw):
    images, rows, columns = draw(st.tuples(*(st.integers(1, n) for n in (2, 4, 5))))
    blocks = rows * columns
    # Eighths and whole numbers: many are equal, and sums are exact in float32.
    some = st.lists(st.integers(0, 6).map(lambda n: n / 8), min_size=blocks, max_size=blocks)
    zones = st.lists(st.booleans(), min_size=blocks, max_size=blocks)
    scores, ages = ([draw(some) for _ in range(images)] for _ in range(2))
    ages = [[8 * age for age in each] for each in ages]
    forbidden, required = ([draw(zones) for _ in range(images)] for _ in range(2))
    counts = [draw(st.integers(0, blocks)) for _ in range(images)]
    oldest = [draw(st.integers(0, count)) for count in counts]
    return (images, rows, columns), scores, ages, forbidden, required, counts, oldest


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(case=cases(), guarded=st.booleans())
def test_it_picks_what_a_sort_picks(implementation, case, guarded):
    shape, scores, ages, forbidden, required, counts, oldest = case
    if not guarded:
        forbidden = required = [[False] * len(scores[0])] * shape[0]
    values = [torch.tensor(table).view(shape) for table in (scores, ages)]
    zones = [
        torch.tensor(table).view(shape) if guarded else None for table in (forbidden, required)
    ]
    grid = implementation(*values, *zones, counts, oldest, 2.0**-10)
    expected = [
        definition(*each, tie=2.0**-10)
        for each in zip(scores, ages, forbidden, required, counts, oldest, strict=True)
    ]
    assert grid.flatten(1).tolist() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    values = torch.rand(1, 2, 3)
    with pytest.raises(ValueError, match="7"):
        implementation(values, values, None, None, [7], [0], 1e-3)
    with pytest.raises(ValueError, match="oldest"):
        implementation(values, values, None, None, [2], [3], 1e-3)
    with pytest.raises(ValueError, match="shape"):
        implementation(values, values[:, :1], None, None, [2], [1], 1e-3)
    with pytest.raises(TypeError, match="forbidden has dtype"):
        implementation(values, values, values, None, [2], [1], 1e-3)


def test_the_operator_is_well_registered():
    values, zone = torch.rand(2, 2, 3), torch.rand(2, 2, 3) > 0.7
    arguments = (values, values, zone, None, [3, 0], [1, 0], 1e-3)
    torch.library.opcheck(torch.ops.blockcopy.pick_blocks.default, arguments)
