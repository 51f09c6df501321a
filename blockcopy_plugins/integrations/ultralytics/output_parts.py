"""Outputs of a model of Ultralytics, taken apart into boxes that can be moved, and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ...engine.output_parts import OutputParts, Parts, take_tree_apart
from ...engine.torch_internals import tree_flatten
from ...propagation import Objects
from .found import boxes_of, has_rows, head_tensor

_OBJECTS = "objects"


class HeadParts(OutputParts):
    """The outputs of a head before suppression.

    What is moved are the boxes that suppression would keep, with all that the head says of them,
    and the prototypes of masks. Where boxes have moved, the head's other boxes get no score; where
    none has, the outputs are as the head gave them.

    Args:
        images: The parts of each image.
        rest: All of the outputs, copied.
        head: The model's last module.
    """

    def __init__(self, images: Sequence[Parts], rest: OutputParts, head: nn.Module) -> None:
        super().__init__(images)
        self._given = [parts[_OBJECTS].boxes.clone() for parts in images]
        self._rest = rest
        self._head = head

    def join(self, images: Sequence[Parts], call: Any) -> Any:
        """See :meth:`~blockcopy_plugins.engine.output_parts.OutputParts.join`."""
        outputs = self._rest.join(images, call)
        for rows, parts, given in zip(
            head_tensor(outputs, self._head), images, self._given, strict=True
        ):
            found = parts[_OBJECTS]
            if not torch.equal(found.boxes, given):
                write_objects(rows if has_rows(self._head) else rows.T, found, self._head)
        return outputs

    def forget_outputs(self) -> None:
        """See :meth:`~blockcopy_plugins.engine.output_parts.OutputParts.forget_outputs`."""
        super().forget_outputs()
        self._rest.forget_outputs()


def take_head_apart(
    outputs: Any, head: nn.Module, size: tuple[int, int], **suppression: float
) -> HeadParts | None:
    """Take the outputs of a model apart.

    Args:
        outputs: What the model returned in eval mode.
        head: Its last module.
        size: ``(H, W)`` of the network's input, px.
        suppression: ``least_score`` and ``overlap`` of :func:`~.found.boxes_of`.

    Returns:
        The parts; ``None`` for a head without boxes.
    """
    given = head_tensor(outputs, head)
    if given is None:
        return None
    movable = None
    if isinstance(outputs, (tuple, list)) and isinstance(outputs[-1], Mapping):
        # The loss is computed from these; predictors do not look at them.
        movable = len(tree_flatten(outputs[:-1])[0])
    rest = take_tree_apart(outputs, len(given), size, movable)
    if rest is None:
        return None
    images = [
        {**parts, _OBJECTS: read_objects(image, head, size, **suppression)}
        for parts, image in zip(rest.images, given, strict=True)
    ]
    return HeadParts(images, rest, head)


def read_objects(
    given: Tensor, head: nn.Module, size: tuple[int, int], **suppression: float
) -> Objects:
    """The boxes of one image, with the head's own numbers of each as ``row``.

    Args:
        given: Its part of :func:`~.found.head_tensor`.
        head: The model's last module.
        size: ``(H, W)`` of the network's input, px.
        suppression: As for :func:`take_head_apart`.
    """
    found = boxes_of(given, head, size, **suppression)
    rows = (given if has_rows(head) else given.T)[found.index]
    boxes, keypoints = found.boxes, None
    if hasattr(head, "ne"):  # rotated
        boxes = torch.cat((rows[:, :4], rows[:, -1:]), 1).float()
    if hasattr(head, "kpt_shape"):
        keypoints = rows[:, -head.nk :].reshape(-1, *head.kpt_shape)
    return Objects(
        boxes,
        (1.0, 1.0),
        size,
        found.scores,
        found.labels,
        keypoints=keypoints,
        others={"row": rows, "index": found.index, "score": found.scores},
    )


def write_objects(rows: Tensor, found: Objects, head: nn.Module) -> None:
    """Leave only some objects in a head's boxes of one image.

    Args:
        rows: ``(K, numbers)``; changed in place.
        found: The objects, as :func:`read_objects` gave them and at their new places.
        head: The model's last module.
    """
    place = _places(found.others["index"], len(rows))
    own, boxes = found.others["row"].clone(), found.boxes
    classes = slice(4, 5) if has_rows(head) else slice(4, 4 + head.nc)
    rows[:, classes] = 0
    own[:, classes] *= (found.scores / found.others["score"]).to(own)[:, None]
    if boxes.shape[1] == 5:
        boxes = boxes[:, :4]
    elif hasattr(head, "dec_bbox_head") or hasattr(head, "num_queries"):
        height, width = found.size
        boxes = box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height] * 2)
    elif not has_rows(head) and not head.xyxy:
        boxes = box_convert(boxes, "xyxy", "cxcywh")
    own[:, :4] = boxes.to(own)
    if found.keypoints is not None:
        own[:, -head.nk :] = found.keypoints.flatten(1).to(own)
    rows[place] = own


def _places(index: Tensor, places: int) -> Tensor:
    """Where objects go: each to its own place, unless one before it did; int64 ``(k,)``."""
    taken: set[int] = set(index.tolist())
    free = (place for place in range(places) if place not in taken)
    seen: set[int] = set()
    found = []
    for place in index.tolist():
        found.append(next(free) if place in seen else place)
        seen.add(found[-1])
    return torch.tensor(found, dtype=torch.int64, device=index.device)
