"""The laws on whole models of Detectron2's zoo, with random weights.

    python -m benchmarks.detectron2_zoo --projects detectron2/projects --out detectron2.json

Of each architecture: state-dict keys, the deviation of all outputs with every block executed from
the plain model's (law 1) and with random grids from the masked reference's (law 3), at three sizes,
and the share of the MACs up to the RoI heads that runs on blocks. The configs of the projects are
not part of Detectron2's wheel: without ``--projects``, a folder of its source, those architectures
are made of the same keys here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference

from .zoo.weights import draw_statistics_, draw_weights_

ROI_PARTS = ("roi_heads", "sem_seg_head.point_head")
"""What runs on regions or points, behind the maps."""

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


@dataclass
class Findings:
    """What was seen of one architecture at one size.

    Attributes:
        size: Height and width of the frames, px.
        share: Part of the MACs up to the RoI heads that runs on blocks.
        law_1: Largest deviation of the maps at the blocks' ends with all blocks executed from the
            plain model's, relative to the largest value of a map.
        law_1_outputs: The same of the model's outputs, see :func:`output_deviation`.
        law_3: As ``law_1``, of random grids from the masked reference.
        law_3_outputs: As ``law_1_outputs``.
        moved: As ``law_1``, of the last frame, mostly skipped, from the plain model. If this is
            nothing, law 3 was not put to the test.
    """

    size: tuple[int, int]
    share: float
    law_1: float
    law_1_outputs: float
    law_3: float
    law_3_outputs: float
    moved: float


class Grids:
    """A policy that executes the grid it was given.

    Attributes:
        grid: bool ``(N, GH, GW)``.
    """

    grid: Tensor | None = None

    def __call__(self, frame: Tensor, context) -> Tensor:
        """The grid."""
        return self.grid


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


def frames(size: tuple[int, int], count: int = 3) -> list[list[dict[str, Any]]]:
    """Inputs of a model, frame after frame of one video: all pixels new in each."""
    draw = torch.Generator().manual_seed(7)
    return [
        [
            {
                "image": torch.randint(0, 256, (3, *size), generator=draw).float(),
                "height": size[0],
                "width": size[1],
            }
        ]
        for _ in range(count)
    ]


def check(model: nn.Module, size: tuple[int, int], block: int = 64) -> Findings:
    """Run a video plain, with all blocks, and with random grids.

    Args:
        model: Of :func:`build`.
        size: Height and width of the frames, px.
        block: Block size, px.

    Returns:
        The findings; the model is as it was.
    """
    video = frames(size)
    ends = Ends(model)
    with torch.no_grad():
        plain = [(model(one), ends.take()) for one in video]
    policy = Grids()
    config = bc.BlockCopyConfig(block_size=block, policy=policy, pack_whole_frames=True)
    padded = [_padded(model, one) for one in video]
    plan = [_grid(padded[0], block, rate, i) for i, rate in enumerate((1.0, 0.5, 0.25))]

    bc.blockcopy_(model, config)
    try:
        ends.hook()
        policy.grid = plan[0]
        full = [(model(one), ends.take()) for one in video[:2]]
        report = bc.report(model)
        bc.reset_(model)
        sparse = []
        for one, policy.grid in zip(video, plan, strict=True):
            sparse.append((model(one), ends.take()))
    finally:
        bc.restore_(model)
        ends.hook()
    wanted = reference(model, ends, video, padded, plan, block)
    ends.remove()
    parts = {p: m for p, m in report.modules.items() if not p.startswith(ROI_PARTS)}
    on_blocks = sum(m.dense for m in parts.values())
    return Findings(
        size=size,
        share=on_blocks / sum(m.total for m in parts.values()),
        law_1=max(deviation(a[1], b[1]) for a, b in zip(full, plain[:2], strict=True)),
        law_1_outputs=max(
            output_deviation(a[0], b[0]) for a, b in zip(full, plain[:2], strict=True)
        ),
        law_3=max(deviation(a[1], b[1]) for a, b in zip(sparse, wanted, strict=True)),
        law_3_outputs=max(
            output_deviation(a[0], b[0]) for a, b in zip(sparse, wanted, strict=True)
        ),
        moved=deviation(sparse[-1][1], plain[-1][1]),
    )


class Ends:
    """What the modules returned at which blocks end, dense, in the last call of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        from blockcopy_plugins.integrations.detectron2 import MetaArchAdapter

        found = list(MetaArchAdapter(model).dense_outputs(model))
        self.modules = {n: m for n, m in model.named_modules() if any(m is f for f in found)}
        self.seen: dict[str, Any] = {}
        self._hooks: list[Any] = []
        self.hook()

    def hook(self) -> None:
        """Look at what leaves the modules, behind all hooks that are there by now."""
        self.remove()
        for name, module in self.modules.items():
            self._hooks.append(
                module.register_forward_hook(
                    lambda m, args, out, name=name: self.seen.__setitem__(name, _copied(out))
                )
            )

    def take(self) -> dict[str, Any]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, {}
        return seen

    def remove(self) -> None:
        """Look no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class Maps(nn.Module):
    """The part of a model up to the blocks' ends: from a padded batch to its maps.

    Args:
        model: The whole model.
        ends: Where its blocks end.
    """

    def __init__(self, model: nn.Module, ends: Ends) -> None:
        super().__init__()
        self.model = model
        self.ends = ends

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Features of the backbone, and the maps of each end."""
        model = self.model
        features = model.backbone(x)
        maps: dict[str, Any] = {}
        if getattr(model, "proposal_generator", None) is not None:
            proposals = model.proposal_generator
            inputs = [features[f] for f in proposals.in_features]
            maps["proposal_generator.rpn_head"] = proposals.rpn_head(inputs)
        if hasattr(model, "head"):
            maps["head"] = model.head([features[f] for f in model.head_in_features])
        if hasattr(model, "sem_seg_head"):
            head, name = model.sem_seg_head, "sem_seg_head"
            if hasattr(head, "coarse_sem_seg_head"):
                head, name = head.coarse_sem_seg_head, name + ".coarse_sem_seg_head"
            maps[f"{name}.predictor"] = head.layers(features)
        return {"features": features, "maps": maps}


def reference(
    model: nn.Module,
    ends: Ends,
    video: Sequence[Any],
    padded: Sequence[Tensor],
    plan: Sequence[Tensor],
    block: int,
) -> list[tuple[Any, dict[str, Any]]]:
    """Outputs and maps of each frame by the masked sentence.

    The maps come from :class:`MaskedReference`; the outputs from the plain model, whose backbone
    and heads are made to return them.
    """
    from blockcopy_plugins.engine.adapter import ModelAdapter
    from blockcopy_plugins.integrations.detectron2 import MetaArchAdapter

    class OfMaps(ModelAdapter):
        """Poolings that run on whole maps, as the model's adapter has them."""

        def dense_inputs(self, unit: nn.Module):
            return MetaArchAdapter(model).dense_inputs(model)

    ends.remove()
    unit = Maps(model, ends)
    oracle = MaskedReference(unit, block, OfMaps())
    results = []
    for one, x, grid in zip(video, padded, plan, strict=True):
        with torch.no_grad():
            found = oracle(grid, x)
        given = {model.backbone: found["features"]}
        given |= {ends.modules[name]: maps for name, maps in found["maps"].items()}
        # Heads of PanopticFPN's kind are looked at by their predictor's map.
        hooks = [
            module.register_forward_hook(lambda m, args, out, value=value: _copied(value))
            for module, value in given.items()
        ]
        try:
            with torch.no_grad():
                results.append((model(one), found["maps"]))
        finally:
            for hook in hooks:
                hook.remove()
    return results


def deviation(found: Any, expected: Any) -> float:
    """Largest difference of any tensor, relative to the largest value expected in that tensor."""
    worst = 0.0
    pairs = zip(tree_leaves(_sorted(found)), tree_leaves(_sorted(expected)), strict=True)
    for a, b in pairs:
        if type(a) is not Tensor or a.shape != b.shape:
            raise ValueError(f"found {type(a).__name__} {tuple(a.shape)} for {tuple(b.shape)}")
        scale = b.abs().max().item()
        if not 0 < scale < float("inf"):
            raise ValueError(f"expected values reach {scale}, which is no measure")
        difference = (a.double() - b.double()).abs().max().item() / scale
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def output_deviation(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """How far the outputs of two runs are from each other.

    Of detections, box by box in the order of their scores: differences of boxes relative to the
    image's size, of scores, and the share of mask pixels that differ. Of segmentation the largest
    difference of logits relative to the largest logit; where points were chosen by their rank
    (PointRend), the share of pixels that differ by more than 1e-3 of it, as rounding decides
    between points of equal rank.

    Returns:
        The largest of them; infinity where the numbers of detections differ.
    """
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if "instances" in b:
            a_i, b_i = a["instances"], b["instances"]
            if len(a_i) != len(b_i):
                return float("inf")
            if len(b_i):
                scale = max(b_i.image_size)
                boxes = (a_i.pred_boxes.tensor - b_i.pred_boxes.tensor).abs().max() / scale
                scores = (a_i.scores - b_i.scores).abs().max()
                worst = max(worst, boxes.item(), scores.item())
                if b_i.has("pred_masks"):
                    worst = max(worst, (a_i.pred_masks != b_i.pred_masks).float().mean().item())
        if "sem_seg" in b:
            difference = (a["sem_seg"] - b["sem_seg"]).abs() / b["sem_seg"].abs().max()
            largest = difference.max().item()
            chosen = (difference.amax(0) > 1e-3).float().mean().item()
            worst = max(worst, min(largest, chosen) if largest > 1e-3 else largest)
    return worst


def _copied(value: Any) -> Any:
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, value)


def _sorted(value: Any) -> Any:
    return {key: value[key] for key in sorted(value)} if isinstance(value, dict) else value


def _padded(model: nn.Module, inputs: Sequence[Any]) -> Tensor:
    from detectron2.structures import ImageList

    images = [(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs]
    return ImageList.from_tensors(
        images,
        model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    ).tensor


def _grid(frame: Tensor, block: int, rate: float, seed: int) -> Tensor:
    shape = tuple(-(-length // block) for length in frame.shape[2:])
    blocks = shape[0] * shape[1]
    draw = torch.Generator().manual_seed(8 + seed)
    rank = torch.rand(len(frame), blocks, generator=draw).argsort(1).argsort(1)
    return (rank < max(1, round(rate * blocks))).view(len(frame), *shape)


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", metavar="DIR", help="folder of Detectron2's projects")
    parser.add_argument("--names", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--small", action="store_true", help="narrow models, as the tests have")
    parser.add_argument("--block-size", type=int, default=128, metavar="PX")
    parser.add_argument("--out", metavar="FILE", help="JSON file to write")
    args = parser.parse_args()
    import detectron2

    rows = []
    header = "share  law 1 maps, outputs   law 3 maps, outputs   moved"
    print(f"{'':30} {'px':>10}  {header}")
    for name in args.names:
        architecture = ARCHITECTURES[name]
        model = build(config_of(name, args.small, args.projects))
        keys = list(model.state_dict())
        sizes = architecture.small_sizes if args.small else architecture.sizes
        for size in sizes:
            found = check(model, size, 64 if args.small else args.block_size)
            same = list(model.state_dict()) == keys
            rows.append({"name": name, "keys": len(keys), "same_keys": same, **asdict(found)})
            print(
                f"{name:30} {size[0]:>4}x{size[1]:<5}  {found.share:.3f}  {found.law_1:.1e} "
                f"{found.law_1_outputs:.1e}   {found.law_3:.1e} {found.law_3_outputs:.1e}   "
                f"{found.moved:.1e}",
                flush=True,
            )
    if args.out:
        versions = {"detectron2": detectron2.__version__, "torch": torch.__version__}
        Path(args.out).write_text(json.dumps({**versions, "models": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
