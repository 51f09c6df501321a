"""Convolutions to few channels, several pixels of a row at once, against torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.conv.neighbours import Neighbours
from blockcopy_plugins.ops import conv_kernels
from blockcopy_plugins.ops.block_conv import SlidingWindow
from blockcopy_plugins.policy.dictated import DictatedPolicy
from tests.test_engine.random_grids import run_on_random_grids

needs_kernels = pytest.mark.skipif(not conv_kernels(), reason="the kernels are not built")


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (7, 4)])
@pytest.mark.parametrize("pixels", [2, 4])
def test_stacked_weights_give_what_the_convolution_gives(kernel, pixels):
    x, weight = torch.randn(2, 3, 9, 16 + kernel[1] - 1), torch.randn(2, 3, *kernel)
    wanted = F.conv2d(x, weight)
    neighbours = Neighbours(pixels)
    found = F.conv2d(x, neighbours.stack(weight), stride=(1, pixels))
    assert tuple(found.shape[2:]) == neighbours.size(wanted.shape[2:])
    torch.testing.assert_close(neighbours.apart(found), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(neighbours.together(wanted), found, atol=1e-5, rtol=1e-5)
    assert neighbours.apart(found.contiguous(memory_format=torch.channels_last)).is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize(
    ("lanes", "channels", "kernel", "stride", "dilation", "width", "pixels"),
    [
        (16, 1, 3, 1, 1, 64, 16),
        (16, 3, 3, 1, 1, 64, 4),
        (8, 3, 3, 1, 1, 64, 2),
        (16, 3, 3, 1, 1, 6, 2),
        (16, 8, 3, 1, 1, 64, 2),
        (16, 9, 3, 1, 1, 64, None),
        (16, 3, 1, 1, 1, 64, None),
        (16, 3, 3, 2, 1, 64, None),
        (16, 3, 3, 1, 2, 64, None),
        (16, 3, 3, 1, 1, 63, None),
    ],
)
def test_as_many_pixels_as_fill_a_vector(lanes, channels, kernel, stride, dilation, width, pixels):
    block = (width, width)
    window = SlidingWindow((kernel,) * 2, (stride,) * 2, (1, 1), (dilation,) * 2, block)
    found = Neighbours.that_fill(lanes, channels, window, width)
    assert found == (None if pixels is None else Neighbours(pixels))


class Few(nn.Module):
    """Few channels, with each thing that may follow a convolution in the same pass."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        self.norm, self.slope = nn.BatchNorm2d(3), nn.PReLU(3)
        self.two = nn.Conv2d(3, 3, 3, padding=1)
        self.out = nn.Conv2d(3, 1, 3, padding=1)
        self.last, self.one_slope = nn.BatchNorm2d(1), nn.PReLU()
        with torch.no_grad():
            for norm in (self.norm, self.last):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
            self.slope.weight.uniform_(0.1, 0.9)

    def forward(self, x):
        x = self.slope(self.norm(self.one(x)))
        return self.last(self.out(self.one_slope(self.two(x) + x))).sigmoid()


@pytest.mark.parametrize("size", [(32, 48), (27, 45)], ids=str)
@pytest.mark.parametrize("images", [1, 2])
def test_random_grids_equal_the_masked_reference(size, images):
    torch.manual_seed(0)
    net = Few().eval()
    found, wanted, dense = run_on_random_grids(net, images, size, 16, count=10)
    for out, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(out, reference, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0], dense, atol=1e-5, rtol=1e-5)


@needs_kernels
def test_a_changed_weight_is_stacked_anew_and_macs_are_those_of_the_convolution():
    net = Few().eval()
    dense, policy = copy.deepcopy(net), DictatedPolicy()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
    policy.grid = torch.ones(1, 2, 2, dtype=torch.bool)
    frame = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for _ in range(6):
            net(frame)
        report = bc.report(net)
        assert report.programs.replayed
        assert report.macs_dense == 32 * 32 * (9 * 25 + 9 * 9 + 3 * 9)
        prepared = bc.handle(net).converted.convolutions.cpu.prepared
        assert any(isinstance(how, Neighbours) for _, how in prepared._kept)
        for change in (
            lambda model: model.one.weight.data.mul_(0.5),
            lambda model: model.two.bias.add_(1),
            lambda model: model.norm.running_mean.add_(1),
        ):
            for model in (net, dense):
                change(model)
            torch.testing.assert_close(net(frame), dense(frame), atol=1e-5, rtol=1e-5)
