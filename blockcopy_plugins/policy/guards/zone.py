"""A part of the picture that a user marks: an image, an array or polygons, and its blocks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.host_transfer import upload

# The aspect ratio of a mask may differ from the frame's by this much: resized frames are padded by
# a few pixels, up to a multiple of the network's stride.
ASPECT_TOLERANCE = 0.03
# Brightness from which a pixel of a mask image belongs to the zone: half of white.
_WHITE = 128
# Largest number of frame sizes whose blocks are remembered.
_SIZES = 16


class Zone:
    """A part of the picture, given once for frames of any size.

    Args:
        mask: One of

            * an image file in which the zone is white;
            * a bool array or tensor ``(h, w)``, True in the zone;
            * a polygon ``[[x, y], ...]`` in pixels, or a list of polygons. The zone is where the
              centres of pixels lie inside one of them (for a polygon that crosses itself, by the
              even-odd rule).
        size: ``(width, height)`` of the picture whose pixels the polygons are given in; None for
            the network's input.

    Attributes:
        label: Its name in messages.

    Raises:
        ConfigError: If the mask is none of these, cannot be read or marks nothing, or ``size`` does
            not go with it.
    """

    def __init__(self, mask: Any, size: Sequence[int] | None = None) -> None:
        # One of the two; polygons in pixels of frames are painted for each frame size.
        self._mask: Tensor | None = None
        self._polygons: list[Tensor] = []
        if isinstance(mask, (str, os.PathLike)):
            self._mask, self.label = _read_image(os.fspath(mask)), os.path.basename(mask)
        elif _is_array_of_bool(mask):
            self._mask = _as_mask(mask)
            self.label = "{1}x{0} px".format(*self._mask.shape)
        else:
            self._polygons = _as_polygons(mask)
            count = len(self._polygons)
            self.label = "1 polygon" if count == 1 else f"{count} polygons"
        if self._mask is not None and not self._mask.any():
            raise ConfigError(f"the mask {self.label} marks no pixel; make the zone white (True)")
        if size is not None:
            if not self._polygons:
                raise ConfigError(
                    f"size={size!r} says which picture polygons are drawn on, but the mask "
                    f"{self.label} has its own size; omit size"
                )
            self._mask = _paint(self._polygons, *_check_size(size))
        self._blocks: dict[tuple, Tensor] = {}

    def blocks(
        self, frame_size: tuple[int, int], block_size: int, whole: bool, device: torch.device
    ) -> Tensor:
        """Find the blocks of the zone in frames of a size.

        Args:
            frame_size: ``(H, W)`` of the network's input.
            block_size: Side of a block in pixels.
            whole: Find the blocks that lie inside the zone with all their pixels in the frame; else
                the blocks that the zone touches.
            device: The result's device.

        Returns:
            bool ``(GH, GW)``; do not write to it.

        Raises:
            ConfigError: If a polygon leaves the frame, the mask has another aspect ratio than the
                frame, or there is no such block.
        """
        key = (*frame_size, block_size, whole, device)
        found = self._blocks.get(key)
        if found is None:
            height, width = frame_size
            mask = self._mask
            if mask is None:
                mask = _paint(self._polygons, width, height)
            self._check_aspect(mask, width, height)
            grid = _blocks_of(mask, height, width, block_size, whole)
            if not grid.any():
                raise ConfigError(
                    f"no block of {block_size} px of a frame of {width}x{height} px lies inside "
                    f"the mask {self.label}, so it has no effect; enlarge it, or use a smaller "
                    "block_size"
                )
            while len(self._blocks) >= _SIZES:
                del self._blocks[next(iter(self._blocks))]
            found = self._blocks[key] = upload(grid, device)
        return found

    def _check_aspect(self, mask: Tensor, width: int, height: int) -> None:
        rows, columns = mask.shape
        mine, wanted = columns / rows, width / height
        if abs(math.log(mine / wanted)) > ASPECT_TOLERANCE:
            raise ConfigError(
                f"the mask {self.label} has {columns}x{rows} px, an aspect of {mine:.3f}, but the "
                f"network's input has {width}x{height} px, an aspect of {wanted:.3f}. Draw the "
                "mask on the picture as the network gets it, resized and padded"
            )


def _read_image(path: str) -> Tensor:
    if not os.path.isfile(path):
        raise ConfigError(
            f"there is no mask image {path!r} (the working directory is {os.getcwd()!r})"
        )
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Pillow is needed to read the mask image {path!r}: pip install pillow; or give the "
            "mask as a bool array"
        ) from error
    try:
        with Image.open(path) as image:
            grey = image.convert("L")
    except OSError as error:
        raise ConfigError(f"the mask image {path!r} cannot be read: {error}") from error
    pixels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8)
    return pixels.view(grey.height, grey.width) >= _WHITE


def _is_array_of_bool(mask: Any) -> bool:
    """Whether it is meant as a mask rather than as polygons."""
    if hasattr(mask, "dtype"):
        return "bool" in str(mask.dtype) or tuple(mask.shape[1:]) != (2,)
    while isinstance(mask, Sequence) and not isinstance(mask, str) and len(mask):
        mask = mask[0]
    return isinstance(mask, bool)


def _as_mask(mask: Any) -> Tensor:
    try:
        # A copy: the caller may write to its own array.
        found = torch.as_tensor(mask).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"a mask must be a bool array (h, w): {error}") from error
    if found.dim() != 2 or found.dtype != torch.bool or 0 in found.shape:
        raise ConfigError(
            f"a mask must be a bool array (h, w), found {found.dtype} {tuple(found.shape)}; write "
            "array > 0, or give an image file, or polygons [[x, y], ...]"
        )
    return found


def _as_polygons(mask: Any) -> list[Tensor]:
    given = mask.tolist() if hasattr(mask, "tolist") else mask
    several = isinstance(given, Sequence) and not isinstance(given, str) and len(given)
    polygons = given if several and not _is_polygon(given) else [given]
    for polygon in polygons:
        if not _is_polygon(polygon):
            raise ConfigError(
                "a mask must be an image file, a bool array (h, w), or polygons of at least "
                f"three corners [[x, y], ...] in pixels, found {polygon!r}"
            )
    return [torch.tensor(polygon, dtype=torch.float64) for polygon in polygons]


def _is_polygon(value: Any) -> bool:
    def is_corner(corner: Any) -> bool:
        return (
            isinstance(corner, Sequence)
            and len(corner) == 2
            and all(isinstance(v, (int, float)) and math.isfinite(v) for v in corner)
        )

    return isinstance(value, Sequence) and len(value) >= 3 and all(map(is_corner, value))


def _check_size(size: Any) -> tuple[int, int]:
    pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    if not pair or not all(type(side) is int and side > 0 for side in size):
        raise ConfigError(
            "size must be (width, height) of the picture that polygons are drawn on, in pixels, "
            f"found {size!r}"
        )
    return size[0], size[1]


def _paint(polygons: Sequence[Tensor], width: int, height: int) -> Tensor:
    """Paint polygons: bool ``(height, width)``, True where a pixel's centre is inside one."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    centres = torch.arange(width) + 0.5
    for polygon in polygons:
        corners = polygon.tolist()
        for x, y in corners:
            if not (0 <= x <= width and 0 <= y <= height):
                raise ConfigError(
                    f"a polygon has the corner ({x:g}, {y:g}), outside the picture of "
                    f"{width}x{height} px. Coordinates are pixels of the network's input, or of "
                    "the picture of size=(width, height) if that is given"
                )
        inside = torch.zeros_like(mask)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            # Rows whose centre line the edge crosses; a crossing flips everything to its right.
            first, last = (math.ceil(y - 0.5) for y in sorted((y0, y1)))
            if first < last:
                y = torch.arange(first, last, dtype=torch.float64) + 0.5
                crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                inside[first:last] ^= centres >= crossing[:, None]
        mask |= inside
    if not mask.any():
        raise ConfigError("the polygons are so thin that no pixel's centre is inside")
    return mask


def _blocks_of(mask: Tensor, height: int, width: int, block_size: int, whole: bool) -> Tensor:
    """Blocks of a frame that a mask of the same picture touches, or that lie inside it."""
    edges = []
    for length, pixels in ((height, mask.shape[0]), (width, mask.shape[1])):
        starts = torch.arange(0, length, block_size)
        ends = (starts + block_size).clamp_max(length)
        # All pixels of the mask that a block covers, partly covered ones too.
        edges += [starts * pixels // length, (ends * pixels + length - 1) // length]
    top, bottom, left, right = edges
    sums = torch.zeros(mask.shape[0] + 1, mask.shape[1] + 1, dtype=torch.int64)
    sums[1:, 1:] = mask.long().cumsum(0).cumsum(1)
    below, above = sums[bottom], sums[top]
    marked = below[:, right] - above[:, right] - below[:, left] + above[:, left]
    return marked == torch.outer(bottom - top, right - left) if whole else marked > 0
