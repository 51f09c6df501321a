"""Moves detected objects, and joins moved objects with those just found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops.match_boxes import box_iou
from .displacement import Displacement
from .masks import shift_masks
from .object_shift import object_shift
from .objects import Objects

DECAY = 0.98
"""A score is multiplied by this for each frame in which its object was moved."""

_SAME = 0.5  # IoU
_INSIDE = 0.5  # of a box's area in executed blocks


@dataclass(frozen=True, eq=False)
class MovingObjects:
    """The objects of one image while they move.

    Attributes:
        found: Each object as the model gave it, in whichever frame that was.
        shift: float32 ``(K, 2)`` in host memory: how far each has moved since, to the right and
            down, px of the network's input.
        frames: int64 ``(K,)`` in host memory, the number of frames in which it moved.
        copied: The model's own last output.
    """

    found: Objects
    shift: Tensor
    frames: Tensor
    copied: Objects

    @classmethod
    def fresh(cls, found: Objects) -> MovingObjects:
        """The objects of a frame of which all blocks have run.

        Args:
            found: The objects, which must not be written to any more.
        """
        count = len(found)
        return cls(found, torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64), found)

    def fits(self, part: object) -> bool:
        """Return whether a part of later outputs has objects of the same kind."""
        return isinstance(part, Objects) and self.found.is_like(part)

    def moved_by(self, displacement: Displacement) -> MovingObjects:
        """The same objects one frame later, each moved by the median motion in its box or mask.

        Args:
            displacement: That frame's displacement since the one before.
        """
        if displacement.is_still:
            return self
        masks, scale = self.found.masks, self.found.scale
        if masks is not None:
            reduced = [masks.shape[1 + a] / self.found.size[a] for a in (0, 1)]
            scale = (reduced[0] / scale[0], reduced[1] / scale[1])
        step = object_shift(self._boxes(), displacement, masks, scale, self.shift)
        moved = (step != 0).any(1)
        return replace(self, shift=self.shift + step, frames=self.frames + moved)

    def merged(self, fresh: Objects, executed: Tensor, block_size: int) -> MovingObjects:
        """The same objects, updated with those found in this frame.

        An object belongs to the executed blocks if half of its box lies in them; there the objects
        just found are taken. Elsewhere the moved objects are taken, without the copies that the
        model returns again at their old places. A moved object that overlaps a new one of its label
        (IoU of at least 0.5) is dropped. If nothing has moved, the model's output is taken as it
        is.

        Args:
            fresh: The model's output, which must not be written to any more.
            executed: bool ``(GH, GW)`` in host memory.
            block_size: Side of a block, px of the network's input.
        """
        moving = self.frames > 0
        if bool(executed.all()) or not bool(moving.any()):
            return MovingObjects.fresh(fresh)
        boxes, new = self._boxes(), fresh.upright_boxes()
        inside = _share_inside(new, executed, block_size) >= _INSIDE
        stands = moving & (_share_inside(boxes, executed, block_size) < _INSIDE)
        # Objects that the model returns again where a moving object once was.
        old_place = _same(new, fresh.labels, self.found.upright_boxes(), self.found.labels)
        again = (old_place & stands).any(1) & ~inside
        moved_away = (old_place & (moving & ~stands)).any(1) & ~inside
        keep = ~again & ~moved_away
        double = _same(self._cut(boxes), self.found.labels, new, fresh.labels) & keep
        stands &= ~double.any(1)
        first, second = keep.nonzero()[:, 0], stands.nonzero()[:, 0]
        joined = fresh.select(first).joined(self.found.select(second))
        shift = torch.cat((torch.zeros(len(first), 2), self.shift[second]))
        frames = torch.cat((torch.zeros(len(first), dtype=torch.int64), self.frames[second]))
        if joined.scores is not None and _falls(fresh.scores):
            order = (joined.scores.detach().cpu() * DECAY**frames).argsort(
                descending=True, stable=True
            )
            joined, shift, frames = joined.select(order), shift[order], frames[order]
        return MovingObjects(joined, shift, frames, fresh)

    @property
    def has_moved(self) -> bool:
        """Whether the result of :meth:`delivered` differs from a copy."""
        return self.found is not self.copied or bool((self.frames > 0).any())

    def delivered(self, moved: bool) -> Objects:
        """The objects that the model delivers, in tensors that belong to the caller.

        Boxes that no longer touch the picture are dropped, the others are cut at its edge. The
        score of an object is multiplied by 0.98 for each frame in which it was moved.

        Args:
            moved: Whether objects are moved, or copied.
        """
        if not moved or not self.has_moved:
            return self.copied.copy()
        left = self._boxes()
        height, width = self._extent()
        there = (left[:, 2] > 0) & (left[:, 3] > 0) & (left[:, 0] < width) & (left[:, 1] < height)
        kept = (there | (self.frames == 0)).nonzero()[:, 0]
        return _shifted(self.found, self.shift, self.frames, kept)

    def _cut(self, boxes: Tensor) -> Tensor:
        """Boxes in pixels of the network's input, cut at the picture's edges."""
        height, width = self._extent()
        return boxes.clamp_min(0).minimum(torch.tensor([width, height] * 2))

    def _extent(self) -> tuple[float, float]:
        """Height and width of the picture, px of the network's input."""
        rows, columns = self.found.scale
        return self.found.size[0] * rows, self.found.size[1] * columns

    def _boxes(self) -> Tensor:
        return self.found.upright_boxes() + self.shift.repeat(1, 2)


def _shifted(found: Objects, shift: Tensor, frames: Tensor, index: Tensor) -> Objects:
    """Some objects, in their own tensors, at the places to which they have moved."""
    masks, rows, columns = found.masks, *found.scale
    upright = found.upright_boxes()[index]
    found = replace(found, masks=None).select(index)
    by, frames = shift[index] / torch.tensor([columns, rows]), frames[index]
    moved = (frames > 0).to(found.boxes.device)
    step = by.to(found.boxes)
    boxes = found.boxes
    if boxes.shape[1] == 4:
        limits = torch.tensor([found.size[1], found.size[0]] * 2).to(boxes)
        cut = (boxes + step.repeat(1, 2)).clamp_min(0).minimum(limits)
        boxes = torch.where(moved[:, None], cut, boxes)
    else:
        boxes = torch.cat((boxes[:, :2] + step, boxes[:, 2:]), 1)
    changes = {"boxes": boxes}
    if found.scores is not None:
        decay = (DECAY ** frames.double()).to(found.scores)
        changes["scores"] = torch.where(moved, found.scores * decay, found.scores)
    if masks is not None:
        reduced = torch.tensor([masks.shape[2] / found.size[1], masks.shape[1] / found.size[0]])
        in_masks = upright / torch.tensor([columns, rows] * 2) * reduced.repeat(2)
        changes["masks"] = shift_masks(masks, by * reduced, in_masks, index)
    if found.keypoints is not None:
        points = found.keypoints.clone()
        points[..., :2] += by.to(points)[:, None]
        changes["keypoints"] = points
    return replace(found, **changes)


def _same(boxes: Tensor, labels, others: Tensor, other_labels) -> Tensor:
    """Which boxes are about the same and have the same label, bool ``(K, L)``."""
    if not len(boxes) or not len(others):
        return torch.zeros(len(boxes), len(others), dtype=torch.bool)
    same = box_iou(boxes, others) >= _SAME
    if labels is not None and other_labels is not None:
        same &= labels.cpu()[:, None] == other_labels.cpu()
    return same


def _share_inside(boxes: Tensor, grid: Tensor, block_size: int) -> Tensor:
    """The share of each box's area that lies in blocks of a grid, float32 ``(K,)``."""
    overlaps = []
    for axis, blocks in ((1, grid.shape[0]), (0, grid.shape[1])):
        start = torch.arange(blocks) * float(block_size)
        # A part beyond the edge belongs to the blocks at the edge; a line has no area.
        limit = blocks * float(block_size)
        low = boxes[:, axis].clamp(0, limit - 1)
        high = torch.maximum(boxes[:, 2 + axis].clamp(0, limit), low + 1e-3)
        reach = torch.minimum(high[:, None], start + block_size)
        length = (reach - torch.maximum(low[:, None], start)).clamp_min_(0)
        overlaps.append(length / (high - low)[:, None])
    rows, columns = overlaps
    return ((rows @ grid.float()) * columns).sum(1)


def _falls(scores: Tensor | None) -> bool:
    return scores is not None and not bool((scores[1:] > scores[:-1]).any())
