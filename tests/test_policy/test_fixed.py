from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.policy import AllPolicy, NonePolicy, RandomPolicy, StaticPolicy

FRAME = torch.zeros(2, 3, 100, 200)  # 4 x 7 blocks of 32 px


def test_all_and_none(make_context):
    context = make_context(FRAME, 32)
    everything = AllPolicy().select(FRAME, context)
    nothing = NonePolicy().select(FRAME, context)
    assert everything.shape == nothing.shape == (2, 4, 7)
    assert everything.dtype == nothing.dtype == torch.bool
    assert everything.all() and not nothing.any()


def test_random_executes_at_its_rate(make_context, drive):
    grids, scalars = drive(RandomPolicy(0.2, seed=1), [FRAME] * 200, None, 32)
    rate = torch.stack(grids[1:]).float().mean()
    assert abs(rate - 0.2) < 0.02  # five standard deviations of 11,144 draws
    assert scalars[-1]["executed_rate"] == pytest.approx(float(grids[-1].float().mean()))
    assert not torch.equal(grids[1], grids[2])


def test_random_edges(make_context):
    context = make_context(FRAME, 32)
    assert not RandomPolicy(0.0).select(FRAME, context).any()
    assert RandomPolicy(1.0).select(FRAME, context).all()


def test_random_is_seeded_retried_and_private(make_context):
    context = make_context(FRAME, 32)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, other = RandomPolicy(0.5, seed=3), RandomPolicy(0.5, seed=3)
    first = one.select(FRAME, context)
    assert torch.equal(first, one.select(FRAME, context))  # no feedback: the frame failed
    assert torch.equal(first, other.select(FRAME, context))
    one.feedback(FRAME, first, None, context)
    assert not torch.equal(first, one.select(FRAME, context))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(
        RandomPolicy(0.5).select(FRAME, context), RandomPolicy(0.5).select(FRAME, context)
    )


@pytest.mark.parametrize("arguments", [dict(rate=1.5), dict(rate="x"), dict(seed=1.5)])
def test_random_rejects(arguments):
    with pytest.raises(ConfigError):
        RandomPolicy(**arguments)


def test_static_gives_its_grid_and_never_its_own_memory(make_context):
    given = torch.zeros(4, 7, dtype=torch.bool)
    given[1, 2] = True
    policy, context = StaticPolicy(given), make_context(FRAME, 32)
    given[:] = True
    grid = policy.select(FRAME, context)
    assert grid.nonzero().tolist() == [[0, 1, 2], [1, 1, 2]]
    grid[:] = True
    assert policy.select(FRAME, context).sum() == 2


def test_static_for_each_image_and_from_lists(make_context):
    context = make_context(FRAME[:, :, :64, :64], 32)
    policy = StaticPolicy([[[1, 0], [0, 0]], [[0, 0], [0, 1]]])
    grid = policy.select(FRAME[:, :, :64, :64], context)
    assert grid.nonzero().tolist() == [[0, 0, 0], [1, 1, 1]]


def test_static_of_another_size_raises(make_context):
    with pytest.raises(GridError, match=r"\(4, 7\)"):
        StaticPolicy(torch.ones(3, 7, dtype=torch.bool)).select(FRAME, make_context(FRAME, 32))
    with pytest.raises(GridError):
        StaticPolicy(torch.ones(3, 4, 7)).select(FRAME, make_context(FRAME, 32))


@pytest.mark.parametrize("grid", [[1, 0], [[2, 0]], [[1], [1, 0]], "all", torch.zeros(0, 3)])
def test_static_rejects(grid):
    with pytest.raises(ConfigError, match="grid"):
        StaticPolicy(grid)
