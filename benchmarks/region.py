"""What is measured: a model's part that runs on blocks, or the whole of it."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import detectron2_region

# The paper's five networks first.
MODELS = (
    "csp_r50",
    "mgan_vgg16",
    "mask-rcnn_r50_fpn",
    "swiftnet_r18",
    "swiftnet_r50",
    "deeplabv3plus_r50",
    "retinanet_r50_fpn",
)

# Of the networks that MMDetection and MMSegmentation lack.
_OWN = Path(__file__).resolve().parent.parent / "configs" / "_base_" / "models"

# Of each package, the ends of its config names that --models may leave out.
_ENDS = {
    "mmdet": ("_1x_coco.py",),
    "mmseg": ("-d8_4xb2-80k_cityscapes-512x1024.py",),
}


class Region(nn.Module):
    """Backbone, neck and dense head: RPN, one-stage head or decode head with its logits.

    Proposals, RoI heads, NMS and the resize of logits to the image get dense tensors either way
    and are in neither time.

    Args:
        model: A detector of MMDetection or a segmentor of MMSegmentation.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor):
        """Features and head maps of a frame ``(N, 3, H, W)``; of a segmentor its logits."""
        if detectron2_region.is_detectron2(self.model):
            return detectron2_region.run_maps(self.model, frame)
        features = self.model.extract_feat(frame)
        if hasattr(self.model, "decode_head"):
            return self.model.decode_head(features)
        head = getattr(self.model, "rpn_head", None) or self.model.bbox_head
        return features, head(features)


def task_of(model: nn.Module) -> str:
    """``'segmentation'``, ``'masks'`` or ``'boxes'``: what a policy compares.

    Args:
        model: A whole model.
    """
    if hasattr(model, "decode_head") or hasattr(model, "sem_seg_head"):
        return "segmentation"
    if hasattr(model, "roi_heads"):
        return "masks" if getattr(model.roi_heads, "mask_on", False) else "boxes"
    roi_head = getattr(model, "roi_head", None)
    return "masks" if getattr(roi_head, "with_mask", False) else "boxes"


def build_model(name: str, dtype: torch.dtype, seed: int = 0, device: str = "cpu") -> nn.Module:
    """A model in its best dense form.

    Random weights, batch norm folded into the convolutions, channels last, eval mode; segmentors
    run on whole images.

    Args:
        name: A config, see :func:`find_config`, or one of Detectron2's zoo, see
            :mod:`.detectron2_region`.
        dtype: Of weights and frames.
        seed: Of the weights.
        device: ``'cpu'`` or ``'cuda'``.

    Returns:
        The whole model, ready to run.

    Raises:
        FileNotFoundError: If no config has that name.
    """
    if name.startswith(detectron2_region.PREFIX):
        torch.manual_seed(seed)
        model = detectron2_region.build_model(name.removeprefix(detectron2_region.PREFIX))
        model = model.to(device=device, dtype=dtype)
        return model.to(memory_format=torch.channels_last)
    from mmengine.config import Config
    from mmengine.registry import MODELS as REGISTRY
    from mmengine.registry import DefaultScope

    config = Config.fromfile(find_config(name))
    scope = config.get("default_scope")
    config = config.model
    if scope is None:  # Of a model alone.
        scope = "mmseg" if "decode_head" in config else "mmdet"
    importlib.import_module(f"{scope}.models")  # they register themselves
    for part in (config, config.backbone):
        part.pop("pretrained", None)
        part.pop("init_cfg", None)
    config.pop("data_preprocessor", None)
    if "decode_head" in config:
        config.test_cfg = dict(mode="whole")
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(scope):
        model = REGISTRY.build(config).eval()
    _sensible_weights(model)
    _fold_batch_norms(model)
    model = model.eval().to(device=device, dtype=dtype)
    return model.to(memory_format=torch.channels_last)


def build_region(name: str, dtype: torch.dtype, seed: int = 0, device: str = "cpu") -> Region:
    """The part of :func:`build_model` that runs on blocks."""
    return Region(build_model(name, dtype, seed, device)).eval()


def data_samples(model: nn.Module, size: tuple[int, int]) -> list[Any]:
    """A data sample for one frame, as the whole model's ``predict`` wants it.

    Args:
        model: A whole model.
        size: ``(H, W)`` of the frame in pixels; the image is as large.
    """
    info = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
        img_id=0,
    )
    if hasattr(model, "decode_head"):
        from mmseg.structures import SegDataSample

        return [SegDataSample(metainfo=info)]
    from mmdet.structures import DetDataSample

    return [DetDataSample(metainfo=info)]


def find_config(name: str) -> str:
    """Path of a config of ours, or in the installed MMDetection or MMSegmentation.

    Args:
        name: A file; one of ``configs/_base_/models`` without its suffix, ``'csp_r50'``;
            ``'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'``, below a package's configs; or
            that without folder and usual end: ``'mask-rcnn_r50_fpn'``, ``'deeplabv3plus_r50'``.

    Raises:
        FileNotFoundError: If there is none, or several.
    """
    if Path(name).is_file():
        return name
    own = _OWN / f"{name}.py"
    if own.is_file():
        return str(own)
    found = []
    for package, ends in _ENDS.items():
        spec = importlib.util.find_spec(package)
        if spec is None:
            continue
        home = Path(spec.origin).parent
        # An installed package, or a checkout.
        roots = [root for root in (home / ".mim" / "configs", home.parent / "configs")]
        root = next((root for root in roots if root.is_dir()), None)
        if root is None:
            continue
        patterns = [name] if name.endswith(".py") else [f"*/{name}{end}" for end in ends]
        for pattern in patterns:
            found += sorted(root.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{len(found)} configs of MMDetection and MMSegmentation are called {name!r}, expected "
            f"one; give one of {', '.join(MODELS)}, a path below their configs such as "
            "'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', or a file."
        )
    return str(found[0])


def _fold_batch_norms(model: nn.Module) -> None:
    """Put batch norms into the convolutions before them."""
    from mmcv.cnn import fuse_conv_bn

    # It looks at the order of the layers' definition. SwiftNet's decoder normalises before it
    # convolves, with a ReLU between the two: nothing can be folded there.
    norm_first = any(getattr(m, "order", ("conv",))[0] != "conv" for m in model.modules())
    fuse_conv_bn(model.backbone if norm_first else model)


def _sensible_weights(model: nn.Module) -> None:
    """Weights with which activations keep their size from layer to layer.

    No speed depends on the values, except that denormals and infinities are slow.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            # The last norm of a residual branch: else activations double in each of 16 blocks.
            module.weight.data.uniform_(0.3, 0.7)
