from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import PolicyContext, RateBudget
from blockcopy_plugins.policy.gain.allotment import Allotment, next_share, shares_of
from blockcopy_plugins.policy.gain.memory import StreamMemory, unknown_maps
from blockcopy_plugins.policy.gain.skipped_worth import SkippedWorth
from blockcopy_plugins.policy.gain.spread import MeanSpread

BLOCKS = 24  # 4 x 6


def _context(images=1, first=False):
    return PolicyContext(
        streams=tuple(range(images)),
        grid_shape=(images, 4, 6),
        block_size=64,
        first=torch.full((images,), first),
        frame_index=(0 if first else 1,) * images,
        last_grid=torch.zeros(images, 4, 6, dtype=torch.bool),
    )


def _memory():
    return StreamMemory(torch.zeros(3, 64, 96), unknown_maps((4, 6), torch.device("cpu")), None)


def test_a_first_frame_costs_nothing_and_a_failed_one_neither():
    budget = RateBudget(0.25)
    budget.settle(BLOCKS, _context(first=True))
    assert budget.balance == 0
    assert budget.allowance(_context()) == 6.0 == budget.allowance(_context())
    budget.settle(2, _context())
    assert budget.balance == 4.0


def test_debts_and_savings_are_limited_to_a_frame():
    budget = RateBudget(0.25)
    for _ in range(5):
        budget.settle(BLOCKS, _context())
    assert budget.balance == -BLOCKS
    for _ in range(20):
        budget.settle(0, _context())
    assert budget.balance == BLOCKS


def test_the_balance_goes_on_over_a_restart():
    budget, other = RateBudget(0.25), RateBudget(0.5)
    budget.settle(1, _context())
    other.load_state_dict(budget.state_dict())
    assert other.balance == 5.0 and other.rate == 0.5


@pytest.mark.parametrize("state", [{}, {"balance": None}, {"balance": float("nan")}, {"a": 1.0}])
def test_a_foreign_state_is_refused(state):
    with pytest.raises(ConfigError, match="balance"):
        RateBudget(0.25).load_state_dict(state)


@pytest.mark.parametrize("target", [0, 0.0, -0.1, 1.1, True, "0.3", None])
def test_a_rate_outside_its_range_is_refused(target):
    with pytest.raises(ConfigError, match="target"):
        RateBudget(target)


@settings(max_examples=25, deadline=None)
@given(
    target=st.floats(0.02, 1.0),
    streams=st.integers(1, 3),
    batched=st.booleans(),
    per_frame=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_hundred_frames_are_within_two_points(target, streams, batched, per_frame, seed):
    """Whatever the scores say: spreads and shares are drawn at random, and change at any time."""
    draw = torch.Generator().manual_seed(seed)
    budget = RateBudget(target)
    memories = [_memory() for _ in range(streams)]
    executed = []
    for step in range(260):
        here = range(streams) if batched else [step % streams]
        context = _context(len(here))
        allotment = Allotment(
            [memories[i] for i in here],
            total=streams,
            saved=sum(memory.account for memory in memories),
            blocks=BLOCKS,
            rate=budget.rate,
            allowance=budget.allowance(context),
            capacity=budget.capacity(context),
            per_frame=per_frame,
        )
        assert all(0 <= count <= BLOCKS for count in allotment.counts)
        budget.settle(sum(allotment.counts), context)
        for place, i in enumerate(here):
            memories[i].account = allotment.accounts[place] - allotment.counts[place]
            memories[i].spread = MeanSpread(float(torch.rand((), generator=draw)))
            memories[i].trial.runs_blocks = bool(torch.rand((), generator=draw) < 0.5)
            memories[i].frames += 1
            now = float(torch.rand((), generator=draw)) * streams
            memories[i].share = next_share(memories[i].share, now)
        executed.append(sum(allotment.counts) / (BLOCKS * len(here)))
    rates = torch.tensor(executed).unfold(0, 100, 1).mean(1)
    assert (rates - target).abs().max() <= 0.02 + 1e-4


def test_shares_follow_the_best_blocks_of_all_streams():
    worth = torch.zeros(2, 4, 6)
    worth[0, 0] = torch.arange(1.0, 7.0)  # all of the best are in the first image
    # A quarter of the 48 + 24 blocks are 18; only 6 are worth anything, the rest are all alike.
    assert shares_of(worth, [torch.zeros(4, 6)], 6 / 72)[0] == pytest.approx(6 / 24 * 72 / 6)
    assert shares_of(worth[:1], [torch.full((4, 6), 10.0)], 0.25).tolist() == [0.0]
    # Where nothing moves anywhere, all get the same.
    assert shares_of(torch.zeros(2, 4, 6), [], 0.25).tolist() == [1.0, 1.0]


def test_a_frame_in_which_nothing_moves_does_not_count_in_the_mean_spread():
    mean = MeanSpread().after(0.1, 0.5)
    assert mean.value == pytest.approx(0.1, abs=0.01)
    assert mean.after(1.0, 1e-5).value == pytest.approx(mean.value, abs=1e-3)
    assert mean.after(1.0, 0.5).value > 0.3


def test_a_moving_camera_saves_up_and_a_still_background_does_not():
    def run(spread, per_frame=False, on_blocks=False):
        memory, counts = _memory(), []
        memory.spread, memory.trial.runs_blocks = MeanSpread(spread), on_blocks
        budget, context = RateBudget(0.25), _context()
        for _ in range(40):
            allotment = Allotment(
                [memory], 1, memory.account, BLOCKS, 0.25, budget.allowance(context), 24, per_frame
            )
            budget.settle(allotment.counts[0], context)
            memory.account = allotment.accounts[0] - allotment.counts[0]
            memory.frames += 1
            counts.append(allotment.counts[0])
        return counts

    # With a margin of a tenth: 14 of the 24 blocks where half of them move.
    assert run(1.0) == [0, 0, 0, 24] * 10
    assert set(run(0.5)) == {0, 14} and sum(run(0.5)) == pytest.approx(240, abs=16)
    assert run(0.1) == [6] * 40
    assert run(1.0, per_frame=True) == [6] * 40
    # Where blocks have proved better, each frame's budget is spent in it.
    assert run(1.0, on_blocks=True) == [6] * 40


def test_what_skipped_blocks_are_worth_is_known_where_all_have_the_same_age():
    worth = torch.tensor([4.0, 1.0, 2.0, 1.0])
    mean, ages = SkippedWorth(), torch.full((4,), 2.0)
    for _ in range(40):
        mean = mean.after(worth, ages, 0.5)
    assert mean.value == pytest.approx(1.0 / 2.0)
    assert mean.after(worth, torch.tensor([2.0, 2.0, 1.0, 2.0]), 0.5) is mean
    assert mean.after(worth, ages, 1.0) is mean
    assert mean.after(worth, ages, 0.25).value > mean.value
