"""The harness itself: it would see a broken law, and what it builds is a fair test."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.zoo.architectures import DETECTORS, SEGMENTORS, Architecture
from benchmarks.zoo.build import build
from tests.test_zoo.laws import RATES, check, frames, grids

BY_NAME = {architecture.name: architecture for architecture in DETECTORS + SEGMENTORS}
TOY = Architecture("toy", "none", "none", "nothing", block=32, size=(40, 70))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        return self.second(self.first(x).relu())


class Forgetful(Net):
    """Adds what depends on how often it was called: no law can hold."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + self.calls


class Whole(Net):
    """Half of its MACs follow an op that ends the blocks."""

    def forward(self, x):
        x = self.first(x).flip(2)
        return self.second(x)


def test_a_sound_net_passes():
    found = check(TOY, Net().eval(), 2)
    assert max(found.law_1, found.law_3) < 1e-5
    assert found.share == found.reported_share == 1.0
    assert found.moved > 0.1
    assert found.macs == 40 * 70 * 9 * (3 * 4 + 4 * 2)


def test_a_broken_law_is_seen():
    found = check(TOY, Forgetful().eval(), 1)
    assert found.law_1 > 0.1
    assert found.law_3 > 0.1


def test_macs_behind_a_dense_op_are_lost():
    found = check(TOY, Whole().eval(), 1)
    assert found.share == pytest.approx(3 * 4 / (3 * 4 + 4 * 2))
    assert any("flip" in op for _, op, _, _ in found.dense_ops)


def test_grids_have_the_rates_they_say():
    for images in (1, 2):
        for rate, grid in zip(RATES, grids(TOY, images), strict=True):
            assert grid.shape == (images, 2, 3)
            assert (grid.flatten(1).sum(1) == max(1, round(6 * rate))).all()
    assert not torch.equal(*(grids(TOY, 2)[1]))


@pytest.mark.parametrize("name", ["CenterNet R18", "FCN HRNet-W18s"])
def test_weights_make_a_fair_network(name):
    architecture = BY_NAME[name]
    unit, again = build(architecture), build(architecture)
    for a, b in zip(unit.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), "every build must be the same"
    norms = [m for m in unit.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    for norm in norms:
        assert norm.running_var.min() > 0
        assert norm.running_mean.abs().max() > 0
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            assert values.std() > 0, "channels must differ"

    scales = []

    def note(module, args, out):
        scales.append(out.std().item())

    for module in unit.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        unit(frames(architecture, 1)[0])
    assert 1e-3 < min(scales) <= max(scales) < 100
