"""Models of Detectron2: backbone, proposal network and dense heads on blocks, the rest dense."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from detectron2.layers import ASPP, Conv2d, DeformConv, ModulatedDeformConv, ROIAlign
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BoxMode, ImageList, RotatedBoxes
from torch import Tensor, nn

from ...engine.adapter import Call, ModelAdapter, Removable, asked
from ...engine.output_parts import OutputParts
from ...errors import ConfigError, FrameError
from ..common.network_scale import FoundObjects, at_network_scale
from ..common.repeated_regions import repeat_regions
from ..common.roi_layers import read_channels_last, replace_roi_layers
from ..common.stream_ids import StreamIds
from .box_selection import select_boxes_fast
from .mask_pasting import paste_masks_fast
from .output_parts import take_dicts_apart


@dataclass(frozen=True)
class ListCall(Call):
    """A call with Detectron2's list of dicts.

    Attributes:
        sizes: ``(H, W)`` of each image in the batch, px, before it was padded.
    """

    sizes: tuple[tuple[int, int], ...] = ()


class MetaArchAdapter(ModelAdapter):
    """Any meta-architecture that batches its images and passes the batch to its ``backbone``.

    ``GeneralizedRCNN``, ``ProposalNetwork``, ``PanopticFPN``, ``SemanticSegmentor``, the dense
    detectors (``RetinaNet``, ``FCOS``), and those of Detectron2's projects that are built in the
    same way. The images are normalised and padded by the model's own rules, and the padded batch
    is the frame.

    Streams are the ``video_id`` of the dicts; a stream starts again when its ``frame_id`` does.
    If the dicts have no ``video_id``, image i of a batch is stream i.

    Args:
        model: The model.

    Raises:
        ConfigError: If it runs test-time augmentation.
    """

    graph_obstacle = (
        "a whole model is called with a list of dicts, and what follows its heads (proposals, "
        "suppression, results of the image's size) depends on the picture; a backbone converted "
        "by itself (BlockCopyBackbone) can be a graph"
    )
    conv_wrappers = frozenset({Conv2d})

    def __init__(self, model: nn.Module) -> None:
        refuse_augmentation(model)
        self._model = model
        self._ids = StreamIds()
        self._blocks: Tensor | None = None
        self._images: ImageList | None = None

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether the model is a meta-architecture of Detectron2, or wraps one."""
        backbone = getattr(model, "backbone", None)
        own = isinstance(backbone, Backbone) and isinstance(
            getattr(model, "pixel_mean", None), Tensor
        )
        return own or is_augmentation(model)

    def read_call(self, args: tuple, kwargs: Mapping[str, Any]) -> ListCall:
        """See :meth:`ModelAdapter.read_call`."""
        given = dict(kwargs)
        batch = args[0] if args else given.pop("batched_inputs", None)
        if (
            not isinstance(batch, Sequence)
            or not batch
            or not all(isinstance(x, Mapping) and isinstance(x.get("image"), Tensor) for x in batch)
        ):
            raise FrameError(
                f"the {type(self._model).__name__} was called with {_describe(batch)}, expected a "
                "list of dicts, one for each image, with 'image' a tensor (C, H, W): the outputs "
                "of a DatasetMapper."
            )
        images = self._preprocess(batch)
        self._blocks, self._images = None, images
        infos = [SimpleNamespace(metainfo=x) for x in batch]
        ids, restarts = self._ids.read(infos)

        def replace(blocks: Tensor) -> tuple[tuple, dict]:
            self._blocks = blocks
            return (batch, *args[1:]), given

        sizes = tuple((int(h), int(w)) for h, w in images.image_sizes)
        asks = asked_of_dicts(batch, sizes, args[1:], given)
        return ListCall(images.tensor, replace, ids, restarts, asks=asks, sizes=sizes)

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Give the frame's blocks to the backbone in place of the batch that the model makes.

        RoI layers read channels-last maps, and kernels run what follows the heads.
        """
        # Models without the method make the batch once more, which is not used.
        yield model.backbone.register_forward_pre_hook(_TakeBlocks(self))
        if "preprocess_image" not in model.__dict__ and hasattr(model, "preprocess_image"):
            model.__dict__["preprocess_image"] = _Preprocessed(self)
            yield _Attribute(model, "preprocess_image")
        yield from replace_roi_layers(model, (ROIAlign,))
        yield from select_boxes_fast(model)
        yield from paste_masks_fast(model)
        yield from repeat_regions(model, _region_heads(model))

    def read_only_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """The RoI heads, which pool from the maps or sample points of them, and keep none."""
        heads = getattr(model, "roi_heads", None)
        return () if heads is None else (heads,)

    def reads_channels_last(self, module: nn.Module) -> bool:
        """Whether all poolers of RoI heads do; points are sampled from maps in any layout."""
        poolers = (part for part in nn.Module.modules(module) if isinstance(part, ROIPooler))
        return read_channels_last(layer for pooler in poolers for layer in pooler.level_poolers)

    def dense_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """Deformable convolutions, and the pooling over the image in DeepLab's ASPP.

        The ASPP of a model that was trained on crops pools over windows of the crops' size. On
        blocks, a window would belong to the block of its corner, far from the rest of it.
        """
        for module in nn.Module.modules(model):
            if isinstance(module, (DeformConv, ModulatedDeformConv)):
                yield module
            elif isinstance(module, ASPP):
                parts = nn.Module.modules(module)
                yield from (part for part in parts if isinstance(part, nn.AvgPool2d))

    def dense_outputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """The RPN's head, the head of a dense detector, the predictors of segmentation heads."""
        proposals = getattr(model, "proposal_generator", None)
        if isinstance(proposals, nn.Module):
            yield getattr(proposals, "rpn_head", proposals)
        if isinstance(getattr(model, "head", None), nn.Module):
            yield model.head
        for name in ("sem_seg_head", "ins_embed_head"):
            head = getattr(model, name, None)
            if isinstance(head, nn.Module):
                yield from _predictors(head)

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """Detections in pixels of the network input; for a segmentor, the logits of its head."""
        dicts = isinstance(outputs, (list, tuple)) and all(isinstance(x, Mapping) for x in outputs)
        # Panoptic-DeepLab derives instances from its logits, and none in some frames.
        segments = hasattr(self._model, "ins_embed_head")
        if dicts and not segments and all("instances" in x for x in outputs):
            found = zip((x["instances"] for x in outputs), call.sizes, strict=True)
            return at_network_scale([_found(*one) for one in found], tuple(call.frame.shape[2:]))
        for path, left in call.left.items():
            if "sem_seg_head" in path and isinstance(left, Tensor) and left.dim() == 4:
                return list(left.unbind(0))
        return super().task_outputs(outputs, call)

    def take_apart(self, outputs: Any, call: Call) -> OutputParts | None:
        """See :meth:`ModelAdapter.take_apart`: instances and maps in a list of dicts."""
        found = take_dicts_apart(outputs, call.sizes)
        return super().take_apart(outputs, call) if found is None else found

    def take_blocks(self) -> Tensor | None:
        """The blocks of the frame being run; only once, and ``None`` outside a frame."""
        blocks, self._blocks, self._images = self._blocks, None, None
        return blocks

    def take_images(self) -> ImageList | None:
        """The padded batch of the frame being run, whose blocks the backbone will get."""
        images, self._images = self._images, None
        return images if self._blocks is not None else None

    def _preprocess(self, batch: Sequence[Mapping[str, Any]]) -> ImageList:
        model = self._model
        if hasattr(model, "preprocess_image"):
            return type(model).preprocess_image(model, batch)
        # As meta-architectures without a method for it do.
        images = [x["image"].to(model.pixel_mean.device) for x in batch]
        return ImageList.from_tensors(
            [(x - model.pixel_mean) / model.pixel_std for x in images],
            model.backbone.size_divisibility,
            padding_constraints=model.backbone.padding_constraints,
        )


def asked_of_dicts(
    batch: Sequence[Mapping[str, Any]],
    sizes: Sequence[tuple[int, int]],
    args: tuple,
    kwargs: Mapping[str, Any],
) -> Hashable | None:
    """See :attr:`~blockcopy_plugins.engine.adapter.Call.asks`, of Detectron2's list of dicts.

    Args:
        batch: The dicts.
        sizes: ``(H, W)`` of the images at the network's input, px.
        args: Other positional arguments of the call.
        kwargs: Its keyword arguments.
    """
    if any("proposals" in given for given in batch):
        # Precomputed proposals differ from call to call.
        return None
    others = asked(args, kwargs)
    wanted = tuple((given.get("height"), given.get("width")) for given in batch)
    return None if others is None else (tuple(sizes), wanted, others)


def is_augmentation(model: Any) -> bool:
    """Whether a model is one of Detectron2's wrappers for test-time augmentation."""
    return type(model).__name__.endswith("TTA") and hasattr(model, "tta_mapper")


def refuse_augmentation(model: Any) -> None:
    """Refuse test-time augmentation.

    Raises:
        ConfigError: If it is a ``GeneralizedRCNNWithTTA`` or similar.
    """
    if is_augmentation(model):
        raise ConfigError(
            f"the model is a {type(model).__name__}: test-time augmentation runs an image several "
            "times, flipped and resized, which would be taken for the frames of a video. Use the "
            "model inside it (its attribute model), and TEST.AUG.ENABLED False."
        )


# Classes rather than closures: a deep copy of a converted model then runs on its own adapter.


@dataclass
class _TakeBlocks:
    adapter: MetaArchAdapter

    def __call__(self, module, args):
        blocks = self.adapter.take_blocks()
        return None if blocks is None else (blocks, *args[1:])


@dataclass
class _Preprocessed:
    """Saves the model from making its batch a second time."""

    adapter: MetaArchAdapter

    def __call__(self, batched_inputs):
        images = self.adapter.take_images()
        return self.adapter._preprocess(batched_inputs) if images is None else images


@dataclass
class _Attribute:
    module: nn.Module
    name: str

    def remove(self) -> None:
        """Restore the attribute of the module's class."""
        del self.module.__dict__[self.name]


def _region_heads(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The heads that compute something for each region, and the names of the methods."""
    heads = getattr(model, "roi_heads", None)
    for name, method in (("box_head", "forward"), ("mask_head", "layers")):
        found = getattr(heads, name, None)
        for head in found if isinstance(found, nn.ModuleList) else (found,):
            if hasattr(type(head), method):
                yield head, method


def _predictors(head: nn.Module) -> list[nn.Module]:
    """The layers after which a segmentation head only resizes; the head if none is known."""
    # PointRend refines the logits of a separate head.
    inner = getattr(head, "coarse_sem_seg_head", head)
    found = [child for name, child in nn.Module.named_children(inner) if name.endswith("predictor")]
    return found or [head]


def _found(instances: Any, size: tuple[int, int]) -> FoundObjects:
    """Instances in pixels of the output, of an image of ``size`` in the network input."""
    return FoundObjects(
        boxes=upright_boxes(instances),
        scores=instances.scores,
        labels=instances.pred_classes,
        masks=instances.pred_masks if instances.has("pred_masks") else None,
        scale=tuple(size[i] / instances.image_size[i] for i in (0, 1)),
    )


def upright_boxes(instances: Any) -> Tensor:
    """Boxes of instances as ``x1, y1, x2, y2``; for rotated ones, the upright boxes around them.

    Args:
        instances: Detectron2's ``Instances`` with ``pred_boxes``.

    Returns:
        ``(K, 4)``, in the instances' own pixels.
    """
    boxes = instances.pred_boxes
    if isinstance(boxes, RotatedBoxes):
        return BoxMode.convert(boxes.tensor.detach(), BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)
    return boxes.tensor.detach()


def _describe(value: Any) -> str:
    if isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        return f"a list of dicts with {sorted(map(str, value[0]))}"
    return type(value).__name__
