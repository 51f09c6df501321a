"""How the caller gets a map of the state without a copy of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ops
from ..frame.layout import block_lists
from ..torch_internals import StorageWeakRef, lazy_clone, no_modes


class LentMap:
    """Lends a map of the state to the caller.

    What he gets shares the map's memory until one of both is written to, which makes torch copy it
    (copy-on-write), whoever writes and by whatever way: an op, NumPy, a pointer. As the next frame
    writes into the map while most callers still hold the last output, there are two memories in
    turn: if the present one is held, the other one takes over and gets the blocks that it lacks.
    """

    def __init__(self) -> None:
        self._holders: list[StorageWeakRef] = []
        # The other memory, who holds it, and bool (N, GH, GW): where it is older than the map.
        self._other: Tensor | None = None
        self._holders_of_other: list[StorageWeakRef] = []
        self._older: Tensor | None = None

    def __deepcopy__(self, memo) -> LentMap:
        return LentMap()

    def lend(self, map_: Tensor) -> Tensor:
        """The map as a tensor for the caller."""
        out = lazy_clone(map_)
        self.note(out)
        return out

    def note(self, out: Tensor) -> None:
        """Take notice of a tensor that shares the map's memory."""
        if len(self._holders) > 4:
            self._holders = _living(self._holders)
        self._holders.append(StorageWeakRef(out.untyped_storage()))

    def before_writing(
        self, map_: Tensor, block: tuple[int, int], grid: Tensor, slots: Sequence[int]
    ) -> None:
        """Let the map have memory that nobody holds, if that costs less than torch's copy.

        Args:
            map_: ``(S, C, H, W)``; the tensor stays, its memory may change.
            block: Height and width of its blocks, px.
            grid: bool ``(N, GH, GW)`` in host memory: the blocks that are about to be written.
            slots: Slot of each image.
        """
        if tuple(slots) != tuple(range(len(map_))):
            self._other = None
            return
        holders, self._holders = _living(self._holders), []
        # Work of the host, which no recorder shall see.
        with no_modes(), torch.inference_mode(False), torch.no_grad():
            if holders:
                self._take_turns(map_, block, grid, slots)
                self._holders_of_other, self._older = holders, grid
            elif self._other is not None:
                self._older = self._older | grid

    def _take_turns(
        self, map_: Tensor, block: tuple[int, int], grid: Tensor, slots: Sequence[int]
    ) -> None:
        other = self._other
        if other is None or _living(self._holders_of_other):
            other = map_.clone()
        else:
            size = tuple(-(-map_.shape[2 + i] // block[i]) for i in (0, 1))
            lacking = block_lists(self._older & ~grid, size, slots)[1]
            ops.copy_blocks_(other, map_, lacking, block)
        self._other = map_.new_empty(0).set_(map_)
        map_.set_(other)

    def bytes(self) -> int:
        """Memory beside that of the map, in bytes."""
        return 0 if self._other is None else self._other.numel() * self._other.element_size()


def _living(holders: list[StorageWeakRef]) -> list[StorageWeakRef]:
    return [holder for holder in holders if not holder.expired()]
