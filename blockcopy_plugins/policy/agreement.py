"""How far two outputs of a network for the same frame agree, as the task sees it."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.ops.match_boxes import box_iou

from .task_output import Detections, TaskOutput, check_task_output

_IOU = 0.5
# About the smallest number of pixels that :func:`thinned` leaves of a map.
_COMPARED = 40_000


def output_agreement(found: TaskOutput, wanted: TaskOutput, labels: bool = True) -> Tensor:
    """Return how far an output agrees with the dense one, 0 to 1.

    Detections: those of both outputs are paired one to one, best overlap first, where the label is
    the same and the boxes' IoU is at least 0.5. The agreement is the score in pairs / all score, of
    both together: an F1 measure in which a detection counts as much as its score. Boxes are clipped
    to the image, and those left without an area do not count. Two outputs without any score agree.

    Dense outputs: the share of pixels with the same most probable class; for a single channel, with
    the same sign. Features (``labels=False``): ``1 - sum |found - wanted| / sum (|found| +
    |wanted|)``.

    Args:
        found: The output that was, or would have been, delivered.
        wanted: The dense network's output.
        labels: Whether dense outputs are logits.

    Returns:
        A 0-dim float32 tensor, on the device of dense outputs. NaN if features hold NaN.

    Raises:
        FrameError: If the two are not of the same kind and shape.
    """
    found, wanted = check_task_output(found), check_task_output(wanted)
    if isinstance(found, Detections) and isinstance(wanted, Detections):
        return torch.tensor(_of_detections(found, wanted))
    if isinstance(found, Tensor) and isinstance(wanted, Tensor) and found.shape == wanted.shape:
        return _of_labels(found, wanted) if labels else _of_features(found, wanted)
    described = [
        f"{type(one).__name__} {tuple(one.shape) if isinstance(one, Tensor) else one.size}"
        for one in (found, wanted)
    ]
    raise FrameError(
        f"outputs of one frame were first {described[0]} and then {described[1]}, and cannot be "
        "compared; the network must return the same kind of output each time"
    )


def thinned(output: TaskOutput) -> TaskOutput:
    """Return an output of which, for a large map, only every so many rows and columns are left.

    Enough to tell how far two agree; detections stay as they are.
    """
    if not isinstance(output, Tensor):
        return output
    step = max(1, int((output.shape[-2:].numel() / _COMPARED) ** 0.5))
    return output if step == 1 else output[:, step // 2 :: step, step // 2 :: step].contiguous()


def _of_detections(found: Detections, wanted: Detections) -> float:
    (boxes, scores, labels), (others, other_scores, other_labels) = map(_inside, (found, wanted))
    total = float(scores.sum() + other_scores.sum())
    if not total:
        return 1.0
    table = box_iou(boxes, others).masked_fill_(labels[:, None] != other_labels, 0)
    first, second = (table >= _IOU).nonzero(as_tuple=True)
    order = table[first, second].argsort(descending=True, stable=True)
    taken: set[int] = set()
    others_taken: set[int] = set()
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if i not in taken and j not in others_taken:
            taken.add(i)
            others_taken.add(j)
    paired = scores[sorted(taken)].sum() + other_scores[sorted(others_taken)].sum()
    return min(float(paired) / total, 1.0)


def _inside(objects: Detections) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (float64), scores and labels of those with an area inside the image, on the host."""
    height, width = objects.size
    limits = torch.tensor([width, height] * 2, dtype=torch.float64)
    boxes = objects.boxes.detach().cpu().double().clamp_min(0).minimum(limits)
    there = (boxes[:, :2] < boxes[:, 2:]).all(1)
    scores = objects.scores.detach().cpu().double().clamp_min(0)
    return boxes[there], scores[there], objects.labels.cpu()[there]


def _of_labels(found: Tensor, wanted: Tensor) -> Tensor:
    if found.shape[0] == 1:
        same = (found > 0) == (wanted > 0)
    else:
        # As argmax does, in a fifth of its time on a CPU.
        same = found.max(0).indices == wanted.max(0).indices
    return same.float().mean()


def _of_features(found: Tensor, wanted: Tensor) -> Tensor:
    found, wanted = found.float(), wanted.float()
    change, size = (found - wanted).abs().sum(), (found.abs() + wanted.abs()).sum()
    # If both are 0 throughout, they agree.
    return 1 - torch.where(size == 0, 0.0, change / size)
