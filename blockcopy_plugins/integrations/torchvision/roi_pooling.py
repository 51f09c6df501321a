"""torchvision's pooling of regions, on channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from ...ops import library
from ...ops.roi_align import roi_align
from ..common.roi_layers import is_served, pool_by_level


class ChannelsLastPooler:
    """Replaces the forward of a :class:`MultiScaleRoIAlign`, on a CPU and without gradients.

    torchvision's own op makes contiguous copies of the maps and pools on one thread. What this
    package's kernel does not serve goes to the pooler's own forward, and so does its first call, in
    which it finds the scales of its maps.

    Args:
        pooler: The pooler.
    """

    def __init__(self, pooler: MultiScaleRoIAlign) -> None:
        self._pooler = pooler

    def __call__(
        self,
        x: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        image_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """See :meth:`MultiScaleRoIAlign.forward`."""
        pooler = self._pooler
        maps = [map_ for name, map_ in x.items() if name in pooler.featmap_names]
        if pooler.scales is None or not all(is_served(m, b) for m in maps for b in boxes):
            return type(pooler).forward(pooler, x, boxes, image_shapes)
        images = [torch.full_like(own[:, :1], i) for i, own in enumerate(boxes)]
        rois = torch.cat((torch.cat(images), torch.cat(list(boxes))), 1).float()
        size, sampling = tuple(pooler.output_size), max(int(pooler.sampling_ratio), 0)

        def pool(level: int, its: Tensor) -> Tensor:
            scale = float(pooler.scales[level])
            return roi_align(maps[level], its, size, scale, sampling, aligned=False)

        if len(maps) == 1:
            return pool(0, rois)
        empty = maps[0].new_empty(0, maps[0].shape[1], *size)
        return pool_by_level(pool, pooler.map_levels(list(boxes)), len(maps), rois, empty)

    def remove(self) -> None:
        """Restore the pooler's own forward."""
        if self._pooler.__dict__.get("forward") is self:
            del self._pooler.__dict__["forward"]


def replace_poolers(model: nn.Module) -> Iterator[ChannelsLastPooler]:
    """Let the poolers of a detector read channels-last maps.

    Args:
        model: The detector. A pooler whose forward was replaced already is left alone.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    if not library.has_kernel("roi_align", "cpu"):
        return
    for module in nn.Module.modules(model):
        if type(module) is MultiScaleRoIAlign and "forward" not in module.__dict__:
            module.__dict__["forward"] = stand_in = ChannelsLastPooler(module)
            yield stand_in


def pools_channels_last(module: nn.Module) -> bool:
    """Whether RoI heads pool by nothing but poolers that read channels-last maps.

    Args:
        module: The RoI heads.
    """
    poolers = [child for name, child in module.named_children() if name.endswith("roi_pool")]
    found = [isinstance(child.__dict__.get("forward"), ChannelsLastPooler) for child in poolers]
    return bool(found) and all(found)
