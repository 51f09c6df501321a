"""One call of a converted model: which blocks run, where their state is, which layer is at work."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from numbers import Rational
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ... import ops
from ...errors import DensifiedError, StateError
from ...host_transfer import upload
from ...ops import window
from ..geometry import grid_size, resized_block
from ..state.store import BY_CHANCE, EVERYTHING, StateEntry, StateKey, StateStore, Stream
from ..tensor.axes import MAP, channels_of, from_map, to_map
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
from .layout import Layout, block_lists, image_places

if TYPE_CHECKING:
    from ..conv.cpu_convolutions import CpuConvolutions
    from ..conv.torch_epilogue import Epilogues


@dataclass
class Densified:
    """How often and why an op of one module ran on the whole map."""

    path: str
    op: str
    reason: str
    count: int = 0
    macs: int = 0


@dataclass
class FrameCounts:
    """Multiply-accumulates of one frame.

    Attributes:
        blocks: MACs that ran on executed blocks.
        blocks_dense: What the same ops cost on the whole map.
        densified: MACs of ops that met a BlockTensor and ran on the whole map.
        tiles: Blocks of the maps that ops on blocks gave, in pixels of those maps. Fractions where
            an op ran on the whole map because its stride does not divide the block.
        by_op: Densified ops by ``(path, op)``.
        modules: ``path -> [executed MACs, dense MACs]`` of the ops that ran on blocks.
        outside: ``path -> MACs`` of ops on ordinary tensors: behind the exits (RoI heads), or
            behind an op whose result is no map. ``None`` where they were not counted; they are on
            first frames.
    """

    blocks: int = 0
    blocks_dense: int = 0
    densified: int = 0
    tiles: set[tuple[Rational, Rational]] = field(default_factory=set)
    by_op: dict[tuple[str, str], Densified] = field(default_factory=dict)
    modules: dict[str, list[int]] = field(default_factory=dict)
    outside: dict[str, int] | None = None


class Frame:
    """The context that all BlockTensors of one call share.

    Args:
        grid: bool ``(N, GH, GW)``, True = executed.
        size: ``(H, W)`` of the frame in pixels.
        block_size: Side of a block in pixels of the frame.
        store: State of the streams.
        streams: Stream of each image.
        run: ``run(frame, func, args, kwargs, on_use)``, executes an aten op that met a BlockTensor.
        strict: Raise where an op would be densified.
        pack_whole: Run on packed blocks even where every block of every image is executed.
        native: The package's own convolutions, ``None`` to use torch's.
        epilogues: What waits behind torch's convolutions, ``None`` for nothing.
        host: The grid in host memory, if it is there already.
        repack: Cut dense maps into blocks again where an op could run on some.

    Attributes:
        whole: All blocks are executed and need not be packed: BlockTensors hold dense maps, ops run
            as they would in the model alone, and only the state is written beside.
        channels_last: Results leave in this layout.
        whole_map_inputs: What the modules that need whole maps and are at work were given.
        pending_maps: Maps that may not be computed yet.
        maps: What dense maps need to know of it, ``None`` if none are cut into blocks again.
    """

    def __init__(
        self,
        grid: Tensor,
        size: tuple[int, int],
        block_size: int,
        store: StateStore,
        streams: Sequence[Stream],
        run: Callable,
        strict: bool = False,
        pack_whole: bool = False,
        native: CpuConvolutions | None = None,
        epilogues: Epilogues | None = None,
        host: Tensor | None = None,
        repack: bool = True,
    ) -> None:
        self.grid = grid
        self.images = grid.shape[0]
        self.size = size
        self.block_size = block_size
        self.grid_size = grid_size(*size, block_size)
        self.store = store
        self.strict = strict
        self.counts = FrameCounts()
        self.touched_state = False
        self.channels_last = True
        self.whole_map_inputs: list[list[BlockTensor]] = []
        self.native = native
        self.epilogues = epilogues
        self.pending_maps: list[weakref.ref[BlockTensor]] = []
        self.maps = FrameMaps(self.images, self._cut) if repack else None
        self._run = run
        self._closed = False
        self._path = [""]
        self._calls: dict[str, int] = defaultdict(int)

        self.host = grid.cpu() if host is None else host
        self.full = tuple(self.host.flatten(1).all(1).tolist())
        self.whole = all(self.full) and not pack_whole
        self.slots = tuple(stream.slot for stream in streams)
        self._streams = tuple(streams)
        # int32 (N, 3), each image as one block by slot; None where the slots are 0, 1, ...
        self._places: Tensor | None = None
        if self.slots != tuple(range(self.images)):
            self._places = upload(image_places(self.slots), grid.device)
        self._layouts: dict[tuple[int, int], Layout] = {}
        self.executed = self.layout(size, (block_size, block_size)).executed

    # -- dispatch ---------------------------------------------------------------------------------

    def dispatch(self, func, args, kwargs, on_use: bool = False):
        """Run an aten op on the BlockTensors of this frame.

        Args:
            func: The op.
            args: Its arguments.
            kwargs: Its keyword arguments.
            on_use: There are :class:`DenseOnUse` tensors among them.

        Raises:
            StateError: If the frame is over.
        """
        if _check_open(func, args):
            args = plain_all(args)
        if kwargs and _check_open(func, kwargs.values()):
            kwargs = dict(zip(kwargs, plain_all(kwargs.values()), strict=True))
        return self._run(self, func, args, kwargs, on_use)

    def check_open(self, what: object) -> None:
        """Refuse what would be done with a BlockTensor after its frame.

        Raises:
            StateError: If the frame is over.
        """
        if self._closed:
            raise StateError(
                f"{what} was called on a BlockTensor of a frame that is over. A converted module "
                "hands out dense tensors; this one left it by another way than its return value. "
                "Return it, or densify it with blockcopy_plugins.to_dense before the module ends."
            )

    def close(self) -> None:
        """End the frame: its BlockTensors can no longer be used."""
        self._closed = True
        if self.maps is not None:
            self.maps.close()

    # -- which module is at work ------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Path of the innermost module at work."""
        return self._path[-1]

    def enter(self, path: str) -> None:
        """A module's forward begins."""
        self._path.append(path)

    def leave(self, path: str) -> None:
        """A module's forward is over, and with it what was left open inside it."""
        while self._path[-1] != path:
            self._path.pop()
        self._path.pop()

    def next_key(self, op: str) -> StateKey:
        """Key of the next use of state in the module at work."""
        path = self._path[-1]
        call = self._calls[path]
        self._calls[path] = call + 1
        return StateKey(path, call, op)

    def finish(self) -> None:
        """Check at the end that every module used its state as often as on the frame before.

        Raises:
            StateError: If not; then features of different ops may have been taken for each other.
        """
        for stream, full in zip(self._streams, self.full, strict=True):
            for path, count in self._calls.items():
                before = stream.calls.get(path, count)
                if before != count and not full:
                    raise StateError(
                        f"module {path or '(root)'!r} used state {count} times in this frame and "
                        f"{before} times in the one before: the model took another path through "
                        "its layers. Call reset_(model), or convert only the part of the model "
                        f"whose layers run in the same order on every frame. {BY_CHANCE}"
                    )
        for stream in self._streams:
            stream.calls = self._calls

    # -- copies between packed and full ------------------------------------------------------------

    def layout(self, size: Sequence[int], block: Sequence[int]) -> Layout:
        """The executed blocks of a map.

        Args:
            size: ``(H, W)`` of the map.
            block: Height and width of a block of it.
        """
        have = self.grid_size
        blocks = (max(have[0], -(-size[0] // block[0])), max(have[1], -(-size[1] // block[1])))
        return self.layout_of(blocks)

    def layout_of(self, blocks: tuple[int, int]) -> Layout:
        """The executed blocks of a map of so many rows and columns of blocks."""
        found = self._layouts.get(blocks)
        if found is None:
            found = self._layouts[blocks] = self._new_layout(blocks)
        return found

    @property
    def image_order_is_slots(self) -> bool:
        """Whether image i of the batch has slot i."""
        return self._places is None

    def blocks_of_images(self, layout: Layout) -> list[int] | None:
        """How many blocks of each image are executed, ``None`` if that may change in a replay."""
        if self.images == 1:
            return [layout.executed]
        images = block_lists(self.host, layout.blocks, self.slots)[0][:, 0]
        return images.bincount(minlength=self.images).tolist()

    @property
    def image_places(self) -> Tensor:
        """int32 ``(N, 3)``: each image as one block of its own."""
        key = ("images", self.images)
        if key not in self.store.tables:
            with torch.inference_mode(False):
                places = upload(image_places(range(self.images)), self.grid.device)
            self.store.tables[key] = places
        return self.store.tables[key]

    def compute_pending(self) -> None:
        """Compute all maps that wait."""
        pending, self.pending_maps = self.pending_maps, []
        for found in (reference() for reference in pending):
            if found is not None:
                found.compute()

    def _new_layout(self, blocks: tuple[int, int]) -> Layout:
        return Layout(self.host, blocks, self.slots, self.grid.device)

    def from_dense(self, dense: Tensor, block: tuple[int, int]) -> BlockTensor:
        """Take the executed blocks of a dense ``(N, C, H, W)`` map."""
        size = tuple(dense.shape[2:])
        return BlockTensor(self.packed_from(dense, block), size, block, self)

    def packed_like(self, dense: Tensor, template: BlockTensor) -> Tensor:
        """The executed blocks of a dense tensor, in the form of a BlockTensor's ``packed``.

        Args:
            dense: Of the axes of ``template``; its channels may be others.
            template: Tells axes, blocks and size of the map.

        Returns:
            A copy.
        """
        if self.whole:
            return dense.clone()
        map_ = to_map(dense, template.axes, self.images, template.size_of_map, template.joined)
        packed = self.packed_from(map_, template.block)
        if template.axes == MAP:
            return packed
        channels = channels_of(template.axes, dense.shape, template.joined)
        return from_map(packed, template.axes, channels)

    def packed_from(self, dense: Tensor, block: tuple[int, int]) -> Tensor:
        """The executed blocks ``(n, C, bh, bw)`` of a dense ``(N, C, H, W)`` map; a copy."""
        if self.whole:
            return dense.clone(memory_format=torch.channels_last)
        layout = self.layout(dense.shape[2:], block)
        rows, cols = self.tables(
            "identity",
            dense.shape[2:],
            block,
            lambda axis, size, width: window.index_table(
                blocks=layout.blocks[axis], block_out=width, index=torch.arange(size, device="cpu")
            ),
        )
        dense = dense.contiguous(memory_format=torch.channels_last)
        return ops.gather(dense, layout.by_image, rows, cols)

    def _cut(self, dense: Tensor, block: tuple[int, int]) -> BlockTensor:
        out = self.from_dense(dense, block)
        out.source = dense
        return out

    def derived(self, out: Any, func, args) -> Any:
        """Mark what an op gave of maps as dense maps, which may become blocks again.

        Args:
            out: Its result.
            func: The op.
            args: Its arguments.
        """
        if self.maps is None or moves_pixels(func, args, self.maps):
            return out
        for value in tree_leaves(args):
            # Of a map that lies on its side nobody knows which way what follows turns it.
            if isinstance(value, BlockTensor) and "H" in value.axes.partition("W")[2]:
                return out
        return derived(out, self.maps)

    def pack_again(self, dense: Any, x: BlockTensor | MapGeometry) -> Any:
        """The executed blocks of a dense map that was made of ``x``.

        Args:
            dense: ``(N, C, H, W)``; anything else is given back.
            x: The map that it comes from.

        Returns:
            A BlockTensor, or ``dense``, contiguous, where no block width fits.
        """
        dense = plain(dense)
        if type(dense) is not Tensor or dense.dim() != 4 or len(dense) != self.images:
            return dense
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
        # Compiled ops of others take a dense map for NCHW without a look at its strides.
        return dense.contiguous() if None in block else self.from_dense(dense, block)

    def call_whole(self, function: Callable, args, name: str, reason: str, gives_map: bool):
        """Call a function that knows no BlockTensors with whole maps.

        Args:
            function: The function.
            args: Its arguments, BlockTensors among them.
            name: Its name in the report.
            reason: Why it does not run on blocks.
            gives_map: Its result is again a map of the whole frame; its executed blocks go on.

        Returns:
            Its result.

        Raises:
            DensifiedError: If the frame is strict.
        """
        args, maps = self.make_whole(args, name, reason)
        out = function(*args)
        return self.pack_again(out, maps[0]) if gives_map else out

    def make_whole(
        self, values: Any, name: str, reason: str
    ) -> tuple[Any, list[BlockTensor | MapGeometry]]:
        """Densify what is given to something that knows no BlockTensors.

        Args:
            values: Nested arguments.
            name: Whose, for the report.
            reason: Why it does not run on blocks.

        Returns:
            The arguments with dense copies, contiguous, and the BlockTensors that were among them;
            where there were none, the geometry of the dense maps.

        Raises:
            DensifiedError: If the frame is strict and there are some.
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

    def tables(
        self,
        name: str | tuple,
        size: Sequence[int],
        block: tuple[int, int],
        make: Callable[[int, int, int], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Row and column table of a gather, made once for a geometry.

        Args:
            name: What kind of window, with all its parameters.
            size: ``(H, W)`` of the map read.
            block: Block of the map written.
            make: ``make(axis, size, block) -> int32 (blocks, width)`` for axis 0 (rows), 1 (cols).

        Returns:
            The two tables, on the frame's device.
        """
        key = (name, tuple(size), block)
        found = self.store.tables.get(key)
        if found is None:
            with torch.inference_mode(False):
                found = tuple(upload(make(i, size[i], block[i]), self.grid.device) for i in (0, 1))
            self.store.tables[key] = found
        return found

    def keep(self, x: BlockTensor, op: str, border: int = EVERYTHING) -> StateEntry:
        """Write the executed blocks of ``x`` into its full map, unless some op did so already.

        Args:
            x: A tensor of this frame.
            op: The op that wants to read the map, for the key of a new entry.
            border: Pixels from the edge of a block that it reads of the map, if it reads executed
                blocks where they are packed.

        Returns:
            The entry whose map now holds ``x``: this frame's values where executed, earlier ones
            elsewhere, near the edges of the blocks or everywhere. Its map is the state itself: read
            it, never write to it or hand it out.

        Raises:
            StateError: If earlier frames left something else there, or not enough.
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
        entry.claim(self.slots, self._streams, self.full, border)
        if self.executed:
            self.touched_state = True
            self._write(entry.map, x, border)
        entry.border = border
        x.full = entry
        return entry

    def _write(self, map_: Tensor, x: BlockTensor, border: int) -> None:
        if not self.whole:
            if border == EVERYTHING:
                ops.scatter_(map_, *self._on_the_map(x))
            else:
                ops.scatter_border_(map_, *self._on_the_map(x), border)
        elif border != EVERYTHING:
            ops.copy_border_(map_, x.packed_map(), self.slots, x.block, border)
        elif self._places is None:
            map_[: self.images].copy_(x.packed_map())
        else:
            ops.scatter_(map_, x.packed_map(), self._places)

    def covers(self, x: BlockTensor) -> bool:
        """Whether every block of ``x`` has a pixel on its map.

        There are others where unpadded convolutions made the map smaller than its grid.
        """
        blocks = x.block_layout.blocks
        return all((blocks[i] - 1) * x.block[i] < x.size_of_map[i] for i in (0, 1))

    def _on_the_map(self, x: BlockTensor) -> tuple[Tensor, Tensor]:
        """Packed blocks and their places, without blocks that lie wholly beyond the map."""
        packed = x.packed_map()
        layout = x.block_layout
        if self.covers(x):
            return packed, layout.by_slot
        inside = self._inside(layout, [-(-x.size_of_map[i] // x.block[i]) for i in (0, 1)])
        return packed[inside], layout.by_slot[inside].contiguous()

    def _inside(self, layout: Layout, blocks: Sequence[int]) -> Tensor:
        """Which of the executed blocks are among the first rows and columns of blocks."""
        rows, columns = block_lists(self.host, layout.blocks, self.slots)[0][:, 1:].unbind(1)
        inside = (rows < blocks[0]) & (columns < blocks[1])
        # A list: a mask would be read back from the device.
        return upload(inside.nonzero().flatten(), self.grid.device)

    def in_batch_order(self, map_: Tensor) -> Tensor:
        """The maps of this frame's images, ``(N, C, H, W)``, of a map of all slots."""
        if self._places is None:
            return map_[: self.images]
        rows, cols = self.tables(
            "image",
            map_.shape[2:],
            tuple(map_.shape[2:]),
            lambda axis, size, width: window.index_table(
                blocks=1, block_out=width, index=torch.arange(size, device="cpu")
            ),
        )
        return ops.gather(map_, self._places, rows, cols)

    def dense(self, x: BlockTensor, op: str, copy: bool, contiguous: bool = False) -> Tensor:
        """The whole of ``x`` as a plain tensor in batch order.

        Args:
            x: A tensor of this frame.
            op: Who wants it.
            copy: ``False`` may return the state itself, for a reader who neither writes to it nor
                keeps it.
            contiguous: Give a copy in the memory layout that a BlockTensor claims.

        Returns:
            A tensor of the shape of ``x``; a map is channels last or contiguous.
        """
        if isinstance(x, DenseOnUse):
            return x.dense().clone() if copy else x.dense()
        map_ = self.keep(x, op).map
        # Not in inference mode: the result must count its versions, see ViewedMap.
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
        """``x`` as it leaves the blocks, in memory of its own and in the layout of the frame."""
        return self.dense(x, "output", copy=True, contiguous=not self.channels_last)

    def result(self, x: BlockTensor) -> Tensor:
        """As :meth:`output`, of what the model returns: nothing of it comes after."""
        return self.output(x)

    def dense_to_read(self, x: BlockTensor, op: str, contiguous: bool) -> Tensor:
        """As :meth:`dense`, for readers who neither write to the map nor keep it.

        All of them get the same tensor: a detector's extractors read the same maps in turn.
        """
        kind = (x.version.count, contiguous)
        known, map_ = x.read_only or (None, None)
        if known != kind:
            map_ = self.dense(x, op, copy=False, contiguous=contiguous)
            x.read_only = (kind, map_)
        return map_

    # -- what happened -----------------------------------------------------------------------------

    def count_blocks(self, executed: int, dense: int, block: tuple[int, int]) -> None:
        """Count the MACs of an op that ran on blocks and gave blocks of ``block`` pixels."""
        self.counts.tiles.add(block)
        self.counts.blocks += executed
        self.counts.blocks_dense += dense
        module = self.counts.modules.setdefault(self.path, [0, 0])
        module[0] += executed
        module[1] += dense

    def refuse_if_strict(self, op: str, reason: str) -> None:
        """Refuse to run an op on the whole map if the frame is strict.

        Raises:
            DensifiedError: If it is.
        """
        if self.strict:
            raise DensifiedError(
                f"{op} in module {self.path!r} cannot run on blocks: {reason}. With strict=False "
                "it runs on the whole map, which is right but saves nothing there."
            )

    def count_densified(self, op: str, reason: str, macs: int) -> None:
        """Count an op that ran on the whole map."""
        key = (self.path, op)
        found = self.counts.by_op.get(key)
        if found is None:
            found = self.counts.by_op[key] = Densified(self.path, op, reason)
        found.count += 1
        found.macs += macs
        self.counts.densified += macs


def _check_open(func, values) -> bool:
    """Refuse BlockTensors of a frame that is over; returns whether there are dense maps."""
    found = False
    for value in values:
        kind = type(value)
        if kind is BlockTensor or isinstance(value, DenseOnUse):
            value.frame.check_open(func)
        elif kind is DenseMap:
            found = True
        elif (kind is list or kind is tuple) and value and type(value[0]) is not int:
            found = _check_open(func, value) or found
    return found
