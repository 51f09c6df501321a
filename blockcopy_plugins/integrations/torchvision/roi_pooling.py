"""torchvision's pooling of regions, on channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from ...ops import library
from ...ops.roi_align import roi_align
from ..common.rebound_methods import StandIn
from ..common.roi_layers import is_served, pool_by_level

_METHOD = "forward"


class ChannelsLastPooler(StandIn):
    """Replaces the forward of a :class:`MultiScaleRoIAlign`, on a CPU and without gradients.

    torchvision's own op makes contiguous copies of the maps and pools on one thread. What this
    package's kernel does not serve goes to the pooler's own forward, and so does its first call, in
    which it finds the scales of its maps.
    """

    def replacement(
        self,
        x: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        image_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """See :meth:`MultiScaleRoIAlign.forward`."""
        pooler = self.owner
        maps = [map_ for name, map_ in x.items() if name in pooler.featmap_names]
        if pooler.scales is None or not all(is_served(m, b) for m in maps for b in boxes):
            return self.original(x, boxes, image_shapes)
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
        if type(module) is MultiScaleRoIAlign and _METHOD not in module.__dict__:
            yield ChannelsLastPooler(model, module, _METHOD).put()


def pools_channels_last(module: nn.Module) -> bool:
    """Whether RoI heads pool by nothing but poolers that read channels-last maps.

    Args:
        module: The RoI heads.
    """
    poolers = [child for name, child in module.named_children() if name.endswith("roi_pool")]
    found = [isinstance(child.__dict__.get(_METHOD), ChannelsLastPooler) for child in poolers]
    return bool(found) and all(found)
