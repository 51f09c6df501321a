"""roi_align, sample by sample in plain Python, and beside mmcv's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops.roi_align import roi_align

IMPLEMENTATIONS = [
    pytest.param(roi_align, id="op"),
    pytest.param(roi_align.reference, id="twin"),
]


def sample(map_, y, x):
    """A bilinear sample of ``(C, H, W)``; zeros more than a pixel outside."""
    height, width = map_.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(map_), dtype=torch.float64)
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    down = 0.0 if top == height - 1 else y - top
    right = 0.0 if left == width - 1 else x - left
    low, beside = min(top + 1, height - 1), min(left + 1, width - 1)
    return (
        (1 - down) * (1 - right) * map_[:, top, left]
        + (1 - down) * right * map_[:, top, beside]
        + down * (1 - right) * map_[:, low, left]
        + down * right * map_[:, low, beside]
    )


def by_hand(map_, roi, size, scale, sampling, aligned):
    """One region ``(C, *size)``, in double precision."""
    image = map_[int(roi[0])].double()
    left, top, right, bottom = (float(v) * scale - (0.5 if aligned else 0.0) for v in roi[1:])
    height, width = bottom - top, right - left
    if not aligned:
        height, width = max(height, 1.0), max(width, 1.0)
    out = torch.zeros(len(image), *size, dtype=torch.float64)
    down, across = height / size[0], width / size[1]
    samples = [sampling or math.ceil(side) for side in (down, across)]
    for r in range(size[0]):
        for c in range(size[1]):
            for i in range(samples[0]):
                for j in range(samples[1]):
                    y = top + (r + (i + 0.5) / samples[0]) * down
                    x = left + (c + (j + 0.5) / samples[1]) * across
                    out[:, r, c] += sample(image, y, x) / (samples[0] * samples[1])
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels", [1, 24, 150])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_each_bin_is_the_mean_of_its_samples(implementation, channels, sampling, aligned):
    draw = torch.Generator().manual_seed(channels)
    map_ = torch.randn(2, channels, 9, 13, generator=draw)
    # In eighths, so that no side of a bin is rounded to another number of samples.
    rois = torch.tensor(
        [
            [0, 8.25, 4.5, 40.25, 24.5],
            [1, -30.0, -12.0, 9.0, 20.0],  # over the upper left corner
            [1, 30.0, 20.0, 90.0, 70.0],  # over the lower right one
            [0, 200.0, 200.0, 220.0, 230.0],  # outside
            [0, 11.0, 7.0, 11.0, 15.0],  # without an area
            [0, 40.0, 24.0, 8.0, 6.0],  # inside out
            [1, 0.0, 0.0, 52.0, 36.0],  # all of it
        ]
    )
    got = implementation(map_, rois, (3, 5), 0.25, sampling, aligned)
    assert got.shape == (7, channels, 3, 5) and got.is_contiguous()
    for found, roi in zip(got, rois, strict=True):
        wanted = by_hand(map_, roi, (3, 5), 0.25, sampling, aligned)
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


@given(
    left=st.floats(-60, 120), top=st.floats(-60, 120), width=st.floats(0, 300),
    height=st.floats(0, 300), sampling=st.sampled_from([0, 1, 3]), aligned=st.booleans(),
    wide=st.integers(1, 20), tall=st.integers(1, 20),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_op_and_twin_are_one(left, top, width, height, sampling, aligned, wide, tall):
    map_ = torch.linspace(-1, 1, 40 * tall * wide).view(1, 40, tall, wide)
    rois = torch.tensor([[0, left, top, left + width, top + height]])
    got = roi_align(map_, rois, (4, 2), 0.25, sampling, aligned)
    wanted = roi_align.reference(map_, rois, (4, 2), 0.25, sampling, aligned)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
def test_it_is_mmcvs(aligned, sampling):
    ops = pytest.importorskip("mmcv.ops", reason="the layer to compare with is mmcv's")
    draw = torch.Generator().manual_seed(0)
    map_ = torch.randn(2, 80, 40, 60, generator=draw)
    corner = torch.rand(300, 2, generator=draw) * torch.tensor([280.0, 200.0]) - 30
    side = 200 * torch.rand(300, 2, generator=draw) ** 3
    image = torch.randint(0, 2, (300, 1), generator=draw).float()
    rois = torch.cat([image, corner, corner + side], 1)
    layer = ops.RoIAlign((7, 7), 0.25, sampling, "avg", aligned)
    form = torch.channels_last
    got = roi_align(map_.contiguous(memory_format=form), rois, (7, 7), 0.25, sampling, aligned)
    torch.testing.assert_close(got, layer(map_, rois), atol=5e-6, rtol=0)


def test_sums_of_bfloat16_are_float32():
    map_ = torch.randn(1, 150, 20, 20).bfloat16()
    rois = torch.tensor([[0, 3.0, 5.0, 70.0, 66.0]])
    got = roi_align(map_, rois, (7, 7), 0.25, 0, True)
    wanted = roi_align(map_.float(), rois, (7, 7), 0.25, 0, True)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, wanted.bfloat16())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_no_region_gives_zeros(implementation):
    map_ = torch.ones(1, 3, 8, 8)
    nan, infinity = float("nan"), float("inf")
    rois = torch.tensor([[0, nan, 0, 8, 8], [0, 0, 0, infinity, 8], [0, 0, -infinity, 4, 4]])
    assert not implementation(map_, rois, (2, 2), 1.0, 0, True).any()


def test_a_region_of_any_size_takes_no_longer():
    """Samples far outside are not gone through: there would be 10^8 squared of them."""
    rois = torch.tensor([[0, -1e9, -1e9, 1e9, 1e9]])
    got = roi_align(torch.ones(1, 3, 8, 8), rois, (7, 7), 1.0, 0, True)
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(map=torch.ones(3, 8, 8)), ValueError, r"\(N, C, H, W\)"),
        (dict(rois=torch.ones(2, 4)), ValueError, r"\(K, 5\)"),
        (dict(size=(0, 7)), ValueError, "above 0"),
        (dict(map=torch.ones(1, 3, 8, 8).double()), TypeError, "float32 or"),
        (dict(rois=torch.ones(2, 5).half()), TypeError, "float32"),
        (dict(rois=torch.tensor([[1.0, 0, 0, 4, 4]])), IndexError, "image 1, expected 0 to 0"),
        (dict(rois=torch.tensor([[-1.0, 0, 0, 4, 4]])), IndexError, "image -1"),
    ],
)
def test_what_does_not_fit_is_named(implementation, change, error, message):
    given = dict(map=torch.ones(1, 3, 8, 8), rois=torch.zeros(0, 5), size=(7, 7)) | change
    with pytest.raises(error, match=message):
        implementation(*given.values(), 0.25, 0, True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_there_are_no_gradients(implementation):
    map_ = torch.ones(1, 3, 8, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="grad"):
        implementation(map_, torch.zeros(1, 5), (7, 7), 0.25, 0, True)


def test_opcheck():
    map_ = torch.randn(1, 20, 8, 8).to(memory_format=torch.channels_last)
    rois = torch.tensor([[0, 1.0, 2.0, 20.0, 30.0]])
    torch.library.opcheck(
        torch.ops.blockcopy.roi_align.default, (map_, rois, [3, 5], 0.25, 0, True)
    )
