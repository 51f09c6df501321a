"""Which blocks of a map are executed, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...host_transfer import upload


class Layout:
    """The executed blocks of all maps with one number of blocks.

    Most maps have as many blocks as the grid. A map that comes out larger (pooling with
    ``ceil_mode``, an even kernel) has one more row or column of blocks, executed like the last one
    of the grid.

    Args:
        grid: bool ``(N, GH, GW)``, in host memory: counting on a GPU would mean waiting for it.
        blocks: Rows and columns of blocks, at least those of the grid.
        slots: Slot of each image's stream.
        device: Device of the lists, by default the host.

    Attributes:
        blocks: As given.
        executed: Number of executed blocks.
        by_image: int32 ``(executed, 3)``: image, block row, block column.
        by_slot: The same with the slot in place of the image.
    """

    def __init__(
        self,
        grid: Tensor,
        blocks: tuple[int, int],
        slots: Sequence[int],
        device: torch.device | None = None,
    ) -> None:
        by_image, by_slot = block_lists(grid, blocks, slots)
        self._take(blocks, by_image, by_slot)
        if device is not None and device.type != "cpu":
            self.by_image = upload(by_image, device)
            self.by_slot = self.by_image if by_slot is by_image else upload(by_slot, device)

    @classmethod
    def over(cls, blocks: tuple[int, int], by_image: Tensor, by_slot: Tensor) -> Layout:
        """A layout of lists that exist already.

        Args:
            blocks: Rows and columns of blocks.
            by_image: See the class.
            by_slot: See the class.
        """
        self = cls.__new__(cls)
        self._take(blocks, by_image, by_slot)
        return self

    def _take(self, blocks: tuple[int, int], by_image: Tensor, by_slot: Tensor) -> None:
        self.blocks = blocks
        self.by_image = by_image
        self.by_slot = by_slot
        self.executed = by_image.shape[0]

    @property
    def image_index(self) -> Tensor:
        """int64 ``(executed,)``: the image of each block."""
        return self.by_image[:, 0].long()

    def index(self, axis: int) -> Tensor:
        """int64 ``(executed,)``: row (axis 0) or column (1) of each block."""
        return self.by_image[:, 1 + axis].long()


def image_places(slots: Sequence[int]) -> Tensor:
    """int32 ``(N, 3)`` in host memory: each image as one block of its own, by slot."""
    return torch.tensor([(slot, 0, 0) for slot in slots], dtype=torch.int32, device="cpu").view(
        -1, 3
    )


def block_lists(
    grid: Tensor, blocks: tuple[int, int], slots: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The executed blocks of a map with ``blocks`` blocks, in host memory.

    Args:
        grid: bool ``(N, GH, GW)`` in host memory.
        blocks: Rows and columns of blocks, at least those of the grid.
        slots: Slot of each image's stream.

    Returns:
        ``by_image`` and ``by_slot`` of :class:`Layout`: the same tensor where each image has the
        slot of its number.
    """
    if blocks != tuple(grid.shape[1:]):
        rows, cols = (
            torch.arange(count, device="cpu").clamp(max=have - 1)
            for count, have in zip(blocks, grid.shape[1:], strict=True)
        )
        grid = grid[:, rows][:, :, cols]
    by_image = grid.nonzero().to(torch.int32).contiguous()
    if tuple(slots) == tuple(range(len(slots))):
        return by_image, by_image
    by_slot = by_image.clone()
    by_slot[:, 0] = torch.tensor(slots, dtype=torch.int32, device="cpu")[by_image[:, 0].long()]
    return by_image, by_slot
