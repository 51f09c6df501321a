"""Linear layers of ordinary tensors within a frame, beside the same products in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.conv.prepared_weights import Columns
from blockcopy_plugins.engine.convert import handle
from blockcopy_plugins.ops import conv_kernels
from blockcopy_plugins.policy.dictated import DictatedPolicy

pytestmark = pytest.mark.skipif(not conv_kernels(), reason="there are no compiled kernels")


class WithRows(nn.Module):
    """A network on a picture with a layer that has nothing to do with it."""

    def __init__(self, features: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(features, outputs, bias)
        self.rows: torch.Tensor | None = None

    def forward(self, picture):
        return self.conv(picture), self.linear(self.rows)


def make(features, outputs, rows, bias=True):
    torch.manual_seed(0)
    model = WithRows(features, outputs, bias).eval()
    model.rows = torch.randn(*rows, features)
    return bc.blockcopy_(model, bc.BlockCopyConfig(block_size=16, policy="all")) or model


def call(model):
    with torch.no_grad():
        return model(torch.zeros(1, 3, 32, 32))[1]


def wanted(model):
    linear = copy.deepcopy(model.linear).double()
    return nn.functional.linear(model.rows.double(), linear.weight, linear.bias).detach()


def parts_of(model):
    """The columns of the layer's weight that were laid out for the kernels."""
    kept = handle(model).converted.convolutions.cpu.prepared
    found = [how for _, how in kept._kept if isinstance(how, Columns)]
    return sorted((how.first, how.end) for how in found)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("features", "outputs", "rows", "parts"),
    [
        (640, 80, (100,), 1),
        (640, 81, (101,), 1),
        (2048, 40, (2, 3, 17), 1),
        (2049, 40, (64,), 2),
        (5001, 33, (50,), 3),
    ],
)
def test_rows_are_multiplied_by_the_kernels(features, outputs, rows, parts, bias):
    model = make(features, outputs, rows, bias)
    for _ in range(3):
        found = call(model)
    assert found.shape == (*rows, outputs) and found.is_contiguous()
    # Sums of some thousand values.
    torch.testing.assert_close(found.double(), wanted(model), atol=1e-5, rtol=0)
    columns = parts_of(model)
    assert len(columns) == parts
    assert [a for a, _ in columns] == [0, *(b for _, b in columns[:-1])]
    assert columns[-1][1] == features


@pytest.mark.parametrize(
    "change",
    [
        lambda linear: linear.weight.data.mul_(2),
        lambda linear: linear.weight.data[:, 2500].fill_(3),
        lambda linear: linear.bias.data.add_(1),
        lambda linear: setattr(linear, "weight", nn.Parameter(linear.weight.detach() + 1)),
    ],
)
def test_weights_that_change_are_seen(change):
    model = make(2501, 64, (64,))
    call(model)
    with torch.no_grad():
        change(model.linear)
    torch.testing.assert_close(call(model).double(), wanted(model), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: setattr(model, "rows", model.rows[:4]),
        lambda model: setattr(model, "rows", model.rows.t().contiguous().t()),
        lambda model: model.double(),
        lambda model: model.bfloat16(),
        lambda model: setattr(model.linear, "forward", nn.Linear.forward.__get__(model.linear)),
    ],
)
def test_torch_does_the_rest(spoil):
    model = make(640, 80, (100,))
    spoil(model)
    model.rows = model.rows.to(model.linear.weight.dtype)
    with torch.no_grad():
        found = model(torch.zeros(1, 3, 32, 32, dtype=model.linear.weight.dtype))[1]
    exact = nn.functional.linear(model.rows, model.linear.weight, model.linear.bias)
    assert torch.equal(found, exact) and not parts_of(model)


def test_dense_calls_are_torchs_own():
    model = make(640, 80, (100,))
    plain = nn.functional.linear(model.rows, model.linear.weight, model.linear.bias)
    with bc.dense(model):
        assert torch.equal(call(model), plain)
    assert not parts_of(model)
    call(model)
    assert parts_of(model)
    bc.restore_(model)
    assert torch.equal(call(model), plain)


class WithQueries(nn.Module):
    """A network on a picture, part of which is computed from rows of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 8, 1)
        self.queries, self.linear = nn.Parameter(torch.randn(64, 2500)), nn.Linear(2500, 32)

    def forward(self, picture):
        added = self.linear(self.queries * 2).mean(0).view(1, 32, 1, 1)
        return self.last(self.first(picture).relu() + added)


def test_they_are_part_of_a_program_until_their_weight_changes():
    torch.manual_seed(0)
    model = WithQueries().eval()
    plain, draw = copy.deepcopy(model), torch.Generator().manual_seed(0)
    policy = DictatedPolicy()
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=16, policy=policy))
    for index in range(9):
        picture = torch.randn(1, 3, 64, 64, generator=draw)
        full = index in (0, 6, 8)
        policy.grid = torch.rand(1, 4, 4, generator=draw) < (1.1 if full else 0.4)
        with torch.no_grad():
            found = model(picture)
            if full:
                torch.testing.assert_close(found, plain(picture), atol=2e-5, rtol=0)
        if index == 6:
            assert bc.report(model).programs.replayed > 1 and len(parts_of(model)) == 2
            for each in (model, plain):
                each.linear.weight.data.mul_(-2)
