"""The part of a detector that is measured: backbone, neck and dense head, nothing behind them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class Region(nn.Module):
    """Backbone, neck and RPN (or one-stage head) of a detector.

    Proposals, RoI heads and NMS get dense tensors either way and are in neither time.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, frame: Tensor):
        """Features and head maps of a frame ``(N, 3, H, W)``."""
        features = self.detector.extract_feat(frame)
        head = getattr(self.detector, "rpn_head", None) or self.detector.bbox_head
        return features, head(features)


def build_region(name: str, dtype: torch.dtype, seed: int = 0) -> Region:
    """A stock MMDetection model in its best dense form.

    Random weights, batch norm folded into the convolutions, channels last, eval mode.

    Args:
        name: A config of MMDetection, ``'mask-rcnn_r50_fpn'`` or ``'mask_rcnn/mask-rcnn_...py'``.
        dtype: Of weights and frames.
        seed: Of the weights.

    Returns:
        The region, ready to run.

    Raises:
        FileNotFoundError: If no config has that name.
    """
    from mmcv.cnn import fuse_conv_bn
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(find_config(name)).model
    config.backbone.init_cfg = None
    config.pop("data_preprocessor", None)
    torch.manual_seed(seed)
    detector = MODELS.build(config).eval()
    _sensible_weights(detector)
    region = Region(fuse_conv_bn(detector)).eval()
    return region.to(dtype).to(memory_format=torch.channels_last)


def find_config(name: str) -> str:
    """Path of a config in the installed MMDetection.

    Raises:
        FileNotFoundError: If there is none, or several and no ``*_1x_coco.py`` among them.
    """
    import mmdet

    if Path(name).is_file():
        return name
    root = Path(mmdet.__file__).parent / ".mim" / "configs"
    if not root.is_dir():  # a checkout
        root = Path(mmdet.__file__).parents[1] / "configs"
    name = {"retinanet": "retinanet_r50_fpn"}.get(name, name)
    pattern = name if name.endswith(".py") else f"*/{name}_1x_coco.py"
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{len(found)} configs match {pattern!r} among those of MMDetection, expected one; "
            "give it as 'mask-rcnn_r50_fpn' or 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'."
        )
    return str(found[0])


def _sensible_weights(model: nn.Module) -> None:
    """Weights with which activations keep their size from layer to layer.

    No speed depends on the values, except that denormals and infinities are slow.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            # The last norm of a residual branch: else activations double in each of 16 blocks.
            module.weight.data.uniform_(0.3, 0.7)
