"""Bitmaps: the set pixels of masks, each in its own region, with eight pixels per byte.

A region is a row of an int32 tensor ``(n, 4)``: ``top, bottom, left, right``, half-open, each with
at least one pixel. Its bitmap has a bit for each pixel, row after row, with the leftmost pixel in
the lowest bit of a byte. The bytes of a row begin at multiples of 8 columns of the picture, so that
the bytes of any two bitmaps line up; bits outside the region are 0. The bitmaps of several regions
follow one another in one uint8 tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_range
from blockcopy_plugins.ops.library import operator


def pack_columns(masks: Tensor) -> Tensor:
    """Pack masks bool ``(..., w)`` to uint8 ``(..., ceil(w / 8))``, the leftmost pixel lowest."""
    bits = F.pad(masks.byte(), (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (bits << _places(masks)).sum(-1).byte()


def _unpack_columns(packed: Tensor) -> Tensor:
    return ((packed[..., None] >> _places(packed)) & 1).bool().flatten(-2)


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def unpack_bitmaps(bits: Tensor, regions: Tensor) -> list[Tensor]:
    """Return the content of each region's bitmap: bool ``(bottom - top, right - left)``."""
    return _views(_unpack_columns(bits), regions)


def _pack_bitmaps(pictures: list[Tensor], regions: Tensor) -> Tensor:
    pixels = torch.zeros(8 * _bytes(regions), dtype=torch.bool, device=regions.device)
    for view, picture in zip(_views(pixels, regions), pictures, strict=True):
        view.copy_(picture)
    return pack_columns(pixels)


def _views(pixels: Tensor, regions: Tensor) -> list[Tensor]:
    """The regions' pixels, in pictures that cover all bytes of their bitmaps."""
    views, start = [], 0
    for top, bottom, left, right in regions.tolist():
        count = 8 * (bottom - top) * _row_bytes(left, right)
        rows = pixels[start : start + count].view(bottom - top, -1)
        views.append(rows[:, left % 8 : left % 8 + right - left])
        start += count
    return views


def _bytes(regions: Tensor) -> int:
    """Number of bytes of all bitmaps together."""
    return sum((b - t) * _row_bytes(left, right) for t, b, left, right in regions.tolist())


def _row_bytes(left: int, right: int) -> int:
    return (right + 7) // 8 - left // 8


def check_regions(op: str, name: str, regions: Tensor, size: tuple[int, int] | None = None) -> None:
    """Check regions, which reads them.

    Args:
        op: Operator name, for the message.
        name: Argument name, for the message.
        regions: Value of the argument.
        size: ``(height, width)`` of the picture, None for any.

    Raises:
        TypeError: If the dtype is not int32.
        ValueError: If the shape is not contiguous ``(n, 4)``.
        IndexError: If a region has no pixel or lies outside the picture.
    """
    check_regions_shape(op, name, regions)
    height, width = (2**31 - 1,) * 2 if size is None else size
    for index, (top, bottom, left, right) in enumerate(regions.tolist()):
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise IndexError(
                f"blockcopy::{op}: {name} {index} is rows {top} to {bottom} and columns {left} to "
                f"{right}, expected at least one of each, inside ({height}, {width})"
            )


def check_regions_shape(op: str, name: str, regions: Tensor) -> None:
    """Check everything about regions except their values, like :func:`check_regions`."""
    torch._check_type(
        regions.dtype == torch.int32,
        lambda: f"blockcopy::{op}: {name} has dtype {regions.dtype}, expected torch.int32",
    )
    torch._check_value(
        regions.dim() == 2 and regions.shape[1] == 4 and regions.is_contiguous(),
        lambda: (
            f"blockcopy::{op}: {name} has shape {tuple(regions.shape)} and strides "
            f"{regions.stride()}, expected contiguous (n, 4): top, bottom, left, right"
        ),
    )


def check_bitmaps(op: str, name: str, bits: Tensor, regions: Tensor) -> None:
    """Check that a tensor holds the bitmaps of regions that have been checked.

    Raises:
        TypeError: If the dtype is not uint8.
        ValueError: If it does not have as many bytes as the regions' bitmaps.
    """
    torch._check_type(
        bits.dtype == torch.uint8,
        lambda: f"blockcopy::{op}: {name} has dtype {bits.dtype}, expected torch.uint8",
    )
    count = _bytes(regions)
    torch._check_value(
        tuple(bits.shape) == (count,) and bits.is_contiguous(),
        lambda: (
            f"blockcopy::{op}: {name} has shape {tuple(bits.shape)}, expected contiguous "
            f"({count},), the bytes of its regions"
        ),
    )


def _check_crop(masks: Tensor, indices: Tensor, regions: Tensor) -> None:
    torch._check_type(
        masks.dtype in (torch.bool, torch.uint8),
        lambda: (
            f"blockcopy::crop_masks: masks have dtype {masks.dtype}, expected torch.bool, or "
            "torch.uint8 for eight pixels per byte"
        ),
    )
    torch._check_type(
        indices.dtype == torch.int64,
        lambda: f"blockcopy::crop_masks: indices have dtype {indices.dtype}, expected torch.int64",
    )
    check_regions_shape("crop_masks", "regions", regions)
    torch._check_value(
        masks.dim() == 3 and indices.shape == regions.shape[:1],
        lambda: (
            f"blockcopy::crop_masks: masks have shape {tuple(masks.shape)}, indices "
            f"{tuple(indices.shape)} and regions {tuple(regions.shape)}, expected (m, h, w), (n) "
            "and (n, 4)"
        ),
    )


def _crop_masks_fake(masks: Tensor, indices: Tensor, regions: Tensor) -> Tensor:
    _check_crop(masks, indices, regions)
    return masks.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)


def _memberships(ranges: Tensor, count: int) -> Tensor:
    """Return float32 ``(cells, count)``: 1 where a pixel is in the range of a cell."""
    pixels = torch.arange(count, device=ranges.device)
    return ((ranges[:, :1] <= pixels) & (pixels < ranges[:, 1:])).float()


def _check_cover(
    bits: Tensor, regions: Tensor, cells: Tensor, rows: Tensor, columns: Tensor
) -> None:
    for name, ranges in (("rows", rows), ("columns", columns)):
        torch._check_type(
            ranges.dtype == torch.int32,
            lambda name=name, ranges=ranges: (
                f"blockcopy::cover_cells: {name} have dtype {ranges.dtype}, expected torch.int32"
            ),
        )
        torch._check_value(
            ranges.dim() == 2 and ranges.shape[1] == 2 and ranges.is_contiguous(),
            lambda name=name, ranges=ranges: (
                f"blockcopy::cover_cells: {name} have shape {tuple(ranges.shape)}, expected "
                "contiguous (n, 2): first pixel and one after the last"
            ),
        )
    check_regions_shape("cover_cells", "regions", regions)
    check_regions_shape("cover_cells", "cells", cells)
    torch._check_value(
        cells.shape == regions.shape,
        lambda: (
            f"blockcopy::cover_cells: cells have shape {tuple(cells.shape)}, expected "
            f"({regions.shape[0]}, 4), one for each region"
        ),
    )


def _cover_cells_fake(
    bits: Tensor, regions: Tensor, cells: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    _check_cover(bits, regions, cells, rows, columns)
    return bits.new_empty(torch.library.get_ctx().new_dynamic_size())


def _shared_pixels_fake(regions: Tensor, other_regions: Tensor, pairs: Tensor) -> Tensor:
    check_regions_shape("shared_pixels", "regions", regions)
    check_regions_shape("shared_pixels", "other_regions", other_regions)
    torch._check_type(
        pairs.dtype == torch.int64,
        lambda: f"blockcopy::shared_pixels: pairs have dtype {pairs.dtype}, expected torch.int64",
    )
    torch._check_value(
        pairs.dim() == 2 and pairs.shape[1] == 2,
        lambda: f"blockcopy::shared_pixels: pairs have shape {tuple(pairs.shape)}, expected (n, 2)",
    )
    return pairs.new_empty(pairs.shape[0])


@operator(
    "crop_masks(Tensor masks, Tensor indices, Tensor regions) -> Tensor", fake=_crop_masks_fake
)
def crop_masks(masks: Tensor, indices: Tensor, regions: Tensor) -> Tensor:
    """Make bitmaps of regions of masks.

    Args:
        masks: bool ``(m, h, w)``, or uint8 ``(m, h, ceil(w / 8))`` as :func:`pack_columns` packs
            them.
        indices: int64 ``(n,)``, the mask that each region belongs to.
        regions: int32 ``(n, 4)``, in pixels.

    Returns:
        The bitmaps, uint8.

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape does not fit.
        IndexError: If there is no such mask, or a region is empty or reaches outside the mask.
    """
    _check_crop(masks, indices, regions)
    check_range("crop_masks", "index", indices, 0, len(masks))
    if masks.dtype == torch.uint8:
        masks = _unpack_columns(masks)
    check_regions("crop_masks", "regions", regions, tuple(masks.shape[1:]))
    pictures = [
        masks[index, top:bottom, left:right]
        for index, (top, bottom, left, right) in zip(
            indices.tolist(), regions.tolist(), strict=True
        )
    ]
    return _pack_bitmaps(pictures, regions)


@operator(
    "cover_cells(Tensor bits, Tensor regions, Tensor cells, Tensor rows, Tensor columns) -> Tensor",
    fake=_cover_cells_fake,
)
def cover_cells(
    bits: Tensor, regions: Tensor, cells: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Find the cells in which a pixel is set.

    Args:
        bits: Bitmaps of pixels, uint8.
        regions: int32 ``(n, 4)``, of the bitmaps, in pixels. Pixels outside them are not set.
        cells: int32 ``(n, 4)``, the cells to find of each bitmap.
        rows: int32 ``(height, 2)``, for each row of cells its first row of pixels and the one after
            its last.
        columns: int32 ``(width, 2)``, the same for columns.

    Returns:
        The bitmaps of ``cells``, uint8.

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape does not fit.
        IndexError: If a region is empty, or one of cells reaches outside ``(height, width)``.
    """
    _check_cover(bits, regions, cells, rows, columns)
    check_regions("cover_cells", "regions", regions)
    check_regions("cover_cells", "cells", cells, (len(rows), len(columns)))
    check_bitmaps("cover_cells", "bits", bits, regions)
    ends = regions.amax(0).tolist() if len(regions) else [0] * 4
    rows, columns = _memberships(rows, ends[1]), _memberships(columns, ends[3])
    covered = []
    for picture, region, cell in zip(
        unpack_bitmaps(bits, regions), regions.tolist(), cells.tolist(), strict=True
    ):
        down = rows[cell[0] : cell[1], region[0] : region[1]]
        across = columns[cell[2] : cell[3], region[2] : region[3]]
        covered.append(down @ picture.float() @ across.T > 0)
    return _pack_bitmaps(covered, cells)


@operator(
    "shared_pixels(Tensor bits, Tensor regions, Tensor other_bits, Tensor other_regions, "
    "Tensor pairs) -> Tensor",
    fake=_shared_pixels_fake,
)
def shared_pixels(
    bits: Tensor, regions: Tensor, other_bits: Tensor, other_regions: Tensor, pairs: Tensor
) -> Tensor:
    """Count the pixels that are set in both of two bitmaps.

    Args:
        bits: Bitmaps of pixels, uint8.
        regions: int32 ``(n, 4)``, of ``bits``.
        other_bits: Bitmaps of the same picture, uint8.
        other_regions: int32 ``(m, 4)``, of ``other_bits``.
        pairs: int64 ``(k, 2)``: which of ``bits`` to compare with which of ``other_bits``.

    Returns:
        int64 ``(k,)``.

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape does not fit.
        IndexError: If a region is empty or a pair has no bitmaps.
    """
    shared = _shared_pixels_fake(regions, other_regions, pairs)
    check_regions("shared_pixels", "regions", regions)
    check_regions("shared_pixels", "other_regions", other_regions)
    check_bitmaps("shared_pixels", "bits", bits, regions)
    check_bitmaps("shared_pixels", "other_bits", other_bits, other_regions)
    sides = [
        list(zip(unpack_bitmaps(bits, regions), regions.tolist(), strict=True)),
        list(zip(unpack_bitmaps(other_bits, other_regions), other_regions.tolist(), strict=True)),
    ]
    for index, pair in enumerate(pairs.tolist()):
        if not all(0 <= one < len(side) for one, side in zip(pair, sides, strict=True)):
            raise IndexError(
                f"blockcopy::shared_pixels: pair {index} is {pair[0]}, {pair[1]}, but there are "
                f"{len(sides[0])} and {len(sides[1])} regions"
            )
        (first, a), (second, b) = (side[one] for one, side in zip(pair, sides, strict=True))
        top, bottom, left, right = (
            max(a[0], b[0]),
            min(a[1], b[1]),
            max(a[2], b[2]),
            min(a[3], b[3]),
        )
        shared[index] = 0
        if top < bottom and left < right:
            first, second = (
                picture[top - place[0] : bottom - place[0], left - place[2] : right - place[2]]
                for picture, place in ((first, a), (second, b))
            )
            shared[index] = (first & second).sum()
    return shared
