"""A picture of regions: for each pixel, the largest value of the regions over it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.bitmaps import (
    check_bitmaps,
    check_regions,
    check_regions_shape,
    unpack_bitmaps,
)
from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _paint_regions_fake(values: Tensor, regions: Tensor, size: Sequence[int]) -> Tensor:
    torch._check_value(
        len(size) == 2 and min(size) >= 0,
        lambda: f"blockcopy::paint_regions: size is {list(size)}, expected (height, width)",
    )
    torch._check_type(
        values.dtype == torch.float32,
        lambda: (
            f"blockcopy::paint_regions: values have dtype {values.dtype}, expected torch.float32"
        ),
    )
    check_regions_shape("paint_regions", "regions", regions)
    torch._check_value(
        values.shape == regions.shape[:1] and values.is_contiguous(),
        lambda: (
            f"blockcopy::paint_regions: values have shape {tuple(values.shape)}, expected "
            f"contiguous ({regions.shape[0]}), one for each region"
        ),
    )
    return values.new_empty(tuple(size))


@operator(
    "paint_regions(Tensor values, Tensor regions, Tensor? bits, int[] size) -> Tensor",
    fake=_paint_regions_fake,
)
def paint_regions(
    values: Tensor, regions: Tensor, bits: Tensor | None, size: Sequence[int]
) -> Tensor:
    """Paint regions on a picture of zeros; where they overlap, the largest value is kept.

    Args:
        values: float32 ``(n,)``. Those that are not above 0 paint nothing.
        regions: int32 ``(n, 4)``: top, bottom, left, right.
        bits: The regions' bitmaps (see :mod:`.bitmaps`), uint8; only set pixels are painted. None
            paints the whole regions.
        size: ``(height, width)`` of the picture.

    Returns:
        float32 ``(height, width)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If a region is empty or reaches outside the picture.
        RuntimeError: If gradients are recorded and the values require grad.
    """
    check_no_grad("paint_regions", values)
    picture = _paint_regions_fake(values, regions, size).zero_()
    check_regions("paint_regions", "regions", regions, tuple(size))
    masks = None
    if bits is not None:
        check_bitmaps("paint_regions", "bits", bits, regions)
        masks = unpack_bitmaps(bits, regions)
    places, order = regions.tolist(), values.argsort()
    # In ascending order a plain write leaves the largest on top.
    for index, value in zip(order.tolist(), values[order].tolist(), strict=True):
        if value > 0:
            top, bottom, left, right = places[index]
            part = picture[top:bottom, left:right]
            part.fill_(value) if masks is None else part.masked_fill_(masks[index], value)
    return picture
