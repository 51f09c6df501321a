"""batch_pictures beside the ops of a preprocessor, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.ops.batch_pictures import batch_pictures

IMPLEMENTATIONS = [
    pytest.param(batch_pictures, id="op"),
    pytest.param(batch_pictures.reference, id="twin"),
]
MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
DEVIATION = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


def pictures(*sizes, channels=3):
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (channels, *size), dtype=torch.uint8, generator=draw)
        for size in sizes
    ]


def tables(channels=3):
    bytes_ = torch.arange(256.0).expand(channels, 1, 256)
    return ((bytes_ - MEAN[:channels]) / DEVIATION[:channels])[:, 0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["planes", "pixels", "part"])
@pytest.mark.parametrize("sizes", [[(7, 9)], [(64, 80), (50, 33)], [(1, 1), (3, 1), (1, 5)]])
def test_is_what_a_preprocessor_makes(implementation, layout, sizes):
    given = pictures(*sizes)
    if layout == "pixels":
        given = [x.permute(1, 2, 0).contiguous().permute(2, 0, 1) for x in given]
    if layout == "part":
        given = [F.pad(x, (1, 1, 2, 0))[:, 2:, 1:-1] for x in given]
    height, width = 64, 81
    found = implementation(given, tables(), [2, 1, 0], height, width, 0.25)
    for picture, one in zip(given, found, strict=True):
        wanted = (picture[[2, 1, 0]].float() - MEAN) / DEVIATION
        pad = (0, width - picture.shape[2], 0, height - picture.shape[1])
        assert torch.equal(one, F.pad(wanted, pad, value=0.25))
    assert found.is_contiguous()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_channels_may_be_left_out_and_repeated(implementation):
    (picture,) = pictures((4, 5), channels=2)
    found = implementation([picture], tables(), [1, 1, 0], 4, 5, 0.0)[0]
    assert torch.equal(found, (picture[[1, 1, 0]].float() - MEAN) / DEVIATION)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_is_of_no_size(implementation):
    assert implementation(pictures((0, 5)), tables(), [0, 1, 2], 0, 5, 0.0).shape == (1, 3, 0, 5)
    assert implementation(pictures((4, 0)), tables(), [0, 1, 2], 4, 2, 3.0).unique().tolist() == [3]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    (picture,) = pictures((4, 5))
    for bad in (
        ([], tables(), [0, 1, 2], 4, 5),
        ([picture], tables(), [0, 1], 4, 5),
        ([picture], tables()[:, :255], [0, 1, 2], 4, 5),
        ([picture], tables(), [0, 1, 2], 3, 5),
        ([picture], tables(), [0, 1, 2], 4, 4),
        ([picture[0]], tables(), [0, 1, 2], 4, 5),
    ):
        with pytest.raises(ValueError, match="batch_pictures"):
            implementation(*bad, 0.0)
    with pytest.raises(TypeError, match="uint8"):
        implementation([picture.float()], tables(), [0, 1, 2], 4, 5, 0.0)
    with pytest.raises(TypeError, match="float32"):
        implementation([picture], tables().double(), [0, 1, 2], 4, 5, 0.0)
    for channel in (-1, 3):
        with pytest.raises(IndexError, match=f"channel {channel}"):
            implementation([picture], tables(), [0, 1, channel], 4, 5, 0.0)


def test_the_operator_is_well_registered():
    arguments = (pictures((5, 7), (4, 3)), tables(), [2, 1, 0], 6, 8, 1.0)
    torch.library.opcheck(torch.ops.blockcopy.batch_pictures.default, arguments)
