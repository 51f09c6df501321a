"""Which ops of a frame are left out of its program."""

from __future__ import annotations

import torch

from blockcopy_plugins.engine.execution.step_lifetimes import without_dead, without_views_back
from blockcopy_plugins.engine.execution.steps import Given, Kept, Register, Root, Step

aten = torch.ops.aten
VIEW, MUL = aten.view.default, aten.mul.Tensor


def steps_of(flat: list[int]) -> list[Step]:
    """``pixels * slope.view(1, 4, 1, 1).view(flat)``."""
    return [
        Step(VIEW, (Root(0), [1, 4, 1, 1]), {}, Register(0)),
        Step(VIEW, (Register(0), flat), {}, Register(1)),
        Step(MUL, (Root(1), Register(1)), {}, Register(2)),
    ]


def test_a_flat_view_of_a_view_of_a_vector_is_the_vector():
    roots = [Kept(torch.ones(4)), Given("pixels")]
    results = [Register(2)]
    found = without_dead(without_views_back(steps_of([-1]), roots, results), results)
    assert found == [Step(MUL, (Root(1), Root(0)), {}, Register(2))]


def test_other_views_stay():
    results = [Register(2)]
    for root, flat in (
        (Kept(torch.ones(4)), [4, 1]),
        (Kept(torch.ones(2, 2)), [-1]),
        (Kept(torch.ones(8)[::2]), [-1]),
        (Given("places"), [-1]),
    ):
        steps = steps_of(flat)
        assert without_views_back(steps, [root, Given("pixels")], results) == steps


def test_a_view_that_is_a_result_stays_one():
    results = [Register(1), Register(2)]
    found = without_views_back(steps_of([-1]), [Kept(torch.ones(4)), Given("pixels")], results)
    assert found == steps_of([-1])
