"""join_maps: what torch's own ops give one after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.ops import conv_kernels, join_maps
from blockcopy_plugins.ops.finish_reference import ACTIVATIONS

RUNS = [
    pytest.param(
        join_maps,
        id="native",
        marks=pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor"),
    ),
    pytest.param(join_maps.reference, id="twin"),
]
INFINITY = float("inf")


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [[1], [12, 5], [16, 35, 3], [64]])
@pytest.mark.parametrize(
    "behind",
    [
        (),
        ("added",),
        ("norm",),
        ("added", "norm", "residual", "slope"),
        ("slope", "one for all"),
        ("bounds",),
    ],
)
def test_it_is_one_op_after_the_other(run, dtype, widths, behind):
    torch.manual_seed(0)
    parts = [draw(2, width, 5, 3, dtype=dtype) for width in widths]
    parts[0] = parts[0].contiguous(memory_format=torch.channels_last)
    channels = sum(widths)
    added, residual = (draw(2, channels, 5, 3, dtype=dtype) for _ in range(2))
    norm = [draw(channels), draw(channels), draw(channels), torch.rand(channels) + 0.1]
    slope = draw(1 if "one for all" in behind else channels)
    wanted = torch.cat(parts, 1).double()
    if "added" in behind:
        wanted = wanted + added.double()
    if "norm" in behind:
        weight, bias, mean, variance = (value.double() for value in norm)
        wanted = F.batch_norm(wanted, mean, variance, weight, bias, eps=1e-3)
    if "residual" in behind:
        wanted = wanted + residual.double()
    if "slope" in behind:
        wanted = F.prelu(wanted, slope.double())
    low, high = (-0.5, 0.75) if "bounds" in behind else (-INFINITY, INFINITY)
    wanted = wanted.clamp(low, high)
    found = run(
        parts,
        added if "added" in behind else None,
        norm if "norm" in behind else [],
        1e-3,
        residual if "residual" in behind else None,
        slope if "slope" in behind else None,
        low,
        high,
    )
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


def parts_of_channels(whole):
    return whole.split([3, 4, 17, 1, 2], 1), torch.cat(whole.split([3, 4, 17, 1, 2], 1), 1)


def every_second_pixel(whole):
    parts = [whole[..., y::2, x::2] for x in (0, 1) for y in (0, 1)]
    return parts, torch.cat(parts, 1)


def many_parts(whole):
    parts = [whole[:, i % 27 : i % 27 + 1] for i in range(70)]
    return parts, torch.cat(parts, 1)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", [parts_of_channels, every_second_pixel, many_parts])
@pytest.mark.parametrize("size", [(6, 10), (2, 2)])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("behind", [(), ("residual",), ("added", "bounds")])
def test_parts_are_read_where_they_lie(run, dtype, cut, size, narrow, behind):
    torch.manual_seed(0)
    channels = 27 if narrow or cut is not every_second_pixel else 83
    whole = draw(3, channels, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    if narrow and cut is every_second_pixel:
        whole = whole[:, 2:5]
    parts, wanted = cut(whole)
    if not narrow:
        parts = [*parts, parts[0]]
        wanted = torch.cat([wanted, parts[0]], 1)
    # What is added is a part of a map, too.
    other = draw(3, wanted.shape[1] + 5, *wanted.shape[2:], dtype=dtype)
    other = other.contiguous(memory_format=torch.channels_last)[:, 2:-3]
    low, high = (-0.5, 0.75) if "bounds" in behind else (-INFINITY, INFINITY)
    added, residual = (other if name in behind else None for name in ("added", "residual"))
    found = run(parts, added, [], 0.0, residual, None, low, high)
    wanted = wanted.double() + (other.double() if behind else 0)
    wanted = wanted.clamp(low, high)
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = 0 if not behind else 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(run, dtype, name):
    # From where nothing of them is left to where nothing more comes, and each lane of a vector.
    x = torch.cat([torch.linspace(-120, 120, 4001), torch.linspace(-4, 4, 4002)]).to(dtype)
    x = x.view(1, 53, 151, 1)
    wanted = ACTIVATIONS[name](x.double())
    found = run([x], None, [], 0.0, None, None, -INFINITY, INFINITY, name)
    tolerance = 4e-7 if dtype == torch.float32 else 4e-3
    if name == "gelu" and run is join_maps.reference and dtype == torch.float32:
        tolerance = 2e-6  # of torch itself, with AVX-512
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_what_is_not_finite(run, name):
    x = torch.tensor([float("nan"), INFINITY]).view(1, 1, 2, 1)
    found = run([x], None, [], 0.0, None, None, -INFINITY, INFINITY, name)
    # With AVX-512, torch's own GELU of infinity is NaN in float32.
    exact = ACTIVATIONS[name](x.double()).float()
    wanted = exact if run is not join_maps.reference else ACTIVATIONS[name](x)
    torch.testing.assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize("run", RUNS)
def test_an_unknown_activation_is_named(run):
    with pytest.raises(ValueError, match="activation is 'softsign', expected one of sigmoid"):
        run([draw(1, 4, 2, 2)], None, [], 0.0, None, None, -INFINITY, INFINITY, "softsign")


@pytest.mark.parametrize("run", RUNS)
def test_what_is_not_finite_stays_so(run):
    x = torch.tensor([float("nan"), INFINITY, -INFINITY, -2.0]).view(1, 1, 2, 2)
    found = run([x], None, [], 0.0, None, torch.tensor([0.5]), -INFINITY, INFINITY)
    torch.testing.assert_close(found, F.prelu(x, torch.tensor([0.5])), equal_nan=True)


@pytest.mark.parametrize("run", RUNS)
def test_nothing(run):
    found = run([torch.empty(0, 3, 4, 4), torch.empty(0, 2, 4, 4)], *([None] * 1), [], 0.0,
                None, None, 0.0, 1.0)  # fmt: skip
    assert found.shape == (0, 5, 4, 4)


@pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor")
def test_bad_arguments():
    rest = ([], 0.0, None, None, 0.0, 1.0)
    with pytest.raises(ValueError, match="expected the same but for the channels"):
        join_maps([draw(1, 3, 4, 4), draw(1, 3, 4, 5)], None, *rest)
    with pytest.raises(ValueError, match="added has 2 channels, expected 3"):
        join_maps([draw(1, 3, 4, 4)], draw(1, 2, 4, 4), *rest)
    with pytest.raises(ValueError, match="norm has 1 tensors"):
        join_maps([draw(1, 3, 4, 4)], None, [draw(3)], *rest[1:])
    with pytest.raises(TypeError, match="dtype"):
        join_maps([draw(1, 3, 4, 4).double()], None, *rest)


@pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor")
def test_opcheck():
    args = ([draw(1, 3, 4, 4), draw(1, 2, 4, 4)], None, [], 0.0, None, draw(5), 0.0, 1.0)
    torch.library.opcheck(torch.ops.blockcopy.join_maps.default, args)
