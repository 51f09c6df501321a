"""From a config of a zoo to what runs on blocks."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from blockcopy_plugins.integrations.mmcv_ops import teach_compiled_ops

from .architectures import Architecture
from .weights import draw_statistics_, draw_weights_

_HEADS = ("rpn_head", "bbox_head", "mask_head", "semantic_head")

# Of what comes after the dense heads and is chosen by score, this many: enough to compare.
_FEW = {"nms_pre": 100, "max_per_img": 20}


class Unit(nn.Module):
    """The part of a model whose outputs are continuous in its input.

    What comes after (NMS, RoI heads, points picked by score) may turn on a rounding error.

    Attributes:
        model: The whole detector or segmentor.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Maps(Unit):
    """A detector's backbone, neck and dense heads."""

    def forward(self, x: Tensor):
        """Features and head outputs of frames ``(N, 3, H, W)``."""
        features = self.model.extract_feat(x)
        heads = [getattr(self.model, name, None) for name in _HEADS]
        heads.append(getattr(getattr(self.model, "roi_head", None), "semantic_head", None))
        return features, [_maps(head, features) for head in heads if head is not None]


class Queries(Unit):
    """A detector of the DETR or Mask2Former kind up to its raw outputs."""

    def forward(self, x: Tensor):
        """Raw outputs for frames ``(N, 3, H, W)``."""
        return self.model(x, samples("mmdet", len(x), tuple(x.shape[2:])), mode="tensor")


class Logits(Unit):
    """A segmentor up to its logits at the size of the frame."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes, H, W)`` for frames ``(N, 3, H, W)``."""
        heads = self.model.decode_head
        if isinstance(heads, nn.ModuleList) and type(heads[-1]).__name__ == "PointHead":
            return heads[0](self.model.extract_feat(x))
        metas = [sample.metainfo for sample in samples("mmseg", len(x), tuple(x.shape[2:]))]
        return self.model.encode_decode(x, metas)


def build(architecture: Architecture) -> Unit:
    """Build an architecture.

    Args:
        architecture: What to build.

    Returns:
        A module in eval mode, with random weights and batch-norm statistics that suit them, of the
        architecture's dtype. It takes frames ``(N, 3, H, W)`` and returns tensors in lists, tuples
        and dicts.
    """
    model = build_model(architecture)
    # For a detector or segmentor that is converted whole, its adapter does it.
    teach_compiled_ops()
    if architecture.package == "mmseg":
        unit = Logits(model)
    elif hasattr(model, "forward_transformer") or hasattr(model, "panoptic_head"):
        unit = Queries(model)
    else:
        unit = Maps(model)
    draw = torch.Generator().manual_seed(0)
    draw_weights_(unit, draw)
    draw_statistics_(unit, torch.randn(2, 3, *architecture.size, generator=draw), draw)
    return unit.to(getattr(torch, architecture.dtype)).eval()


def build_model(architecture: Architecture) -> nn.Module:
    """The whole detector or segmentor, with the weights that its constructor draws."""
    package = import_module(architecture.package)
    configs = Path(package.__path__[0]) / ".mim" / "configs"
    import_module(f"{architecture.package}.models")
    registry = import_module(f"{architecture.package}.registry")
    # Names without a scope are the package's own, also where both packages are imported.
    with DefaultScope.overwrite_default_scope(architecture.package):
        config = Config.fromfile(configs / architecture.config)
        config.merge_from_dict(dict(architecture.options))
        config.model.pop("auxiliary_head", None)
        if architecture.package == "mmseg":
            # The size of crops in training; frames have their own.
            config.model.data_preprocessor = {"type": "SegDataPreProcessor"}
            config.model.test_cfg.mode = "whole"
        else:
            test = config.model.test_cfg
            for stage in (test, test.get("rpn"), test.get("rcnn")):
                stage = {} if stage is None else stage
                stage.update({key: few for key, few in _FEW.items() if key in stage})
        return registry.MODELS.build(config.model).eval()


def samples(package: str, images: int, size: tuple[int, int]) -> list[Any]:
    """Data samples of frames that were neither resized nor padded."""
    if package == "mmdet":
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    meta = {
        "img_shape": size,
        "ori_shape": size,
        "pad_shape": size,
        "batch_input_shape": size,
        "scale_factor": (1.0, 1.0),
        "padding_size": [0, 0, 0, 0],
        "border": [0, size[0], 0, size[1]],
    }
    return [Sample(metainfo={**meta, "img_id": i}) for i in range(images)]


def _maps(head: nn.Module, features: tuple[Tensor, ...]):
    """What a head makes of the features before anything is decided by score."""
    if hasattr(head, "mask_feature_head"):  # CondInst: its kernels come from boxes that won.
        return head.mask_feature_head(features)
    if hasattr(head, "protonet"):  # YOLACT: so do its coefficients.
        return head.protonet(features[0])
    outputs = head(features)
    if hasattr(head, "num_grids"):  # SOLO: the scores of all but the local maxima become zero.
        return outputs[0], *outputs[2:]
    return outputs
