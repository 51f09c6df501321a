"""``target_fidelity`` on whole videos: the dense model beside says what was delivered."""

from __future__ import annotations

import copy
import os
from pathlib import Path

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


DATA = os.environ.get("BLOCKCOPY_DATA")


def scored_agreement(found, wanted):
    """F1 of detections weighted by their scores, pair by pair and without torch."""
    boxes, scores, labels = (value.double().tolist() for value in found)
    others, other_scores, other_labels = (value.double().tolist() for value in wanted)
    pairs = []
    for i, (a, b, c, d) in enumerate(boxes):
        for j, (e, f, g, h) in enumerate(others):
            shared = max(min(c, g) - max(a, e), 0) * max(min(d, h) - max(b, f), 0)
            union = (c - a) * (d - b) + (g - e) * (h - f) - shared
            if labels[i] == other_labels[j] and union > 0 and shared >= 0.5 * union:
                pairs.append((shared / union, i, j))
    used, other_used, paired = set(), set(), 0.0
    for _, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if i not in used and j not in other_used:
            used.add(i), other_used.add(j)
            paired += scores[i] + other_scores[j]
    total = sum(scores) + sum(other_scores)
    return paired / total if total else 1.0


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="BLOCKCOPY_DATA names no folder with clips and weights")
@pytest.mark.parametrize("clip", ["shadows_highway", "jitter_traffic", "pan_camel"])
@torch.inference_mode()
def test_a_published_detector_on_a_real_clip(clip):
    """Clips and weights as in ``benchmarks/policies/plans/unseen_clips.yaml``."""
    cv2 = pytest.importorskip("cv2")
    from benchmarks.policies.models.fastestdet import fastestdet
    from blockcopy_plugins.engine.adapter import ModelAdapter
    from blockcopy_plugins.policy import Detections

    made = fastestdet(f"{DATA}/FastestDet.pth")
    paths = sorted(Path(DATA, "clips", clip).glob("*.jp*g"))[:120]
    assert paths, f"no frames in {DATA}/clips/{clip}"
    video = [made.preprocess(cv2.imread(str(path))) for path in paths]
    wanted = [made.decode(made.module(frame)) for frame in video]

    class Decoding(ModelAdapter):
        def task_outputs(self, outputs, call):
            boxes, scores, labels = made.decode(outputs)
            return [Detections(boxes, scores, labels, None, tuple(call.frame.shape[2:]))]

    policy = dict(type="GainPolicy", target_fidelity=TARGET)
    model = bc.blockcopy_(made.module, bc.BlockCopyConfig(64, policy), Decoding())
    got = [made.decode(model(frame)) for frame in video]
    report = bc.report(model)
    each = [scored_agreement(a, b) for a, b in zip(got, wanted, strict=True)]
    print(f"{clip}: {sum(each) / len(each):.4f} at {report.executed_rate:.4f}; {report.agreement}")
    assert sum(each) / len(each) >= TARGET
    assert report.executed_rate < 1
