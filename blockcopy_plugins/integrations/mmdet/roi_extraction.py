"""MMDetection's RoI extractor on channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from ..common.rebound_methods import StandIn
from ..common.roi_layers import pool_by_level, read_channels_last

_METHOD = "forward"


class ChannelsLastExtractor(StandIn):
    """Replaces the forward of a :class:`SingleRoIExtractor` whose layers read such maps.

    Coordinates stay float32, whereas the extractor rounds them to the dtype of the maps: in
    bfloat16, to steps of 8 px in an image of 2000 px. Maps from which no region is taken are not
    read.
    """

    def replacement(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """See :meth:`SingleRoIExtractor.forward`."""
        if torch.is_grad_enabled() or rois.device.type != "cpu":
            return self.original(feats, rois, roi_scale_factor)
        extractor = self.owner
        levels = extractor.map_roi_levels(rois, len(feats))
        # With a single level the extractor scales nothing.
        if roi_scale_factor is not None and len(feats) > 1:
            rois = extractor.roi_rescale(rois, roi_scale_factor)
        size = extractor.roi_layers[0].output_size
        empty = feats[0].new_empty(0, extractor.out_channels, *size)
        layers = extractor.roi_layers

        def pool(level: int, its: Tensor) -> Tensor:
            return layers[level](feats[level], its)

        return pool_by_level(pool, levels, min(len(layers), len(feats)), rois, empty)


def replace_extractors(model: nn.Module) -> Iterator[StandIn]:
    """Let the extractors of a detector read channels-last maps, if all of their layers do.

    Args:
        model: A detector whose RoI layers have been replaced.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    for module in nn.Module.modules(model):
        if (
            type(module) is SingleRoIExtractor
            and _METHOD not in module.__dict__
            and read_channels_last(module.roi_layers)
        ):
            yield ChannelsLastExtractor(model, module, _METHOD).put()
