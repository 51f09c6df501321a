"""Views that a model takes of a BlockTensor's whole map, and writes to."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import StateError
from ..torch_internals import version_of
from .frame_of_tensors import TensorOfBlocks
from .mirror import Mirror


class ViewedMap:
    """A copy of a BlockTensor's whole map of which the model holds views (``x[:, :, 0]``).

    In the dense model such a view and its base share memory: a write to one shows in the
    other. This class notices the writes, so that the engine can do the same.

    Args:
        of: The tensor that is viewed.
        map_: The copy, of its shape.

    Attributes:
        packed: The packed memory of ``of``.
        map: As given.
        template: A tensor with its own version that says how to read ``packed``.
    """

    def __init__(self, of: TensorOfBlocks, map_: Tensor) -> None:
        self.packed = of.memory
        self.map = map_
        self.template = of.like(of.memory)
        self._counted: list[weakref.ref[Tensor]] = []
        self.count_writes_through(of)
        # What the views last showed tells which pixels were written to: other views may share the
        # memory, and the count.
        self._shown = map_.clone()

    def count_writes_through(self, of: TensorOfBlocks) -> None:
        """Notice writes to views that are about to be made of a tensor on the same memory.

        Args:
            of: The tensor.
        """
        # Autograd makes a view share the version count of its base, inference mode, which has no
        # autograd, that of the copy. If the base is gone, so are its views.
        counted = of if of._base is None else of._base
        if torch.is_inference_mode_enabled():
            counted = self.map
        if all(known() is not counted for known in self._counted):
            self._counted.append(weakref.ref(counted))
            self._seen = self._count()

    def _count(self) -> list[int]:
        counted = (known() for known in self._counted)
        return [version_of(tensor) for tensor in counted if tensor is not None]

    def show(self, map_: Tensor) -> None:
        """Bring the views up to date with the tensor; this does not count as a write by the model.

        Args:
            map_: Of the shape of ``map``.
        """
        if map_ is not self.map:
            self.map.copy_(map_)
        self._shown.copy_(map_)
        self._seen = self._count()

    def written(self) -> bool:
        """Whether anything was written to a view since the last call (or to its base, perhaps)."""
        count = self._count()
        written = count != self._seen
        self._seen = count
        return written

    def take(self) -> Write | None:
        """What was written to the views; ``None`` if nothing was."""
        changed = self.map != self._shown
        if self.map.is_floating_point() or self.map.is_complex():
            changed &= ~(self.map.isnan() & self._shown.isnan())
        # Without waiting for the device: pixels that were not written are written again.
        if changed.device.type == "cpu" and not changed.any():
            return None
        frame = self.template.frame
        return Write(
            self,
            frame.packed_like(self.map, self.template),
            frame.packed_like(changed, self.template),
        )


@dataclass
class Write:
    """What the model wrote to the views of a viewed map.

    Attributes:
        viewed: The map.
        values: Its executed blocks, in the form of the map's ``packed``.
        where: Which of them were written, bool.
    """

    viewed: ViewedMap
    values: Tensor
    where: Tensor

    def put(self) -> None:
        """Write it to the packed blocks too."""
        packed = self.viewed.packed
        packed.copy_(torch.where(self.where, self.values, packed))


def refuse_overlaps(writes: Sequence[tuple[Write, Mirror | None]], path: str) -> None:
    """Refuse writes to one pixel through several views: their order is not known.

    Args:
        writes: Each with the copy that it was written to, if it stands for a view.
        path: Of the module being run.

    Raises:
        StateError: If two of them have written to the same memory.
    """
    written = None
    for write, mirror in writes:
        where = _in_memory_of(write.viewed.packed, write.where)
        while mirror is not None:
            of = mirror.of.memory
            seen = where.as_strided(mirror.copy.shape, mirror.copy.stride())
            where = _in_memory_of(of, seen.reshape(of.shape))
            mirror = mirror.of.version.mirror
        if written is not None and (written & where).any():
            raise StateError(
                "two views that overlap (x[:, :4][:, :, 0] and x[:, 2:6][:, :, 0], say) have been "
                "written to, at the same pixels, before anything has read the map, as module "
                f"{path or '(root)'!r} does now: which came first is not known. Make the second "
                "view after the first write, or write to the map itself."
            )
        written = where if written is None else written | where


def _in_memory_of(packed: Tensor, where: Tensor) -> Tensor:
    """One bool for each element of the memory that ``packed`` is a view of."""
    elements = packed.untyped_storage().nbytes() // packed.element_size()
    marks = torch.zeros(elements, dtype=torch.bool, device=packed.device)
    marks.as_strided(packed.shape, packed.stride(), packed.storage_offset()).copy_(where)
    return marks
