"""BlockTensor: a feature map that holds only its executed blocks."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...errors import StateError
from ..frame.layout import Layout
from ..state.entry import StateEntry
from ..torch_internals import no_torch_function_of_subclass, wrapper_of
from .axes import MAP, channels_of, from_map, sizes_of, to_map
from .frame_of_tensors import FrameOfTensors
from .pending_map import PendingMap
from .version import Version
from .viewed_map import ViewedMap, refuse_overlaps


class BlockTensor(torch.Tensor):
    """A feature map that holds only its executed blocks.

    Its shape is that of the dense map, so model code that reads sizes works unchanged. Ops on
    it are looked up in the table of :mod:`blockcopy_plugins.engine.strategies`; one without a
    strategy runs on the densified map. It lives as long as the frame that made it.

    Attributes:
        packed: The executed blocks, one after the other in the order of ``grid.nonzero()``:
            ``(n_executed, C, bh, bw)``, channels last, or the same pixels in the form that ``axes``
            tells. Pixels of an edge block beyond the image hold no meaning. In a whole frame
            (:attr:`Frame.whole`) it is the dense tensor itself.
        axes: What each dimension means, see :mod:`.axes`; ``'NCHW'`` for a map.
        size_of_map: ``(H, W)`` of the dense map.
        block: ``(bh, bw)``, height and width of a block in pixels of this map.
        frame: The frame it belongs to.
        cropped: Its memory has pixels of its map that it does not show.
        source: The dense map that it was cut out of, for an op that cannot run on blocks after all.
    """

    axes: str
    joined: int
    size_of_map: tuple[int, int]
    block: tuple[int, int]
    frame: FrameOfTensors
    version: Version
    cropped: bool
    _packed: Tensor | None
    _pending: PendingMap | None
    _full: tuple[StateEntry, int] | None
    read_only: tuple[int, Tensor] | None
    source: Tensor | None

    __torch_function__ = no_torch_function_of_subclass

    @staticmethod
    def __new__(
        cls,
        packed: Tensor,
        size: tuple[int, int],
        block: tuple[int, int],
        frame: FrameOfTensors,
        version: Version | None = None,
        axes: str = MAP,
        strides: Sequence[int] | None = None,
        joined: int = 1,
    ) -> BlockTensor:
        """Wrap packed blocks.

        Args:
            cls: This class.
            packed: ``(n_executed, C, bh, bw)``, or the form of ``axes``.
            size: ``(H, W)`` of the dense map.
            block: ``(bh, bw)``.
            frame: The frame in which it is made.
            version: That of the tensor whose memory ``packed`` shares, if any.
            axes: Letter of each dimension.
            strides: Strides of the dense tensor; contiguous by default.
            joined: Channels in a dimension B, P, M or S.
        """
        if axes == MAP:
            shape = (frame.images, packed.shape[1], *size)
        else:
            channels = channels_of(axes, packed.shape, joined)
            shape = sizes_of(axes, channels, frame.images, size)
        self = wrapper_of(cls, shape, strides=strides, dtype=packed.dtype, device=packed.device)
        self._packed = packed
        self._pending = None
        self.axes = axes
        self.joined = joined
        self.size_of_map = (size[0], size[1])
        self.block = block
        self.frame = frame
        if version is None:
            self.version = Version()
        else:
            self.version = version
            version.shared = True
        self.cropped = False
        self._full = None
        self.read_only = None
        self.source = None
        if frame.maps is not None and cls is BlockTensor and axes == MAP:
            frame.maps.note(self.size_of_map, block)
        return self

    @staticmethod
    def of_pending(
        pending: PendingMap,
        like: BlockTensor,
        channels: int,
        size: tuple[int, int],
        block: tuple[int, int],
    ) -> BlockTensor:
        """A map that is computed when it is first read.

        Args:
            pending: What computes it.
            like: A map of the same frame, dtype and device.
            channels: Number of its channels.
            size: ``(H, W)`` of its dense map.
            block: Height and width of its blocks.
        """
        frame = like.frame
        shape = (frame.images, channels, *size)
        self = wrapper_of(BlockTensor, shape, dtype=like.dtype, device=like.device)
        self._packed = None
        self._pending = pending
        self.axes = MAP
        self.joined = 1
        self.size_of_map = (size[0], size[1])
        self.block = block
        self.frame = frame
        self.version = Version()
        self.cropped = False
        self._full = None
        self.read_only = None
        self.source = None
        if frame.maps is not None:
            frame.maps.note(self.size_of_map, block)
        frame.pending_maps.append(weakref.ref(self))
        return self

    def then(self, pending: PendingMap | None, in_place: bool) -> BlockTensor | None:
        """This map, which is not computed yet, followed by one more op.

        Args:
            pending: What computes the result, ``None`` if nothing can.
            in_place: The op changes this tensor.

        Returns:
            The result, or ``None``.
        """
        if pending is None:
            return None
        if not in_place:
            return BlockTensor.of_pending(
                pending, self, self.shape[1], self.size_of_map, self.block
            )
        self._pending = pending
        self.version.note_write()
        return self

    def __init__(self, *args, **kwargs) -> None:
        # torch.Tensor's own would look at the arguments of __new__.
        pass

    def __repr__(self, *, tensor_contents=None) -> str:
        return (
            f"BlockTensor(shape={tuple(self.shape)}, axes={self.axes}, block={self.block}, "
            f"executed={self.frame.executed}, dtype={self.dtype})"
        )

    def __deepcopy__(self, memo) -> BlockTensor:
        # Another tensor of the same frame, not one of a copied frame with a state of its own.
        return self.like(self.packed.clone())

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return frame_of(args, kwargs).dispatch(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        """See ``torch.Tensor.data``."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self.copy_(value)

    def numpy(self, *, force: bool = False):
        """See ``torch.Tensor.numpy``; of the whole map."""
        return self._whole("numpy").numpy(force=force)

    def tolist(self) -> list:
        """See ``torch.Tensor.tolist``; of the whole map."""
        return self._whole("tolist").tolist()

    def __array__(self, dtype=None):
        return self._whole("numpy").__array__(dtype)

    def _whole(self, op: str) -> Tensor:
        self.frame.refuse_if_strict(op, "it reads the whole map")
        self.frame.count_densified(op, "it reads the whole map", 0)
        return self.frame.dense(self, op, copy=True, contiguous=True)

    def call_whole(self, *args, **kwargs):
        """See :meth:`Frame.call_whole`."""
        return self.frame.call_whole(*args, **kwargs)

    def like(
        self,
        packed: Tensor,
        version: Version | None = None,
        axes: str | None = None,
        strides: Sequence[int] | None = None,
    ) -> BlockTensor:
        """A tensor with the map size and blocks of this one and other contents.

        Args:
            packed: Its contents.
            version: That of this tensor if it shares its memory.
            axes: Its axes, by default those of this tensor.
            strides: Strides of the dense tensor; contiguous by default.
        """
        axes = self.axes if axes is None else axes
        out = BlockTensor(
            packed, self.size_of_map, self.block, self.frame, version, axes, strides, self.joined
        )
        out.cropped = version is not None and self.cropped
        return out

    def apart(self) -> BlockTensor:
        """Another tensor on the same memory, of which autograd does not know what it is a view of.

        Autograd keeps the base of a view, and with it all that the base holds.
        """
        out = self.like(self.packed, self.version, strides=self.stride())
        out._full, out.source = self._full, self.source
        return out

    @property
    def packed(self) -> Tensor:
        """See the class."""
        if self._pending is not None:
            self.compute()
        self._catch_up()
        return self._packed

    @property
    def memory(self) -> Tensor:
        """:attr:`packed` as it is, without the writes to views of it."""
        return self._packed

    @property
    def pending(self) -> PendingMap | None:
        """What will compute it, ``None`` if it has been computed."""
        return self._pending

    def compute(self) -> None:
        """Compute it now if it is pending."""
        if self._pending is not None:
            self._packed, self._pending = self._pending.compute(), None

    @property
    def block_layout(self) -> Layout:
        """Which blocks are executed, and where they are."""
        return self.frame.layout(self.size_of_map, self.block)

    @property
    def rows(self) -> int:
        """Size of the first dimension of ``packed``: executed blocks, images in a whole frame."""
        return self.frame.images if self.frame.whole else self.block_layout.executed

    @property
    def packed_size(self) -> tuple[int, int]:
        """Height and width of what ``packed`` holds: of a block, or of the map in a whole frame."""
        return self.size_of_map if self.frame.whole else self.block

    def make_contiguous(self) -> bool:
        """Lay ``packed`` out as this tensor's strides say, so that views of it are possible.

        Returns:
            Whether that was possible: it is if no other tensor uses the memory.
        """
        alone = not self.version.shared and not self.version.viewed
        if alone:
            self._packed = self.packed.contiguous()
        return alone

    def packed_map(self) -> Tensor:
        """``packed`` in the form of a map, ``(n_executed, C, bh, bw)``."""
        if self.axes == MAP:
            return self.packed
        return to_map(self.packed, self.axes, self.rows, self.packed_size, self.joined)

    def in_its_form(self, map_: Tensor) -> Tensor:
        """The inverse of :meth:`packed_map`, also for whole maps: ``(n, C, h, w)`` to ``axes``."""
        return from_map(map_, self.axes, channels_of(self.axes, self.shape, self.joined))

    def dense_for_views(self, op: str) -> Tensor:
        """A copy of this tensor's whole map, of which the model gets views.

        Writes to the views are applied here, and writes here show in the views.

        Args:
            op: The op that makes the view.

        Returns:
            A tensor of this one's shape and strides.
        """
        packed = self.packed
        for viewed in self.version.viewed:
            if viewed.packed is packed:
                viewed.count_writes_through(self)
                return viewed.map
        map_ = self.frame.dense(self, op, copy=True, contiguous=True)
        self.version.viewed.append(ViewedMap(self, map_))
        mirrors = self._root().version.mirrors
        if self.version.mirror is not None and all(m.version is not self.version for m in mirrors):
            mirrors.append(self)
        return map_

    def _root(self) -> BlockTensor:
        """The base of the view that this copy replaces, or the tensor itself."""
        mirror = self.version.mirror
        return self if mirror is None else mirror.of._root()

    def _catch_up(self) -> None:
        """Apply what was written to views of this memory."""
        version, mirror = self.version, self.version.mirror
        if version.is_stale:
            raise StateError(
                "a map and the windows that a view cuts it into are copies of each other on "
                "blocks, and one was written to in place before the other is read, as module "
                f"{self.frame.path or '(root)'!r} does now. Write out of place (x = x + y)."
            )
        if self.version.viewed or self.version.mirrors or mirror is not None:
            self._root()._take_back()
        if mirror is not None and mirror.pull():
            self._outdate()

    def _take_back(self) -> None:
        holders = (self, *self.version.mirrors)
        found = [
            (x, viewed.take()) for x in holders for viewed in x.version.viewed if viewed.written()
        ]
        written = [(x, write) for x, write in found if write is not None]
        if len(written) > 1:
            refuse_overlaps([(write, x.version.mirror) for x, write in written], self.frame.path)
        for x, write in written:
            with write.viewed.template.writing():
                write.put()
            x._changed(by=write.viewed if len(written) == 1 else None)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A context in which ``packed`` is written in place; maps that hold it are then outdated.

        Pixels of a block beyond a crop stay as they are: they belong to another tensor.
        """
        # A pending map may read this memory, and must read it as it is now.
        self.frame.compute_pending()
        self._catch_up()
        before = self.packed.clone() if self.cropped and not self.frame.whole else None
        yield
        if before is not None:
            shown = torch.ones(self.shape, dtype=torch.bool, device=self.device)
            shown = self.frame.packed_like(shown, self)
            self._packed.copy_(torch.where(shown, self._packed, before))
        self._changed()

    def _changed(self, by: ViewedMap | None = None) -> None:
        self._outdate(by)
        if self.version.mirror is not None:
            self.version.mirror.push()

    def _outdate(self, by: ViewedMap | None = None) -> None:
        self.version.note_write()
        for viewed in self.version.viewed:
            if viewed is not by:
                shown = viewed.template.like(viewed.packed)
                viewed.show(self.frame.dense(shown, "view", copy=False))
            else:
                viewed.show(viewed.map)
        for view in self.version.mirrors:
            view._catch_up()

    @property
    def full(self) -> StateEntry | None:
        """The state entry that holds this tensor's present contents, if there is one."""
        self._catch_up()
        if self._full is not None and self._full[1] == self.version.count:
            return self._full[0]
        return None

    @full.setter
    def full(self, entry: StateEntry) -> None:
        self._full = (entry, self.version.count)


def frame_of(args, kwargs) -> FrameOfTensors:
    """The frame of the first BlockTensor among the arguments of an op."""
    for value in args:
        if isinstance(value, BlockTensor):
            return value.frame
        if isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, BlockTensor):
                    return item.frame
    return frame_of(tuple((kwargs or {}).values()), None)
