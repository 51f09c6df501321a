"""The gain policy with native operators against the same policy with their twins."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.ops import block_gain, merge_picture, pick_blocks, ridge, sample_picture
from blockcopy_plugins.ops import softmax_change as softmax
from blockcopy_plugins.policy import GainPolicy, Geometry, PolicyContext, SemanticGain
from blockcopy_plugins.policy.gain.memory import OUTPUT, OUTPUT_PEAK
from blockcopy_plugins.policy.information_gain.samples import OutputSamples

SIZE, HEIGHT, WIDTH = 64, 240, 370  # the last blocks are cut


@pytest.fixture
def use_twins(monkeypatch):
    """Return a function after which the policy runs on the twins."""

    def predict(*arguments):
        return block_gain.Prediction(*block_gain.predict_gain_reference(*arguments))

    def pick(*arguments):
        return pick_blocks.pick_blocks.reference(*arguments, tie=1e-3)

    gain, information = "blockcopy_plugins.policy.gain", "blockcopy_plugins.policy.information_gain"
    twins = {
        f"{gain}.look.predict_gain": predict,
        f"{gain}.seen_outputs.remember_gain": block_gain.remember_gain.reference,
        f"{gain}.gain_policy.merge_picture": merge_picture.merge_picture.reference,
        f"{gain}.gain_policy.pick_blocks": pick,
        f"{gain}.ridge.ridge_sums": ridge.ridge_sums.reference,
        f"{gain}.ridge.ridge_weights": ridge.ridge_weights.reference,
        "blockcopy_plugins.policy.picture.sample_picture": sample_picture.sample_picture.reference,
        f"{information}.dense.softmax_change": softmax.softmax_change.reference,
        f"{information}.dense.keep_softmax_": softmax.keep_softmax_.reference,
    }

    def use():
        for name, twin in twins.items():
            monkeypatch.setattr(name, twin)

    return use


def stream(seed, frames, kind):
    """Frames ``(1, 3, H, W)`` with things that move, and the outputs that show them.

    The camera moves too where the seed is odd.
    """
    draw = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=draw)

    texture = torch.nn.functional.interpolate(random(1, 3, 40, 60), (HEIGHT, WIDTH))
    places = torch.rand(5, 2, generator=draw) * torch.tensor([HEIGHT - 40.0, WIDTH - 40.0])
    speeds = 4 * random(5, 2)
    for index in range(frames):
        frame = texture.roll(seed % 2 * 3 * index, 3) + 0.02 * random(1, 3, HEIGHT, WIDTH)
        classes = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
        for number, (y, x) in enumerate((places + index * speeds).long().tolist()):
            y, x = y % (HEIGHT - 40), x % (WIDTH - 40)
            frame[..., y : y + 40, x : x + 40] = number / 2 - 1
            classes[y : y + 40, x : x + 40] = number + 1
        logits = 6 * torch.nn.functional.one_hot(classes, 6).permute(2, 0, 1).float()
        stride = {"coarse": 8, "fine": 1, "channels last": 4}[kind]
        logits = torch.nn.functional.avg_pool2d(logits, stride, ceil_mode=True)
        logits += 0.2 * random(*logits.shape)
        if kind == "channels last":
            logits = logits[None].contiguous(memory_format=torch.channels_last)[0]
        yield frame, logits


def play(seed, kind, frames=30):
    """Grids, scores and what was learned."""
    policy, grids, scores = GainPolicy(0.3, per_frame=seed % 3 == 0), [], []
    shape = (1, -(-HEIGHT // SIZE), -(-WIDTH // SIZE))
    standing, last = None, torch.zeros(shape, dtype=torch.bool)
    for index, (frame, logits) in enumerate(stream(seed, frames, kind)):
        first = torch.tensor([index == 0])
        context = PolicyContext(("cam",), shape, SIZE, first, (index,), last)
        last = policy.select(frame, context) | first[:, None, None]
        found = policy.scores(frame, context)
        if standing is None:
            standing = logits
        else:
            rows = torch.arange(logits.shape[1]) * HEIGHT // logits.shape[1] // SIZE
            columns = torch.arange(logits.shape[2]) * WIDTH // logits.shape[2] // SIZE
            standing = torch.where(last[0][rows][:, columns], logits, standing)
        policy.feedback(frame, last, [standing], context)
        grids.append(last)
        scores.append(torch.zeros(shape) if found is None else found)
    return torch.stack(grids), torch.stack(scores), policy


@pytest.mark.parametrize("kind", ["coarse", "fine", "channels last"])
@pytest.mark.parametrize("seed", range(6))
def test_both_decide_alike(use_twins, seed, kind):
    grids, scores, policy = play(seed, kind)
    use_twins()
    twin_grids, twin_scores, twin = play(seed, kind)
    assert torch.equal(grids, twin_grids)
    torch.testing.assert_close(scores, twin_scores, rtol=1e-3, atol=1e-5)
    state, other = policy.state_dict(), twin.state_dict()
    for name in ("products", "targets"):
        torch.testing.assert_close(state[name], other[name], rtol=1e-4, atol=1e-2)
    memory, other = policy._memories["cam"], twin._memories["cam"]
    torch.testing.assert_close(memory.picture, other.picture, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(memory.maps, other.maps, rtol=1e-3, atol=1e-3)
    assert 0.2 < grids[1:].float().mean() < 0.4


def test_what_is_known_of_an_output_is_that_which_stands():
    """Of blocks that ran what is new, of the others what was: together that of the whole output."""
    size, grid = (256, 384), (4, 6)
    geometry, shape = Geometry(size, grid, SIZE), (1, *grid)
    policy, gain = GainPolicy(0.3, per_frame=True), SemanticGain()
    last = standing = None
    for index in range(4):
        frame, logits = torch.randn(1, 3, *size), torch.randn(5, 32, 48)
        first = torch.tensor([index == 0])
        last = torch.zeros(shape, dtype=torch.bool) if last is None else last
        context = PolicyContext(("cam",), shape, SIZE, first, (index,), last)
        last = policy.select(frame, context) | first[:, None, None]
        executed = last[0].repeat_interleave(8, 0).repeat_interleave(8, 1)
        standing = logits if standing is None else torch.where(executed, logits, standing)
        policy.feedback(frame, last, [standing], context)
        shown = gain.output_map(gain.summarise(standing, geometry), geometry)
        shown = shown.unflatten(1, (-1, 16)).unflatten(0, (-1, 16))
        maps = policy._memories["cam"].maps
        torch.testing.assert_close(maps[OUTPUT], shown.mean((1, 3)))
        torch.testing.assert_close(maps[OUTPUT_PEAK], shown.amax((1, 3)))
    assert 0 < last.sum() < 24


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("size", [(256, 384), (240, 368)])
def test_the_change_of_executed_blocks_is_that_of_the_whole_output(stride, size):
    """Summaries of the whole output, which the paper's policy compares, know nothing of a grid."""
    grid = torch.rand(-(-size[0] // SIZE), -(-size[1] // SIZE)) > 0.5
    geometry = Geometry(size, tuple(grid.shape), SIZE)
    shape = (7, size[0] // stride, size[1] // stride)
    before, now = 3 * torch.randn(2, *shape)
    gain = SemanticGain()
    kept = gain.change(None, before, torch.ones_like(grid), geometry).keep()
    torch.testing.assert_close(kept, gain.summarise(before, geometry))
    change = gain.change(kept, now, grid, geometry)
    assert not change.everywhere
    whole = gain(before, now, geometry)
    torch.testing.assert_close(change.gain[grid], whole[grid], atol=2e-6, rtol=1e-5)
    cells = grid.repeat_interleave(SIZE // stride, 0).repeat_interleave(SIZE // stride, 1)
    cells = cells[: shape[1], : shape[2]]
    expected = torch.where(cells, now.log_softmax(0), before.log_softmax(0))
    torch.testing.assert_close(change.keep(), expected)


def test_until_it_is_kept_nothing_is_written():
    geometry, grid = Geometry((128, 128), (2, 2), SIZE), torch.eye(2).bool()
    gain = SemanticGain()
    kept = gain.change(None, torch.randn(3, 32, 32), torch.ones_like(grid), geometry).keep()
    before = kept.clone()
    change = gain.change(kept, torch.randn(3, 32, 32), grid, geometry)
    assert torch.equal(kept, before)
    change.keep()
    assert not torch.equal(kept, before)


@pytest.mark.parametrize("side", [128, 100, 90, 854])
@pytest.mark.parametrize("resolution", [1, 7, 16, 23, 64, 100, 128, 427])
def test_a_pixel_lies_where_its_cell_does(side, resolution):
    size = (side, side)
    blocks = -(-side // SIZE)
    geometry = Geometry(size, (blocks, blocks), SIZE)
    samples = OutputSamples(torch.zeros(2, resolution, resolution), geometry)
    inside = -(-side // 4)  # cells of 4 px
    pixels = len(samples.rows)
    assert pixels == min(resolution, inside)
    for cell in range(16 * blocks):
        values = samples.rows[samples.cell_rows[cell]].tolist()
        centre = min(4 * cell + 2, side - 1) * resolution / side
        for value in values:
            # Within half a cell, or a value, of the cell's centre.
            reach = max(2 * resolution / side, 1) + 1e-6
            assert abs(value + 0.5 - centre) <= reach + 0.5
    # Nothing is left out where the output is no more than twice as fine.
    if resolution <= 2 * inside and side % 4 == 0 and resolution % pixels == 0:
        assert samples.rows.unique().tolist() == list(range(resolution))
