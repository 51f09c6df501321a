"""A budget of milliseconds, against machines whose prices are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import GainPolicy, PolicyContext, TimeBudget, build_policy

GRID = (6, 8)
BLOCKS = math.prod(GRID)


def context(images=1, first=False):
    return PolicyContext(
        streams=tuple(range(images)),
        grid_shape=(images, *GRID),
        block_size=64,
        first=torch.full((images,), first),
        frame_index=(int(not first),) * images,
        last_grid=torch.zeros(images, *GRID, dtype=torch.bool),
    )


def play(budget, frames, cost, images=1, whole=False):
    """Spend what the budget allows, at a price that the machine sets; milliseconds of each frame.

    Args:
        cost: ``cost(frame, blocks of the batch)``, milliseconds.
        whole: Nothing runs until the budget pays for a whole frame.
    """
    budget.settle(0, context(images, first=True), cost(0, BLOCKS * images) / 1e3)
    spent = []
    for frame in range(frames):
        there = context(images)
        allowed = budget.allowance(there)
        count = min(max(math.floor(allowed), 0), BLOCKS * images)
        if whole and count < BLOCKS * images:
            count = 0
        spent.append(cost(frame, count))
        budget.settle(count, there, spent[-1] / 1e3)
    return spent


@given(
    fixed=st.floats(0.5, 20),
    price=st.floats(0.05, 3),
    share=st.floats(0.1, 0.9),
    images=st.integers(1, 3),
    whole=st.booleans(),
    noise=st.floats(0, 0.3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_the_mean_time_is_the_target(fixed, price, share, images, whole, noise, seed):
    draw = torch.Generator().manual_seed(seed)
    target = fixed + share * price * BLOCKS  # what can be had: neither all nor nothing

    def cost(frame, blocks):
        factor = 1 + noise * (2 * torch.rand((), generator=draw).item() - 1)
        return (images * fixed + price * blocks) * factor

    spent = play(TimeBudget(target), 300, cost, images, whole)
    mean = sum(spent[100:]) / len(spent[100:]) / images
    # A bucket holds up to a whole frame more or less, which 200 frames spread.
    assert mean == pytest.approx(target, rel=0.1, abs=2 * (fixed + price * BLOCKS) / 200)


def test_a_machine_that_gets_slower_in_the_middle():
    def cost(frame, blocks):
        return (4 + 0.8 * blocks) * (1 if frame < 200 else 1.8)

    spent = play(TimeBudget(20), 600, cost)
    for start in (100, 220, 400):
        window = spent[start : start + 80]
        assert sum(window) / len(window) == pytest.approx(20, rel=0.1), start


def test_what_cannot_be_had_executes_nothing():
    spent = play(TimeBudget(3), 100, lambda frame, blocks: 5 + blocks)
    assert spent[20:] == [5] * 80


def test_what_is_more_than_enough_executes_all():
    spent = play(TimeBudget(500), 100, lambda frame, blocks: 5 + blocks)
    assert spent[1:] == [5 + BLOCKS] * 99


def test_rate_is_what_the_target_buys():
    budget = TimeBudget(5 + 0.25 * BLOCKS)
    play(budget, 200, lambda frame, blocks: 5 + blocks, whole=True)
    assert budget.rate == pytest.approx(0.25, abs=0.01)


def test_old_prices_are_forgotten():
    """5 ms and 1 ms a block, then 9 ms and 2 ms: a target of 33 ms buys a quarter of the blocks."""
    budget = TimeBudget(9 + 2 * 0.25 * BLOCKS)
    play(
        budget,
        400,
        lambda frame, blocks: 5 + blocks if frame < 200 else 9 + 2 * blocks,
        whole=True,
    )
    assert budget.rate == pytest.approx(0.25, abs=0.02)


def test_first_frames_are_not_paid_for():
    budget = TimeBudget(10)
    budget.settle(0, context(first=True), 9.9)
    assert budget.balance == 0


def test_targets_of_the_policy():
    assert isinstance(GainPolicy(target_ms=25).budget, TimeBudget)
    assert GainPolicy(target_fps=40).budget.milliseconds == 25
    assert GainPolicy(target=0.2).enforces_target and not GainPolicy(target_ms=9).enforces_target
    assert build_policy(dict(type="GainPolicy", target_fps=50)).budget.milliseconds == 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(target=0.3, target_ms=9), "target=0.3 and target_ms=9"),
        (dict(target_ms=9, target_fps=9), "target_ms=9 and target_fps=9"),
        (dict(target_ms=0), "above 0, found 0"),
        (dict(target_ms=math.nan), "found nan"),
        (dict(target_ms=True), "found True"),
        (dict(target_fps=-1), "frames per second above 0, found -1"),
        (dict(target_fps="30"), "found '30'"),
    ],
)
def test_bad_targets(arguments, words):
    with pytest.raises(ConfigError, match=words):
        GainPolicy(**arguments)
