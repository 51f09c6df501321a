"""sample_picture against hand-computed cases and a plain mean over the rows read, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.ops.reduce_picture import reduce_picture
from blockcopy_plugins.ops.sample_picture import sample_picture


def _whole(function):
    """The picture of all squares that the frame has, and no more."""

    def run(frame, side, step):
        size = [-(-length // max(side, 1)) for length in frame.shape[-2:]]
        return function(frame, side, step, size)

    return run


IMPLEMENTATIONS = [
    pytest.param(_whole(sample_picture), id="op"),
    pytest.param(_whole(sample_picture.reference), id="twin"),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def definition(frame, side, step):
    """Each square by itself; the last row of the frame stands for those below it."""
    _, _, height, width = frame.shape
    out = []
    for top in range(0, height, side):
        rows = [min(top + step // 2 + i * step, height - 1) for i in range(side // step)]
        read = F.pad(frame[:, :, rows].double(), (0, -width % side), value=math.nan)
        out.append(read.unflatten(3, (-1, side)).nanmean((2, 4)))
    return torch.stack(out, 2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_computed(implementation):
    frame = torch.tensor([[9.0, 9, 9], [1, 3, 5], [9, 9, 9], [5, 7, 6], [2, 4, 8]])[None, None]
    # Rows 1 and 3 of the first square; of the second row 5 is outside: row 4 stands for it.
    assert implementation(frame, 2, 2).tolist() == [[[[2, 5], [6, 6], [3, 8]]]]
    # Rows 1 and 3; then rows 5 and 7, both of them row 4.
    torch.testing.assert_close(implementation(frame, 4, 2), torch.tensor([[[[27 / 6], [14 / 3]]]]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("shape", "side", "step"),
    [
        ((2, 3, 32, 48), 8, 2),
        ((2, 3, 33, 46), 8, 2),
        ((1, 3, 36, 40), 8, 4),
        ((1, 3, 17, 40), 16, 4),
        ((1, 1, 9, 9), 4, 4),
        ((2, 19, 11, 13), 2, 2),
        ((1, 4, 7, 5), 3, 3),
        ((1, 3, 5, 2), 8, 2),
        ((1, 3, 9, 2900), 8, 2),  # more than one strip of a row
    ],
)
def test_any_layout_dtype_and_size(implementation, layout, dtype, shape, side, step):
    frame = torch.randn(shape, dtype=torch.float64).to(dtype).contiguous(memory_format=layout)
    out = implementation(frame, side, step)
    assert out.dtype == torch.float32 and out.is_contiguous()
    torch.testing.assert_close(out.double(), definition(frame, side, step), atol=2e-6, rtol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_of_one_reads_all(implementation, layout):
    frame = torch.randn(1, 3, 40, 56).contiguous(memory_format=layout)
    torch.testing.assert_close(implementation(frame, 8, 1), reduce_picture(frame, 8))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_finite_shows_where_it_is_read(implementation, layout):
    frame = torch.zeros(1, 3, 64, 64)
    frame[0, 1, 37, 18] = math.nan  # read
    frame[0, 2, 20, 50] = math.inf  # not read
    bad = ~implementation(frame.contiguous(memory_format=layout), 8, 2).isfinite()
    assert bad.nonzero().tolist() == [[0, 1, 4, 2]]


@pytest.mark.parametrize("function", [sample_picture, sample_picture.reference])
def test_squares_outside_repeat_the_nearest_inside(function):
    frame = torch.randn(2, 3, 20, 12)
    small, large = function(frame, 4, 2, (5, 3)), function(frame, 4, 2, (7, 8))
    rows, columns = torch.arange(7).clamp_max(4), torch.arange(8).clamp_max(2)
    assert torch.equal(large, small[:, :, rows][..., columns])
    with pytest.raises(ValueError, match="size is"):
        function(frame, 4, 2, (7, 2))
    with pytest.raises(ValueError, match="empty frame"):
        function(frame[:, :, :0], 4, 2, (7, 3))
    assert function(frame[:0], 4, 2, (7, 3)).shape == (0, 3, 7, 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    frame = torch.zeros(1, 3, 8, 8)
    for bad in ((frame[0], 4, 2), (frame, 0, 1), (frame, 4, 3), (frame, 4, 0)):
        with pytest.raises(ValueError, match=r"4-D|side is 0|step is"):
            implementation(*bad)
    with pytest.raises(TypeError, match="floating point"):
        implementation(frame.long(), 4, 2)
    with pytest.raises(RuntimeError, match="no backward"):
        implementation(frame.clone().requires_grad_(), 4, 2)


def test_the_operator_is_well_registered():
    frame = torch.randn(2, 3, 20, 12)
    torch.library.opcheck(torch.ops.blockcopy.sample_picture.default, (frame, 8, 2, [4, 4]))
