"""Convolutions by the package's own CPU kernels: no halo copies, no im2col, one pass for all."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from ... import ops
from ...ops.block_conv import SlidingWindow
from ...ops.window import through
from ..state.store import EVERYTHING
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PaddedMap
from ..tensor.pending_map import ConvCall, PendingMap
from .weight_watch import WeightWatch

if TYPE_CHECKING:
    from ..frame.frame import Frame

_OP = "aten.convolution.default"
_WINOGRAD_TILE = 4
_WINOGRAD_CHANNELS = 16
# A tile that the block's edge cuts costs as much as a whole one.
_WINOGRAD_WASTE = 1.5


@dataclass(eq=False)
class PreparedWeight:
    """A weight in the kernels' layout.

    Attributes:
        weight: The weight.
        version: Of it, when it was laid out.
        memory: Where it lay.
        packed: uint8 ``(bytes,)``.
        watch: Sees writes that the version does not tell.
        dropped: It is kept no longer.
    """

    weight: weakref.ref[Tensor]
    version: int
    memory: int
    packed: Tensor
    watch: WeightWatch
    dropped: bool = False

    def is_current(self) -> bool:
        """Whether the weight is what it was, as far as one sees."""
        weight = self.weight()
        return (
            not self.dropped
            and weight is not None
            and self.version == weight._version
            and self.memory == weight.data_ptr()
        )


@dataclass
class ConvPlan:
    """A convolution of maps of one size, in whole frames or in others.

    Attributes:
        window: Shape of the op.
        size_out: ``(H, W)`` of the result.
        tile: Height and width of what one result holds: a block, or the map in whole frames.
        local: Blocks read nothing but themselves.
        blocks: Rows and columns of blocks of the result.
        dense_macs: MACs on the whole map, of all images.
        block_macs: MACs of one block.
        winograd: By Winograd's algorithm.
        near: Executed blocks are read where they are packed, and of the state no more than what is
            near the edges of blocks.
        border: How near.
        rows: The windows' rows, int32 ``(GH, wh)``.
        cols: The windows' columns, int32 ``(GW, ww)``.
    """

    window: SlidingWindow
    size_out: tuple[int, int]
    tile: tuple[int, int]
    local: bool
    blocks: tuple[int, int]
    dense_macs: int
    block_macs: int
    winograd: bool
    near: bool = False
    border: int = EVERYTHING
    rows: Tensor | None = None
    cols: Tensor | None = None


@dataclass
class CpuConvolutions:
    """What native convolutions keep between frames: weights in their layout, scratch memory.

    Args:
        fuse: Let a convolution wait for the batch norm, addition and activation behind it.
        winograd: Run 3x3 convolutions of stride 1 by Winograd's algorithm.
        kernels: One of :func:`blockcopy_plugins.ops.conv_kernels`.
    """

    fuse: bool
    winograd: bool
    kernels: str
    workspace: Tensor = field(default_factory=lambda: _bytes(0))
    _prepared: dict[tuple[int, bool], PreparedWeight] = field(default_factory=dict)
    _turns: list[tuple[int, bool]] = field(default_factory=list)
    # Places in the model whose sums are read as they are too: they do not wait.
    _eager: set[str] = field(default_factory=set)

    def __deepcopy__(self, memo) -> CpuConvolutions:
        # Weights are known by their identity, and those of a copied model are others.
        return CpuConvolutions(self.fuse, self.winograd, self.kernels)

    def __reduce__(self):
        # Another machine may have other kernels, or none.
        return CpuConvolutions.make, (self.fuse, self.winograd)

    @staticmethod
    def make(fuse: bool, winograd: bool) -> CpuConvolutions | None:
        """For the best kernels of this processor, ``None`` where there are none."""
        found = ops.conv_kernels()
        return CpuConvolutions(fuse, winograd, found[0]) if found else None

    def memory(self) -> list[Tensor]:
        """What the kernels write to beside their results."""
        return [self.workspace, *(found.packed for found in self._prepared.values())]

    def prepared_among(self, tensors: Iterable[Tensor]) -> tuple[PreparedWeight, ...]:
        """The weights whose layout for the kernels is one of some tensors."""
        asked = set(map(id, tensors))
        return tuple(p for p in self._prepared.values() if id(p.packed) in asked)

    def clear(self) -> None:
        """Give back weights and scratch memory."""
        for found in self._prepared.values():
            found.dropped = True
        self._prepared.clear()
        self.workspace = _bytes(0)

    def look_at_one(self) -> None:
        """Look whether the next of the weights was written to; once a frame, each in its turn."""
        if not self._turns:
            self._turns.extend(self._prepared)
        if not self._turns:
            return
        key = self._turns.pop()
        found = self._prepared.get(key)
        if found is not None and not found.watch.next_part_is_the_same():
            found.dropped = True
            del self._prepared[key]

    def bytes(self) -> int:
        """Memory of prepared weights and scratch, in bytes."""
        return self.workspace.numel() + sum(p.packed.numel() for p in self._prepared.values())

    def joins(self, x: BlockTensor) -> bool:
        """Whether the kernels can take a map for what is no convolution: joins and resizes."""
        return (
            self.fuse
            and type(x) is BlockTensor
            and x.axes == MAP
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.bfloat16)
        )

    def takes(self, x: Tensor, weight: Tensor, groups: int) -> bool:
        """Whether a convolution can run here; if not, torch's does.

        Weights must be parameters: what is computed anew in each frame is not worth preparing.
        """
        dtype = weight.dtype
        depthwise = groups > 1 and groups == weight.shape[0] and weight.shape[1] == 1
        if (
            (groups != 1 and not depthwise)
            # Outside the image the kernels have zeros.
            or (isinstance(x, PaddedMap) and x.padding.fill not in (None, 0.0))
            or dtype != x.dtype
            or not isinstance(weight, nn.Parameter)
            or weight.device.type != "cpu"
            or x.device.type != "cpu"
            or weight.is_inference()
            or torch.is_autocast_enabled("cpu")
        ):
            return False
        if dtype == torch.bfloat16:
            # Tiles of AMX, which oneDNN uses, are faster than vectors.
            return depthwise or (weight.shape[1] % 2 == 0 and not _has_amx())
        return dtype == torch.float32

    def plan(
        self,
        frame: Frame,
        x: BlockTensor,
        weight: Tensor,
        window: SlidingWindow,
        size_out: tuple[int, int],
        local: bool,
    ) -> ConvPlan:
        """What is the same in all frames of one size about a convolution.

        Args:
            frame: The frame at work.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C, kh, kw)``.
            window: Shape of the op.
            size_out: ``(H, W)`` of the result.
            local: Blocks read nothing but themselves.
        """
        layout = frame.layout(size_out, window.block_out)
        tile = size_out if frame.whole else window.block_out
        per_pixel = weight.numel()
        plan = ConvPlan(
            window=window,
            size_out=size_out,
            tile=tile,
            local=local,
            blocks=layout.blocks,
            dense_macs=frame.images * size_out[0] * size_out[1] * per_pixel,
            block_macs=window.block_out[0] * window.block_out[1] * per_pixel,
            winograd=not local and self.is_by_winograd(weight, window, tile),
        )
        if local:
            return plan
        padding = x.padding if isinstance(x, PaddedMap) else None
        # Whole frames decide as later ones will.
        plan.near = padding is None and x.block_layout is layout and frame.covers(x)
        plan.border = _border(x, window) if plan.near else EVERYTHING
        if frame.whole:
            shape = SlidingWindow(
                window.kernel, window.stride, window.padding, window.dilation, size_out
            )
            plan.rows, plan.cols = frame.tables(
                ("whole", shape),
                x.size_of_map,
                size_out,
                lambda axis, size, _: shape.contiguous_table(axis, 1, size),
            )
        elif padding is not None:
            plan.rows, plan.cols = frame.tables(
                ("windows", window, padding.key),
                x.size_of_map,
                window.block_out,
                lambda axis, size, _: through(
                    window.contiguous_table(axis, layout.blocks[axis], size), padding.source(axis)
                ),
            )
        else:
            plan.rows, plan.cols = frame.tables(
                ("windows", window),
                x.size_of_map,
                window.block_out,
                lambda axis, size, _: window.contiguous_table(axis, layout.blocks[axis], size),
            )
        return plan

    def run(
        self,
        frame: Frame,
        path: str,
        x: BlockTensor,
        weight: Tensor,
        bias: Tensor | None,
        plan: ConvPlan,
    ) -> BlockTensor:
        """Convolve, or have it wait.

        Args:
            frame: The frame at work.
            path: The module at work.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C, kh, kw)``, taken by :meth:`takes`.
            bias: ``(C_out,)`` or None.
            plan: From :meth:`plan`.

        Returns:
            ``(N, C_out, *size_out)``.
        """
        window = plan.window
        places = fresh = None
        if plan.local:
            source = x.packed
        elif frame.whole:
            if not isinstance(x, PaddedMap):  # whose map is kept already
                frame.keep(x, _OP, plan.border)
            source, places = x.packed, frame.image_places
        else:
            places = frame.layout_of(plan.blocks).by_slot
            if isinstance(x, PaddedMap):
                source = x.entry.map
            else:
                source = frame.keep(x, _OP, plan.border).map
                fresh = x.packed if plan.near else None
        prepared = self.prepared(weight, plan.winograd)
        workspace = self.workspace

        def run(pending: PendingMap) -> Tensor:
            frame.enter(path)  # for who counts what runs where
            out = ops.conv_blocks(
                source,
                fresh,
                places,
                plan.rows,
                plan.cols,
                weight,
                prepared,
                bias,
                pending.norm,
                pending.eps,
                window.stride,
                window.dilation,
                plan.tile,
                pending.residual,
                pending.low,
                pending.high,
                workspace,
                pending.slope,
            )
            frame.leave(path)
            return out

        executed = (
            plan.dense_macs
            if frame.whole
            else frame.layout_of(plan.blocks).executed * plan.block_macs
        )
        frame.count_blocks(executed, plan.dense_macs, window.block_out)

        def run_again() -> None:
            self._eager.add(path)
            frame.enter(path)
            frame.count_blocks(executed, 0, window.block_out)
            frame.leave(path)

        pending = PendingMap(ConvCall(run, run_again))
        if not self.fuse or path in self._eager:
            return BlockTensor(pending.compute(), plan.size_out, window.block_out, frame)
        return BlockTensor.of_pending(pending, x, weight.shape[0], plan.size_out, window.block_out)

    def is_by_winograd(self, weight: Tensor, window: SlidingWindow, block: Sequence[int]) -> bool:
        """Whether a convolution of blocks of a size runs by Winograd's algorithm."""
        if (
            not self.winograd
            or window.kernel != (3, 3)
            or window.stride != (1, 1)
            or weight.shape[1] % _WINOGRAD_CHANNELS
        ):
            return False
        outputs = 1
        for side, dilation in zip(block, window.dilation, strict=True):
            # With a dilation d every d-th output is a convolution of its own.
            outputs_of_each = ceil(side / dilation)
            tiles = min(dilation, side) * ceil(outputs_of_each / _WINOGRAD_TILE)
            outputs *= tiles * _WINOGRAD_TILE
        return outputs <= _WINOGRAD_WASTE * block[0] * block[1]

    def prepared(self, weight: Tensor, winograd: bool) -> Tensor:
        """The weight in the kernels' layout, which is kept."""
        key = (id(weight), winograd)
        found = self._prepared.get(key)
        if found is None or found.weight() is not weight or not found.is_current():
            # No part of the frame: who writes down or counts its ops is not to see this.
            with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
                packed = ops.conv_prepare(weight, winograd, self.kernels)
            # Where the weight goes, so does this.
            reference = weakref.ref(weight, _Forget(self._prepared, key))
            watch = WeightWatch(weight)
            found = PreparedWeight(reference, weight._version, weight.data_ptr(), packed, watch)
            self._prepared[key] = found
        return found.packed


@dataclass
class _Forget:
    """Drops what was prepared of a weight that is no more."""

    prepared: dict[tuple[int, bool], PreparedWeight]
    key: tuple[int, bool]

    def __call__(self, reference: weakref.ref) -> None:
        found = self.prepared.get(self.key)
        if found is not None and found.weight is reference:
            del self.prepared[self.key]


def _border(x: BlockTensor, window: SlidingWindow) -> int:
    """How far into a block the windows of its neighbours reach."""
    reach = 1
    for axis in (0, 1):
        before = window.padding[axis]
        last = (window.block_out[axis] - 1) * window.stride[axis]
        after = last + (window.kernel[axis] - 1) * window.dilation[axis] - before
        reach = max(reach, before, after - (x.block[axis] - 1))
    return EVERYTHING if 2 * reach >= min(x.block) else reach


def _has_amx() -> bool:
    # Not a public name: where a version of torch lacks it, as where there are no tiles.
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def _bytes(size: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.empty((size,), dtype=torch.uint8, device="cpu")
