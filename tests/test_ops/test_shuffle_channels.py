"""shuffle_channels against each channel's place, counted by hand."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.ops.shuffle_channels import shuffle_channels

RUNS = [
    pytest.param(shuffle_channels, id="op"),
    pytest.param(shuffle_channels.reference, id="twin"),
]
LAST = torch.channels_last


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.int64], ids=str
)
@pytest.mark.parametrize(
    ("channels", "groups"), [(116, 2), (2, 2), (58, 2), (12, 3), (5, 1), (7, 7)]
)
@pytest.mark.parametrize("run", RUNS)
def test_each_channel_is_where_it_belongs(run, channels, groups, dtype):
    map_ = torch.arange(2 * channels * 15).view(2, channels, 3, 5).remainder(251)
    map_ = map_.to(dtype).contiguous(memory_format=LAST)
    found = run(map_, groups)
    assert found.is_contiguous(memory_format=LAST) and found.dtype == dtype
    for place in range(channels):
        group, member = place % groups, place // groups
        assert torch.equal(found[:, place], map_[:, group * (channels // groups) + member])


MAP = torch.zeros(2, 4, 3, 5).contiguous(memory_format=LAST)
ERRORS = {
    "groups that do not divide": (ValueError, (MAP, 3)),
    "no groups": (ValueError, (MAP, 0)),
    "planes": (ValueError, (MAP.contiguous(), 2)),
    "three dimensions": (ValueError, (MAP[0], 2)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    error, arguments = ERRORS[name]
    with pytest.raises(error, match="blockcopy::shuffle_channels"):
        shuffle_channels(*arguments)


def test_opcheck():
    torch.library.opcheck(torch.ops.blockcopy.shuffle_channels.default, (MAP, 2))
