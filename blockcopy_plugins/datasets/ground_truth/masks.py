"""Masks as COCO run-length codes: a few hundred bytes instead of a whole picture each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blockcopy_plugins.errors import ConfigError

RLE = dict[str, Any]
"""``{'size': [H, W], 'counts': bytes}``, COCO's compressed run-length code."""

FURTHEST = 100_000
"""Largest coordinate of a polygon, px. pycocotools walks along each edge pixel by pixel: with 1e7
that takes 15 s and a gigabyte, and with 1e9 it crashes the process."""


def encode_masks(masks: Any) -> tuple[RLE, ...]:
    """Encode masks of whole images.

    Args:
        masks: Tensor or array (K, H, W), bool or 0/1; or MMDetection's ``BitmapMasks``; or a
            sequence of run-length codes (compressed or not) and arrays (H, W), mixed as you like.

    Returns:
        K run-length codes with ``counts`` as bytes.

    Raises:
        ConfigError: The masks are of another form.
    """
    from pycocotools import mask as coco_mask

    if hasattr(masks, "masks"):  # BitmapMasks, PolygonMasks
        if not isinstance(masks.masks, np.ndarray):
            return tuple(encode_polygons(p, (masks.height, masks.width)) for p in masks.masks)
        masks = masks.masks
    if not isinstance(masks, Sequence) and getattr(masks, "ndim", None) != 3:
        raise ConfigError(
            "masks must have the shape (K, H, W) or be a sequence of masks or run-length codes, "
            f"but got {type(masks).__name__} of shape {tuple(getattr(masks, 'shape', ()))}"
        )
    encoded = []
    for mask in masks:
        if isinstance(mask, Mapping):
            encoded.append(_normalise_rle(mask))
            continue
        # One at a time: all masks of a frame as bytes on the CPU would be large.
        array = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
        if array.ndim != 2:
            raise ConfigError(f"a mask must have the shape (H, W), but got {array.shape}")
        encoded.append(coco_mask.encode(np.asfortranarray(array != 0).astype(np.uint8, order="F")))
    return tuple(encoded)


def encode_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> RLE:
    """Encode one object's polygons.

    Args:
        polygons: Its parts, each a flat sequence x1, y1, x2, y2, ... in pixels.
        size: Height and width of the image, px.

    Returns:
        The run-length code of the union of the parts; of an empty mask if there is no valid part.

    Raises:
        ConfigError: If a corner is not a finite number, or further than ``FURTHEST`` from the
            image.
    """
    from pycocotools import mask as coco_mask

    parts = [[float(v) for v in part] for part in polygons]
    parts = [part for part in parts if len(part) >= 6 and len(part) % 2 == 0]
    for value in (value for part in parts for value in part):
        if not abs(value) <= FURTHEST:
            raise ConfigError(
                f"a polygon has the coordinate {value:g}, expected at most {FURTHEST} px from the "
                "image"
            )
    if not parts:
        return coco_mask.encode(np.zeros(size, dtype=np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(parts, *size))


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> RLE:
    """Encode an annotation's ``segmentation`` field.

    Args:
        segmentation: List of polygons, or a run-length code (compressed or not).
        size: Height and width of the image, px.

    Returns:
        The run-length code.

    Raises:
        ConfigError: A run-length code of another image size.
    """
    if not isinstance(segmentation, Mapping):
        return encode_polygons(segmentation, size)
    rle = _normalise_rle(segmentation)
    if tuple(rle["size"]) != tuple(size):
        raise ConfigError(
            f"a mask is {tuple(rle['size'])} px high and wide, but its image {tuple(size)}; the "
            "annotations belong to frames of another size"
        )
    return rle


def mask_area(rle: RLE) -> float:
    """Number of pixels of a mask.

    Args:
        rle: Its run-length code.
    """
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(rle))


def _normalise_rle(rle: Mapping[str, Any]) -> RLE:
    from pycocotools import mask as coco_mask

    if "counts" not in rle or "size" not in rle:
        raise ConfigError(f"a run-length code needs 'counts' and 'size', but has {sorted(rle)}")
    counts = rle["counts"]
    size = [int(v) for v in rle["size"]]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    elif not isinstance(counts, bytes):
        return coco_mask.frPyObjects({"counts": list(counts), "size": size}, *size)
    return {"size": size, "counts": counts}
