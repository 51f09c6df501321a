"""SceneCut on synthetic cuts, pans, light changes, fades and noise; what must be full is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.policy import PolicyContext
from blockcopy_plugins.policy.guards import GuardSet, SceneCut

SIZE = (180, 240)
MEAN, DEVIATION = 110.0, 57.0


def scene(seed, size=SIZE):
    """Patches of many sizes in colours of their own, 0 to 255: ``(3, H, W)``."""
    random = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, *size)
    for cell in (8, 24, 72):
        rough = torch.rand(1, 3, size[0] // cell + 2, size[1] // cell + 2, generator=random)
        picture += F.interpolate(rough, size=size, mode="bilinear") * cell**0.5
    low, high = picture.amin(), picture.amax()
    return ((picture - low) / (high - low) * 200 + 20)[0]


def triggers(frames, guard=None, streams=None):
    """Frames in which the guard demands everything; of a batch pairs of frame and image."""
    guards = GuardSet([guard or SceneCut()])
    found, seen = [], set()
    for index, frame in enumerate(frames):
        frame = frame if frame.dim() == 4 else frame[None]
        frame = (frame - MEAN) / DEVIATION
        ids = tuple(range(len(frame))) if streams is None else streams[index]
        grid = torch.zeros(len(frame), -(-frame.shape[2] // 32), -(-frame.shape[3] // 32)).bool()
        context = PolicyContext(
            streams=ids,
            grid_shape=tuple(grid.shape),
            block_size=32,
            first=torch.tensor([stream not in seen for stream in ids]),
            frame_index=(index,) * len(ids),
            last_grid=grid,
        )
        context = guards.demand(frame, context)
        full, some = context.required.flatten(1).all(1), context.required.flatten(1).any(1)
        assert torch.equal(full, some)
        found += [(index, stream) for stream, hit in zip(ids, full.tolist(), strict=True) if hit]
        guards.commit(guards.adjust(grid, frame, context), context)
        seen.update(ids)
    return found if streams is not None else [index for index, _ in found]


def noisy(picture, strength, seed):
    random = torch.Generator().manual_seed(seed)
    return (picture + strength * torch.randn(picture.shape, generator=random)).clamp(0, 255)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_a_cut_triggers_once(seed, noise):
    one, other = scene(2 * seed), scene(2 * seed + 1)
    frames = [noisy(picture, noise, i) for i, picture in enumerate([one] * 6 + [other] * 12)]
    assert triggers(frames) == [6]


def test_cuts_that_follow_each_other():
    frames = [scene(seed) for seed in (0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4)]
    assert triggers(frames) == [1, 3, 6, 10]


@pytest.mark.parametrize("noise", [3.0, 30.0])
def test_noise_does_not(noise):
    assert triggers([noisy(scene(0), noise, seed) for seed in range(40)]) == []


@pytest.mark.parametrize("step", [1, 4, 12])
def test_a_pan_does_not(step):
    """Up to a twentieth of the picture a frame, and from a stand."""
    wide = scene(5, (180, 720))
    starts = [0] * 10 + list(range(0, 720 - 240, step))[:40]
    assert triggers([wide[:, :, x : x + 240] for x in starts]) == []


def test_a_large_object_does_not():
    """It comes all at once and fills two fifths of the picture."""
    other = scene(9)
    frames = [scene(0) for _ in range(12)]
    for frame in frames[6:]:
        frame[:, 30:, 60:180] = other[:, 30:, 60:180]
    assert triggers(frames) == []


@pytest.mark.parametrize("factor", [0.4, 0.7, 1.4, 2.0])
def test_a_sudden_change_of_light_triggers_once(factor):
    dull = scene(3) * 0.6
    lit = (dull * factor).clamp(0, 255)
    assert triggers([dull] * 8 + [lit] * 12) == [8]


def test_a_flash_triggers_as_it_comes_and_as_it_goes():
    dull = scene(3) * 0.6
    assert triggers([dull] * 8 + [dull * 2] + [dull] * 12) == [8, 9]


def test_light_that_flickers_all_the_time_is_usual_after_a_while():
    dull = scene(3) * 0.6
    found = triggers([dull, dull * 1.5] * 30)
    assert found and max(found) < 10


def test_fades_and_dissolves_do_not():
    one, other = scene(0), scene(1)
    shares = torch.linspace(0, 1, 25).tolist()
    assert triggers([one] * 5 + [one * (1 - share) for share in shares]) == []
    assert triggers([one] * 5 + [one.lerp(other, share) for share in shares] + [other] * 5) == []


def test_padding_does_not_count():
    """A picture that fills 40 % of a square network input."""
    frames = [F.pad(scene(seed), (0, 0, 0, 270), value=114.0) for seed in (0, 0, 0, 1, 1, 1)]
    assert triggers(frames) == [3]


@pytest.mark.parametrize("size", [(5, 7), (3, 2), (47, 49), (48, 48), (500, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_of_any_size_and_dtype(size, dtype):
    random = torch.Generator().manual_seed(0)
    dark = torch.rand(3, *size, generator=random)
    frames = [(frame * 200).to(dtype) for frame in (dark, dark, dark + 5, dark + 5)]
    assert triggers(frames) == [2]


def test_black_pictures_are_no_cut():
    black = torch.zeros(3, *SIZE)
    assert triggers([black] * 4) == []
    assert triggers([black] * 4 + [scene(0)] * 3 + [black] * 3) == [4, 7]


def test_streams_are_told_apart_and_change_places():
    a, b, c = scene(0), scene(1), scene(2)
    frames = [torch.stack(pair) for pair in ((a, b), (b, a), (a, c), (c, a))] + [a[None], b[None]]
    streams = ["ab", "ba", "ab", "ba", "a", "b"]
    assert triggers(frames, streams=streams) == [(2, "b"), (5, "b")]


def test_options():
    frames = [scene(0)] * 4 + [scene(0) * 0.97] * 4
    assert triggers(frames) == []
    assert triggers(frames, SceneCut(threshold=0.02)) == [4]
    assert triggers([scene(0)] * 4 + [scene(1)] * 4, SceneCut(threshold=5)) == []
