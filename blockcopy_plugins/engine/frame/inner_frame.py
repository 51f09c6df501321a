"""Parts of a frame's map other than its blocks, as a separate frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from .counts import FrameCounts
from .frame import Frame
from .layout import Blocks, Layout, Parts


class InnerFrame(Frame):
    """A frame in which other parts of the picture than blocks run: windows, or tokens.

    Its tensors hold such parts in place of blocks and are otherwise ordinary BlockTensors: ops
    run on the executed parts, and an op that needs a whole map keeps it. Paths, counts and keys
    are those of the frame that the map comes from.

    Args:
        home: The frame of the map.
        size_at_home: ``(H, W)`` of the map.
        block_at_home: Height and width of its blocks.
        parts: The parts, and which of them run.
        size: ``(H, W)`` of the map that is cut into them.
        part: Height and width of a part in pixels of that map.

    Attributes:
        home: As given.
        parts: As given.
        size_at_home: As given.
        block_at_home: As given.
    """

    def __init__(
        self,
        home: Frame,
        size_at_home: tuple[int, int],
        block_at_home: tuple[int, int],
        parts: Parts,
        size: tuple[int, int],
        part: tuple[int, int],
    ) -> None:
        self.home, self.parts, self.part = home, parts, part
        self.size_at_home, self.block_at_home = size_at_home, block_at_home
        self.images, self.size, self.block_size = home.images, size, max(part)
        self.grid, self.grid_size = home.grid, parts.count
        self.full, self.whole, self.slots = home.full, home.whole, home.slots
        self._places = home._places
        self.executed = self.layout_of(self.grid_size).executed
        self.plans = replace(home.plans, convolutions={})
        self.strict, self.store, self.kernels = home.strict, home.store, home.kernels
        self.channels_last = home.channels_last
        self.maps = None
        self.inner_frames = {}
        self.whole_map_inputs = home.whole_map_inputs
        self._table = home._table
        self.streams, self._path, self._calls = home.streams, home._path, home._calls

    # -- what is the home's ------------------------------------------------------------------------

    @property
    def counts(self) -> FrameCounts:
        """See :class:`FrameContext`."""
        return self.home.counts

    @property
    def touched_state(self) -> bool:
        """See :class:`FrameContext`."""
        return self.home.touched_state

    @touched_state.setter
    def touched_state(self, value: bool) -> None:
        self.home.touched_state = value

    @property
    def pending_maps(self) -> list:
        """See :class:`Frame`."""
        return self.home.pending_maps

    @property
    def host(self) -> Tensor:
        """See :class:`BlockPacking`."""
        return self.parts.executed(self.home.host)

    @property
    def image_places(self) -> Tensor:
        """See :class:`BlockPacking`."""
        return self.home.image_places

    def check_open(self, what: object) -> None:
        """See :class:`FrameContext`."""
        self.home.check_open(what)

    def compute_pending(self) -> None:
        """See :class:`Frame`."""
        self.home.compute_pending()

    def count_blocks(self, executed: int, dense: int, block: tuple[int, int]) -> None:
        """See :class:`FrameContext`; parts do not show which block size would suit."""
        self.home.count_blocks(executed, dense, self.block_at_home)

    def tables(
        self,
        name: str | tuple,
        size: Sequence[int],
        block: tuple[int, int],
        make: Callable[[int, int, int], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """See :class:`BlockPacking`."""
        return self.home.tables((name, self.parts), size, block, make)

    def layout_of(self, blocks: Blocks) -> Layout:
        """See :class:`BlockPacking`; a map may have more parts than the one that was cut."""
        more = [count - have for count, have in zip(blocks, self.grid_size, strict=True)]
        return self.home.layout_of(self.parts.and_more(*more) if any(more) else self.parts)

    def blocks_of_images(self, layout: Layout) -> list[int] | None:
        """See :class:`BlockPacking`."""
        of_home = self.home.blocks_of_images(self.home.layout_of(self.home.grid_size))
        if of_home is None or self.images == 1:
            return of_home and [layout.executed]
        return layout.image_index.bincount(minlength=self.images).tolist()

    def derived(self, out, func, args):
        """See :class:`Frame`."""
        return self.home.derived(out, func, args)

    def dispatch_of_several(self, func, args, kwargs):
        """See :class:`Frame`."""
        return self.home.dispatch_of_several(func, args, kwargs)
