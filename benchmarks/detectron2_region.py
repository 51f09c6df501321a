"""Models of Detectron2's zoo for the benchmarks, in their best dense form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

PREFIX = "detectron2/"
"""Stands before a config's path in the zoo: ``detectron2/COCO-Detection/retinanet_...yaml``."""


def build_model(name: str) -> nn.Module:
    """A stock model with random weights, its batch norms folded into the convolutions.

    Args:
        name: Path of its config in the zoo, without :data:`PREFIX`.
    """
    from detectron2 import model_zoo
    from detectron2.modeling import build_model as build

    cfg = model_zoo.get_config(name)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    model = build(cfg).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif type(module).__name__ == "FrozenBatchNorm2d":
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.3, 0.7)
    for module in model.modules():
        norm = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and type(norm).__name__ == "FrozenBatchNorm2d":
            module.weight, module.bias = fuse_conv_bn_weights(
                module.weight,
                module.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            module.norm = None
    return model


def run_maps(model: nn.Module, frame: Tensor):
    """Features and head maps of a frame ``(N, 3, H, W)``; of a segmentor its logits."""
    features = model.backbone(frame)
    if hasattr(model, "proposal_generator"):
        proposals = model.proposal_generator
        return features, proposals.rpn_head([features[f] for f in proposals.in_features])
    if hasattr(model, "head"):
        return features, model.head([features[f] for f in model.head_in_features])
    return model.sem_seg_head.layers(features)


class DetectionOptions:
    """What a detector keeps of what it finds, under the names that MMDetection gives it.

    Args:
        model: A detector of Detectron2.

    Attributes:
        score_thr: Least score of a detection.
        max_per_img: Most detections of an image.
    """

    _NAMES = {
        "score_thr": ("test_score_thresh",),
        "max_per_img": ("test_topk_per_image", "max_detections_per_image"),
    }

    def __init__(self, model: nn.Module) -> None:
        heads = getattr(model, "roi_heads", None)
        self.__dict__["_holder"] = model if heads is None else heads.box_predictor

    def __getattr__(self, name: str) -> float:
        return getattr(self._holder, self._name(name))

    def __setattr__(self, name: str, value: float) -> None:
        setattr(self._holder, self._name(name), value)

    def update(self, other: DetectionOptions) -> None:
        """Keep what another detector keeps."""
        for name in self._NAMES:
            setattr(self, name, getattr(other, name))

    def _name(self, name: str) -> str:
        return next(own for own in self._NAMES[name] if hasattr(self._holder, own))


def predict(model: nn.Module, frame: Tensor) -> list[dict]:
    """What a model finds in a frame ``(1, 3, H, W)``."""
    return model([{"image": frame[0]}])


def is_detectron2(model: nn.Module) -> bool:
    """Whether a model is one of :func:`build_model`."""
    return isinstance(getattr(model, "pixel_mean", None), torch.Tensor) and hasattr(
        model, "backbone"
    )
