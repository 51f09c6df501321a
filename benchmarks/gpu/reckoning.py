"""The kernels that reckon with values, for section ``parity``: within rounding of float64.

Sums in another order have other last bits, so these are not compared bit by bit: each result has a
bound, which follows from the number of roundings in float32. What is not finite must be alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins import ops
from blockcopy_plugins.ops.block_divergence import block_divergence
from blockcopy_plugins.ops.block_moments import block_moments

from .host_emulation import HostEmulation

RECKONING = (
    "reduce_picture",
    "block_moments",
    "scale_shift",
    "block_divergence",
    "all_finite",
    "finish_conv_",
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# A pixel of 2 to 8800 bytes; squares narrower and wider than what a team of threads shares.
_PICTURES = (
    ((1, 1, 1, 1), 1),
    ((2, 3, 33, 46), 8),
    ((1, 3, 64, 1000), 8),
    ((2, 19, 11, 13), 2),
    ((1, 4, 7, 5), 3),
    ((1, 3, 17, 40), 16),
    ((1, 3, 5, 2), 8),
    ((1, 2, 3, 4), 1),
    ((1, 1100, 3, 9), 8),
    ((1, 1, 3, 2100), 3000),
)
_LARGE_PICTURE = ((1, 3, 1024, 2048), 8)
# Channels and groups: vectors that lie in a group, that hold several, that fit neither.
_NORMS = ((1, 1), (3, 1), (6, 3), (8, 2), (16, 16), (24, 3), (40, 8), (64, 32), (96, 32), (600, 1))
_EPSILON = 2.0**-24


class Kernels(Protocol):
    """The kernels under test; results are on the CPU."""

    def reduce_picture(self, frame: Tensor, side: int) -> Tensor: ...

    def block_moments(self, map: Tensor, places: Tensor | None, *sizes) -> Tensor: ...

    def scale_shift(
        self, map: Tensor, places: Tensor | None, scale: Tensor, shift: Tensor
    ) -> Tensor: ...

    def block_divergence(self, previous: Tensor, current: Tensor, *sizes) -> Tensor: ...

    def all_finite(self, values: Tensor) -> bool: ...

    def finish_conv_(self, sums: Tensor, *arguments) -> Tensor: ...


class ReckoningOnDevice:
    """The native kernels."""

    def __init__(self, device: str) -> None:
        self.device = device

    def reduce_picture(self, frame: Tensor, side: int) -> Tensor:
        """Of a frame whose address and layout are kept."""
        return ops.reduce_picture(self._there(frame), side).cpu()

    def block_moments(self, map: Tensor, places: Tensor | None, *sizes) -> Tensor:
        """Of a map whose address is kept."""
        return ops.block_moments(self._there(map), self._places(places), *sizes).cpu()

    def scale_shift(
        self, map: Tensor, places: Tensor | None, scale: Tensor, shift: Tensor
    ) -> Tensor:
        """Likewise."""
        factors = scale.to(self.device), shift.to(self.device)
        return ops.scale_shift(self._there(map), self._places(places), *factors).cpu()

    def block_divergence(self, previous: Tensor, current: Tensor, *sizes) -> Tensor:
        """Of two maps."""
        maps = self._there(previous), self._there(current)
        return ops.block_divergence(*maps, *sizes).cpu()

    def all_finite(self, values: Tensor) -> bool:
        """Of values whose address is kept."""
        return bool(ops.all_finite(self._there(values)))

    def finish_conv_(self, sums: Tensor, *arguments) -> Tensor:
        """What becomes of sums whose address is kept."""
        bias, norm, eps, residual, low, high = arguments
        bias, residual, *norm = (
            None if v is None else self._there(v) for v in (bias, residual, *norm)
        )
        sums = self._there(sums)
        ops.finish_conv_(sums, bias, norm, eps, residual, low, high)
        return sums.cpu()

    def _there(self, tensor: Tensor) -> Tensor:
        """The tensor there, as far behind an aligned address as here, and in the same layout."""
        offset = tensor.storage_offset()
        memory = torch.zeros(tensor.numel() + offset, dtype=tensor.dtype, device=self.device)
        there = memory.as_strided(tensor.shape, tensor.stride(), offset)
        return there.copy_(tensor)

    def _places(self, places: Tensor | None) -> Tensor | None:
        return None if places is None else places.to(self.device)


class ReckoningOnHost:
    """The kernels' threads, one after the other."""

    def __init__(self, emulation: HostEmulation) -> None:
        self.reduce_picture = emulation.reduce_picture
        self.block_moments = emulation.block_moments
        self.block_divergence = emulation.block_divergence
        self.all_finite = emulation.all_finite
        self._emulation = emulation

    def scale_shift(self, *arguments) -> Tensor:
        """A tensor of nothing if an image is out of range."""
        found = self._emulation.scale_shift(*arguments)
        return torch.empty(0) if found is None else found

    def finish_conv_(self, sums: Tensor, *arguments) -> Tensor:
        """What becomes of a copy of sums whose address is kept."""
        sums = arranged(sums, True, sums.storage_offset())
        self._emulation.finish_conv_(sums, *arguments)
        return sums


class Result(NamedTuple):
    """What a kernel gave in one case."""

    kernel: str
    case: str
    fits: bool


def results(kernels: Kernels, dtype: torch.dtype, quick: bool, large: bool) -> Iterator[Result]:
    """Run all cases of a dtype.

    Args:
        kernels: Under test.
        dtype: Of pictures and maps.
        quick: Fewer cases.
        large: Also a picture of a network's size.
    """
    draw = torch.Generator().manual_seed(0)
    yield from _pictures(kernels, dtype, draw, quick, large)
    yield from _norms(kernels, dtype, draw, quick)
    if dtype == torch.float32:
        yield from _divergences(kernels, draw)
    yield from _finite(kernels, dtype, draw)
    if dtype in ops.FINISH_DTYPES:
        yield from _finished(kernels, dtype, draw, quick, large)


def _pictures(kernels, dtype, draw, quick: bool, large: bool) -> Iterator[Result]:
    cases = _PICTURES[1:5] if quick else _PICTURES
    cases = (*cases, _LARGE_PICTURE) if large else cases
    for (shape, side), last, offset in itertools.product(cases, (False, True), (0, 1)):
        frame = arranged(with_odd(torch.randn(shape, generator=draw), draw).to(dtype), last, offset)
        wide = frame.float().double()
        wanted, size = (
            F.avg_pool2d(values, side, ceil_mode=True, count_include_pad=False)
            for values in (wide, wide.abs())
        )
        found = kernels.reduce_picture(frame, side)
        # The roundings of one value's way into a mean.
        bound = size * _EPSILON * (2 * min(side, max(shape[2:])) + 2)
        what = f"{tuple(shape)}, side {side}, {'last' if last else 'first'}, address + {offset}"
        yield Result("reduce_picture", what, within(found.double(), wanted, bound))


def _norms(kernels, dtype, draw, quick: bool) -> Iterator[Result]:
    block, blocks = (7, 12), (2, 3)
    size = (11, 30)
    norms = _NORMS[2:6] if quick else _NORMS
    for (channels, groups), packed, offset in itertools.product(norms, (False, True), (0, 1)):
        shape = (3, channels, *block) if packed else (2, channels, *size)
        level = 5 * torch.randn(channels, 1, 1, generator=draw)
        values = torch.randn(shape, generator=draw) + level
        map = arranged(with_odd(values, draw, 4000).to(dtype), True, offset)
        # The second block is cut, the third is wholly off the map.
        places = torch.tensor([[1, 0, 0], [0, 1, 2], [1, 2, 0]], dtype=torch.int32)
        places = places if packed else None
        what = f"{channels} channels, {groups} groups, {'packed' if packed else 'map'}, + {offset}"
        arguments = (map, places, block, blocks, size, groups)
        found, wanted = kernels.block_moments(*arguments), block_moments.reference(*arguments)
        yield Result("block_moments", what, _moments_fit(found, wanted, dtype))
        scale, shift = torch.randn(2, 2, channels, generator=draw)
        images = places[:, 0].long() if packed else slice(None)
        factor, offset_ = (part[images, :, None, None].double() for part in (scale, shift))
        wanted = map.double() * factor + offset_
        step = 1 if dtype == torch.float64 else 4 * _EPSILON
        bound = ((map.double() * factor).abs() + offset_.abs()) * step
        bound = bound + wanted.abs() * torch.finfo(dtype).eps + 2.0**-24
        if dtype == torch.float64:
            bound = wanted.abs() * 1e-14 + 1e-14
        found = kernels.scale_shift(map, places, scale, shift)
        fits = found.dtype == dtype and within(found.double(), wanted, bound)
        yield Result("scale_shift", what, fits)


def _moments_fit(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    if found.shape != wanted.shape or not torch.equal(found[:, :1], wanted[:, :1]):
        return False
    # What is not finite may be NaN or infinity: distances are taken from different values.
    odd = ~wanted.isfinite()
    if not torch.equal(~found.isfinite(), odd):
        return False
    found, wanted = (values.masked_fill(odd, 0.0) for values in (found, wanted))
    groups = wanted.shape[1] // 2
    mean, spread = wanted[:, 1 : 1 + groups], wanted[:, 1 + groups :]
    step = 1e-13 if dtype == torch.float64 else 64 * _EPSILON
    deviation = (spread / wanted[:, :1].clamp(min=1)).sqrt()
    return within(found[:, 1 : 1 + groups], mean, step * deviation + 1e-13 * mean.abs()) and within(
        found[:, 1 + groups :], spread, step * spread.abs() + 1e-20
    )


def _divergences(kernels, draw) -> Iterator[Result]:
    """Outputs as fine as cells, coarser, of two resolutions, of pictures that cells do not fit."""
    cases = (
        ((64, 96), (2, 3), 32, 8, (16, 24), (16, 24)),
        ((128, 192), (1, 2), 128, 16, (16, 24), (8, 12)),
        ((100, 150), (2, 3), 64, 16, (25, 38), (25, 38)),
        ((37, 50), (3, 4), 16, 4, (10, 13), (7, 1)),
    )
    for (size, grid, block, cells, before, now), classes in itertools.product(cases, (2, 19)):
        previous = (torch.randn(classes, *before, generator=draw) * 3).log_softmax(0)
        current = (torch.randn(classes, *now, generator=draw) * 3).log_softmax(0)
        previous[0, 0, 0] = float("nan")
        current[-1, -1, -1] = float("-inf")
        for clip in (1.0, 50.0):
            arguments = (previous, current, size, grid, block, cells, clip)
            found = kernels.block_divergence(*arguments)
            wanted = block_divergence.reference(*arguments).double()
            fits = within(found.double(), wanted, wanted.abs() * 1e-5 + 1e-5)
            yield Result("block_divergence", f"{classes} classes, {before} to {now}", fits)


def _finite(kernels, dtype, draw) -> Iterator[Result]:
    for count, offset in itertools.product((1, 7, 64, 2051), (0, 1, 3)):
        values = arranged(torch.randn(1, 1, 1, count, generator=draw).to(dtype), False, offset)
        what = f"{count} values, address + {offset}"
        yield Result("all_finite", what, kernels.all_finite(values))
        for odd in (float("nan"), float("inf"), float("-inf")):
            at = int(torch.randint(0, count, (), generator=draw))
            for place in {0, at, count - 1}:
                bad = arranged(values, False, offset)
                bad[..., place] = odd
                yield Result("all_finite", f"{what}, {odd} at {place}", not kernels.all_finite(bad))
        largest = arranged(torch.full_like(values, torch.finfo(dtype).max), False, offset)
        yield Result("all_finite", f"{what}, the largest", kernels.all_finite(largest))


def _finished(kernels, dtype, draw, quick: bool, large: bool) -> Iterator[Result]:
    """Sums of convolutions with all, some or nothing behind them; each width of a vector."""
    channels = (1, 6, 12, 64) if quick else (1, 2, 3, 6, 8, 12, 24, 64, 300)
    shapes = [(3, c, 5, 7) for c in channels] + [(1, c, 1, 1) for c in channels]
    if large:
        shapes += [(32, 256, 32, 32), (1, 2048, 32, 64)]
    kinds = itertools.product((0, 1, 4), (True, False), ("", "mv", "wbmv"), (dtype, torch.float32))
    for shape, (offset, full, parts, norm_dtype) in itertools.product(shapes, kinds):
        if norm_dtype != dtype and (dtype == torch.float32 or not parts):
            continue
        # In float64 on the host those of a network's size take long.
        if math.prod(shape) > 1e6 and (offset or not full or parts != "wbmv"):
            continue
        values = (with_odd(torch.randn(shape, generator=draw), draw) for _ in range(2))
        sums, residual = (arranged(v.to(dtype), True, offset) for v in values)
        vectors = torch.randn(4, shape[1], generator=draw)
        bias, norm = vectors[0].to(dtype), [*vectors[1:], vectors[0].square() + 0.1]
        norm = [v.to(norm_dtype) if p in parts else None for p, v in zip("wbmv", norm, strict=True)]
        norm = norm if parts else []
        bias, residual = (bias, residual) if full else (None, None)
        low, high = (0.0, 6.0) if full else (float("-inf"), float("inf"))
        what = f"{shape} + {offset}, norm {parts or 'none'} in {norm_dtype}"
        found = kernels.finish_conv_(sums, bias, norm, 1e-3, residual, low, high).double()
        wanted, size = sums.double(), sums.double().abs()
        wide = [None if v is None else v.double() for v in norm]
        for value in () if bias is None else (bias.double(),):
            wanted, size = wanted + value.view(1, -1, 1, 1), size + value.abs().view(1, -1, 1, 1)
        if norm:
            weight, beta, mean, variance = wide
            wanted = F.batch_norm(wanted, mean, variance, weight, beta, False, 0.0, 1e-3)
            scale = (variance + 1e-3).rsqrt() * (1.0 if weight is None else weight.abs())
            size = (size + mean.abs().view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
            size = size if beta is None else size + beta.abs().view(1, -1, 1, 1)
        if residual is not None:
            wanted, size = wanted + residual.double(), size + residual.double().abs()
        wanted = wanted.clamp(low, high).to(dtype).double()
        # A few roundings in float32, and one to the dtype that may fall to the other side.
        bound = size.nan_to_num() * 16 * _EPSILON + wanted.abs() * torch.finfo(dtype).eps + 1e-7
        yield Result("finish_conv_", what, within(found, wanted, bound))


def with_odd(values: Tensor, draw: torch.Generator, rarity: int = 400) -> Tensor:
    """The values with a few that are not finite, or zeros of either sign."""
    odd = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 0.0])
    where = torch.randint(0, rarity, values.shape, generator=draw)
    return torch.where(where < len(odd), odd[where.clamp(max=len(odd) - 1)], values)


def arranged(values: Tensor, last: bool, offset: int) -> Tensor:
    """A copy in a layout, at an address that many elements behind an aligned one."""
    shape = [values.shape[i] for i in ((0, 2, 3, 1) if last else (0, 1, 2, 3))]
    memory = torch.zeros(values.numel() + offset, dtype=values.dtype)[offset:].view(shape)
    return (memory.permute(0, 3, 1, 2) if last else memory).copy_(values)


def within(found: Tensor, wanted: Tensor, bound: Tensor) -> bool:
    """Whether all that is finite is within a bound, and all else is alike."""
    if found.shape != wanted.shape:
        return False
    finite = wanted.isfinite()
    same = torch.equal(
        torch.where(finite, 0.0, found).nan_to_num(nan=7.0),
        torch.where(finite, 0.0, wanted).nan_to_num(nan=7.0),
    )
    return same and bool(((found - wanted).abs() <= bound)[finite].all())
