"""Parts that give views: their bases live on in autograd, and may live on in the model too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.test_engine.test_execution.test_frame_programs import COUNTS, pair, run
from tests.test_engine.test_execution.test_part_programs import parts
from tests.test_engine.test_strategies.test_tokens import CHANNELS, PATCH, Layer


class Body(nn.Module):
    """A transformer that gives a map, which is a view of its tokens.

    Args:
        keeps: The module holds the tokens that the map is a view of.
    """

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.first = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.layer = Layer("plain")
        self.keeps, self.kept = keeps, []

    def forward(self, x):
        x = self.patches(x)
        n, c, h, w = x.shape
        x = torch.cat([self.first.expand(n, -1, -1), x.flatten(2).mT], 1)
        x = self.layer(x)
        if self.keeps:
            self.kept[:] = [x]
        return x[:, 1:].mT.reshape(n, c, h, w)


class LastChannels(nn.Module):
    """Gives a view of a map whose channels are last, as hierarchical transformers do."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.norm, self.linear = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.keeps, self.kept = keeps, []

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        x = x + self.linear(self.norm(x)).sigmoid() * self.linear(x)
        if self.keeps:
            self.kept[:] = [x]
        return x.permute(0, 3, 1, 2)


class Detector(nn.Module):
    """A body and a head; what is between them cannot be done again by a program.

    Args:
        body: The body.
        how: What is written to in place: ``'map'``, ``'channel'`` (a view of the map), ``'kept'``
            (the body's own tensor), or nothing.
    """

    def __init__(self, body: nn.Module, how: str) -> None:
        super().__init__()
        self.body, self.how = body, how
        self.head = nn.Sequential(
            *(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.SiLU()) * 2,
            nn.Conv2d(CHANNELS, 4, 1),
        )

    def forward(self, x):
        torch.rand(1).item()
        x = self.body(x)
        if self.how == "map":
            x.mul_(2.0)
        elif self.how == "channel":
            x[:, 0].mul_(2.0)
        elif self.how == "kept":
            self.body.kept[0].mul_(2.0)
        return self.head(x)


@pytest.mark.parametrize("how", ["", "map", "channel"])
@pytest.mark.parametrize("body", [Body, LastChannels])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_a_view_of_what_nobody_keeps_is_given_by_a_program(around, body, how):
    torch.manual_seed(0)
    nets = pair(Detector(body(keeps=False), how))
    with around():
        run(nets, COUNTS, torch.Generator().manual_seed(1))
    found = parts(nets[0])
    assert not found.eager_calls and found.made >= 1 and found.replayed >= 5


@pytest.mark.parametrize("how", ["", "map", "channel", "kept"])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_a_view_of_what_the_module_keeps_is_left_to_it(around, how):
    torch.manual_seed(0)
    nets = pair(Detector(LastChannels(keeps=True), how))
    with around():
        run(nets, COUNTS, torch.Generator().manual_seed(1))
    (reason,) = (r for r in parts(nets[0]).eager_calls if r.startswith("'body'"))
    assert "is kept, and is not among its results" in reason


def test_tokens_that_the_module_keeps_are_left_to_it():
    torch.manual_seed(0)
    nets = pair(Detector(Body(keeps=True), ""))
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    (reason,) = (r for r in parts(nets[0]).eager_calls if r.startswith("'body':"))
    assert "a view of another" in reason
