"""Each guard's promise over random policies, streams that come and go, and frames that fail."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import blockcopy_plugins as bc
from blockcopy_plugins.policy.guards.refresh import far_apart
from tests.test_policy.test_guards import video
from tests.test_policy.test_guards.video import Step, Video, rates, steps

# Blocks (0, 0) and (1, 0) lie inside, (0, 1) and others it touches alone.
IGNORED = [[0, 0], [40, 0], [40, 70], [0, 64]]
# Touches (1, 1), (1, 2), (2, 1) and (2, 2).
ALWAYS = [[60, 60], [70, 60], [70, 69], [60, 69]]


def inside(*blocks):
    grid = torch.zeros(video.GRID, dtype=torch.bool)
    for block in blocks:
        grid[block] = True
    return grid


def run(guards, story, rate, seed=0):
    clip = Video(guards, rate, seed)
    for step in story:
        clip.run(step)
    return clip.lives


def executed(life):
    return torch.stack([seen.executed for seen in life])


def assert_at_most_apart(life, n, but=None):
    """No block waits longer than n frames for its next execution."""
    last = torch.zeros(video.GRID, dtype=torch.long)
    for index, seen in enumerate(life):
        waited = index - last
        if but is not None:
            waited = waited.masked_fill(but, 0)
        assert waited.max() <= n
        last[seen.executed] = index


@settings(max_examples=40)
@given(steps(), rates(), st.integers(1, 6))
def test_max_age(story, rate, n):
    for life in run([dict(type="MaxAge", frames=n)], story, rate):
        assert life[0].executed.all()
        assert_at_most_apart(life, n)


def test_max_age_of_streams_that_change_places():
    clip = Video([dict(type="MaxAge", frames=3)])
    one, none = inside((0, 0)), inside()
    for order, chosen in (
        ("ab", (none, none)),
        ("ab", (one, none)),
        ("ba", (none, none)),
        ("ab", (none, none)),
        ("ba", (none, none)),
    ):
        clip.choose_next = torch.stack(chosen)
        clip.run(Step(tuple(order)))
    a, b = clip.lives
    assert torch.equal(a[3].executed, ~one) and torch.equal(a[4].executed, one)
    assert b[3].executed.all() and not b[4].executed.any()


def test_max_age_executes_nothing_earlier_than_it_must():
    (life,) = run([dict(type="MaxAge", frames=4)], [Step(("a",))] * 13, 0.0)
    assert [seen.executed.float().mean().item() for seen in life] == [1, 0, 0, 0] * 3 + [1]


@settings(max_examples=40)
@given(steps(), rates(), st.integers(1, 30))
def test_refresh(story, rate, n):
    for life in run([dict(type="Refresh", period=n)], story, rate):
        runs = executed(life)
        for start in range(len(life) - n + 1):
            assert runs[start : start + n].any(0).all()
        for seen in life:
            if not seen.first:
                assert seen.demanded.sum() <= math.ceil(12 / n)
                assert torch.equal(seen.executed, seen.chosen | seen.demanded)


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 100))
def test_refresh_deals_the_blocks_evenly_and_spreads_them(rows, columns, n):
    order = far_apart(rows, columns)
    assert sorted(order.flatten().tolist()) == list(range(rows * columns))
    turns = order * n // (rows * columns)
    assert turns.flatten().bincount(minlength=n).max() <= math.ceil(rows * columns / n)
    assert turns.min() >= 0 and turns.max() < n
    # A ninth of the blocks and less: no two of them side by side.
    if n >= 9 and rows > 2 and columns > 2:
        for turn in range(n):
            places = (turns == turn).nonzero()
            apart = (places[:, None] - places[None]).abs().amax(2)
            apart.fill_diagonal_(9)
            assert len(places) < 2 or apart.min() >= 2


@settings(max_examples=40)
@given(steps(), rates(), st.integers(1, 4))
def test_dilate(story, rate, blocks):
    for life in run([dict(type="Dilate", blocks=blocks)], story, rate):
        for seen in life:
            if seen.first:
                continue
            # By hand: a block runs where a chosen one is near, and nowhere else.
            chosen = seen.chosen.nonzero().tolist()
            for row in range(video.GRID[0]):
                for column in range(video.GRID[1]):
                    near = any(max(abs(row - r), abs(column - c)) <= blocks for r, c in chosen)
                    assert seen.executed[row, column] == near


@settings(max_examples=40)
@given(steps(), rates(), st.integers(1, 6))
def test_hold(story, rate, n):
    for life in run([dict(type="Hold", frames=n)], story, rate):
        for index, seen in enumerate(life):
            if seen.first:
                assert seen.executed.all()
                continue
            earlier = [e.chosen for e in life[max(index - n, 0) : index] if not e.first]
            wanted = torch.stack([seen.chosen, *earlier]).any(0)
            assert torch.equal(seen.executed, wanted)


@settings(max_examples=30)
@given(steps(), rates())
def test_zones(story, rate):
    guards = [dict(type="Ignore", mask=IGNORED), dict(type="Always", mask=ALWAYS)]
    never = inside((0, 0), (1, 0))
    always = inside((1, 1), (1, 2), (2, 1), (2, 2))
    for life in run(guards, story, rate):
        for seen in life:
            if not seen.first:
                assert torch.equal(seen.executed, (seen.chosen | always) & ~never)


@settings(max_examples=40)
@given(steps(), rates(), st.integers(1, 8), st.permutations(range(6)))
def test_all_promises_hold_together_in_any_order(story, rate, n, order):
    guards = [
        dict(type="MaxAge", frames=n),
        dict(type="Refresh", period=2 * n),
        dict(type="Dilate"),
        dict(type="Hold", frames=2),
        dict(type="Ignore", mask=IGNORED),
        dict(type="Always", mask=ALWAYS),
    ]
    never = inside((0, 0), (1, 0))
    always = inside((1, 1), (1, 2), (2, 1), (2, 2))
    for life in run([guards[i] for i in order], story, rate):
        assert_at_most_apart(life, n, but=never)
        for index, seen in enumerate(life):
            assert seen.executed[always].all()
            if seen.first:
                assert seen.executed.all()
                continue
            assert not seen.executed[never].any()
            assert not (seen.demanded & never).any()
            own = seen.chosen & ~seen.demanded & ~never
            around = F.max_pool2d(own[None, None].float(), 3, 1, 1)[0, 0] > 0
            for later in [seen, *life[index + 1 : index + 3]]:
                assert later.executed[own & ~never].all()
            assert seen.executed[around & ~never].all()


@settings(max_examples=10)
@given(steps(15), rates(), st.integers(0, 99))
def test_what_is_held_is_dilated_and_the_other_way_round(story, rate, seed):
    guards = [dict(type="Hold", frames=2), "Dilate", dict(type="Refresh", period=5)]
    one = run(guards, story, rate, seed)
    other = run([guards[1], guards[0], guards[2]], story, rate, seed)
    for life, same in zip(one, other, strict=True):
        assert torch.equal(executed(life), executed(same))


GUARDS = [
    dict(type="MaxAge", frames=5),
    dict(type="Refresh", period=9),
    "SceneCut",
    dict(type="Hold", frames=3),
    "Dilate",
    dict(type="Ignore", mask=IGNORED),
]


@settings(max_examples=25)
@given(steps(12), rates(), st.integers(0, 3))
def test_a_frame_that_failed_before_anything_ran_leaves_no_trace(story, rate, seed):
    """The same story without the failures gives the same grids, SceneCut's among them."""
    random = torch.Generator().manual_seed(seed)
    told = []
    for step in story:
        light = 0.2 if torch.rand(1, generator=random) < 0.3 else 1.0
        frame = light * torch.rand(len(step.streams), 3, *video.SIZE, generator=random)
        chosen = torch.rand(len(step.streams), *video.GRID, generator=random) < rate
        told.append((Step(step.streams, step.failure and "early"), frame, chosen))

    def grids(told):
        clip = Video(GUARDS)
        for step, frame, chosen in told:
            clip.choose_next = chosen
            clip.run(step, frame)
        return [executed(life) for life in clip.lives]

    one, other = grids(told), grids([row for row in told if row[0].failure is None])
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_memory_of_a_stream_is_constant_and_ends_with_it(mode):
    clip = Video(GUARDS, 0.3)

    def remembered():
        """Elements of all tensors that guards keep for streams."""
        found = {}
        for guard in bc.handle(clip.net).guards.guards:
            for memory in vars(guard).values():
                for values, _ in getattr(memory, "_places", {}).values():
                    found[id(values)] = values.numel()
        return sum(found.values())

    with mode():
        clip.run(Step(("a", "b")))
        after_one = remembered()
        for order in ("ab", "ba", "ab") * 4:
            clip.run(Step(tuple(order)))
        assert remembered() == after_one > 0
        clip.run(Step(("a",)))
        bc.reset_(clip.net, ["b"])
        clip.run(Step(("a",)))
        assert 2 * remembered() == after_one
        bc.reset_(clip.net)
        assert remembered() == 0
