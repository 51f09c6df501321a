"""What a stream keeps, on whole networks of the zoos: sizes, packing, law 2, law 4, restore."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc
from benchmarks.deviation import deviation
from benchmarks.zoo.architectures import DETECTORS, SEGMENTORS, Architecture
from benchmarks.zoo.build import build
from blockcopy_plugins.errors import FrameError, GridError
from blockcopy_plugins.policy.dictated import DictatedPolicy
from tests.test_zoo.laws import TOLERANCE, frames, grids, run_blocks

BY_NAME = {architecture.name: architecture for architecture in DETECTORS + SEGMENTORS}
SIZES = [(128, 192), (192, 128), (97, 131)]


@pytest.fixture(
    scope="module",
    params=[
        "Mask R-CNN R50-FPN",
        "BiSeNetV2",
        pytest.param("Mask R-CNN X50-32x4d", marks=pytest.mark.weekly),
        pytest.param("DeepLabV3+ MobileNetV2", marks=pytest.mark.weekly),
    ],
)
def built(request) -> tuple[Architecture, nn.Module]:
    return BY_NAME[request.param], build(BY_NAME[request.param])


@pytest.fixture()
def converted(built):
    """The unit, converted, and the policy that takes the grid of its next call."""
    architecture, unit = built
    policy = DictatedPolicy()
    bc.blockcopy_(unit, bc.BlockCopyConfig(block_size=architecture.block, policy=policy))
    yield unit, policy
    bc.restore_(unit)


def assert_equal(found, expected) -> None:
    for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_law_1_at_any_size(built, size, pack):
    architecture, unit = replace(built[0], size=size), built[1]
    (frame, *_), (whole, *_) = frames(architecture, 1), grids(architecture, 1)
    with torch.no_grad():
        expected = unit(frame)
    found, _ = run_blocks(architecture, unit, [frame], [whole], pack)
    assert deviation(found[0], expected) <= TOLERANCE


def test_law_2_nothing_changed(built, converted):
    unit, policy = converted
    frame, other, _ = frames(built[0], 1)
    whole, some, few = grids(built[0], 1)
    policy.grid = whole
    first = unit(frame)
    for policy.grid in (some, few, torch.zeros_like(few)):
        last = unit(frame)
        assert deviation(last, first) <= TOLERANCE
    assert_equal(unit(other), last)


def test_law_4_bad_input_leaves_the_stream_as_it_was(built, converted):
    unit, policy = converted
    first, second, _ = frames(built[0], 1)
    whole, some, _ = grids(built[0], 1)
    policy.grid = whole
    unit(first)
    broken = second.clone()
    broken[0, 0, 3, 5] = float("nan")
    policy.grid = some
    for bad in (broken, second[:, :, 1:]):
        with pytest.raises(FrameError):
            unit(bad)
    policy.grid = some[:, :, :-1]
    with pytest.raises(GridError):
        unit(second)
    unit.train()
    with pytest.raises(FrameError):
        unit(second)
    unit.eval()
    policy.grid = some
    after_errors = unit(second)

    bc.reset_(unit)
    policy.grid = whole
    unit(first)
    policy.grid = some
    assert_equal(unit(second), after_errors)


def test_restore_leaves_no_trace(built):
    architecture, unit = built
    video, plan = frames(architecture, 1), grids(architecture, 1)
    before = copy.deepcopy(unit.state_dict())
    with torch.no_grad():
        expected = unit(video[0])
    run_blocks(architecture, unit, video, plan)
    assert list(unit.state_dict()) == list(before)
    assert all(torch.equal(unit.state_dict()[key], value) for key, value in before.items())
    with torch.no_grad():
        assert_equal(unit(video[0]), expected)
