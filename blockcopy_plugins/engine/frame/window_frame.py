"""Windows that a frame's map is cut into otherwise than into blocks, as a frame of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ... import ops
from ...ops.window import index_table
from ..geometry import blocks_met
from ..state.entry import EVERYTHING
from ..tensor.axes import channels_of, from_map
from ..tensor.block_tensor import BlockTensor
from .counts import FrameCounts
from .frame import Frame
from .layout import Blocks, Layout, Windows

Places = tuple[int, ...]
"""For each row (or column) of a map that of another one which it shows, negative for none."""


class WindowFrame(Frame):
    """The windows of a map, of which those run that meet executed blocks.

    Window attention cuts a map into windows that need not lie in blocks: of seven pixels, or of a
    map that is padded or rolled. A tensor of this frame has windows in place of blocks, and is
    otherwise what any BlockTensor is: ops run on the windows that run, and what needs a whole map
    keeps it, of all windows. What happens is written down in the frame that the map comes from.

    Args:
        home: The frame of the map.
        of: A map of it, or a view of one.
        places: Rows and columns of the map that those of the windows show.
        window: Height and width of a window in pixels.

    Attributes:
        home: As given.
        size_at_home: ``(H, W)`` of the map.
        block_at_home: Height and width of its blocks.
        places: As given.
    """

    def __init__(
        self,
        home: Frame,
        of: BlockTensor,
        places: tuple[Places, Places],
        window: tuple[int, int],
    ) -> None:
        self.home = home
        self.size_at_home, self.block_at_home = of.size_of_map, of.block
        self.places = places
        self.windows = Windows(
            *(blocks_met(places[i], window[i], of.block[i], home.grid_size[i]) for i in (0, 1))
        )
        self.images, self.size = home.images, (len(places[0]), len(places[1]))
        self.block_size = max(window)
        self._window = window
        self._key = (of.size_of_map, of.block)
        self.grid, self.grid_size = home.grid, self.windows.count
        self.full, self.whole, self.slots = home.full, home.whole, home.slots
        self._places = home._places
        self.executed = self.layout_of(self.grid_size).executed
        self.plans = replace(home.plans, convolutions={})
        self.strict, self.store, self.kernels = home.strict, home.store, home.kernels
        self.channels_last = home.channels_last
        self.maps = None
        self.window_frames = {}
        self.whole_map_inputs = home.whole_map_inputs
        self._run = home._run
        self._streams, self._path, self._calls = home._streams, home._path, home._calls

    @staticmethod
    def of(
        home: Frame, map_: BlockTensor, places: tuple[Places, Places], window: tuple[int, int]
    ) -> WindowFrame:
        """See the class; the same for all maps of the same geometry."""
        key = (map_.size_of_map, map_.block, places, window)
        found = home.window_frames.get(key)
        if found is None:
            found = home.window_frames[key] = WindowFrame(home, map_, places, window)
        return found

    # -- from the map and back ---------------------------------------------------------------------

    def cut(self, x: BlockTensor, fill: float) -> BlockTensor:
        """The windows of a map, read from where it is kept.

        Args:
            x: A map of the geometry that this is for, or a view of one that has rows and columns.
            fill: What stands where windows show nothing of the map.
        """
        map_ = self.home.keep(x, "windows").map
        if self.whole:
            packed = self._image(self.home.in_batch_order(map_), self.places, fill)
        else:
            rows, columns = self._tables("cut", self.places, self.grid_size, self._window)
            layout = self.layout_of(self.grid_size)
            packed = ops.gather(map_, layout.by_slot, rows, columns, fill)
        return BlockTensor(
            x.in_its_form(packed), self.size, self._window, self, axes=x.axes, joined=x.joined
        )

    def shows_the_map(self, places: tuple[Places, Places]) -> bool:
        """Whether rows and columns of windows show the map as it was before it was cut.

        Args:
            places: Rows and columns of the windows, in the order in which they are shown.
        """
        return all(
            len(shown) == size and all(i >= 0 and own[i] == n for n, i in enumerate(shown))
            for own, shown, size in zip(self.places, places, self.size_at_home, strict=True)
        )

    def at_home(self, x: BlockTensor, places: tuple[Places, Places]) -> BlockTensor:
        """The executed blocks of the map that windows make.

        Args:
            x: A tensor of this frame, of its size.
            places: Rows and columns of it that show the map.
        """
        home, map_ = self.home, x.packed_map()
        if self.whole:
            packed = self._image(map_, places, 0.0)
        else:
            together = map_.new_empty((self.images, *self.size, map_.shape[1])).permute(0, 3, 1, 2)
            ops.scatter_(together, map_, self.layout_of(self.grid_size).by_image)
            layout = home.layout(self.size_at_home, self.block_at_home)
            rows, columns = self._tables("home", places, layout.blocks, self.block_at_home)
            packed = ops.gather(together, layout.by_image, rows, columns)
        channels = channels_of(x.axes, x.shape, x.joined)
        return BlockTensor(
            from_map(packed, x.axes, channels),
            self.size_at_home,
            self.block_at_home,
            home,
            axes=x.axes,
            joined=x.joined,
        )

    def _image(self, map_: Tensor, places: tuple[Places, Places], fill: float) -> Tensor:
        """Rows and columns of whole maps ``(N, C, H, W)``, in memory of their own."""
        size = (len(places[0]), len(places[1]))
        if places == tuple(tuple(range(length)) for length in size):
            return map_[..., : size[0], : size[1]].clone(memory_format=torch.channels_last)
        rows, columns = self._tables("image", places, (1, 1), size)
        return ops.gather(
            map_.contiguous(memory_format=torch.channels_last),
            self.image_places,
            rows,
            columns,
            fill,
        )

    def _tables(self, name: str, places, blocks, block) -> tuple[Tensor, Tensor]:
        return self.home.tables(
            ("windows", name, self._key, places),
            self.size,
            block,
            lambda axis, size, width: index_table(
                blocks=blocks[axis],
                block_out=width,
                index=torch.tensor(places[axis], device="cpu"),
            ),
        )

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
        return self.windows.executed(self.home.host)

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
        """See :class:`FrameContext`; windows tell nothing of which block size would do."""
        self.home.count_blocks(executed, dense, self.block_at_home)

    def tables(
        self,
        name: str | tuple,
        size: Sequence[int],
        block: tuple[int, int],
        make: Callable[[int, int, int], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """See :class:`BlockPacking`."""
        return self.home.tables((name, self.windows), size, block, make)

    def layout_of(self, blocks: Blocks) -> Layout:
        """See :class:`BlockPacking`; there may be more windows than of the map that was cut."""
        more = [count - have for count, have in zip(blocks, self.grid_size, strict=True)]
        if not any(more):
            return self.home.layout_of(self.windows)
        rows, columns = self.windows.rows, self.windows.columns
        return self.home.layout_of(
            Windows((*rows, *rows[-1:] * more[0]), (*columns, *columns[-1:] * more[1]))
        )

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

    def _write(self, map_: Tensor, x: BlockTensor, border: int) -> None:
        super()._write(map_, x, EVERYTHING)
