"""How the caller gets a map of the state without a copy of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...shared_copy import address_of_memory, shared_copy
from ..torch_internals import no_modes
from .memory_watch import is_held, swap_memory, watch_memory


class LentMap:
    """Lends a map of the state, or its planes, to the caller.

    What he gets shares memory with what is kept here until one of both is written to, which makes
    torch copy it, whoever writes: an op, NumPy, the holder of a pointer. As most callers still hold
    the last output when the next frame is about to write, there are two memories in turn: if the
    present one is held, the other one takes over, and gets the blocks that it lacks.

    Args:
        map_: The map of the state, ``(S, C, H, W)``, channels last.
        planes: Lend contiguous planes, which are a copy of the map, instead of the map itself.

    Attributes:
        tensor: What is lent. It stays the same tensor, but its memory may change.
    """

    def __init__(self, map_: Tensor, planes: bool) -> None:
        self._planes = planes
        # Work of the host, which no recorder shall see, here as below.
        with no_modes(), torch.inference_mode(False), torch.no_grad():
            self.tensor = ops.planes(map_) if planes else map_
            self._nothing = torch.zeros((), dtype=torch.bool, device="cpu")
            self._everything = ~self._nothing
        self._holders: list[Any] = []
        # bool (N, GH, GW) or (): blocks that it lacks.
        self._lacks = self._everything
        self._other: Tensor | None = None
        self._holders_of_other: list[Any] = []
        self._other_lacks = self._everything

    def __deepcopy__(self, memo: dict) -> LentMap:
        # Nobody holds what the copy lends; a weak reference must not be copied.
        other = memo[id(self)] = LentMap.__new__(LentMap)
        other.__dict__.update(self.__dict__)
        other.tensor = deepcopy(self.tensor, memo)
        other._holders, other._holders_of_other, other._other = [], [], None
        return other

    def lend(self) -> Tensor:
        """The map, after this frame's blocks have been written, as a tensor for the caller."""
        out = shared_copy(self.tensor)
        self.note(out)
        return out

    def note(self, out: Tensor) -> None:
        """Take notice that a tensor has been lent after this frame's blocks had been written."""
        if self._planes:
            self._lacks = self._nothing
        self._hold(out)

    def note_copies(self, copies: Iterable[Tensor]) -> None:
        """Take notice of those tensors that are copies of what was lent, and still share it."""
        address = address_of_memory(self.tensor)
        for copy in copies:
            if address_of_memory(copy) == address:
                self._hold(copy)

    def before_writing(
        self, map_: Tensor, block: tuple[int, int], grid: Tensor, slots: Sequence[int]
    ) -> None:
        """Prepare for a frame that writes into the map.

        Args:
            map_: The map of the state.
            block: Height and width of its blocks, px.
            grid: bool ``(N, GH, GW)`` in host memory: the blocks that are about to be written.
            slots: Slot of each image.
        """
        if tuple(slots) != tuple(range(len(map_))):
            self._lacks, self._other = self._everything, None
            return
        held = _living(self._holders)
        if not (held or self._planes or self._other is not None):
            self._holders = []
            return
        with no_modes():
            if held:
                self._take_other(map_, block, grid, held)
            elif self._other is not None:
                self._other_lacks = self._other_lacks | grid
            self._holders = []
            if self._planes:
                ops.copy_blocks_(self.tensor, map_, self._lacks, grid, block)
                # Until it is lent again, see note().
                self._lacks = grid

    def bytes(self) -> int:
        """Memory beside that of the map of the state, in bytes."""
        maps = [self.tensor] * self._planes + [self._other] * (self._other is not None)
        return sum(map_.numel() * map_.element_size() for map_ in maps)

    def _hold(self, out: Tensor) -> None:
        if len(self._holders) > 4:
            self._holders = _living(self._holders)
        self._holders.append(watch_memory(out))

    def _take_other(self, map_, block, grid, held) -> None:
        other, lacks = self._other, self._other_lacks
        if other is None or _living(self._holders_of_other):
            with torch.inference_mode(False):
                other, lacks = torch.empty_like(self.tensor), self._everything
        if not self._planes:
            ops.copy_blocks_(other, map_, lacks, grid, block)
        self._other = other
        # Planes also lack what frames wrote to the map whose streams were in another order.
        self._other_lacks = self._lacks | grid if self._planes else grid
        self._holders_of_other = held
        swap_memory(self.tensor, other)
        self._lacks = lacks


def _living(holders: list[Any]) -> list[Any]:
    return [holder for holder in holders if is_held(holder)]
