"""The last known full input map of one spatial op."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from ...errors import StateError
from ...ops.rings import ring_pixels
from .lent_map import LentMap
from .stream import Stream
from .use import Use

BY_CHANCE = (
    "If a tensor whose size depends on the picture happened to have the size of a map, "
    "BlockCopyConfig(repack=False) keeps it dense."
)
"""Another possible cause if a layer finds no state of its own."""

EVERYTHING = 1 << 30
"""Border of a map that keeps whole blocks, rather than their rings of pixels near the edges."""


@dataclass(frozen=True)
class StateKey:
    """Place of an entry in the model: ``op`` in module ``path``, its use ``call`` in a frame."""

    path: str
    call: int
    op: str

    def __str__(self) -> str:
        return f"{self.path or '(root)'}[{self.call}] {self.op}"


class StateEntry:
    """The last known full input map of one spatial op, for all streams of a store.

    Args:
        key: Its place in the model.
        slots: Number of streams that it has room for.
        shape: ``(C, H, W)`` of the map.
        block: Height and width of a block of the map, in its pixels.
        dtype: dtype of the map.
        device: Device of the map.

    Attributes:
        map: ``(slots, C, H, W)``, channels last; with a border, the rings of its blocks
            (:func:`~...ops.rings.scatter_rings_`), also channels last. None until an op has said
            how much it reads.
        slots: As given, or after the last :meth:`grow`.
        border: How far from the edges of a block pixels are kept: the most that any op asked for.
        lent: Lend the map to the caller, by whether as contiguous planes.
    """

    def __init__(
        self,
        key: StateKey,
        slots: int,
        shape: tuple[int, int, int],
        block: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.key = key
        self.block = block
        self.map: Tensor | None = None
        self.border = 0
        self.lent: dict[bool, LentMap] = {}
        self.slots = slots
        self._shape = shape
        self._dtype = dtype
        self._device = device
        # For each slot, its last use, and the border that was written then.
        self._used: list[Use | None] = [None] * slots
        self._right: list[int] = [0] * slots

    @property
    def rings(self) -> tuple[int, int, int] | None:
        """Height and width of the map and the border, if only the rings of its blocks are kept."""
        return None if self.border == EVERYTHING else (*self._shape[1:], self.border)

    def bytes(self) -> int:
        """Memory of the map."""
        return 0 if self.map is None else self.map.numel() * self.map.element_size()

    def check(self, channels: int, height: int, width: int, block: tuple[int, int], dtype) -> None:
        """Refuse a tensor that this entry was not made for.

        Raises:
            StateError: If channels, size, block or dtype differ from those of earlier frames.
        """
        found = (channels, height, width, tuple(block), dtype)
        kept = self._fits()
        if found != kept:
            raise StateError(
                f"state of {self.key} holds (C, H, W, block, dtype) = {kept}, but this frame "
                f"brings {found}: the model took another path through its layers than on earlier "
                "frames. Call reset_(model), or convert only the part of the model whose layers "
                f"run in the same order on every frame. {BY_CHANCE}"
            )

    def _fits(self) -> tuple:
        return (*self._shape, self.block, self._dtype)

    def is_left_over(self, streams: Iterable[Stream], *wanted) -> bool:
        """Whether it does not fit and no live stream uses it, so that it can be replaced."""
        if self._fits() == wanted:
            return False
        users = {used.token for used in self._used if used is not None}
        return not any(stream.token in users for stream in streams)

    def used_now(self, streams: Iterable[Stream]) -> bool:
        """Whether the streams have claimed it for the current frame."""
        uses = ((self._used[stream.slot], stream) for stream in streams)
        return all(use is not None and use.is_of(stream) for use, stream in uses)

    def grow(self, slots: int) -> None:
        """Make room for ``slots`` streams, and keep what is there."""
        have = self.slots
        if slots > have:
            self.slots = slots
            self._used += [None] * (slots - have)
            self._right += [0] * (slots - have)
            if self.map is not None:
                before, self.map, self.lent = self.map, self._allocate(), {}
                self.map[:have].copy_(before)

    def before_writing(self, grid: Tensor, slots: Sequence[int]) -> None:
        """Prepare the map for a frame that writes into it.

        Args:
            grid: bool ``(N, GH, GW)`` in host memory: the blocks that it executes.
            slots: Slot of each image.
        """
        for lent in self.lent.values():
            lent.before_writing(self.map, self.block, grid, slots)

    def lender(self, planes: bool) -> LentMap:
        """Lends the map to the caller, channels last or as contiguous planes."""
        if planes not in self.lent:
            self.lent[planes] = LentMap(self.map, planes)
        return self.lent[planes]

    def claim(
        self, slots: Sequence[int], streams: Sequence[Stream], full: Sequence[bool], border: int
    ) -> None:
        """Note which streams write, and refuse to let one read what was not written for it.

        Args:
            slots: Slot of each image.
            streams: Stream of each image.
            full: Whether each image is executed fully in this frame.
            border: The border that is about to be written, and may then be read.

        Raises:
            StateError: If a stream comes with only part of its blocks although its last frame left
                nothing here, or a smaller border.
        """
        for slot, stream, is_full in zip(slots, streams, full, strict=True):
            use = self._used[slot]
            fresh = use is not None and use.is_fresh(stream)
            if not is_full and not (fresh and self._right[slot] >= border):
                raise StateError(
                    f"{self.key} has no state of the stream's last frame: the layer did not run in "
                    "it. Call reset_(model) to execute the next frame fully, or convert only the "
                    f"part of the model whose layers run on every frame. {BY_CHANCE}"
                )
            self.share(slot, Use(stream.token, stream.frames))
            if is_full:
                self._right[slot] = border

    def widen(self, border: int) -> None:
        """Note that an op reads further into blocks than any before it.

        Memory for that takes the place of what was kept, which must be written anew: no stream has
        as much of it as is claimed from now on.
        """
        self.border = border
        self.map, self.lent = self._allocate(), {}
        for use in self._used:
            if use is not None:
                use.is_left = True

    def share(self, slot: int, use: Use) -> None:
        """Have a use of a slot noted elsewhere, together with those of other entries."""
        if self._used[slot] is not None:
            self._used[slot].is_left = True
        self._used[slot] = use

    def _allocate(self) -> Tensor:
        channels, height, width = self._shape
        shape = self.slots, channels, height, width
        if self.rings is not None:
            blocks = ceil(height / self.block[0]) * ceil(width / self.block[1])
            shape = self.slots, channels, blocks, ring_pixels(self.block, self.border)
        # It outlives the call that makes it. If it were made inside inference_mode, it could not be
        # written to outside, so it is always an ordinary tensor.
        with torch.inference_mode(False):
            map_ = torch.empty(
                shape,
                dtype=self._dtype,
                device=self._device,
                memory_format=torch.channels_last,
            )
            return map_.zero_()
