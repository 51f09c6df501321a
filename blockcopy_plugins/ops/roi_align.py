"""RoIAlign (He et al., Mask R-CNN, ICCV 2017) for channels-last maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _weights(start: Tensor, length: Tensor, bins: int, sampling: int, pixels: int) -> Tensor:
    """What each bin of a side takes of each pixel: float32 ``(bins, pixels)``."""
    side = length / bins
    samples = sampling if sampling > 0 else max(int(side.ceil()), 0)
    weights = torch.zeros(bins, pixels)
    for b in range(bins):
        at = start + b * side + (torch.arange(samples) + 0.5) * side / samples
        at = at[(at >= -1) & (at <= pixels)].clamp_min(0)
        low = at.long().clamp_max(pixels - 1)
        beyond = torch.where(low == pixels - 1, 0.0, at - low)
        weights[b].index_add_(0, low, 1 - beyond)
        weights[b].index_add_(0, (low + 1).clamp_max(pixels - 1), beyond)
    return weights / max(samples, 1)


def _roi_align_fake(map: Tensor, rois: Tensor, size: Sequence[int]) -> Tensor:
    torch._check_value(
        map.dim() == 4 and rois.dim() == 2 and rois.shape[1] == 5,
        lambda: (
            f"blockcopy::roi_align: map has shape {tuple(map.shape)} and rois "
            f"{tuple(rois.shape)}, expected (N, C, H, W) and (K, 5)"
        ),
    )
    torch._check_value(
        len(size) == 2 and min(size) > 0,
        lambda: f"blockcopy::roi_align: size is {size}, expected rows and columns above 0",
    )
    torch._check_type(
        map.dtype in (torch.float32, torch.bfloat16) and rois.dtype == torch.float32,
        lambda: (
            f"blockcopy::roi_align: map has dtype {map.dtype} and rois {rois.dtype}, expected "
            "torch.float32 or torch.bfloat16, and torch.float32"
        ),
    )
    return map.new_empty((rois.shape[0], map.shape[1], *size))


@operator(
    "roi_align(Tensor map, Tensor rois, int[] size, float scale, int sampling, bool aligned) "
    "-> Tensor",
    fake=_roi_align_fake,
)
def roi_align(
    map: Tensor, rois: Tensor, size: Sequence[int], scale: float, sampling: int, aligned: bool
) -> Tensor:
    """Pool regions of maps: the mean of bilinear samples in each bin.

    Equal to the ops of mmcv, torchvision and Detectron2 up to float rounding, because the order of
    summation differs. Regions with coordinates that are not finite give zeros.

    Args:
        map: float32 or bfloat16 ``(N, C, H, W)``; fastest channels last. Sums are float32.
        rois: float32 ``(K, 5)``: image, then ``x1, y1, x2, y2`` in pixels of the network's input.
        size: Bins, rows and columns.
        scale: Scale of the map relative to the network's input, such as 1/4.
        sampling: Samples of a bin along each side; 0: as many as it has pixels of the map.
        aligned: Shift by half a pixel, which is correct; False for models trained without it.

    Returns:
        ``(K, C, *size)`` of the map's dtype, contiguous.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If there is no such image.
        RuntimeError: If gradients are recorded and an argument requires grad.
    """
    check_no_grad("roi_align", map, rois)
    out = _roi_align_fake(map, rois, size)
    images, _, height, width = map.shape
    for index, (image, *corners) in enumerate(rois.tolist()):
        if not 0 <= image < images:
            raise IndexError(
                f"blockcopy::roi_align: roi {index} is of image {image:g}, expected 0 to "
                f"{images - 1}"
            )
        # In float32, as in training: a rounded ceiling would be another number of samples.
        corners = torch.tensor(corners) * torch.tensor(scale, dtype=torch.float32)
        left, top, right, bottom = (corners - (0.5 if aligned else 0.0)).unbind()
        down, across = bottom - top, right - left
        if not aligned:
            down, across = down.clamp_min(1), across.clamp_min(1)
        if not bool(torch.isfinite(torch.stack((left, top, down, across))).all()):
            out[index] = 0
            continue
        rows = _weights(top, down, size[0], sampling, height).to(map.device)
        columns = _weights(left, across, size[1], sampling, width).to(map.device)
        out[index] = torch.einsum("rh,chw,sw->crs", rows, map[int(image)].float(), columns)
    return out
