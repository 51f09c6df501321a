"""The kept outputs of the last frames, and what policies see of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..policy import Detections, TaskOutput
from ..propagation import MapPart, MovingMap, MovingObjects, Objects, Region
from ..shared_copy import address_of
from .frame.counts import FrameCounts
from .output_parts import OutputParts

Moving = MovingMap | MovingObjects


@dataclass(frozen=True, eq=False)
class Batch:
    """The call whose outputs were kept last."""

    outputs: OutputParts
    streams: tuple[Hashable, ...]
    asks: Hashable | None
    counts: FrameCounts


@dataclass(frozen=True, eq=False)
class Kept:
    """The kept outputs of a stream; nothing writes to them.

    Attributes:
        batch: The call that they came from.
        parts: The parts of the outputs.
        task: What the policies see of them.
        age: Frames since all of the stream's blocks ran.
        wholes: Whole frames so far.
    """

    batch: Batch
    parts: dict[str, Moving]
    task: Moving | None
    age: int = 0
    wholes: int = 1


def as_moving(part: MapPart | Objects | None) -> Moving | None:
    """The output of a frame that ran on all blocks, before it is moved."""
    if part is None:
        return None
    return MovingMap.fresh(part) if isinstance(part, MapPart) else MovingObjects.fresh(part)


def part_of(task: TaskOutput, size: tuple[int, int]) -> MapPart | Objects:
    """What policies see of an output, as something that can be moved."""
    if isinstance(task, Tensor):
        return MapPart(task, Region.whole(size))
    return Objects(task.boxes, (1.0, 1.0), task.size, task.scores, task.labels, task.masks)


def as_task(part: MapPart | Objects) -> TaskOutput:
    """What policies see of an output."""
    if isinstance(part, MapPart):
        return part.value
    return Detections(part.boxes, part.scores, part.labels, part.masks, part.size)


def copied_task(task: Moving) -> TaskOutput:
    """What policies see of an output as the model last returned it."""
    copied = task.copied
    return copied if isinstance(copied, Tensor) else as_task(copied)


def own_task(task: TaskOutput, given: Any, fresh: Any) -> TaskOutput | None:
    """The copy of a task output that was made as a part; ``None`` if it is not a part."""
    if not isinstance(task, Tensor):
        return None
    for name, part in given.items():
        value = part.value if isinstance(part, MapPart) else None
        if (
            value is not None
            and address_of(value) == address_of(task)
            and value.shape == task.shape
        ):
            return fresh[name].value
    return None
