"""Which frames an estimate times: replayed ones, of the size itself, with changing pictures."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.estimate import block_frames
from blockcopy_plugins.policy.dictated import DictatedPolicy
from tests.test_estimate import Clock, Costly, CostlyPolicy, predict


def test_costs_that_are_no_line_are_as_measured():
    """Of a quarter of the blocks more than of half of them, and of a frame of few blocks most."""
    clock = Clock()
    seconds = {96: 0.9, 48: 0.2, 24: 0.4, 12: 0.7}

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, 1, 1)

        def forward(self, x):
            is_sparse = isinstance(x, bc.BlockTensor)
            clock.seconds += seconds.get(int(x.frame.grid.sum()), 5.0) if is_sparse else 1.0
            return self.conv(x)

    (only,) = predict(clock, [Odd()], budget_s=1e3).block_sizes
    assert [rate.model_ms for rate in only.rates] == pytest.approx([900, 200, 400, 700])
    assert [rate.speedup for rate in only.rates] == pytest.approx([1 / 0.9, 5, 2.5, 1 / 0.7])


def test_dense_is_measured_where_the_cost_hardly_grows_with_the_frame():
    """As of region heads: a small frame takes nearly as long as a large one."""
    clock = Clock()
    layers = [Costly(clock, 1e-7, 1e-7, dense_fixed=0.7)]
    found = predict(clock, layers, (1024, 1024), 128, budget_s=18.0)
    assert found.dense_measured and found.of().measured_on[-1] == (1024, 1024)
    assert found.dense_ms == pytest.approx(700 + 1e-4 * 1024**2)


def test_each_frame_is_another_picture_than_the_one_before():
    """Else regions repeat that do not in a video."""
    seen = []

    class Sees(nn.Conv2d):
        def forward(self, x):
            if x.shape[2:] == (128, 128) and not isinstance(x, bc.BlockTensor):
                seen.append(x.clone())
            return super().forward(x)

    class Looks(CostlyPolicy):
        def select(self, frame, context):
            looked.append(frame.clone())
            return super().select(frame, context)

    looked = []
    model = Sees(3, 4, 3).eval()
    bc.estimate(model, (128, 128), 32, policy=Looks(Clock(), 0, 0), budget_s=1.0)
    for frames in (looked, seen):
        pairs = list(zip(frames, frames[1:], strict=False))
        assert len(pairs) > 2 and not any(torch.equal(one, other) for one, other in pairs[1:])


def test_pictures_of_the_video_are_shown_in_turn():
    """As large as they are where the size itself is timed, and scaled where it is not."""
    seen = []

    def call(model, frame):
        seen.append(frame.clone())
        return model(frame)

    model = nn.Conv2d(3, 4, 3).double().eval()
    frames = torch.stack([torch.full((3, 192, 256), float(n)) for n in range(4)])
    frames[:, :, :96] += 0.5
    options = dict(policy="none", call=call, frames=frames)
    bc.estimate(model, (192, 256), 32, budget_s=60.0, **options)
    assert {x.dtype for x in seen} == {torch.float64}
    for x in seen:
        number = int(x[0, 0, -1, -1])
        whole = interpolate(frames[number][None].double(), x.shape[2:], mode="bilinear")
        assert torch.equal(x, whole)
    shown = [int(x[0, 0, -1, -1]) for x in seen if x.shape[2:] == (192, 256)]
    assert set(shown) == {0, 1, 2, 3} and {x.shape[2] for x in seen} > {192}


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (3, "int.*expected a floating-point tensor"),
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.zeros(1, 3, 8, 8), "1 picture"),
    ],
)
def test_wrong_pictures_are_errors(frames, words):
    with pytest.raises(ConfigError, match=words):
        bc.estimate(nn.Conv2d(3, 4, 3).eval(), (256, 384), 32, frames=frames)


class Scripted:
    """A timer whose frames take the seconds of a script, and record where it says so."""

    model = None

    def __init__(self, script):
        self._script = iter(script)
        self.recorded = 0

    def frame(self, size, number):
        return torch.zeros(1, 3, *size)

    def run(self, frame):
        seconds, is_recorded = next(self._script)
        self.recorded += is_recorded
        return seconds


def test_frames_that_are_recorded_do_not_count(monkeypatch):
    first = [(7.0, False)]
    settling = [(50.0, True), (60.0, True), (1.0, False), (1.0, False)]
    few = [(2.0, False), (90.0, True), (3.0, False), (4.0, False)]
    whole = [(70.0, True), (80.0, True), (9.0, False), (11.0, False)]
    turns = [*few[:1], *whole[:3], *few[1:3], *whole[3:], *few[3:], (12.0, False)]
    timer = Scripted([*first, *settling, *turns])
    monkeypatch.setattr(block_frames, "report", lambda model: timer)
    frames = block_frames.BlockFrames(timer, DictatedPolicy(), (64, 64), 16)
    assert frames.blocks == 16
    frames.settle(2)
    for _ in range(3):
        frames.round([2, 16])
    assert frames.times() == {2: 3.0, 16: 11.0}, "medians of 2, 3, 4 and of 9, 11, 12"


def test_frames_count_if_all_of_them_are_recorded(monkeypatch):
    timer = Scripted([(7.0, False)] + 16 * [(50.0, True)] + [(s, True) for s in (4.0, 6.0, 5.0, 9)])
    monkeypatch.setattr(block_frames, "report", lambda model: timer)
    frames = block_frames.BlockFrames(timer, DictatedPolicy(), (64, 64), 16)
    frames.settle(2)
    frames.round([3])
    assert frames.times() == {3: 5.5}


def test_programs_are_timed_and_not_the_frames_that_make_them():
    """With a cost of Python: a replayed frame does not run it, so that it is in no prediction."""
    clock = Clock()

    class Slow(nn.Conv2d):
        def forward(self, x):
            tick(1.0)
            return super().forward(x)

    def tick(seconds):
        clock.seconds += seconds

    layers = [Slow(3, 3, 3, 1, 1), *(nn.Conv2d(3, 3, 3, 1, 1) for _ in range(8))]
    found = predict(clock, layers, budget_s=1e3)
    assert found.dense_ms == 1000
    assert [rate.model_ms for rate in found.of().rates] == [0, 0, 0, 0]


def test_models_of_one_size_are_timed_at_it():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 1, 1)

        def forward(self, x):
            if tuple(x.shape[2:]) != (192, 256):
                raise ValueError(f"got {tuple(x.shape)}, expected 192x256")
            return self.conv(x)

    model = Positions().eval()
    for block_size in (64, None):
        found = bc.estimate(model, (192, 256), block_size, policy="none", budget_s=0.01)
        assert found.dense_measured and found.of().measured_on == ((192, 256),)
    with pytest.raises(ConfigError, match="128, 128.*expected 192x256"):
        bc.estimate(model, (128, 128), 64, budget_s=0.01)
