"""Whether blocks or whole frames lose less is measured, and the better of the two stays."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.policy.gain.allotment import Allotment
from blockcopy_plugins.policy.gain.blocks_or_whole import BlocksOrWhole, Measure
from blockcopy_plugins.policy.gain.memory import StreamMemory
from blockcopy_plugins.policy.gain.skipped_worth import SkippedWorth

SMALL = SkippedWorth(0.4)


def _whole_frames(trial, loss, count=4, age=2, rate=0.5, skipped=SMALL):
    for _ in range(count):
        trial.learn(Measure.OLD, loss, age, rate, skipped)


def _until_blocks_run(trial, whole_loss, skipped=SMALL):
    """Let whole frames run; return how many passed before blocks did."""
    frames = 0
    while not trial.runs_blocks:
        trial.passed()
        frames += 1
        _whole_frames(trial, whole_loss, 1, skipped=skipped)
    return frames


def _stretch(trial, loss, whole_loss):
    """Run a stretch on blocks to its end; return how many frames it had."""
    assert trial.runs_blocks
    frames = 0
    while not trial.wants_comparison:
        trial.passed()
        frames += 1
    trial.compared()
    assert not trial.runs_blocks
    trial.learn(Measure.BLOCKS, loss, 1, 0.5, SMALL)
    _whole_frames(trial, whole_loss, 1)
    return frames


def test_mean_loss_of_whole_frames():
    trial = BlocksOrWhole()
    _whole_frames(trial, 0.2, age=4, rate=0.25)
    # It grows as the root of the age: 0.1 one frame after a whole one, and nothing at it.
    assert trial.whole_loss(0.25) == pytest.approx(0.1 * (1 + 2**0.5 + 3**0.5) / 4)
    # Every second frame, or every third: half of the time each.
    assert trial.whole_loss(0.4) == pytest.approx(0.1 * 0.4 * (1 + 1 + 2**0.5) / 2)
    assert trial.whole_loss(0.7) == pytest.approx(0.7 * 0.1 * (1 / 0.7 - 1))


def test_blocks_that_lose_less_run_in_longer_and_longer_stretches():
    trial = BlocksOrWhole()
    assert trial.wants_measure(SMALL) and not trial.wants_measure(SkippedWorth(0.9))
    assert _until_blocks_run(trial, 0.4) == 64
    lengths = [_stretch(trial, 0.02, 0.4) for _ in range(4)]
    assert lengths == [4, 16, 64, 64]


def test_blocks_that_look_much_better_are_tried_at_once_and_for_longer():
    trial = BlocksOrWhole()
    assert _until_blocks_run(trial, 0.4, SkippedWorth(0.2)) == 4
    assert _stretch(trial, 0.02, 0.4) == 16


def test_blocks_that_lose_more_are_tried_more_and_more_rarely():
    trial, waits = BlocksOrWhole(), []
    _until_blocks_run(trial, 0.4)
    for _ in range(3):
        assert _stretch(trial, 0.4, 0.4) == 4
        waits.append(_until_blocks_run(trial, 0.4))
    assert waits == [64 + 64, 128 + 64, 256 + 64]


def test_blocks_that_have_become_worse_are_given_up():
    trial = BlocksOrWhole()
    _until_blocks_run(trial, 0.4)
    for _ in range(4):
        _stretch(trial, 0.02, 0.4)
    stretches = 0
    while trial.runs_blocks:
        _stretch(trial, 0.4, 0.4)
        stretches += 1
    assert stretches <= 3


def test_what_cannot_be_compared_is_passed_over():
    trial = BlocksOrWhole()
    _whole_frames(trial, math.nan, 10)
    assert not trial.runs_blocks
    _whole_frames(trial, 0.4)
    assert math.isfinite(trial.whole_loss(0.5))


class Pointwise(nn.Module):
    """Four classes of each pixel by itself."""

    STD = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x):
        return self.layers(x)


class WideView(nn.Module):
    """Four classes of each pixel and what is up to 49 px away from it."""

    STD = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.Tanh(),
            nn.Conv2d(8, 8, 3, 1, 16, 16), nn.Tanh(),
            nn.Conv2d(8, 8, 3, 1, 32, 32), nn.Tanh(),
            nn.Conv2d(8, 4, 1),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def _shaking(frames, least):
    """All of it shakes; the further down, the less contrast there is."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 40, 40, generator=draw)
    wide = F.interpolate(coarse, (160, 160), mode="bicubic")
    contrast = torch.linspace(1.0, least, 128).view(128, 1)
    for _ in range(frames):
        y, x = torch.randint(0, 12, (2,), generator=draw).tolist()
        yield 1 + contrast * wide[:, :, y : y + 128, x : x + 128]


def _random(network):
    model = network().eval()
    for weight in model.parameters():
        if weight.dim() == 4:
            nn.init.normal_(weight, std=network.STD)
    return model


def _run(model, video, dense, target):
    """Of each frame the share of pixels whose class is not the dense model's, and the rate."""
    policy = bc.policy.GainPolicy(target)
    bc.blockcopy_(model, bc.BlockCopyConfig(policy=policy, block_size=16))
    losses, rates = [], []
    for picture, wanted in zip(video, dense, strict=True):
        losses.append((model(picture).argmax(1) != wanted).double().mean())
        rates.append(bc.handle(model).last.executed_rate)
    bc.restore_(model)
    return torch.stack(losses), torch.tensor(rates[1:])


@pytest.mark.parametrize(
    ("network", "target", "contrast"), [(Pointwise, 0.7, 0.1), (WideView, 0.5, 0.3)]
)
def test_the_better_one_is_found_and_the_rate_is_kept(network, target, contrast, monkeypatch):
    torch.manual_seed(0)
    model, video = _random(network), list(_shaking(260, contrast))
    dense = [model(picture).argmax(1) for picture in video]
    losses, rates = _run(model, video, dense, target)
    assert (rates.unfold(0, 100, 1).mean(1) - target).abs().max() <= 0.02

    monkeypatch.setattr(BlocksOrWhole, "wants_measure", lambda trial, skipped: False)
    whole, _ = _run(model, video, dense, target)
    monkeypatch.setattr(BlocksOrWhole, "wants_comparison", False)
    monkeypatch.setattr(BlocksOrWhole, "runs_blocks", True, raising=False)
    monkeypatch.setattr(BlocksOrWhole, "__init__", lambda trial: setattr(trial, "_left", 0))
    blocks, _ = _run(model, video, dense, target)
    late, whole, blocks = (loss[130:].mean() for loss in (losses, whole, blocks))
    assert (blocks < 0.5 * whole) if network is Pointwise else (whole < 0.95 * blocks)
    assert late < min(whole, blocks) + 0.5 * abs(whole - blocks)


def test_a_model_that_cannot_run_a_frame_twice_is_not_asked_to():
    class RunsOnce(ModelAdapter):
        runs_once = "it counts its frames"

    torch.manual_seed(0)
    model = _random(Pointwise)
    config = bc.BlockCopyConfig(policy=bc.policy.GainPolicy(0.7), block_size=16)
    compared = {}
    for adapter in (ModelAdapter, RunsOnce):
        bc.blockcopy_(model, config, adapter())
        compared[adapter] = 0
        for picture in _shaking(120, 0.1):
            model(picture)
            compared[adapter] += bc.handle(model).last.executed_rate > 1
        bc.restore_(model)
    assert compared[ModelAdapter] and not compared[RunsOnce]


@pytest.mark.parametrize(
    ("account", "allowance", "is_compared"),
    [(50.0, 50.0, True), (49.0, 50.0, False), (50.0, 49.0, False)],
)
def test_a_frame_runs_twice_only_if_both_runs_are_paid_for(account, allowance, is_compared):
    """Half of 100 blocks run, and then all: a frame of debt is left, and no more is lent."""
    memory = StreamMemory(torch.zeros(3, 4, 4), torch.zeros(6, 10, 10), None, account - 50)
    memory.trial.runs_blocks = True
    allotment = Allotment(
        [memory], total=1, saved=allowance - 50, blocks=100, rate=0.5, allowance=allowance,
        capacity=100.0, per_frame=False,
    )  # fmt: skip
    allotment.accounts = [account]
    grid = (torch.arange(100) < 50).view(1, 10, 10)
    assert allotment.compared([memory.trial], grid) == ((True,) if is_compared else None)


def test_the_first_measure_of_skipped_blocks_counts_fully():
    worth = torch.tensor([3.0, 1.0])
    first = SkippedWorth().after(worth, torch.ones(2), 0.5)
    assert first.value == pytest.approx(0.5)
    assert first.after(torch.tensor([1.0, 1.0]), torch.ones(2), 0.5).value == pytest.approx(0.75)
