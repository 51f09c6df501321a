"""Moves maps: logits, labels, features, anything that has a value for each pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..policy.agreement import thinned
from ..shared_copy import shared_copy
from .displacement import SURE, Displacement, cells_of_grid
from .region import MapMotion, Region


def move_map(
    value: Tensor,
    copied: Tensor,
    displacement: Displacement,
    region: Region,
    shifted: bool = False,
    nearest: bool = False,
) -> Tensor:
    """Move a map to where it is now.

    Floating-point maps are interpolated bilinearly, all others take the nearest value. Where
    nothing moved, the motion is not known or the source lies outside the map, the value of
    ``copied`` is taken. A displacement by whole pixels of the map gives exactly its values.

    Args:
        value: ``(..., h, w)``, the map as it was when the displacement began.
        copied: ``(..., h, w)``, delivered where nothing is moved.
        displacement: The displacement of the network's input since then.
        region: The part of the network's input that the map covers.
        shifted: The content of ``value`` has moved before: it is also used where nothing moved
            since.
        nearest: Take the nearest value for a floating-point map too: its values are labels.

    Returns:
        A new tensor of the shape, dtype and device of ``value``.
    """
    if not shifted and displacement.is_still:
        return shared_copy(copied)
    motion = MapMotion.of(displacement, region, value.shape)
    return motion.moved(value, copied, nearest, shifted)


@dataclass(frozen=True, eq=False)
class MapPart:
    """A map of one image among the outputs of a model.

    Attributes:
        value: ``(..., h, w)``.
        region: The part of the network's input that it covers.
        nearest: Its values are labels, which are not interpolated, whatever their dtype.
    """

    value: Tensor
    region: Region
    nearest: bool = False

    def copy(self) -> MapPart:
        """The same with its own tensor."""
        return replace(self, value=shared_copy(self.value))


@dataclass(frozen=True, eq=False)
class MovingMap:
    """A map of one image while it moves.

    Attributes:
        part: The map as put together so far, without any interpolation.
        copied: ``(..., h, w)``, the model's own last output, with blocks that did not run as they
            were.
        since: How far the map has moved from there; ``None``: not at all.
        shifted: Parts of the map have been moved before.
    """

    part: MapPart
    copied: Tensor
    since: Displacement | None = None
    shifted: bool = False

    @classmethod
    def fresh(cls, part: MapPart) -> MovingMap:
        """The map of a frame of which all blocks have run.

        Args:
            part: The map, which must not be written to any more.
        """
        return cls(part, part.value)

    def fits(self, part: object) -> bool:
        """Return whether a part of later outputs is the same map."""
        return (
            isinstance(part, MapPart)
            and part.value.shape == self.copied.shape
            and part.value.dtype == self.copied.dtype
            and part.region == self.part.region
        )

    def moved_by(self, displacement: Displacement) -> MovingMap:
        """The same map one frame later.

        Args:
            displacement: That frame's displacement since the one before.
        """
        return replace(self, since=displacement.since(self.since))

    def merged(self, fresh: MapPart, executed: Tensor, block_size: int) -> MovingMap:
        """The same map, updated with the blocks that ran in this frame.

        Executed blocks are taken over, and so is everything if nothing has moved. The rest is moved
        by whole pixels, which loses nothing, and the remaining fraction stays in :attr:`since`: a
        value is interpolated once, when it is delivered, however often it was moved.

        Args:
            fresh: The model's output, which must not be written to any more.
            executed: bool ``(GH, GW)`` in host memory.
            block_size: Side of a block, px of the network's input.
        """
        since, region, given = self.since, self.part.region, fresh.value
        if since is None or bool(executed.all()):
            return MovingMap.fresh(fresh)
        cells = cells_of_grid(executed, block_size, since.size, since.cell)
        if not self.shifted and since.is_still:
            return replace(self, part=fresh, copied=given, since=since.without(cells))
        strides = torch.tensor(region.strides(given.shape)[::-1], dtype=torch.float32)
        whole = (since.vectors / strides).round() * strides
        rest = replace(since, vectors=since.vectors - whole).without(cells)
        motion = MapMotion.whole_pixels(replace(since, vectors=whole), region, given.shape)
        moved = motion.moved(self.part.value, given, True, self.shifted)
        inside = region.in_blocks(executed, block_size, given.shape).to(given.device)
        value = torch.where(inside, given, moved)
        moves = (whole != 0).any(-1) & (since.confidence >= SURE) & ~cells
        shifted = self.shifted or bool(moves.any())
        return MovingMap(replace(fresh, value=value), given, rest, shifted)

    def thinned(self) -> MovingMap:
        """The same with every so many rows and columns of a large map: a check needs no more."""
        value = thinned(self.part.value)
        copied = value if self.copied is self.part.value else thinned(self.copied)
        return replace(self, part=replace(self.part, value=value), copied=copied)

    @property
    def has_moved(self) -> bool:
        """Whether the result of :meth:`delivered` differs from a copy."""
        return self.shifted or (self.since is not None and not self.since.is_still)

    def delivered(self, moved: bool) -> MapPart:
        """The map that the model delivers, in a tensor that belongs to the caller.

        Args:
            moved: Whether blocks that did not run are moved, or copied.
        """
        part = self.part
        if not moved or not self.has_moved:
            return replace(part, value=shared_copy(self.copied))
        value = move_map(
            part.value, self.copied, self.since, part.region, self.shifted, part.nearest
        )
        return replace(part, value=value)
