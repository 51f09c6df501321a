from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.errors import ConfigError, FrameError, GridError
from blockcopy_plugins.policy import Policy, PolicyContext
from blockcopy_plugins.policy.base import check_frame, check_rate, executed_rate


def _context(**changes):
    values = dict(
        streams=("a", "b"),
        grid_shape=(2, 3, 4),
        block_size=32,
        first=torch.tensor([True, False]),
        frame_index=(0, 5),
        last_grid=torch.zeros(2, 3, 4, dtype=torch.bool),
    )
    return PolicyContext(**{**values, **changes})


def test_context_is_made_and_frozen():
    context = _context()
    with pytest.raises(AttributeError):
        context.block_size = 64


@pytest.mark.parametrize(
    "changes",
    [
        dict(streams=("a",)),
        dict(frame_index=(0, 1, 2)),
        dict(first=torch.tensor([True])),
        dict(first=torch.tensor([1, 0])),
        dict(last_grid=torch.zeros(2, 3, 5, dtype=torch.bool)),
        dict(host_first=(True,)),
    ],
)
def test_context_that_disagrees_with_its_grid_raises(changes):
    with pytest.raises(GridError):
        _context(**changes)


def test_context_gives_the_host_what_it_may_want_to_know():
    context, told = _context(), []
    assert context.host_first == (True, False)
    assert _context(host_first=(True, False)).host_first == (True, False)
    # Without an engine that waits anyway, at once.
    context.read(torch.tensor([1.0, 2.0]), lambda value: told.append(value.tolist()))
    assert told == [[1.0, 2.0]]
    with pytest.raises(ZeroDivisionError):
        context.read(torch.tensor(0), lambda value: 1 // value.item())
    grid, other = torch.rand(2, 2, 3, 4) > 0.5
    host = grid.clone()
    assert torch.equal(context.host_grid(grid), grid)
    context.take_executed(grid, host)
    assert context.host_grid(grid) is host
    # Another one, such as a policy inside a policy may be told of.
    assert torch.equal(context.host_grid(other), other)


def test_base_policy_reports_the_executed_rate_and_learns_nothing():
    policy, context = Policy(), _context()
    grid = torch.zeros(2, 3, 4, dtype=torch.bool)
    grid[0, 0] = True
    frame = torch.zeros(2, 3, 96, 128)
    assert policy.feedback(frame, grid, None, context) == {"executed_rate": 4 / 24}
    assert policy.state_dict() == {}
    policy.load_state_dict({})
    with pytest.raises(ConfigError, match="net"):
        policy.load_state_dict({"net": 1})
    with pytest.raises(NotImplementedError):
        policy.select(frame, context)
    assert policy.macs((2, 3, 96, 128), 32) == {"forward": 0, "update": 0, "total": 0}


def test_executed_rate_of_an_empty_grid_is_zero():
    assert executed_rate(torch.zeros(0, 3, 4, dtype=torch.bool)) == 0.0


@pytest.mark.parametrize("shape", [(2, 3, 96, 129), (1, 3, 96, 128), (2, 1, 96, 128), (3, 96, 128)])
def test_frame_that_does_not_fit_raises(shape):
    with pytest.raises(FrameError, match="frame"):
        check_frame(torch.zeros(shape), _context())


def test_frame_of_integers_raises():
    with pytest.raises(FrameError, match="uint8"):
        check_frame(torch.zeros(2, 3, 96, 128, dtype=torch.uint8), _context())


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half", None, True])
def test_no_rate(value):
    with pytest.raises(ConfigError, match="rate"):
        check_rate("rate", value)
