"""What a model writes to views of a map is seen in the map and in its other views, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import StateError


class Net(nn.Module):
    """Writes to views of the map between its two convolutions."""

    def __init__(self, write) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.write = write

    def forward(self, x):
        x = self.first(x)
        kept = self.write(x)  # they live on, as a model's attributes would
        out = self.second(x)
        del kept
        return out


def rows_of_a_copy(x):
    """``x[:, :2]`` keeps the packed map as it is, so that the joined view must be a copy."""
    half, row = x[:, :2], x.flatten(0, 1)[:, 3]
    row.add_(1)
    half.mul_(2)
    row.sub_(0.5)
    return half


def row_without_its_map(x):
    half, joined = x[:, :2], x.flatten(0, 1)
    row = joined[:, 3]
    del joined
    row.fill_(0.5)
    return half, row


def rows_side_by_side(x):
    one, other = x.permute(0, 2, 3, 1)[:, 2:4], x[:, :, 4:6]
    one.add_(1)
    other.mul_(2)
    one.mul_(3)
    return one, other


def rows_of_parts(x):
    one, other = x[:, :4][:, :, 2], x[:, 4:][:, :, 2]
    other.add_(1)
    one.mul_(2)
    return one, other


def rows_that_are_written_again(x):
    one, other = x[:, :4][:, :, 2], x[:, 4:][:, :, 2]
    one.add_(1)
    other.mul_(2)
    x.add_(0.5)
    one.mul_(3)
    other.sub_(1)
    return one, other


def nan_beside_a_write(x):
    x[:, :, 2].fill_(float("nan"))
    one, other = x[:, :4][:, :, 2], x[:, 2:6][:, :, 2]
    one.fill_(1.0)
    x.nan_to_num_(0.0)
    return one, other


def one_after_the_other(x):
    one = x[:, :4][:, :, 2]
    one.add_(1)
    other = x[:, 2:6][:, :, 2]
    other.mul_(2)
    return one, other


def overlapping_parts(x):
    one, other = x[:, :4][:, :, 2], x[:, 2:6][:, :, 2]
    one.add_(1)
    other.mul_(2)
    return one, other


def overlapping_the_first_of_three(x):
    parts = x[:, :3][:, :, 2], x[:, 4:6][:, :, 2], x[:, 2:4][:, :, 2]
    for part in parts:
        part.add_(1)
    return parts


def overlapping_rows(x):
    one, other = x.permute(0, 2, 3, 1)[:, 2:5], x[:, :, 3:7]
    other.add_(1)
    one.mul_(2)
    return one, other


def overlapping_a_copy(x):
    half, one, other = x[:, :2], x.flatten(0, 1)[:, 3], x[:, :, 3]
    one.add_(1)
    other.mul_(2)
    return half, one, other


SEEN = (
    rows_of_a_copy,
    row_without_its_map,
    rows_side_by_side,
    rows_of_parts,
    rows_that_are_written_again,
    nan_beside_a_write,
    one_after_the_other,
)
MODES = (torch.no_grad, torch.inference_mode)


def run(write, mode, rates, pack):
    """Outputs of the converted model and, in whole frames, of the dense one."""
    torch.manual_seed(0)
    net, dense = Net(write).eval(), Net(write).eval()
    dense.load_state_dict(net.state_dict())
    grids = [torch.rand(2, 2, 3) < rate for rate in rates]
    config = bc.BlockCopyConfig(
        block_size=16, policy=lambda f, c: grids.pop(0), pack_whole_frames=pack
    )
    bc.blockcopy_(net, config)
    frame = torch.randn(2, 3, 32, 48)
    with mode():
        return [(net(frame), dense(frame)) for _ in rates]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("write", SEEN, ids=lambda write: write.__name__)
@pytest.mark.parametrize("pack", [False, True])
def test_writes_to_views_are_seen(write, mode, pack):
    for found, wanted in run(write, mode, (2.0, 0.5, 2.0), pack):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "write",
    [
        overlapping_parts,
        overlapping_the_first_of_three,
        overlapping_rows,
        overlapping_a_copy,
    ],
)
@pytest.mark.parametrize("pack", [False, True])
def test_writes_to_one_pixel_through_two_views_are_refused(write, mode, pack):
    with pytest.raises(StateError, match="two views that overlap.*module 'second'"):
        run(write, mode, (2.0,), pack)


def test_a_view_that_the_engine_copied_knows_what_was_written_since():
    """Two ops on whole maps read it, and between them what it is a view of is written to."""

    def read(net, x):
        half, view = x[:, :2], x.flatten(0, 1).view(2, 8, 32, 48)
        before = view.flip(2)
        x.mul_(2)
        return half, net.second(view.flip(2) - before)

    class Twice(Net):
        def forward(self, x):
            return read(self, self.first(x))[1]

    net = Twice(None).eval()
    frame = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        wanted = net(frame)
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all", pack_whole_frames=True))
        torch.testing.assert_close(net(frame), wanted, rtol=1e-4, atol=1e-5)
