"""Runs RoIAlign layers of detectors by a kernel that reads channels-last maps on all threads.

On a CPU, the layers of mmcv and Detectron2 run on one thread, and mmcv's needs contiguous maps. In
a detector whose maps come from blocks, they would take half of the remaining time of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ...ops import library
from ...ops.roi_align import roi_align
from .rebound_methods import StandIn

_METHOD = "forward"


class ChannelsLastRoIAlign(StandIn):
    """Replaces the forward of a RoIAlign layer, on a CPU and without gradients.

    Everything else, such as a contiguous map, goes to the layer's own forward. The layer is one of
    mmcv or Detectron2, with ``output_size``, ``spatial_scale``, ``sampling_ratio`` and ``aligned``.
    """

    def replacement(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool the regions ``(K, 5)`` of maps ``(N, C, H, W)``."""
        if not is_served(input, rois):
            return self.original(input, rois)
        layer = self.owner
        size = layer.output_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        sampling, aligned = max(int(layer.sampling_ratio), 0), bool(layer.aligned)
        return roi_align(input, rois.float(), size, float(layer.spatial_scale), sampling, aligned)


def replace_roi_layers(
    model: nn.Module, kinds: tuple[type[nn.Module], ...]
) -> Iterator[ChannelsLastRoIAlign]:
    """Let the RoIAlign layers of a model read channels-last maps.

    Args:
        model: A detector.
        kinds: Classes of RoIAlign layers. A layer whose forward was replaced already, or that takes
            maxima, is left alone.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    if not library.has_kernel("roi_align", "cpu"):
        return
    for layer in nn.Module.modules(model):
        if (
            type(layer) in kinds
            and _METHOD not in layer.__dict__
            and getattr(layer, "pool_mode", "avg") == "avg"
        ):
            yield ChannelsLastRoIAlign(model, layer, _METHOD).put()


def read_channels_last(layers: Iterable[nn.Module]) -> bool:
    """Whether there is at least one of these RoI layers, and all read channels-last maps."""
    found = [isinstance(layer.__dict__.get(_METHOD), ChannelsLastRoIAlign) for layer in layers]
    return bool(found) and all(found)


def pool_by_level(
    pool: Callable[[int, Tensor], Tensor], levels: Tensor, count: int, rois: Tensor, empty: Tensor
) -> Tensor:
    """Pool each region from the level of a pyramid that is meant for it.

    Args:
        pool: ``pool(level, rois)`` gives what it pools, ``(k, C, *size)``.
        levels: int ``(K,)``, the level of each region.
        count: Number of levels. One from which no region is taken is not read.
        rois: ``(K, 5)``, the regions.
        empty: ``(0, C, *size)``, the result without regions.

    Returns:
        The pooled regions, ``(K, C, *size)``.
    """
    if not len(rois):
        return empty
    # The level of a region that is no number is none.
    levels = levels.clamp(0, count - 1)
    numbers = levels.bincount(minlength=count).tolist()
    if len(rois) in numbers:
        return pool(numbers.index(len(rois)), rois)
    order = levels.argsort()
    parts = rois[order].split(numbers)
    pooled = torch.cat([pool(level, its) for level, its in enumerate(parts) if len(its)])
    return pooled.index_select(0, order.argsort())


def is_served(map_: Tensor, rois: Tensor) -> bool:
    """Whether the kernel pools such regions of such a map: on a CPU, without gradients."""
    return (
        type(map_) is Tensor
        and type(rois) is Tensor
        and map_.device.type == rois.device.type == "cpu"
        and map_.dtype in (torch.float32, torch.bfloat16)
        and map_.dim() == 4
        and map_.is_contiguous(memory_format=torch.channels_last)
        and not (torch.is_grad_enabled() and (map_.requires_grad or rois.requires_grad))
    )
