"""The oracle's own reading of axes, and that it believes no rule of the engine's."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.engine.oracle.pixels import pixels_of
from blockcopy_plugins.engine.tensor import axes_rules

N, C, H, W = 2, 3, 2, 5
NUMBERS = torch.arange(N * H * W).view(N, 1, H, W).expand(N, C, H, W)


@pytest.mark.parametrize(
    "axes, value, joined",
    [
        ("NCHW", NUMBERS, 1),
        ("NHWC", NUMBERS.permute(0, 2, 3, 1), 1),
        ("NLC", NUMBERS.flatten(2).transpose(1, 2), 1),
        ("RC", NUMBERS.permute(0, 2, 3, 1).reshape(-1, C), 1),
        ("GWC", NUMBERS.permute(0, 2, 3, 1).reshape(N * H, W, C), 1),
        ("QC", NUMBERS.permute(2, 3, 0, 1).reshape(-1, C), 1),
        ("BHW", NUMBERS.reshape(N * C, H, W), C),
        ("PC", NUMBERS.permute(0, 2, 3, 1).reshape(-1, 1), C),
        ("MW", NUMBERS.reshape(-1, W), C),
        ("S", NUMBERS.reshape(-1), C),
    ],
)
def test_elements_and_their_pixels(axes, value, joined):
    assert torch.equal(pixels_of(axes, value.shape, N, (H, W), joined), value)


OPS = {
    "softmax of rows": lambda x: x.softmax(2),
    "running sums of columns": lambda x: x.cumsum(3),
    "rows in another order": lambda x: x.index_select(2, torch.tensor([1, 0, 3, 2])),
}


@pytest.mark.parametrize("name", OPS)
def test_a_rule_that_is_wrong_shows(name, monkeypatch):
    class Net(torch.nn.Module):
        def forward(self, x):
            return OPS[name](x * 1.5)

    reference = MaskedReference(Net().eval(), 2)
    frame, grid = torch.rand(1, 3, 4, 4), torch.ones(1, 2, 2, dtype=torch.bool)
    assert torch.allclose(reference(grid, frame), OPS[name](frame * 1.5))
    monkeypatch.setattr(axes_rules, "_channel_dims", lambda x, dims: [0])
    with pytest.raises(RuntimeError, match="is said to leave pixels where they are, and does not"):
        MaskedReference(Net().eval(), 2)(grid, frame)
