"""One call of a converted model: the context that all of its BlockTensors share."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...shared_copy import is_shared_by_copies
from ..composite import take_apart
from ..geometry import resized_block
from ..state.entry import EVERYTHING, StateEntry
from ..state.lent_map import LentMap
from ..state.store import StateStore
from ..state.stream import Stream
from ..tensor.axes import MAP, channels_of
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_map import (
    DenseMap,
    FrameMaps,
    MapGeometry,
    derived,
    moves_pixels,
    plain,
    plain_all,
)
from ..tensor.dense_on_use import DenseOnUse
from ..tensor.moved_map import MovedMap
from ..torch_internals import is_mutable, tree_leaves, tree_map, written_argument
from .context import FrameContext
from .host_grid import HostGrid
from .kernels import BlockKernels, OpRunner
from .packing import BlockPacking
from .plans import FramePlans


class Frame(FrameContext, BlockPacking):
    """The context that all BlockTensors of one call share.

    Args:
        grid: bool ``(N, GH, GW)``, True = executed.
        blocks: The same in host memory.
        size: ``(H, W)`` of the frame in pixels.
        block_size: Side of a block in pixels of the frame.
        store: State of the streams.
        streams: Stream of each image.
        plans: Tables and plans that frames of this geometry share.
        table: Executes aten ops that get a BlockTensor.
        kernels: Runs convolutions.
        strict: Raise an error if an op would be densified.
        pack_whole: Run on packed blocks even if every block of every image is executed.
        repack: Cut a dense map into blocks again before an op that can run on blocks.

    Attributes:
        channels_last: Whether results are returned in this layout.
        kernels: As given.
        of_tokens: Its maps are one row of tokens.
        lent: Results that are maps of the state, and who lends them.
        maps: What dense maps need to know of the frame, ``None`` if none are cut into blocks again.
        pending_maps: Maps that may not be computed yet.
        whole_map_inputs: The inputs of the modules that need whole maps and have not returned yet.
    """

    of_tokens = False

    def __init__(
        self,
        grid: Tensor,
        blocks: HostGrid,
        size: tuple[int, int],
        block_size: int,
        store: StateStore,
        streams: Sequence[Stream],
        plans: FramePlans,
        table: OpRunner,
        kernels: BlockKernels,
        strict: bool = False,
        pack_whole: bool = False,
        repack: bool = True,
    ) -> None:
        slots = [stream.slot for stream in streams]
        BlockPacking.__init__(self, grid, blocks, size, block_size, slots, plans, pack_whole)
        FrameContext.__init__(self, streams, self.full, strict)
        self.store = store
        self.channels_last = True
        self.kernels = kernels
        self.whole_map_inputs: list[list[BlockTensor | MapGeometry]] = []
        self.pending_maps: list[weakref.ref[BlockTensor]] = []
        self.lent: list[tuple[Tensor, LentMap]] = []
        # By what they consist of: windows and tokens.
        self.inner_frames: dict[tuple, Frame] = {}
        self.maps = FrameMaps(self.images, self._cut, table.cuts) if repack else None
        self._table = table

    def dispatch(self, func, args, kwargs, on_use: bool = False):
        """Run an aten op on BlockTensors, with ``on_use`` also on :class:`DenseOnUse` tensors.

        Raises:
            StateError: If the frame is over.
        """
        dense, other = _check_open(self, func, args)
        if kwargs:
            in_kwargs = _check_open(self, func, kwargs.values())
            dense, other = dense or in_kwargs[0], other or in_kwargs[1]
        if other and not self._table.takes_several_frames(func):
            return self.dispatch_of_several(func, args, kwargs)
        if dense:
            args = plain_all(args)
            kwargs = dict(zip(kwargs, plain_all(kwargs.values()), strict=True))
        return self._table.run(self, func, args, kwargs, on_use)

    def dispatch_of_several(self, func, args, kwargs):
        """Run an op on tensors of this frame and of an inner one, which become dense."""
        out = take_apart(func, args, kwargs)
        if out is not NotImplemented:
            return out
        reason = "its operands are cut in different ways: into blocks, windows or tokens"
        self.refuse_if_strict(str(func), reason)
        self.count_densified(str(func), reason, 0)

        written = written_argument(func, args, kwargs) if is_mutable(func) else None

        def densify(value):
            if not isinstance(value, BlockTensor) or value.frame is self or value is written:
                return value
            value = value.frame.dense(value, str(func), copy=True, contiguous=True)
            return value if self.maps is None else derived(value, self.maps)

        args, kwargs = tree_map(densify, (list(args), dict(kwargs)))
        return func(*args, **kwargs)

    def dispatch_dense_form(self, func, args, kwargs):
        """Run an op that needs moved maps as dense maps, which may become blocks again."""

        def densify(value):
            return value.dense_map() if type(value) is MovedMap else value

        args, kwargs = tree_map(densify, (list(args), dict(kwargs)))
        return func(*args, **kwargs)

    def close(self) -> None:
        """See :class:`FrameContext`."""
        super().close()
        if self.maps is not None:
            self.maps.close()

    def compute_pending(self) -> None:
        """Compute all pending maps."""
        pending, self.pending_maps = self.pending_maps, []
        for found in (reference() for reference in pending):
            if found is not None:
                found.compute()

    # -- blocks of whole maps ----------------------------------------------------------------------

    def from_dense(self, dense: Tensor, block: tuple[int, int]) -> BlockTensor:
        """Take the executed blocks of a dense ``(N, C, H, W)`` map."""
        size = tuple(dense.shape[2:])
        return BlockTensor(self.packed_from(dense, block), size, block, self)

    def _cut(self, dense: Tensor, block: tuple[int, int]) -> BlockTensor:
        out = self.from_dense(dense, block)
        out.source = dense
        return out

    def derived(self, out: Any, func, args) -> Any:
        """Mark an op's results as dense maps, which may become blocks again."""
        if self.maps is None or moves_pixels(func, args, self.maps):
            return out
        for value in tree_leaves(args):
            # A transposed map is left alone: the next ops may or may not turn it back.
            if isinstance(value, BlockTensor) and "H" in value.axes.partition("W")[2]:
                return out
        return derived(out, self.maps)

    def pack_again(self, dense: Any, x: BlockTensor | MapGeometry) -> Any:
        """The executed blocks of a dense map that was computed from ``x``.

        Args:
            dense: ``(N, C, H, W)``; anything else is returned as it is.
            x: The map that it was computed from.

        Returns:
            A BlockTensor; ``dense``, contiguous, if no block size fits.
        """
        dense = plain(dense)
        if type(dense) is not Tensor or dense.dim() != 4 or len(dense) != self.images:
            return dense
        if isinstance(x, BlockTensor) and x.frame is not self:
            return x.frame.pack_again(dense, x)
        block = tuple(
            resized_block(
                self.grid_size[i],
                x.block[i],
                x.size_of_map[i],
                dense.shape[2 + i],
                self.block_size,
            )
            for i in (0, 1)
        )
        # Third-party compiled ops take a dense map for NCHW without looking at its strides.
        return dense.contiguous() if None in block else self.from_dense(dense, block)

    # -- whole maps of blocks ----------------------------------------------------------------------

    def keep(self, x: BlockTensor, op: str, border: int = EVERYTHING) -> StateEntry:
        """Write the executed blocks of ``x`` into its full map, unless another op has done so.

        Args:
            x: A tensor of this frame.
            op: The op that wants to read the map, for the key of a new entry.
            border: How far from the edges of executed blocks the op reads the map, in pixels, if
                it reads the blocks themselves where they are packed.

        Returns:
            The entry whose map, or rings of blocks, now hold ``x``: this frame's values where
            executed, earlier ones elsewhere. They are the state itself: read them, but never write
            to them or hand them out.

        Raises:
            StateError: If earlier frames left something else there, or too little.
        """
        self.check_open(op)
        entry = x.full
        if entry is None:
            key = self.next_key(op)
            channels = prod(channels_of(x.axes, x.shape, x.joined))
            shape = (channels, *x.size_of_map)
            entry = self.store.entry(key, shape, x.block, x.dtype, x.device)
            border = max(border, entry.border)
        elif border <= entry.border:
            return entry
        entry.claim(self.slots, self.streams, self.full, border)
        if border != entry.border:
            entry.widen(border)
            self.store.memory = object()
        if self.executed:
            self.touched_state = True
            if entry.lent:
                entry.before_writing(self.host, self.slots)
            self._write(entry, x)
        x.full = entry
        return entry

    def _write(self, entry: StateEntry, x: BlockTensor) -> None:
        map_ = entry.map
        if entry.rings is not None:
            size, border = x.size_of_map, entry.border
            if self.whole:
                places = self.image_places if self._places is None else self._places
                ops.copy_rings_(map_, x.packed_map(), places, x.block, border)
            else:
                ops.scatter_rings_(map_, *self._on_the_map(x), size, border)
        elif not self.whole:
            ops.scatter_(map_, *self._on_the_map(x))
        elif self._places is None:
            map_[: self.images].copy_(x.packed_map())
        else:
            ops.scatter_(map_, x.packed_map(), self._places)

    def dense(self, x: BlockTensor, op: str, copy: bool, contiguous: bool = False) -> Tensor:
        """The whole of ``x`` as a plain tensor in batch order.

        Args:
            x: A tensor of this frame.
            op: The op that reads it.
            copy: ``False`` may return the state itself, for an op that neither writes to it nor
                keeps it.
            contiguous: Return a copy in the memory layout that a BlockTensor claims to have.

        Returns:
            A tensor of the shape of ``x``; a map is channels last or contiguous.
        """
        if isinstance(x, DenseOnUse):
            return x.dense().clone() if copy else x.dense()
        if x.frame is not self:
            return x.frame.dense(x, op, copy, contiguous)
        map_ = self.keep(x, op).map
        # Not in inference mode: the result must have a version counter, see ViewedMap.
        with torch.inference_mode(False), torch.no_grad():
            map_ = self.in_batch_order(map_)
            if x.axes != MAP:
                value = x.in_its_form(map_)
                if contiguous:
                    return value.clone(memory_format=torch.contiguous_format)
                return value.clone() if copy else value
            if contiguous:
                return ops.planes(map_.contiguous(memory_format=torch.channels_last))
            if self._places is not None:
                return map_
            return map_.clone(memory_format=torch.channels_last) if copy else map_

    def output(self, x: BlockTensor) -> Tensor:
        """``x`` as a dense tensor, in separate memory and in the frame's layout."""
        return self.dense(x, "output", copy=True, contiguous=not self.channels_last)

    def result(self, x: BlockTensor) -> Tensor:
        """As :meth:`output`, for what the model returns: nothing else runs in the frame."""
        if not self._can_lend(x):
            return self.output(x)
        entry, planes = self.keep(x, "output"), not self.channels_last
        lent = entry.lender(planes)
        # Not in inference mode: the result must have a version counter, see ViewedMap.
        with torch.inference_mode(False), torch.no_grad():
            if planes and self.executed:
                whole = x.packed_map(), self.image_places
                ops.scatter_planes_(lent.tensor, *(whole if self.whole else self._on_the_map(x)))
            elif planes:
                entry.before_writing(self.host, self.slots)
            out = lent.lend()
        self.lent.append((out, lent))
        return out

    def _can_lend(self, x: BlockTensor) -> bool:
        """Whether the caller may get the map of the state that holds ``x``."""
        return (
            x.frame is self
            and x.axes == MAP
            and not isinstance(x, DenseOnUse)
            and is_shared_by_copies(x)
            and x.element_size() <= 8
            and self.slots == tuple(range(self.store.capacity))
        )

    def dense_to_read(self, x: BlockTensor, op: str, contiguous: bool) -> Tensor:
        """As :meth:`dense`, for ops that neither write to the map nor keep it.

        All of them get the same tensor: a detector's extractors read the same maps in turn.
        """
        kind = (x.version.count, contiguous)
        known, map_ = x.read_only or (None, None)
        if known != kind:
            map_ = self.dense(x, op, copy=False, contiguous=contiguous)
            x.read_only = (kind, map_)
        return map_

    # -- functions that do not know blocks ---------------------------------------------------------

    def call_whole(
        self,
        function: Callable,
        args,
        name: str,
        reason: str,
        gives_map: bool,
        gives_tokens_of: Tensor | None = None,
    ):
        """Call a function that does not know BlockTensors, with whole maps.

        Args:
            function: The function.
            args: Its arguments, BlockTensors among them.
            name: Its name in the report.
            reason: Why it does not run on blocks.
            gives_map: Whether its result is a map of the whole frame, whose executed blocks are
                used from then on.
            gives_tokens_of: The argument whose tokens ``(N, L, ...)`` those of its result
                ``(N, L, C)`` are; if it runs on blocks, its executed tokens are used from then on.

        Returns:
            Its result.

        Raises:
            DensifiedError: If the frame is strict.
        """
        args, maps = self.make_whole(args, name, reason)
        out = function(*args)
        of = gives_tokens_of
        if isinstance(of, BlockTensor) and of.axes.rstrip("C") == "NL":
            if out.dim() == 3 and out.shape[:2] == of.shape[:2]:
                like = of.like(of.packed.flatten(2), axes="NLC")
                return like.like(of.frame.packed_like(out, like))
        return self.pack_again(out, maps[0]) if gives_map else out

    def make_whole(
        self, values: Any, name: str, reason: str
    ) -> tuple[Any, list[BlockTensor | MapGeometry]]:
        """Densify arguments of code that does not know BlockTensors.

        Args:
            values: Nested arguments.
            name: Name of the function in the report.
            reason: Why it does not run on blocks.

        Returns:
            The arguments with contiguous dense copies, and the BlockTensors that were among them;
            if there were none, the geometry of the dense maps.

        Raises:
            DensifiedError: If the frame is strict and there are BlockTensors.
        """
        maps = [v for v in tree_leaves(values) if isinstance(v, BlockTensor)]
        if maps:
            self.refuse_if_strict(name, reason)
            self.count_densified(name, reason, 0)

        def densify(value):
            if isinstance(value, BlockTensor):
                return self.dense(value, name, copy=True, contiguous=True)
            return plain(value)

        if not maps and self.maps is not None:
            dense = [v for v in tree_leaves(values) if type(v) is DenseMap]
            found = (self.maps.geometry(v.shape) for v in dense)
            maps = [geometry for geometry in found if geometry is not None]
        return tree_map(densify, values), maps


def _check_open(frame: Frame, func, values) -> tuple[bool, bool]:
    """Refuse BlockTensors of a frame that is over.

    Returns:
        Whether there are dense maps, and whether there are BlockTensors of another frame.
    """
    dense = other = False
    for value in values:
        kind = type(value)
        if kind is BlockTensor or isinstance(value, DenseOnUse):
            value.frame.check_open(func)
            other = other or value.frame is not frame
        elif kind is DenseMap:
            dense = True
        elif (kind is list or kind is tuple) and value and type(value[0]) is not int:
            inside = _check_open(frame, func, value)
            dense, other = dense or inside[0], other or inside[1]
    return dense, other
