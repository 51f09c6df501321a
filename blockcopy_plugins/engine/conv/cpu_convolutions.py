"""Convolutions by the package's own CPU kernels: no halo copies, no im2col, one pass for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn

from ... import ops
from ...ops.block_conv import SlidingWindow
from ...ops.window import through
from ..frame.frame import Frame
from ..state.entry import EVERYTHING
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PaddedMap
from ..tensor.pending_map import PendingMap
from .block_windows import border_of, reads_packed
from .implementation import STATE_OP, ConvShape
from .neighbours import Neighbours
from .pending_conv import PendingConvolutions
from .phases import Phases, Repeats
from .prepared_weights import Columns, PreparedWeights

_WINOGRAD_POINTS = 6
# The fewest channels with which a kernel gains. Where two products of bfloat16 take as long as one
# of float32, all but 3x3 save too few of them.
_WINOGRAD_CHANNELS = {(3, 3): 16, (3, 1): 32, (1, 3): 32, (5, 5): 16, (5, 1): 32, (1, 5): 32}
_WINOGRAD_MULTIPLE = 16
# A tile that crosses the block's edge costs as much as a whole one.
_WINOGRAD_WASTE = 1.5
# Values in a vector of each instruction set, 16 in those not named.
_LANES = {"avx2": 8}


@dataclass
class CpuConvPlan:
    """What is worked out once for a convolution of maps of one size.

    Attributes:
        shape: The convolution.
        tile: Height and width of what one result holds: a block, or the map in whole frames.
        blocks: Rows and columns of blocks of the result.
        winograd: Whether it runs by Winograd's algorithm.
        neighbours: Pixels that are computed at once, None where it is one.
        near: Executed blocks are read where they are packed, and the state only near the
            edges of blocks.
        border: How near, in pixels.
        rows: The windows' rows, int32 ``(GH, wh)``.
        cols: The windows' columns, int32 ``(GW, ww)``.
    """

    shape: ConvShape
    tile: tuple[int, int]
    blocks: tuple[int, int]
    winograd: bool
    neighbours: Neighbours | None = None
    near: bool = False
    border: int = EVERYTHING
    rows: Tensor | None = None
    cols: Tensor | None = None


class CpuConvolutions:
    """An :class:`~.implementation.ConvImplementation` for AVX2 and AVX-512.

    Args:
        fuse: Defer a convolution until the batch norm, addition and activation after it are known.
        winograd: Run convolutions of stride 1 whose kernels have 3 or 5 taps along one axis or
            both by Winograd's algorithm.
        kernels: One of :func:`blockcopy_plugins.ops.conv_kernels`.

    Attributes:
        prepared: Weights in the kernels' layout, and those of transposed convolutions with their
            phases stacked.
        workspace: Scratch memory, uint8.
    """

    def __init__(self, fuse: bool, winograd: bool, kernels: str) -> None:
        self.fuse = fuse
        self.winograd = winograd
        self.kernels = kernels
        self.prepared = PreparedWeights(partial(_prepare, kernels))
        self.workspace = _bytes(0)
        self._pending = PendingConvolutions()

    def __deepcopy__(self, memo) -> CpuConvolutions:
        # Weights are looked up by identity, which a copied model does not share.
        return CpuConvolutions(self.fuse, self.winograd, self.kernels)

    def __reduce__(self):
        # Another machine may have other kernels, or none.
        return CpuConvolutions.make, (self.fuse, self.winograd)

    @staticmethod
    def make(fuse: bool, winograd: bool) -> CpuConvolutions | None:
        """For the best kernels of this processor, ``None`` if it has none."""
        found = ops.conv_kernels()
        return CpuConvolutions(fuse, winograd, found[0]) if found else None

    def memory(self) -> list[Tensor]:
        """Memory that the kernels write to besides their results."""
        return [self.workspace, *self.prepared.tensors()]

    def clear(self) -> None:
        """Give back weights and scratch memory."""
        self.prepared.clear()
        self.workspace = _bytes(0)

    def joins(self, x: BlockTensor) -> bool:
        """Whether the kernels accept a map for other ops than convolutions: joins and resizes."""
        return (
            self.fuse
            and type(x) is BlockTensor
            and x.axes == MAP
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.bfloat16)
        )

    def not_supported_reasons(self, x: Tensor, weight: Tensor, groups: int) -> Sequence[str]:
        """See :class:`~.implementation.ConvImplementation`.

        Weights must be parameters: preparing one that each frame computes anew is not worth it.
        """
        if not isinstance(weight, nn.Parameter):
            return ["its weight is not a parameter"]
        # Outside the image the kernels have zeros.
        if isinstance(x, PaddedMap) and x.padding.fill not in (None, 0.0):
            return ["its map is padded with a value other than 0"]
        return ops.conv_obstacles(x, weight, groups)

    def plan(self, frame: Frame, x: BlockTensor, weight: Tensor, shape: ConvShape) -> CpuConvPlan:
        """See :class:`~.implementation.ConvImplementation`."""
        window, size_out = shape.window, shape.size_out
        layout = frame.layout(size_out, window.block_out)
        tile = size_out if frame.whole else window.block_out
        if shape.local:
            return CpuConvPlan(shape, tile, layout.blocks, winograd=False)
        winograd = self.is_by_winograd(weight.shape[1], weight.dtype, window, tile)
        plan = CpuConvPlan(shape, tile, layout.blocks, winograd)
        if shape.groups == 1 and weight.shape[1] == x.shape[1]:
            lanes = _LANES.get(self.kernels, 16)
            plan.neighbours = Neighbours.that_fill(lanes, len(weight), window, tile[1])
            plan.winograd = winograd and plan.neighbours is None
        padding = x.padding if isinstance(x, PaddedMap) else None
        # Whole frames decide as later frames will.
        plan.near = reads_packed(frame, x, layout)
        plan.border = border_of(x, window) if plan.near else EVERYTHING
        if frame.whole:
            whole = SlidingWindow(
                window.kernel, window.stride, window.padding, window.dilation, size_out
            )
            plan.rows, plan.cols = frame.tables(
                ("whole", whole),
                x.size_of_map,
                size_out,
                lambda axis, size, _: whole.contiguous_table(axis, 1, size),
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
        x: BlockTensor,
        weight: Tensor,
        bias: Tensor | None,
        plan: CpuConvPlan,
        waits: bool = True,
    ) -> BlockTensor:
        """See :class:`~.implementation.ConvImplementation`; it is deferred only if it ``waits``."""
        window = plan.shape.window
        places = fresh = size = rings = None
        if not frame.whole:
            layout = frame.layout_of(plan.blocks)
            places = layout.by_slot
            if not plan.shape.local or x.block_layout is layout:
                size = plan.shape.size_out
        if plan.shape.local:
            source = x.packed
        elif frame.whole:
            if not isinstance(x, PaddedMap):  # whose map is kept already
                frame.keep(x, STATE_OP, plan.border)
            source, places = x.packed, frame.image_places
        elif isinstance(x, PaddedMap):
            source = x.entry.map
        else:
            entry = frame.keep(x, STATE_OP, plan.border)
            source, rings = entry.map, entry.rings
            fresh = x.packed if plan.near else None
        stride, tile, neighbours = window.stride, plan.tile, plan.neighbours
        channels = len(weight)
        if neighbours is not None:
            stride, tile = (1, neighbours.pixels), neighbours.size(tile)
            size = size and neighbours.size(size)
            weight = self.prepared.of(weight, neighbours)
            if isinstance(bias, nn.Parameter):
                bias = self.prepared.of(bias, neighbours.repeats)
            else:
                bias = neighbours.per_channel(bias)
        prepared = self.prepared.of(weight, plan.winograd)
        workspace = self.workspace

        def compute(pending: PendingMap) -> Tensor:
            norm, residual, slope = pending.norm, pending.residual, pending.slope
            if neighbours is not None:
                norm = [neighbours.per_channel(values) for values in norm]
                residual = neighbours.together(residual)
                slope = slope if slope is None or len(slope) == 1 else neighbours.per_channel(slope)
            out = ops.conv_blocks(
                source,
                fresh,
                places,
                plan.rows,
                plan.cols,
                weight,
                prepared,
                bias,
                norm,
                pending.eps,
                stride,
                window.dilation,
                tile,
                residual,
                pending.low,
                pending.high,
                workspace,
                slope,
                pending.activation,
                size,
                rings,
            )
            return out if neighbours is None else neighbours.apart(out)

        waits = waits and self.fuse
        return self._pending.run(frame, x, channels, plan.shape, compute, waits)

    def transpose(
        self, frame: Frame, x: BlockTensor, weight: Tensor, bias: Tensor | None, shape: ConvShape
    ) -> BlockTensor | None:
        """Convolve a map by a transposed convolution: all phases of its outputs at once.

        Args:
            frame: The frame being run.
            x: ``(N, C, H, W)``.
            weight: ``(C, C_out, kh, kw)``.
            bias: ``(C_out,)`` or None.
            shape: The transposed convolution, with the map and the blocks that it gives.

        Returns:
            ``(N, C_out, *size_out)``; ``None`` if the kernels do not run it.
        """
        given, size, block = shape.window, shape.size_out, shape.window.block_out
        phases = Phases.of(given.kernel, given.stride, given.padding)
        if max(phases.first) > 0 or not isinstance(weight, nn.Parameter):
            return None
        size_of_phase = tuple(-(-size[i] // given.stride[i]) for i in (0, 1))
        # Pairs of products of four taps take less time than Winograd's of nine.
        pairs = weight.dtype == torch.bfloat16 and self.kernels.endswith("bf16")
        if not shape.local and not pairs and max(phases.taps) < 3:
            by_three = phases.with_taps((3, 3))
            tile = size_of_phase if frame.whole else x.block
            window = _window_of(by_three, x.block)
            if self.is_by_winograd(weight.shape[0], weight.dtype, window, tile):
                phases = by_three
        stacked = self.prepared.of(weight, phases)
        if self.not_supported_reasons(x, stacked, 1):
            return None
        shape = shape._replace(window=_window_of(phases, x.block), size_out=size_of_phase)
        key = (frame.path, "transposed", frame.images, frame.whole, x.size_of_map, x.block, phases)
        plan = frame.plans.convolutions.get(key)
        if plan is None:
            plan = frame.plans.convolutions[key] = self.plan(frame, x, stacked, shape)
        if bias is not None:
            times = Repeats(given.stride[0] * given.stride[1])
            is_kept = isinstance(bias, nn.Parameter)
            bias = self.prepared.of(bias, times) if is_kept else times.of(bias)
        found = self.run(frame, x, stacked, bias, plan, waits=False).packed
        tile = size if frame.whole else block
        return BlockTensor(phases.side_by_side(found, tile), size, block, frame)

    def is_by_winograd(
        self, channels: int, dtype: torch.dtype, window: SlidingWindow, block: Sequence[int]
    ) -> bool:
        """Whether a convolution of blocks of a size runs by Winograd's algorithm.

        Args:
            channels: That it reads.
            dtype: Of the map.
            window: Kernel, stride and dilation.
            block: Height and width of what one result holds.
        """
        if not self.winograd or window.stride != (1, 1) or channels % _WINOGRAD_MULTIPLE:
            return False
        if channels < _WINOGRAD_CHANNELS.get(window.kernel, channels + 1):
            return False
        if dtype == torch.bfloat16 and window.kernel != (3, 3):
            return False
        outputs = 1
        for side, taps, dilation in zip(block, window.kernel, window.dilation, strict=True):
            if taps == 1:
                outputs *= side
                continue
            # With dilation d, every d-th output belongs to a separate convolution.
            outputs_of_each, outputs_of_tile = ceil(side / dilation), _WINOGRAD_POINTS + 1 - taps
            tiles = min(dilation, side) * ceil(outputs_of_each / outputs_of_tile)
            outputs *= tiles * outputs_of_tile
        return outputs <= _WINOGRAD_WASTE * block[0] * block[1]


def _window_of(phases: Phases, block: tuple[int, int]) -> SlidingWindow:
    """The window of all phases of a transposed convolution of blocks of its input."""
    padding = -phases.first[0], -phases.first[1]
    return SlidingWindow(phases.taps, (1, 1), padding, (1, 1), block)


def _prepare(
    kernels: str, weight: Tensor, how: bool | Phases | Neighbours | Repeats | Columns
) -> Tensor:
    """A weight in the kernels' layout (for Winograd's algorithm or not), or stacked."""
    if isinstance(how, Repeats):
        return nn.Parameter(how.of(weight), requires_grad=False)
    if isinstance(how, (Phases, Neighbours)):
        stacked = nn.Parameter(how.stack(weight), requires_grad=False)
        stacked.values_but_zeros = weight.numel() * how.copies
        return stacked
    if isinstance(how, Columns):
        return ops.conv_prepare(how.of(weight), False, kernels)
    return ops.conv_prepare(weight, how, kernels)


def _bytes(size: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.empty((size,), dtype=torch.uint8, device="cpu")
