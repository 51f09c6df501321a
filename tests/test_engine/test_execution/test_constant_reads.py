"""Frames that read values which are always the same are programs, and no others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from .test_frame_programs import COUNTS, pair, programs, run


class Reads(nn.Module):
    """Reads values of a buffer or of numbers, and does by them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("strides", torch.tensor([2.0, 3.0, 4.0, 5.0]))

    def forward(self, x):
        y = self.conv(x)
        if self.how == "full":
            return y + torch.cat([torch.full((1, 1, 1, 1), s) for s in self.strides], 1)
        if self.how == "list":
            return y * max(self.strides.tolist())
        if self.how == "check":  # as normalisations do
            if (torch.as_tensor([1.0, 2.0]) == 0).any() or self.strides.view(2, 2).min() < 0:
                raise ValueError("a deviation of zero")
            return y * self.strides.view(1, -1, 1, 1)
        if self.how == "mask":
            return y + self.strides[self.strides > 2.5].sum()
        if self.how == "equal":
            return y * 2 if torch.equal(self.strides, self.strides.clone()) else y
        noted = torch.zeros(2)
        if self.how == "written":
            first = noted[0]
            noted += y.mean()
            return y * 2 if first > 0 else y * 3
        if self.how == "state":  # values of what the engine keeps
            return y * 2 if F.avg_pool2d(y, 40).sum() > 0 else y * 3
        noted.copy_(self.strides[:2])  # written by constants: not told from others
        return y * 2 if noted[0] > 0 else y * 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("how", ["full", "list", "check", "mask", "equal"])
def test_values_that_are_always_the_same_may_be_read(how, mode):
    torch.manual_seed(0)
    nets = pair(Reads(how))
    draw = torch.Generator().manual_seed(1)
    with mode():
        run(nets, COUNTS, draw)
        assert programs(nets[0]).replayed >= len(COUNTS) - 5
        for net in nets:  # A write that torch does not count.
            net.strides.data.numpy()[2] = 7.0
        run(nets, COUNTS, draw)
        assert programs(nets[0]).replayed >= 2 * (len(COUNTS) - 5)


@pytest.mark.parametrize("how", ["written", "state", "copied"])
def test_values_that_may_differ_must_not_be_read(how):
    torch.manual_seed(0)
    nets = pair(Reads(how))
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    report = programs(nets[0])
    assert report.replayed == 0
    (reason,) = report.eager_calls
    assert "reads values" in reason
