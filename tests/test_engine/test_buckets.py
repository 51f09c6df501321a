"""Executed counts rounded up: by hand, by a loop, and by each policy's own next-best blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.buckets import Buckets, around
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.policy import (
    FrameDifferencePolicy,
    Policy,
    PolicyContext,
    RandomPolicy,
    RLPolicy,
)


def test_counts_by_hand():
    assert Buckets(4).counts(128) == (0, 32, 64, 96, 128)
    assert Buckets(4).counts(6) == (0, 2, 3, 5, 6)  # 1.5 and 4.5 are rounded up
    assert Buckets((0.5, 0.1)).counts(10) == (0, 1, 5, 10)
    assert Buckets(1).counts(7) == (0, 7)
    assert Buckets(3).counts(1) == (0, 1)
    assert Buckets(10).counts(10) == tuple(range(11))  # 0.1 * 3 is above 0.3
    automatic = Buckets().counts(128)
    assert automatic[:3] == (0, 8, 11) and automatic[-1] == 128 and len(automatic) == 14
    assert all(b <= 1.38 * a for a, b in zip(automatic[1:], automatic[2:], strict=False))


@pytest.mark.parametrize(
    "bad", [0, -1, True, 0.5, "4", (), (0.0, 1.0), (0.5, 1.5), (True,), ("a",)]
)
def test_what_names_no_buckets(bad):
    with pytest.raises(ConfigError, match="buckets="):
        Buckets(bad)
    with pytest.raises(ConfigError, match="buckets="):
        bc.BlockCopyConfig(buckets=bad)


def by_loop(grid, scores, counts):
    """Take the best skipped block, the first of equals, until the count is one of the counts."""
    grid, scores = grid.clone().flatten(), scores.flatten()
    while int(grid.sum()) not in counts:
        best = None
        for i in range(len(grid)):
            if not grid[i] and (best is None or scores[i] > scores[best]):
                best = i
        grid[best] = True
    return grid


cases = st.tuples(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 6),
    st.floats(0, 1),
    st.integers(0, 999),
    st.one_of(st.integers(1, 6), st.lists(st.floats(0.01, 1), min_size=1, max_size=4)),
)


@given(case=cases, dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_round_up_is_the_loop(case, dtype):
    images, rows, cols, rate, seed, rates = case
    torch.manual_seed(seed)
    grid = torch.rand(images, rows, cols) < rate
    # Few values, so that many are equal, and the infinite ones.
    values = torch.tensor([-torch.inf, -2.0, 0.0, 0.5, 7.0, torch.inf], dtype=dtype)
    scores = values[torch.randint(len(values), grid.shape)]
    scores = scores.nan_to_num(posinf=9.0, neginf=-9.0) if seed % 2 else scores
    buckets = Buckets(rates)
    kept = grid.clone()
    found = buckets.round_up(grid, scores)
    counts = buckets.counts(grid.numel())
    assert torch.equal(grid, kept) and found.dtype == torch.bool and found.shape == grid.shape
    assert torch.equal(found.flatten(), by_loop(grid, scores, counts))
    assert not (grid & ~found).any()
    assert int(found.sum()) == buckets.count_for(int(grid.sum()), grid.numel())


def test_nan_comes_last():
    scores = torch.tensor([[[float("nan"), 1.0, -torch.inf, 0.0]]])
    grid = torch.zeros(1, 1, 4, dtype=torch.bool)
    grid[0, 0, 3] = True
    found = Buckets((0.75, 1.0)).round_up(grid, scores)
    assert found[0, 0, 1] and found[0, 0, 3] and found.sum() == 3


def test_without_scores_the_neighbours_of_executed_blocks_come_first():
    grid = torch.zeros(1, 5, 6, dtype=torch.bool)
    grid[0, 2, 1] = True
    found = Buckets((0.3, 1.0)).round_up(grid)
    expected = torch.zeros_like(grid)
    expected[0, 1:4, 0:3] = True
    assert torch.equal(found, expected)
    assert around(grid).shape == (1, 5, 6) and around(grid).dtype == torch.float32


@pytest.mark.parametrize("scores", [torch.zeros(1, 2, 3), torch.zeros(1, 3, 2).int()])
def test_scores_that_do_not_fit(scores):
    with pytest.raises(GridError, match="scores"):
        Buckets().round_up(torch.zeros(1, 3, 2, dtype=torch.bool), scores)


@given(case=cases)
def test_blocks_that_are_never_taken(case):
    images, rows, cols, rate, seed, rates = case
    torch.manual_seed(seed)
    grid = torch.rand(images, rows, cols) < rate
    scores = torch.rand(grid.shape)
    scores[scores < 0.2] = -torch.inf
    never = torch.rand(grid.shape) < 0.5
    buckets = Buckets(rates)
    found = buckets.round_up(grid, scores, never)
    assert not (found & never & ~grid).any() and (found >= grid).all()
    wanted = buckets.count_for(int(grid.sum()), grid.numel())
    assert int(found.sum()) == min(wanted, int((grid | ~never).sum()))
    # Those that were taken are the best of those that were to be had.
    taken, left = scores[found & ~grid], scores[~found & ~never]
    assert not len(left) or not len(taken) or taken.min() >= left.max()


# -- in a model ------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 3, 3, 1, 1)

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_frames_of_a_batch_are_rounded_together_and_stay_right():
    net = Net().eval()
    reference = MaskedReference(net, 16)
    bc.blockcopy_(
        net,
        bc.BlockCopyConfig(
            block_size=16, policy=lambda f, c: torch.rand(c.grid_shape) < 0.3, buckets=3
        ),
    )
    counts = set()
    for _ in range(10):
        frame = torch.randn(2, 3, 60, 90)
        found = net(frame)
        grid = bc.handle(net).last.grid
        counts.add(int(grid.sum()))
        with bc.dense(net):
            wanted = reference(grid, frame)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert counts <= {0, 16, 32, 48} and 16 in counts


def test_off_by_default():
    net = bc.blockcopy_(
        Net().eval(),
        bc.BlockCopyConfig(block_size=16, policy=lambda f, c: torch.ones(c.grid_shape) < 0),
    )
    net(torch.randn(1, 3, 60, 90))
    net(torch.randn(1, 3, 60, 90))
    assert bc.handle(net).last.executed_rate == 0


class Scored(Policy):
    """Executes one block; the next best are in the last column."""

    def __init__(self):
        self.fed = []

    def select(self, frame, context):
        grid = torch.zeros(context.grid_shape, dtype=torch.bool)
        grid[:, 0, 0] = True
        return grid

    def scores(self, frame, context):
        return torch.arange(context.grid_shape[2]).expand(context.grid_shape).double()

    def feedback(self, frame, grid, outputs, context):
        self.fed.append(grid.clone())


def test_the_policy_chooses_and_is_told():
    policy = Scored()
    net = bc.blockcopy_(
        Net().eval(), bc.BlockCopyConfig(block_size=16, policy=policy, buckets=(0.2, 1.0))
    )
    for _ in range(2):
        net(torch.randn(1, 3, 60, 90))
    wanted = torch.zeros(1, 4, 6, dtype=torch.bool)
    wanted[0, :, 5] = wanted[0, 0, 0] = True
    assert policy.fed[0].all() and torch.equal(policy.fed[1], wanted)
    assert torch.equal(bc.handle(net).last.grid, wanted)


# -- policies --------------------------------------------------------------------------------------


def context(images=2, first=False, index=1):
    return PolicyContext(
        streams=tuple(range(images)),
        grid_shape=(images, 4, 6),
        block_size=16,
        first=torch.full((images,), first),
        frame_index=(index,) * images,
        last_grid=torch.ones(images, 4, 6, dtype=torch.bool),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomPolicy(0.4, seed=1),
        lambda: FrameDifferencePolicy(threshold=0.5),
        lambda: RLPolicy(0.4, seed=1, online=False, sampling="threshold"),
    ],
)
def test_scores_rank_the_blocks_as_the_policy_does(make):
    policy, before = make(), context(first=True, index=0)
    frame = torch.randn(2, 3, 60, 90)
    assert policy.scores(frame, before) is None  # It has not looked yet.
    policy.select(frame, before)
    policy.feedback(frame, torch.ones(2, 4, 6, dtype=torch.bool), None, before)
    now, frame = context(), frame.clone()
    frame[:, :, :40, :50] += torch.randn(2, 3, 40, 50)
    grid = policy.select(frame, now)
    if isinstance(policy, RLPolicy):  # Untrained, it finds all blocks alike; let it take half.
        policy.net.offset.data -= policy.scores(frame, now).median()
        grid = policy.select(frame, now)
    scores = policy.scores(frame, now)
    assert scores.shape == grid.shape and scores.is_floating_point()
    assert 0 < grid.sum() < grid.numel()
    assert scores[grid].min() > scores[~grid].max()
    assert policy.scores(frame, context()) is None  # Of another call.


def test_blocks_beyond_the_sample_teach_the_policy_nothing():
    """Their reward is in no loss: other rewards for them leave the same weights behind."""

    class Gains(nn.Module):
        """Features that change much in the blocks that were added, or not at all."""

        def forward(self, x):
            return x * 1.0

    learned, rates = [], []
    for loud in (False, True):
        torch.manual_seed(0)
        policy = RLPolicy(
            0.3, seed=3, lr=1e-2, update_every=1, information_gain="features", gamma=0.0
        )
        added = []
        select = policy.select

        def remember(frame, ctx, select=select, added=added):
            added.append(select(frame, ctx))
            return added[-1]

        policy.select = remember
        net = bc.blockcopy_(
            Gains().eval(), bc.BlockCopyConfig(block_size=16, policy=policy, buckets=(0.8, 1.0))
        )
        frame = torch.randn(1, 3, 64, 96)
        net(frame)
        # The policy sees the same picture both times, as what it learns from is what it is told.
        feedback = policy.feedback

        def louder(frame, grid, outputs, ctx, feedback=feedback, added=added, loud=loud):
            beyond = (grid & ~added[-1]).repeat_interleave(16, 1).repeat_interleave(16, 2)
            assert beyond.any()
            changed = outputs[0] + (100.0 if loud else 0.0) * beyond[0]
            return feedback(frame, grid, [changed], ctx)

        policy.feedback = louder
        scalars = net(frame + 0.3 * torch.randn_like(frame)) is not None
        assert scalars and policy.updates == 1
        learned.append([p.detach().clone() for p in policy.net.parameters()])
        rates.append(policy.running_rate)
        assert policy.running_rate == pytest.approx(20 / 24)  # What ran, not what was sampled.
    assert all(torch.equal(a, b) for a, b in zip(*learned, strict=True))
