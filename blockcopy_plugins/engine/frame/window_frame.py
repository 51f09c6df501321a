"""Windows of a map that blocks do not hold, as a separate frame."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from ...ops.window import index_table
from ..geometry import blocks_met
from ..tensor.axes import channels_of, from_map
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_map import DenseMap, dense_maps
from ..torch_internals import is_mutable, tree_map
from .frame import Frame
from .inner_frame import InnerFrame
from .layout import Windows

Places = tuple[int, ...]
"""For each row (or column) of a map, the row of another map that it shows, negative for none."""


class WindowFrame(InnerFrame):
    """The windows of a map; those that overlap executed blocks run.

    Window attention cuts a map into windows that need not lie in blocks: windows of seven pixels,
    for example, or of a padded or rolled map.

    Args:
        home: The frame of the map.
        of: A map of it, or a view of one.
        places: Rows and columns of the map that those of the windows show.
        window: Height and width of a window in pixels.

    Attributes:
        places: As given.
        mark: Of dense tensors that were computed from these windows alone.
    """

    def __init__(
        self,
        home: Frame,
        of: BlockTensor,
        places: tuple[Places, Places],
        window: tuple[int, int],
    ) -> None:
        met = (blocks_met(places[i], window[i], of.block[i], home.grid_size[i]) for i in (0, 1))
        size = (len(places[0]), len(places[1]))
        super().__init__(home, of.size_of_map, of.block, Windows(*met), size, window)
        self.places = places
        self._key = (of.size_of_map, of.block)
        self.mark = object()

    @staticmethod
    def of(
        home: Frame, map_: BlockTensor, places: tuple[Places, Places], window: tuple[int, int]
    ) -> WindowFrame:
        """See the class; the same for all maps of the same geometry."""
        key = (map_.size_of_map, map_.block, places, window)
        found = home.inner_frames.get(key)
        if found is None:
            found = home.inner_frames[key] = WindowFrame(home, map_, places, window)
        return found

    def dispatch(self, func, args, kwargs, on_use: bool = False):
        """See :class:`Frame`.

        What comes from elsewhere in the picture may have changed for windows that do not run, too:
        the op then runs on all of them.
        """
        brought = any(value.parts is not self.mark for value in dense_maps((args, kwargs)))
        if brought and not is_mutable(func):
            return self.home.dispatch_of_several(func, args, kwargs)
        return super().dispatch(func, args, kwargs, on_use)

    def derived(self, out, func, args):
        """See :class:`Frame`."""
        return tree_map(self._of_windows, super().derived(out, func, args))

    def _of_windows(self, value):
        if type(value) is DenseMap:
            value.parts = self.mark
        return value

    # -- from the map and back ---------------------------------------------------------------------

    def cut(self, x: BlockTensor, fill: float) -> BlockTensor:
        """The windows of a map, read from the kept map.

        Args:
            x: A map of this frame's geometry, or a view of one that has rows and columns.
            fill: Value where windows show nothing of the map.
        """
        map_ = self.home.keep(x, "windows").map
        if self.whole:
            packed = self._image(self.home.in_batch_order(map_), self.places, fill)
        else:
            rows, columns = self._tables("cut", self.places, self.grid_size, self.part)
            layout = self.layout_of(self.grid_size)
            packed = ops.gather(map_, layout.by_slot, rows, columns, fill)
        return BlockTensor(
            x.in_its_form(packed), self.size, self.part, self, axes=x.axes, joined=x.joined
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
        """The executed blocks of the map, put together from its windows.

        Args:
            x: A tensor of this frame, of its size.
            places: Its rows and columns that show the map.
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
        """Rows and columns of whole maps ``(N, C, H, W)``, in separate memory."""
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
