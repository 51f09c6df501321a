"""``target_fidelity`` on whole videos: the dense model beside says what was delivered."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError

SIZE = (96, 128)
SIDE = 16
BLOCKS = 48
TARGET = 0.95


class Segmentor(nn.Module):
    """Five classes of a smoothed picture."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 5, 2, 2)
        self.b = nn.Conv2d(12, 12, 3, 1, 2, 2)
        self.c = nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        return F.interpolate(self.c(x), scale_factor=2, mode="bilinear")


def _background(generator):
    coarse = torch.randn(1, 3, 12, 16, generator=generator)
    return F.interpolate(coarse, SIZE, mode="bicubic")


def still(frames, generator):
    return [_background(generator)] * frames


def moving_square(frames, generator):
    background, square = _background(generator), torch.randn(1, 3, 24, 24, generator=generator)
    video = []
    for index in range(frames):
        picture = background.clone()
        row, column = index % 70, 2 * index % 100
        picture[:, :, row : row + 24, column : column + 24] = 2 * square
        video.append(picture)
    return video


def noise(frames, generator):
    background = _background(generator)
    return [background + 0.3 * torch.randn(1, 3, *SIZE, generator=generator) for _ in range(frames)]


def panning(frames, generator):
    coarse = torch.randn(1, 3, 12, 17 + frames // 4, generator=generator)
    wide = F.interpolate(coarse, (SIZE[0], 8 * coarse.shape[3]), mode="bicubic")
    return [wide[..., 2 * i : 2 * i + SIZE[1]] for i in range(frames)]


CLIPS = {"still": still, "moving square": moving_square, "noise": noise, "panning": panning}


def agreement_with_dense(got, wanted):
    """Share of pixels with the same class, mean over the frames."""
    same = [
        (a.argmax(1) == b.argmax(1)).double().mean().item()
        for a, b in zip(got, wanted, strict=True)
    ]
    return sum(same) / len(same)


@pytest.fixture
def network():
    torch.manual_seed(3)
    return Segmentor().eval()


def convert(network, policy):
    return bc.blockcopy_(copy.deepcopy(network), bc.BlockCopyConfig(SIDE, policy))


@pytest.mark.parametrize("name", CLIPS)
@torch.inference_mode()
def test_the_true_agreement_is_at_least_the_target(network, name):
    video = CLIPS[name](150, torch.Generator().manual_seed(1))
    model = convert(network, dict(type="GainPolicy", target_fidelity=TARGET))
    handle = bc.handle(model)
    got, ran, compared = [], 0, 0
    for frame in video:
        got.append(model(frame))
        ran += int(handle.last.host_grid.sum())
        if handle.last.twice is not None:
            # The whole frame on top of what the policy chose.
            ran += int(handle.last.twice.sum())
            compared += 1
            assert handle.last.host_grid.all()
    wanted = [network(frame) for frame in video]
    assert agreement_with_dense(got, wanted) >= TARGET

    report = bc.report(model)
    assert report.executed_rate == pytest.approx(ran / BLOCKS / 150)
    told = report.agreement
    assert told.comparisons == compared >= 5
    # Where it saved up for a whole frame, that paid for a part.
    assert 0 < told.compared_rate <= compared / 149 + 1e-9
    assert f"{compared} comparisons" in str(report)
    assert report.as_dict()["agreement"]["target"] == TARGET
    scalars = handle.last.scalars
    assert scalars["agreement_low"] == told.low and scalars["comparisons"] == compared
    if name == "still":
        assert report.executed_rate < 0.45 and told.mean == pytest.approx(1)


@torch.inference_mode()
def test_streams_share_the_budget(network):
    """A still camera and one that pans: the mean of both holds, and both are compared."""
    draw = torch.Generator().manual_seed(1)
    videos = [still(150, draw), panning(150, draw)]
    model = convert(network, dict(type="GainPolicy", target_fidelity=TARGET))
    handle = bc.handle(model)
    got, compared = [[], []], set()
    for frames in zip(*videos, strict=True):
        for stream, frame in enumerate(frames):
            with bc.streams(model, [stream]):
                got[stream].append(model(frame))
            if handle.last.twice is not None:
                compared.add(stream)
    each = [
        agreement_with_dense(its, [network(frame) for frame in video])
        for its, video in zip(got, videos, strict=True)
    ]
    assert sum(each) / 2 >= TARGET and compared == {0, 1}


@torch.inference_mode()
def test_a_model_without_outputs_to_compare():
    class Sum(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).mean((2, 3))

    model = bc.blockcopy_(
        Sum(3, 4, 3, padding=1).eval(),
        bc.BlockCopyConfig(SIDE, dict(type="GainPolicy", target_fidelity=TARGET)),
    )
    with pytest.raises(ConfigError, match="neither detections nor a map"):
        model(torch.randn(1, 3, *SIZE))
