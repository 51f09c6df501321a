"""The task network's output for one image, in the form that policies read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, in pixels of the network's input.

    Boxes may reach over the image's edge and may be collapsed (no area); the reader clips and skips
    them.

    Args:
        boxes: float ``(K, 4)``, ``x1, y1, x2, y2`` in pixels of the network's input (not of the
            original picture).
        scores: float ``(K,)``.
        labels: int64 ``(K,)``.
        masks: bool ``(K, h, w)`` or None. A mask covers the whole network input; ``h, w`` may be a
            reduced resolution. All set pixels lie inside the mask's box.
        size: ``(H, W)`` of the network's input.

    Raises:
        FrameError: If a shape or dtype is not as above, or a box or score is not finite.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.boxes.dim() != 2 or self.boxes.shape[1] != 4 or not self.boxes.is_floating_point():
            raise FrameError(
                "boxes must be a float tensor (K, 4) of x1, y1, x2, y2, found "
                f"{self.boxes.dtype} {tuple(self.boxes.shape)}"
            )
        count = self.boxes.shape[0]
        if tuple(self.scores.shape) != (count,) or not self.scores.is_floating_point():
            raise FrameError(
                f"scores must be a float tensor ({count},), one per box, found "
                f"{self.scores.dtype} {tuple(self.scores.shape)}"
            )
        if tuple(self.labels.shape) != (count,) or self.labels.dtype != torch.int64:
            raise FrameError(
                f"labels must be an int64 tensor ({count},), one per box, found "
                f"{self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if self.masks is not None:
            shape = tuple(self.masks.shape)
            if len(shape) != 3 or shape[0] != count or self.masks.dtype != torch.bool:
                raise FrameError(
                    f"masks must be a bool tensor ({count}, h, w), one per box, found "
                    f"{self.masks.dtype} {shape}"
                )
            if count and 0 in shape[1:]:
                raise FrameError(f"masks must have a height and a width, found {shape}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise FrameError(f"size must be (H, W) in pixels, both at least 1, found {self.size}")
        if not bool(torch.isfinite(self.boxes).all() & torch.isfinite(self.scores).all()):
            raise FrameError(
                "boxes or scores hold NaN or infinity; the network that made them is broken, or "
                "its input was"
            )

    def __len__(self) -> int:
        return self.boxes.shape[0]


# A detector's output, or dense logits or features of one image, float (C, h, w).
TaskOutput = Detections | Tensor
TaskOutputs = Sequence[TaskOutput] | None


def check_task_output(output: object) -> TaskOutput:
    """Return ``output`` if it is a task output of one image.

    Raises:
        FrameError: If it is neither :class:`Detections` nor a float tensor ``(C, h, w)``.
    """
    if isinstance(output, Detections):
        return output
    if isinstance(output, Tensor):
        if output.dim() == 3 and output.is_floating_point() and 0 not in output.shape:
            return output
        raise FrameError(
            "a dense task output must be a float tensor (C, h, w) for each image, found "
            f"{output.dtype} {tuple(output.shape)}"
        )
    raise FrameError(
        f"a task output must be Detections or a float tensor (C, h, w) for each image, found "
        f"{type(output).__name__}"
    )
