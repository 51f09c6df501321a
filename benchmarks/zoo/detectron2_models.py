"""Architectures of Detectron2's zoo and projects, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .detectron2_maps import Ends, Maps
from .weights import draw_statistics_, draw_weights_

_SMALL_RESNET = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
_SMALL_RESNET += ["MODEL.RESNETS.WIDTH_PER_GROUP", 8]
_SMALL_RCNN = [*_SMALL_RESNET, "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32]
_SMALL_RCNN += ["MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_HEADS.NUM_CLASSES", 5]
_FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
}
_DEEPLAB = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530],
    "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
    "MODEL.BACKBONE.NAME": "build_resnet_deeplab_backbone",
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 128,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.SEM_SEG_HEAD.NAME": "DeepLabV3PlusHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res5"],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
    "MODEL.SEM_SEG_HEAD.NORM": "SyncBN",
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [512, 1024],
    "INPUT.FORMAT": "RGB",
}


@dataclass(frozen=True)
class Architecture:
    """One of the zoo's models.

    Attributes:
        config: Its config's path in the zoo, or below the projects' folder.
        project: Module of the project that it needs, ``""`` for none.
        keys: Keys that make the same model without the project's config, on top of ``base``.
        base: Config of the zoo that they are put on top of.
        small: Changes that make it narrow, for tests.
        full: Changes of the model as it is.
        sizes: Of frames, px, for the models as they are.
        small_sizes: The same for narrow ones.
    """

    config: str
    project: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    small: Sequence[Any] = ()
    full: Sequence[Any] = ()
    sizes: tuple[tuple[int, int], ...] = ((256, 384), (320, 450), (389, 517))
    small_sizes: tuple[tuple[int, int], ...] = ((128, 192), (160, 225), (190, 131))


ARCHITECTURES = {
    "mask_rcnn_R_50_FPN": Architecture(
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", small=_SMALL_RCNN
    ),
    "faster_rcnn_R_50_C4": Architecture(
        "COCO-Detection/faster_rcnn_R_50_C4_3x.yaml",
        small=[*_SMALL_RESNET, "MODEL.ROI_HEADS.NUM_CLASSES", 5],
    ),
    "keypoint_rcnn_R_50_FPN": Architecture(
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml",
        small=[*_SMALL_RCNN, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16, 16]],
    ),
    "cascade_mask_rcnn_R_50_FPN": Architecture(
        "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", small=_SMALL_RCNN
    ),
    "retinanet_R_50_FPN": Architecture(
        "COCO-Detection/retinanet_R_50_FPN_3x.yaml",
        small=[*_SMALL_RESNET, "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.RETINANET.NUM_CLASSES", 5],
    ),
    "panoptic_fpn_R_50": Architecture(
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml",
        small=[*_SMALL_RCNN, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32],
    ),
    "semantic_fpn_R_50": Architecture(
        "Misc/semantic_R_50_FPN_1x.yaml",
        small=[
            *_SMALL_RESNET,
            "MODEL.FPN.OUT_CHANNELS",
            16,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM",
            32,
        ],
    ),
    "pointrend_rcnn_R_50_FPN": Architecture(
        "PointRend/configs/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco.yaml",
        project="detectron2.projects.point_rend",
        base="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        keys={
            "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",
            "MODEL.ROI_MASK_HEAD.NAME": "PointRendMaskHead",
            "MODEL.ROI_MASK_HEAD.FC_DIM": 1024,
            "MODEL.ROI_MASK_HEAD.NUM_FC": 2,
            "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 7,
            "MODEL.ROI_MASK_HEAD.IN_FEATURES": ["p2"],
            "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON": True,
            "MODEL.POINT_HEAD.FC_DIM": 256,
            "MODEL.POINT_HEAD.NUM_FC": 3,
            "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
        },
        small=[*_SMALL_RCNN, "MODEL.POINT_HEAD.NUM_CLASSES", 5, "MODEL.POINT_HEAD.FC_DIM", 16]
        + ["MODEL.ROI_MASK_HEAD.FC_DIM", 32],
    ),
    "pointrend_semantic_R_101_FPN": Architecture(
        "PointRend/configs/SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes.yaml",
        project="detectron2.projects.point_rend",
        base="Misc/semantic_R_50_FPN_1x.yaml",
        keys={
            **_FPN,
            "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
            "MODEL.RESNETS.DEPTH": 101,
            "MODEL.SEM_SEG_HEAD.NAME": "PointRendSemSegHead",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
            "MODEL.POINT_HEAD.NUM_CLASSES": 19,
            "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": 2048,
            "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": 8192,
            "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 2,
            "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME": "SemSegFPNHead",
        },
        small=[
            *_SMALL_RESNET,
            *("MODEL.RESNETS.DEPTH", 50, "MODEL.FPN.OUT_CHANNELS", 16),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.POINT_HEAD.FC_DIM", 16),
            *("MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 128),
        ],
    ),
    "deeplab_v3_plus_R_103": Architecture(
        "DeepLab/configs/Cityscapes-SemanticSegmentation/"
        "deeplab_v3_plus_R_103_os16_mg124_poly_90k_bs16.yaml",
        project="detectron2.projects.deeplab",
        base="COCO-Detection/faster_rcnn_R_50_DC5_3x.yaml",
        keys=_DEEPLAB,
        small=[
            *_SMALL_RESNET,
            *("MODEL.RESNETS.DEPTH", 50, "INPUT.CROP.SIZE", [128, 256]),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 32),
            *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8]),
        ],
        # Its ASPP takes multiples of the training crop alone, which is made half as large.
        full=["INPUT.CROP.SIZE", [256, 512]],
        sizes=((256, 512), (512, 512), (256, 1024)),
        small_sizes=((128, 256), (256, 256), (128, 512)),
    ),
}


def config_of(name: str, small: bool = False, projects: str | None = None) -> Any:
    """The config of an architecture, on a CPU and with random weights.

    Args:
        name: In :data:`ARCHITECTURES`.
        small: Make it narrow.
        projects: The ``projects`` folder of Detectron2's source, ``None`` if it is not there.

    Returns:
        A ``CfgNode``.
    """
    import importlib

    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    architecture = ARCHITECTURES[name]
    cfg = get_cfg()
    if architecture.project:
        project = importlib.import_module(architecture.project)
        for adder in ("add_pointrend_config", "add_deeplab_config"):
            if hasattr(project, adder):
                getattr(project, adder)(cfg)
    if architecture.project and projects:
        cfg.merge_from_file(str(Path(projects, architecture.config)))
    elif architecture.project:
        cfg.merge_from_file(model_zoo.get_config_file(architecture.base))
        cfg.merge_from_list([item for pair in architecture.keys.items() for item in pair])
    else:
        cfg.merge_from_file(model_zoo.get_config_file(architecture.config))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    # Random weights know no sure objects; a hundred chance ones are as good a measure.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.merge_from_list(list(architecture.small if small else architecture.full))
    return cfg


def build(cfg: Any, seed: int = 0) -> nn.Module:
    """The config's model in eval mode, with random weights that keep activations at one scale."""
    from detectron2.modeling import build_model

    model = build_model(cfg).eval()
    draw = torch.Generator().manual_seed(seed)
    draw_weights_(model, draw)
    model.apply(lambda module: _thaw(module, draw))
    # Norms that end a residual branch; in a hundred layers rounding errors would grow with them.
    for name, module in model.named_modules():
        if name.endswith("conv3.norm"):
            module.weight.data *= 0.3
    # Deltas of more than a few pixels would throw all boxes out of the picture.
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("anchor_deltas", "bbox_pred")):
            parameter.data *= 0.05
        # Scores far from each other, but not so far that sigmoids make them equal.
        if "objectness_logits" in name or "box_predictor.cls_score" in name:
            parameter.data *= 3
    # DeepLab takes multiples of its training crop alone.
    crop = "DeepLab" in cfg.MODEL.SEM_SEG_HEAD.NAME and cfg.INPUT.CROP.ENABLED
    size = cfg.INPUT.CROP.SIZE if crop else (128, 128)
    images = 255 * torch.rand(1, 3, *size, generator=draw)
    images = (images - model.pixel_mean) / model.pixel_std
    ends = Ends(model)
    with torch.no_grad():
        draw_statistics_(Maps(model, ends), images, draw)
        if hasattr(model, "head"):
            # Sigmoids of large logits are all 1, and the order of scores is then chance.
            logits = Maps(model, ends)(images)["maps"]["head"][0]
            most = max(level.abs().max().item() for level in logits)
            for parameter in model.head.cls_score.parameters():
                parameter *= 6 / most
    ends.remove()
    return model


def _thaw(module: nn.Module, draw: torch.Generator) -> None:
    """Frozen batch norms hold buffers, which nobody else draws."""
    if type(module).__name__ == "FrozenBatchNorm2d":
        for name, low, high in (("weight", 0.5, 0.8), ("running_var", 0.8, 1.2)):
            value = torch.rand(module.num_features, generator=draw)
            getattr(module, name).copy_(low + (high - low) * value)
        for name in ("bias", "running_mean"):
            getattr(module, name).copy_(0.1 * torch.randn(module.num_features, generator=draw))
