"""SwiftNet's pixel classifier."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class SwiftNetHead(BaseDecodeHead):
    """Normalisation, ReLU and a 1x1 convolution to the classes, at the resolution of the map.

    Args:
        in_channels: Channels of the map.
        **options: Options of MMSegmentation's ``BaseDecodeHead``; ``channels`` is ``in_channels``
            here, and ``norm_cfg`` is a batch norm unless it is given.
    """

    def __init__(self, in_channels: int, **options) -> None:
        options.setdefault("channels", in_channels)
        options["norm_cfg"] = options.get("norm_cfg") or {"type": "BN"}
        super().__init__(in_channels, **options)
        self.norm = build_norm_layer(self.norm_cfg, in_channels)[1]
        self.act = build_activation_layer(self.act_cfg)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Classify each pixel.

        Args:
            inputs: Maps ``(N, C, H, W)``, of which the one at ``in_index`` is used.

        Returns:
            Logits ``(N, num_classes, H, W)``.
        """
        return self.cls_seg(self.act(self.norm(self._transform_inputs(inputs))))
