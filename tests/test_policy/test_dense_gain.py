from __future__ import annotations

import math

import pytest
import torch

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import FeatureChange, Geometry, SemanticGain
from blockcopy_plugins.policy.information_gain import AutoGain, build_information_gain
from blockcopy_plugins.policy.information_gain.dense import to_cells

GEOMETRY = Geometry(size=(128, 192), grid=(2, 3), block_size=64)


def _kl(new, previous):
    return sum(
        p * math.log(p / q)
        for p, q in zip(new.softmax(0).tolist(), previous.softmax(0).tolist(), strict=True)
    )


@pytest.mark.parametrize("stride", [1, 4, 8, 32])
def test_kl_divergence_of_a_block_that_changed(stride):
    before, after = torch.tensor([1.0, 0.2, -0.5]), torch.tensor([0.3, 0.9, -0.1])
    previous = before[:, None, None].expand(3, 128 // stride, 192 // stride).clone()
    current = previous.clone()
    side = 64 // stride
    current[:, side:, side : 2 * side] = after[:, None, None]
    gain = SemanticGain()(previous, current, GEOMETRY)
    expected = torch.zeros(2, 3)
    expected[1, 1] = _kl(after, before)
    assert expected.sum() > 0.05
    torch.testing.assert_close(gain, expected, atol=1e-6, rtol=0)


def test_the_divergence_is_that_of_the_new_from_the_previous():
    previous = torch.tensor([4.0, 0.0])[:, None, None].expand(2, 128, 192)
    current = torch.tensor([0.0, 0.0])[:, None, None].expand(2, 128, 192)
    there = float(SemanticGain(clip=100)(previous, current, GEOMETRY)[0, 0])
    back = float(SemanticGain(clip=100)(current, previous, GEOMETRY)[0, 0])
    assert there == pytest.approx(_kl(current[:, 0, 0], previous[:, 0, 0]), rel=1e-5)
    assert back == pytest.approx(_kl(previous[:, 0, 0], current[:, 0, 0]), rel=1e-5)
    assert there != pytest.approx(back, rel=0.1)


def test_the_largest_sixteenth_decides_and_is_clipped():
    previous = torch.zeros(2, 128, 192)
    previous[0] = 1.0
    current = previous.clone()
    current[:, 16:32, 80:88] = torch.tensor([0.0, 0.5])[:, None, None]  # half of one sixteenth
    gain = SemanticGain()(previous, current, GEOMETRY)
    expected = torch.zeros(2, 3)
    expected[0, 1] = _kl(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.0])) / 2
    torch.testing.assert_close(gain, expected, atol=1e-6, rtol=0)
    current[:, 16:32, 80:96] = torch.tensor([-50.0, 50.0])[:, None, None]
    assert SemanticGain()(previous, current, GEOMETRY)[0, 1] == 1.0
    assert SemanticGain(clip=0.25)(previous, current, GEOMETRY)[0, 1] == 0.25


def test_sure_logits_stay_finite():
    previous = torch.tensor([1e4, -1e4])[:, None, None].expand(2, 128, 192)
    gain = SemanticGain()(previous, -previous, GEOMETRY)
    assert (gain == 1).all()
    assert (SemanticGain()(previous, previous, GEOMETRY) == 0).all()


def test_one_channel_is_foreground_against_background():
    previous, current = torch.full((1, 16, 24), 0.5), torch.full((1, 16, 24), -0.7)
    gain = SemanticGain()(previous, current, GEOMETRY)
    expected = _kl(torch.tensor([-0.7, 0.0]), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(gain, torch.full((2, 3), expected))


def test_output_map_is_the_doubt():
    logits = torch.tensor([2.0, 0.0, 0.0])[:, None, None].expand(3, 16, 24)
    gain = SemanticGain()
    doubt = gain.output_map(gain.summarise(logits, GEOMETRY), GEOMETRY)
    assert doubt.shape == (32, 48)
    top = math.exp(2) / (math.exp(2) + 2)
    torch.testing.assert_close(doubt, torch.full((32, 48), 1 - top))


def test_features_change_relative_to_their_size():
    previous = torch.ones(5, 16, 24)
    current = previous.clone()
    current[:, :8, :8] = 3.0  # |3 - 1| / (3 + 1)
    current[:, 8:, 16:] = 0.0  # all of it went
    gain = FeatureChange()(previous, current, GEOMETRY)
    torch.testing.assert_close(gain, torch.tensor([[0.5, 0, 0], [0, 0, 1.0]]))
    zeros = torch.zeros(5, 16, 24)
    assert (FeatureChange()(zeros, zeros, GEOMETRY) == 0).all()
    shown = FeatureChange().output_map(FeatureChange().summarise(current, GEOMETRY), GEOMETRY)
    assert shown.max() == 1 and shown.min() == 0


@pytest.mark.parametrize("resolution", [(100, 150), (50, 75), (13, 19), (7, 10), (2, 2), (1, 1)])
def test_to_cells_keeps_places(resolution):
    """A ramp over the image must come out as the ramp at the cells' centres."""
    geometry = Geometry(size=(100, 150), grid=(2, 3), block_size=64)
    height, width = resolution
    rows = ((torch.arange(height) + 0.5) * 100 / height)[:, None].expand(height, width)
    columns = ((torch.arange(width) + 0.5) * 150 / width)[None].expand(height, width)
    cells = to_cells(torch.stack((rows, columns)), geometry)
    assert cells.shape == (2, 32, 48)
    centres = (torch.arange(48) + 0.5) * 4
    # Off by no more than half a source pixel, or the pooling's misfit of half a cell.
    slack = [max(100 / height / 2, 4) + 1e-3, max(150 / width / 2, 4) + 1e-3]
    assert (cells[0] - centres[:32].clamp_max(100)[:, None]).abs().max() <= slack[0]
    assert (cells[1] - centres.clamp_max(150)[None]).abs().max() <= slack[1]


@pytest.mark.parametrize("side", [128, 127, 126, 125])
def test_a_cell_takes_the_value_at_its_centre_also_where_the_last_cell_is_cut(side):
    geometry = Geometry(size=(side, side), grid=(2, 2), block_size=64)
    values = torch.arange(32.0).expand(1, 32, 32)
    centres = ((torch.arange(32) + 0.5) * 4).clamp_max(side - 0.5)
    expected = (centres * 32 / side).floor()
    cells = to_cells(values, geometry)
    assert torch.equal(cells[0], expected.expand(32, 32))
    assert torch.equal(to_cells(values.mT, geometry)[0], expected[:, None].expand(32, 32))


def test_summaries_share_no_memory_with_the_output():
    logits = torch.rand(3, 32, 48)
    kept = FeatureChange().summarise(logits, GEOMETRY)
    copy = kept.clone()
    logits.zero_()
    assert torch.equal(kept, copy) and copy.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_dtype(dtype):
    previous, current = torch.randn(3, 16, 24).to(dtype), torch.randn(3, 16, 24).to(dtype)
    gain = SemanticGain()(previous, current, GEOMETRY)
    assert gain.dtype == torch.float32
    torch.testing.assert_close(
        gain, SemanticGain()(previous.float(), current.float(), GEOMETRY), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "output",
    [torch.zeros(1, 3, 4, 5), torch.zeros(3, 4, 5, dtype=torch.int64), "logits"],
)
def test_no_dense_output(output):
    with pytest.raises(FrameError, match=r"\(C, h, w\)"):
        SemanticGain().summarise(output, GEOMETRY)


def test_nan_and_another_number_of_classes_raise():
    with pytest.raises(FrameError, match="NaN"):
        SemanticGain().summarise(torch.full((3, 4, 5), float("nan")), GEOMETRY)
    with pytest.raises(FrameError, match="3 channel.* now has 4"):
        SemanticGain()(torch.zeros(3, 16, 24), torch.zeros(4, 16, 24), GEOMETRY)
    with pytest.raises(ConfigError, match="clip"):
        SemanticGain(clip=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(128, 192), (90, 101), (32, 48), (16, 24)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_raises(value, size, dtype):
    logits = torch.randn(3, *size).to(dtype)
    logits[1, 7, 11] = value
    with pytest.raises(FrameError, match="NaN or infinity"):
        SemanticGain().summarise(logits, GEOMETRY)


def test_huge_values_are_finite_even_if_their_sum_is_not():
    logits = torch.full((3, 32, 48), 3e38)
    assert torch.isfinite(SemanticGain().summarise(logits, GEOMETRY)).all()


def test_auto_picks_by_what_it_gets(detections):
    auto = AutoGain()
    boxes = detections([(0, 0, 20, 20, 0.5, 0)], (128, 192)), detections([], (128, 192))
    assert auto(*boxes, GEOMETRY).tolist() == [[0.5, 0, 0], [0, 0, 0]]
    logits = torch.randn(3, 16, 24), torch.randn(3, 16, 24)
    assert torch.equal(auto(*logits, GEOMETRY), SemanticGain()(*logits, GEOMETRY))
    with pytest.raises(FrameError, match="detection and is now semantic"):
        auto(boxes[0], logits[0], GEOMETRY)
    with pytest.raises(FrameError, match="task output"):
        auto.summarise(None, GEOMETRY)


def test_build_information_gain():
    own = FeatureChange()
    assert build_information_gain(own) is own
    assert isinstance(build_information_gain("features"), FeatureChange)
    assert build_information_gain(dict(type="semantic", clip=0.5)).clip == 0.5
    for wrong in ("boxes", 3, dict(clip=1), dict(type="semantic", cut=1), dict(type=3)):
        with pytest.raises(ConfigError, match="information_gain"):
            build_information_gain(wrong)


def test_an_output_may_change_its_resolution():
    """Repeated to twice its resolution, the same output is the same: no gain, and that by hand."""
    torch.manual_seed(0)
    size = tuple(side // 8 for side in GEOMETRY.size)
    previous = torch.randn(3, *size)
    finer = previous.repeat_interleave(2, 1).repeat_interleave(2, 2)
    gain = SemanticGain()
    assert gain(previous, finer, GEOMETRY).abs().max() < 1e-6
    other = torch.randn(3, *size)
    expected = gain(previous, other, GEOMETRY)
    assert torch.allclose(gain(finer, other, GEOMETRY), expected, atol=1e-6)
