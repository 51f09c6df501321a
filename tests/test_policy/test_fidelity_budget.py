"""A budget of agreement, against videos whose loss at each rate is known."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import FidelityBudget, GainPolicy, PolicyContext, build_policy

GRID = (4, 5)
BLOCKS = math.prod(GRID)


def context(images=1, first=False, required=None, forbidden=None):
    return PolicyContext(
        streams=tuple(range(images)),
        grid_shape=(images, *GRID),
        block_size=64,
        first=torch.full((images,), first),
        frame_index=(int(not first),) * images,
        last_grid=torch.zeros(images, *GRID, dtype=torch.bool),
        required=required,
        forbidden=forbidden,
    )


def grid_of(count):
    grid = torch.zeros(1, BLOCKS, dtype=torch.bool)
    grid[:, :count] = True
    return grid.view(1, *GRID)


def play(budget, frames, loss, whole=False, noise=0.0, seed=0):
    """Spend the budget as a policy would; agreement and executed rate of each frame.

    Args:
        loss: ``loss(frame, x)`` of a frame that is not executed whole; x is its executed rate, or
            where ``whole``, the age of the output in frames.
        whole: Whole frames run and nothing in between.
    """
    draw = random.Random(seed)
    agreements, rates, age = [], [], 0
    for frame in range(frames):
        there = context()
        allowed = math.floor(budget.allowance(there) + 1e-6)
        count = min(max(allowed, 0), BLOCKS)
        if whole and count < BLOCKS:
            count = 0
        age = 0 if count == BLOCKS else age + 1
        lost = 0.0
        if count < BLOCKS:
            lost = loss(frame, age if whole else budget.rate)
            lost = min(lost * draw.lognormvariate(-(noise**2) / 2, noise), 1.0)
        grid = grid_of(count)
        asked = budget.compares(grid, there)
        assert asked == budget.compares(grid, there)
        budget.watch(
            grid, there, {0: torch.tensor(1 - lost)} if asked else {}, BLOCKS * bool(asked)
        )
        budget.settle(count, there)
        agreements.append(1.0 if asked else 1 - lost)
        rates.append(count / BLOCKS + bool(asked))
        age = 0 if asked else age
    return agreements, rates


def mean(values):
    return sum(values) / len(values)


LOSSES = {
    "little": (lambda frame, rate: 0.1 * (1 - rate), False),
    "much": (lambda frame, rate: 0.4 * (1 - rate), False),
    "one over the rate": (lambda frame, rate: 0.03 * (1 - rate) / rate, False),
    "none above a tenth": (lambda frame, rate: 3 * max(0.1 - rate, 0), False),
    "nothing moves": (lambda frame, rate: 0.0, False),
    "slow camera": (lambda frame, age: 0.05 * age**0.7, True),
    "fast camera": (lambda frame, age: 0.2 * age**0.7, True),
}


@pytest.mark.parametrize("name", LOSSES)
@given(
    target=st.floats(0.85, 0.98),
    noise=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
    frames=st.sampled_from((120, 300, 600)),
)
@settings(max_examples=25, deadline=None)
def test_the_mean_agreement_is_at_least_the_target(name, target, noise, seed, frames):
    loss, whole = LOSSES[name]
    agreements, _ = play(FidelityBudget(target), frames, loss, whole, noise, seed)
    # Noise of the frames that were compared: a tenth of what may be lost.
    assert mean(agreements) >= target - 0.1 * (1 - target)


@pytest.mark.parametrize("name", LOSSES)
def test_no_more_is_executed_than_that_takes(name):
    """What is lost in the end is a good part of what may be, or the rate is next to nothing."""
    loss, whole = LOSSES[name]
    budget = FidelityBudget(0.95)
    agreements, rates = play(budget, 1500, loss, whole, noise=0.2)
    spent = 1 - mean(agreements[750:])
    assert 0.45 * 0.05 < spent < 0.05 or mean(rates[750:]) < 0.06, (spent, mean(rates[750:]))


def test_what_is_told_of_the_agreement_is_true():
    loss, _ = LOSSES["little"]
    budget = FidelityBudget(0.95)
    agreements, rates = play(budget, 1500, loss, noise=0.3)
    told = budget.agreement
    assert told.target == 0.95 and told.low <= told.mean <= told.high
    assert told.mean == pytest.approx(1 - loss(0, budget.rate), abs=0.01)
    compared = [a for a, r in zip(agreements, rates, strict=True) if r >= 1]
    assert told.comparisons == len(compared)
    assert told.compared_rate == pytest.approx(len(compared) / 1500) and told.compared_rate < 0.035
    assert f"{len(compared)} comparisons" in str(told)
    assert budget.figures()["agreement_low"] == told.low
    nothing = FidelityBudget(0.95).agreement
    assert (nothing.low, nothing.high) == (0, 1) and "not compared yet" in str(nothing)


def test_comparisons_are_many_at_first_and_few_later():
    budget = FidelityBudget(0.9)
    _, rates = play(budget, 1000, lambda frame, rate: 0.05 * (1 - rate))
    when = [frame for frame, rate in enumerate(rates) if rate >= 1]
    assert len([frame for frame in when if frame < 50]) >= 5
    gaps = [b - a for a, b in zip(when, when[1:], strict=False)][8:]
    assert 36 <= mean(gaps) <= 44 and len(set(gaps)) > 3


def test_a_video_that_gets_worse_is_found_out_about():
    budget = FidelityBudget(0.95)
    play(budget, 300, lambda frame, rate: 0.02 * (1 - rate))
    low = budget.rate
    _, rates = play(budget, 100, lambda frame, rate: 0.4 * (1 - rate))
    assert low < 0.2 and budget.rate > 0.75
    assert sum(rate >= 1 for rate in rates) > 4  # more often than every 40 frames


def test_a_cut_that_guards_see_brings_comparisons_sooner():
    budget = FidelityBudget(0.95)
    play(budget, 400, lambda frame, rate: 0.1 * (1 - rate))
    whole = torch.ones(1, *GRID, dtype=torch.bool)
    there = context(required=whole)
    assert budget.compares(whole, there) is None
    budget.watch(whole, there, {}, 0)
    budget.settle(BLOCKS, there)
    _, rates = play(budget, 40, lambda frame, rate: 0.1 * (1 - rate))
    assert sum(rate >= 1 for rate in rates) >= 2


def test_neither_first_frames_nor_whole_ones_are_compared():
    budget = FidelityBudget(0.95)
    for _ in range(10):
        budget.watch(grid_of(3), context(), {}, 0)
    assert budget.compares(grid_of(3), context()) == (True,)
    assert budget.compares(grid_of(3), context(first=True)) is None
    assert budget.compares(grid_of(BLOCKS), context()) is None
    # Nor those with all that guards let run.
    forbidden = ~grid_of(3)
    assert budget.compares(grid_of(3), context(forbidden=forbidden)) is None
    assert budget.compares(grid_of(2), context(forbidden=forbidden)) == (True,)


def test_each_image_of_a_batch_is_compared_now_and_then():
    budget, times = FidelityBudget(0.9), [0, 0, 0]
    grid = grid_of(3).expand(3, -1, -1)
    for _ in range(400):
        there = context(images=3)
        asked = budget.compares(grid, there) or (False,) * 3
        assert sum(asked) <= 1
        found = {i: torch.tensor(0.97) for i, one in enumerate(asked) if one}
        budget.watch(grid, there, found, BLOCKS * len(found))
        budget.settle(9, there)
        times = [n + one for n, one in zip(times, asked, strict=True)]
    assert min(times) > 6 and sum(times) < 50  # of 1200 images


def test_it_goes_on_over_a_restart():
    budget, other = FidelityBudget(0.95), FidelityBudget(0.9)
    play(budget, 300, lambda frame, rate: 0.1 * (1 - rate))
    other.load_state_dict(budget.state_dict())
    assert other.rate == budget.rate and other.agreement.target == 0.9
    assert other.agreement.comparisons == budget.agreement.comparisons
    for wrong in ({}, {"balance": 1.0}, {**budget.state_dict(), "rate": math.nan}):
        with pytest.raises(ConfigError, match="state has the numbers"):
            other.load_state_dict(wrong)


def test_the_policy_takes_it():
    policy = GainPolicy(target_fidelity=0.9)
    assert isinstance(policy.budget, FidelityBudget) and not policy.enforces_target
    assert policy.agreement.target == 0.9 and GainPolicy().agreement is None
    assert build_policy(dict(type="GainPolicy", target_fidelity=0.8)).budget.fidelity == 0.8
    own = GainPolicy(budget=FidelityBudget(0.9, every=100))
    assert own.agreement.target == 0.9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(target=0.3, target_fidelity=0.9), "target=0.3 and target_fidelity=0.9"),
        (dict(target_ms=9, target_fidelity=0.9), "target_ms=9 and target_fidelity=0.9"),
        (dict(target_fidelity=0), "above 0 and below 1 .*, found 0"),
        (dict(target_fidelity=1), "found 1; to execute everything use AllPolicy"),
        (dict(target_fidelity=1.5), "found 1.5"),
        (dict(target_fidelity=math.nan), "found nan"),
        (dict(target_fidelity=True), "found True"),
        (dict(target_fidelity="0.9"), "found '0.9'"),
    ],
)
def test_bad_targets(arguments, words):
    with pytest.raises(ConfigError, match=words):
        GainPolicy(**arguments)


def test_a_bad_interval():
    with pytest.raises(ConfigError, match="every must be an integer of at least 2"):
        FidelityBudget(0.9, every=1)
