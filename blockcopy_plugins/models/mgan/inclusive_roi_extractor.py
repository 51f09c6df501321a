"""RoI features of MMDetection 0.x, where a box's last row and column belong to it."""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class InclusiveRoIExtractor(SingleRoIExtractor):
    """RoIAlign as in MMDetection 0.x (Pedestron), on one map.

    Three things differ: pixel x of the image lies at x / stride of the map, not half a cell before;
    the box reaches to ``x2 + 1``; and smaller boxes are not widened to one cell. MMCV's RoIAlign
    with ``aligned=False`` does only the first of these.

    Args:
        roi_layer: ``RoIAlign`` with ``aligned=True``, see MMDetection.
        out_channels: Channels of the map.
        featmap_strides: The stride of the map, a list of one.
        **kwargs: Further arguments of ``SingleRoIExtractor``.

    Raises:
        ConfigError: If there are several maps, or it is not an aligned RoIAlign.
    """

    def __init__(
        self, roi_layer: dict, out_channels: int, featmap_strides: Sequence[int], **kwargs
    ) -> None:
        if len(featmap_strides) != 1:
            raise ConfigError(
                f"featmap_strides is {list(featmap_strides)}, expected one: for several maps use "
                "MMDetection's SingleRoIExtractor"
            )
        if roi_layer.get("type") != "RoIAlign" or not roi_layer.get("aligned", True):
            raise ConfigError(
                f"roi_layer is {dict(roi_layer)}, expected type='RoIAlign' with aligned=True: what "
                "MMDetection 0.x did differently is added to that"
            )
        super().__init__(roi_layer, out_channels, featmap_strides, **kwargs)

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """Extract the features of regions.

        Args:
            feats: One map ``(N, C, H / stride, W / stride)``.
            rois: ``(n, 5)``, number of the image and inclusive box x1, y1, x2, y2 in pixels.
            roi_scale_factor: As in ``SingleRoIExtractor``, which ignores it for one map.

        Returns:
            ``(n, C, h, w)``, with h and w as the RoI layer says.
        """
        # The aligned RoIAlign samples half a cell before the given position.
        half_cell = self.featmap_strides[0] / 2
        shift = rois.new_tensor([0, half_cell, half_cell, half_cell + 1, half_cell + 1])
        return super().forward(feats, rois + shift, roi_scale_factor)
