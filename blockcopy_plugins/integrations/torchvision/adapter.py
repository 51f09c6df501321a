"""torchvision's detectors: backbone, neck and dense heads run on blocks, the rest dense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ...engine.adapter import Call, ModelAdapter, Removable, asked
from ...engine.output_parts import OutputParts
from ...errors import FrameError
from ..common.network_scale import FoundObjects, at_network_scale
from .output_parts import take_dicts_apart
from .roi_pooling import pools_channels_last, replace_poolers


@dataclass(frozen=True)
class ImagesCall(Call):
    """A call with a list of images.

    Attributes:
        scales: For each image, pixels of the network's input per own pixel, rows and columns.
        sizes: ``(h, w)`` of each image as it was given, px.
    """

    scales: tuple[tuple[float, float], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()


class DetectionAdapter(ModelAdapter):
    """Any detector that passes its images to a ``GeneralizedRCNNTransform`` and then a backbone.

    These are Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS and SSD. The model itself normalises,
    resizes and pads the images, and the padded batch is the frame. Image i of a call is the next
    frame of stream i.

    Args:
        model: The detector.
    """

    graph_obstacle = (
        "a detector of torchvision is called with a list of images, and what follows its heads "
        "(proposals, suppression, results of the image's size) depends on the picture; a backbone "
        "that is converted on its own can be a graph"
    )

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._transformed: ImageList | None = None

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether the model is a detector of torchvision."""
        transform = getattr(model, "transform", None)
        backbone = getattr(model, "backbone", None)
        return isinstance(transform, GeneralizedRCNNTransform) and isinstance(backbone, nn.Module)

    def read_call(self, args: tuple, kwargs: Mapping[str, Any]) -> Call:
        """See :meth:`ModelAdapter.read_call`."""
        given = dict(zip(("images", "targets"), args, strict=False)) | dict(kwargs)
        images = given.pop("images", None)
        if (
            not isinstance(images, (Sequence, Tensor))
            or not len(images)
            or not all(isinstance(x, Tensor) and x.dim() == 3 for x in images)
        ):
            raise FrameError(
                f"the {type(self._model).__name__} was called with {_describe(images)}, expected a "
                "list of tensors (3, H, W), one for each image: model([image])."
            )
        kind = GeneralizedRCNNTransform
        batch, _ = kind.forward(self._model.transform, list(images))
        sizes = [tuple(map(int, size)) for size in batch.image_sizes]
        own = [tuple(x.shape[1:]) for x in images]

        def replace(blocks: Tensor) -> tuple[tuple, dict]:
            self._transformed = ImageList(blocks, batch.image_sizes)
            return (images,), given

        others = asked((), {k: v for k, v in given.items() if k != "targets"})
        return ImagesCall(
            frame=batch.tensors,
            replace=replace,
            asks=None if others is None else (tuple(sizes), tuple(own), others),
            scales=tuple((s[0] / o[0], s[1] / o[1]) for s, o in zip(sizes, own, strict=True)),
            sizes=tuple(own),
        )

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Give the model the frame's blocks when it asks its transform for a batch."""
        given = _Transformed(self, model.transform)
        model.transform.__dict__["forward"] = given
        yield given
        yield from replace_poolers(model)

    def read_only_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """The RoI heads, which pool from the maps and keep none."""
        heads = getattr(model, "roi_heads", None)
        return () if heads is None else (heads,)

    def reads_channels_last(self, module: nn.Module) -> bool:
        """See :meth:`ModelAdapter.reads_channels_last`."""
        return pools_channels_last(module)

    def dense_outputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """The RPN's head, or the head of a dense detector."""
        proposals = getattr(model, "rpn", None)
        head = getattr(model, "head", None) if proposals is None else proposals.head
        return (head,) if isinstance(head, nn.Module) else ()

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """Detections in pixels of the network input, from those in pixels of the image."""
        found = [_found(*one) for one in zip(outputs, call.scales, strict=True)]
        return at_network_scale(found, tuple(call.frame.shape[2:]))

    def take_apart(self, outputs: Any, call: Call) -> OutputParts | None:
        """Boxes, masks and keypoints in pixels of the image."""
        found = take_dicts_apart(outputs, call.scales, call.sizes)
        return super().take_apart(outputs, call) if found is None else found

    def take_transformed(self) -> ImageList | None:
        """The blocks of the current frame, once; ``None`` outside of a frame."""
        found, self._transformed = self._transformed, None
        return found


# A class rather than a closure: a deep copy of a converted model runs on its own adapter.


@dataclass
class _Transformed:
    adapter: DetectionAdapter
    transform: nn.Module

    def __call__(self, images, targets=None):
        found = self.adapter.take_transformed()
        if found is None:
            return type(self.transform).forward(self.transform, images, targets)
        return found, targets

    def remove(self) -> None:
        """Restore the transform's own forward."""
        self.transform.__dict__.pop("forward", None)


def _found(found: Mapping[str, Tensor], scale: tuple[float, float]) -> FoundObjects:
    masks = found.get("masks")
    return FoundObjects(
        boxes=found["boxes"],
        scores=found["scores"],
        labels=found["labels"],
        masks=None if masks is None else masks[:, 0] > 0.5,
        scale=scale,
    )


def _describe(images: Any) -> str:
    if isinstance(images, Tensor):
        return f"a tensor {tuple(images.shape)}"
    if isinstance(images, Sequence) and images:
        first = images[0]
        return f"a list of {tuple(first.shape) if isinstance(first, Tensor) else type(first)}"
    return type(images).__name__
