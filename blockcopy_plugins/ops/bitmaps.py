"""Bitmaps: what is set of masks, each in a region of its own, with eight pixels a byte.

A region is a row of an int32 tensor ``(n, 4)``: ``top, bottom, left, right``, half-open, each with
at least one pixel. Its bitmap has a bit for each pixel, row after row, the leftmost of a byte
lowest. The bytes of a row begin at multiples of 8 columns of the picture, so that the bitmaps of
any two regions lie byte on byte; bits beside the region are 0. The bitmaps of several regions stand
one after the other in one uint8 tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_range
from blockcopy_plugins.ops.library import register_operator


def pack_columns(masks: Tensor) -> Tensor:
    """Pack masks bool ``(..., w)`` to uint8 ``(..., ceil(w / 8))``, the leftmost pixel lowest."""
    bits = F.pad(masks.byte(), (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (bits << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(-1).byte()


def unpack_bitmaps(bits: Tensor, regions: Tensor) -> list[Tensor]:
    """Return what bitmaps show of each region: bool ``(bottom - top, right - left)``."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    pictures, start = [], 0
    for top, bottom, left, right in regions.tolist():
        shape = (bottom - top, _row_bytes(left, right))
        packed = bits[start : start + shape[0] * shape[1]].view(shape)
        pixels = ((packed[:, :, None] >> places) & 1).bool().flatten(1)
        pictures.append(pixels[:, left % 8 : left % 8 + right - left])
        start += packed.numel()
    return pictures


def _pack_bitmaps(pictures: list[Tensor], regions: Tensor) -> Tensor:
    lefts = regions[:, 2].tolist()
    parts = [
        pack_columns(F.pad(picture.byte(), (left % 8, 0))).flatten()
        for picture, left in zip(pictures, lefts, strict=True)
    ]
    empty = torch.empty(0, dtype=torch.uint8, device=regions.device)
    return torch.cat([empty, *parts])


def _row_bytes(left: int, right: int) -> int:
    return (right + 7) // 8 - left // 8


def check_regions(
    op: str, name: str, regions: Tensor, size: tuple[int, int] | None = None
) -> None:
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
    """Check all of regions but their values, as :func:`check_regions` does."""
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
    """Check that a tensor holds the bitmaps of regions, which are checked.

    Raises:
        TypeError: If the dtype is not uint8.
        ValueError: If it does not have as many bytes as the regions' bitmaps.
    """
    torch._check_type(
        bits.dtype == torch.uint8,
        lambda: f"blockcopy::{op}: {name} has dtype {bits.dtype}, expected torch.uint8",
    )
    count = sum((b - t) * _row_bytes(left, right) for t, b, left, right in regions.tolist())
    torch._check_value(
        tuple(bits.shape) == (count,) and bits.is_contiguous(),
        lambda: (
            f"blockcopy::{op}: {name} has shape {tuple(bits.shape)}, expected contiguous "
            f"({count}), as its regions have bytes"
        ),
    )


def crop_masks_reference(masks: Tensor, indices: Tensor, regions: Tensor) -> Tensor:
    """Pure-PyTorch twin of :func:`crop_masks`: same arguments, result and errors, any device."""
    _check_crop(masks, indices, regions)
    check_range("crop_masks", "index", indices, 0, len(masks))
    if masks.dtype == torch.uint8:
        places = torch.arange(8, dtype=torch.uint8, device=masks.device)
        masks = ((masks[..., None] >> places) & 1).bool().flatten(2)
    check_regions("crop_masks", "regions", regions, tuple(masks.shape[1:]))
    pictures = [
        masks[index, top:bottom, left:right]
        for index, (top, bottom, left, right) in zip(
            indices.tolist(), regions.tolist(), strict=True
        )
    ]
    return _pack_bitmaps(pictures, regions)


def _check_crop(masks: Tensor, indices: Tensor, regions: Tensor) -> None:
    torch._check_type(
        masks.dtype in (torch.bool, torch.uint8),
        lambda: (
            f"blockcopy::crop_masks: masks have dtype {masks.dtype}, expected torch.bool, or "
            "torch.uint8 for eight pixels a byte"
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


def cover_cells_reference(
    bits: Tensor, regions: Tensor, cells: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Pure-PyTorch twin of :func:`cover_cells`: same arguments, result and errors, any device."""
    _check_cover(bits, regions, cells, rows, columns)
    check_regions("cover_cells", "regions", regions)
    check_regions("cover_cells", "cells", cells, (len(rows), len(columns)))
    check_bitmaps("cover_cells", "bits", bits, regions)
    covered = []
    for picture, origin, (top, bottom, left, right) in zip(
        unpack_bitmaps(bits, regions), regions[:, ::2].tolist(), cells.tolist(), strict=True
    ):
        picture = _any_in(picture, rows[top:bottom] - origin[0])
        covered.append(_any_in(picture.T, columns[left:right] - origin[1]).T)
    return _pack_bitmaps(covered, cells)


def _any_in(picture: Tensor, ranges: Tensor) -> Tensor:
    """For each range of rows, whether one of them is set in a column."""
    count = F.pad(picture.int().cumsum(0), (0, 0, 1, 0))
    begin, end = ranges.clamp(0, len(picture)).long().unbind(1)
    return count[end] > count[begin]


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
                "contiguous (n, 2): first pixel and behind the last"
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


def shared_pixels_reference(
    bits: Tensor, regions: Tensor, other_bits: Tensor, other_regions: Tensor, pairs: Tensor
) -> Tensor:
    """Pure-PyTorch twin of :func:`shared_pixels`: same arguments, result and errors, any device."""
    shared = _shared_pixels_fake(bits, regions, other_bits, other_regions, pairs)
    check_regions("shared_pixels", "regions", regions)
    check_regions("shared_pixels", "other_regions", other_regions)
    check_bitmaps("shared_pixels", "bits", bits, regions)
    check_bitmaps("shared_pixels", "other_bits", other_bits, other_regions)
    firsts = list(zip(unpack_bitmaps(bits, regions), regions.tolist(), strict=True))
    seconds = list(
        zip(unpack_bitmaps(other_bits, other_regions), other_regions.tolist(), strict=True)
    )
    for index, (one, other) in enumerate(pairs.tolist()):
        if not (0 <= one < len(firsts) and 0 <= other < len(seconds)):
            raise IndexError(
                f"blockcopy::shared_pixels: pair {index} is {one}, {other}, but there are "
                f"{len(firsts)} and {len(seconds)} regions"
            )
        (mask, a), (mask_b, b) = firsts[one], seconds[other]
        rows = max(a[0], b[0]), min(a[1], b[1])
        columns = max(a[2], b[2]), min(a[3], b[3])
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            shared[index] = 0
            continue
        both = [
            picture[rows[0] - r[0] : rows[1] - r[0], columns[0] - r[2] : columns[1] - r[2]]
            for picture, r in ((mask, a), (mask_b, b))
        ]
        shared[index] = (both[0] & both[1]).sum()
    return shared


def _shared_pixels_fake(
    bits: Tensor, regions: Tensor, other_bits: Tensor, other_regions: Tensor, pairs: Tensor
) -> Tensor:
    check_regions_shape("shared_pixels", "regions", regions)
    check_regions_shape("shared_pixels", "other_regions", other_regions)
    torch._check_type(
        pairs.dtype == torch.int64,
        lambda: f"blockcopy::shared_pixels: pairs have dtype {pairs.dtype}, expected torch.int64",
    )
    torch._check_value(
        pairs.dim() == 2 and pairs.shape[1] == 2,
        lambda: (
            f"blockcopy::shared_pixels: pairs have shape {tuple(pairs.shape)}, expected (n, 2)"
        ),
    )
    return pairs.new_empty(pairs.shape[0])


_CROP_MASKS = register_operator(
    "crop_masks(Tensor masks, Tensor indices, Tensor regions) -> Tensor",
    reference=crop_masks_reference,
    fake=_crop_masks_fake,
)
_COVER_CELLS = register_operator(
    "cover_cells(Tensor bits, Tensor regions, Tensor cells, Tensor rows, Tensor columns) -> Tensor",
    reference=cover_cells_reference,
    fake=_cover_cells_fake,
)
_SHARED_PIXELS = register_operator(
    "shared_pixels(Tensor bits, Tensor regions, Tensor other_bits, Tensor other_regions, "
    "Tensor pairs) -> Tensor",
    reference=shared_pixels_reference,
    fake=_shared_pixels_fake,
)


def crop_masks(masks: Tensor, indices: Tensor, regions: Tensor) -> Tensor:
    """Make bitmaps of regions of masks.

    Args:
        masks: bool ``(m, h, w)``, or uint8 ``(m, h, ceil(w / 8))`` as :func:`pack_columns` packs
            them.
        indices: int64 ``(n,)``, of which mask each region is.
        regions: int32 ``(n, 4)``, in pixels.

    Returns:
        The bitmaps, uint8.

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape does not fit.
        IndexError: If there is no such mask, or a region is empty or reaches out of it.
    """
    return _CROP_MASKS(masks, indices, regions)


def cover_cells(
    bits: Tensor, regions: Tensor, cells: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Find the cells in which a pixel is set.

    Args:
        bits: Bitmaps of pixels, uint8.
        regions: int32 ``(n, 4)``, of the bitmaps, in pixels. What is beside them is not set.
        cells: int32 ``(n, 4)``, the cells to find of each bitmap.
        rows: int32 ``(height, 2)``, for each row of cells its first row of pixels and the one
            behind its last.
        columns: int32 ``(width, 2)``, the same of columns.

    Returns:
        The bitmaps of ``cells``, uint8.

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape does not fit.
        IndexError: If a region is empty, or one of cells reaches out of ``(height, width)``.
    """
    return _COVER_CELLS(bits, regions, cells, rows, columns)


def shared_pixels(
    bits: Tensor, regions: Tensor, other_bits: Tensor, other_regions: Tensor, pairs: Tensor
) -> Tensor:
    """Count the pixels that are set in both of two bitmaps.

    Args:
        bits: Bitmaps of pixels, uint8.
        regions: int32 ``(n, 4)``, of ``bits``.
        other_bits: Bitmaps of the same picture, uint8.
        other_regions: int32 ``(m, 4)``, of ``other_bits``.
        pairs: int64 ``(k, 2)``: which of ``bits`` with which of ``other_bits``.

    Returns:
        int64 ``(k,)``.

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape does not fit.
        IndexError: If a region is empty or a pair has no bitmaps.
    """
    return _SHARED_PIXELS(bits, regions, other_bits, other_regions, pairs)
