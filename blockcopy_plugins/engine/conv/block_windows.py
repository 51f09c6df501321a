"""Windows of convolutions and poolings on blocks: whether they fit, and how they are gathered."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import NamedTuple

from torch import Tensor

from ... import ops
from ...ops.block_conv import SlidingWindow
from ...ops.window import through
from ..decline import Decline
from ..frame.frame import Frame
from ..frame.layout import Layout
from ..geometry import fits_blocks, sliding_output
from ..state.entry import EVERYTHING
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PaddedMap


def plan_window(
    frame: Frame, x: BlockTensor, kernel, stride, padding, dilation, fill: float, ceil_mode=False
) -> tuple[SlidingWindow, tuple[int, int]] | Decline:
    """Window and output size ``(H, W)`` of a sliding op, or why it cannot run on blocks.

    Args:
        frame: The frame being run.
        x: What it reads.
        kernel: Taps; like what follows, one number or a pair for rows and columns.
        stride: Step between outputs.
        padding: Padding on each side.
        dilation: Distance of the taps.
        fill: Value outside the map.
        ceil_mode: Round the output size up.
    """
    if x.axes != MAP:
        return Decline("its input is a view of a map with other dimensions")
    padding = pair(padding)
    if isinstance(x, PaddedMap):
        if x.written is not None:
            return Decline("the padded map was densified before")
        if x.padding.fill not in (None, fill) and any(padding):
            return Decline("two paddings of different values, one around the other")
    return _window(
        x.block,
        x.size_of_map,
        frame.grid_size,
        frame.block_size,
        pair(kernel),
        pair(stride),
        padding,
        pair(dilation),
        ceil_mode,
    )


@lru_cache(maxsize=4096)
def _window(block, size, grid_size, block_size, kernel, stride, padding, dilation, ceil_mode):
    if any(block[i] % stride[i] for i in (0, 1)):
        tile = (Fraction(block[0], stride[0]), Fraction(block[1], stride[1]))
        strides = (Fraction(block_size) / width for width in tile)
        return Decline(
            f"stride {stride} does not divide blocks of {block} px; a block_size that is a "
            f"multiple of {lcm(*(s.numerator for s in strides))} would do",
            tile,
        )
    block = (block[0] // stride[0], block[1] // stride[1])
    size = tuple(
        sliding_output(size[i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in (0, 1)
    )
    if min(size) < 1:
        return Decline("the map is smaller than its kernel")
    if not fits_blocks(grid_size, size, block):
        return Decline(f"its padding {padding} makes the map, {size} px, larger than its blocks")
    return SlidingWindow(kernel, stride, padding, dilation, block), size


def is_local(x: BlockTensor, window: SlidingWindow, size_out: tuple[int, int]) -> bool:
    """Whether a block's outputs read nothing but the block itself."""
    return (
        window.padding == (0, 0)
        and x.block_layout is x.frame.layout(size_out, window.block_out)
        and not isinstance(x, PaddedMap)
        and all(
            kernel == 1 or (kernel == stride and dilation == 1)
            for kernel, stride, dilation in zip(
                window.kernel, window.stride, window.dilation, strict=True
            )
        )
    )


class WindowSource(NamedTuple):
    """Where the windows of executed blocks are.

    Attributes:
        map: ``(slots, C, H, W)``.
        places: The executed blocks of the result, int32 ``(n, 3)``; see :func:`~...ops.gather`.
        rows: The rows of the map that each row of blocks reads, int32 ``(GH, wh)``.
        cols: The same for columns.
        fill: Value outside the map.
        packed: The content of the executed blocks, if the map need not hold it.
        rings: Height and width of the map and the border, if ``map`` is rings of its blocks.
    """

    map: Tensor
    places: Tensor
    rows: Tensor
    cols: Tensor
    fill: float
    packed: Tensor | None = None
    rings: tuple[int, int, int] | None = None


def reads_packed(frame: Frame, x: BlockTensor, layout: Layout) -> bool:
    """Whether kernels can read the executed blocks of a map where they are packed.

    Args:
        frame: The frame being run.
        x: The map.
        layout: The executed blocks of the result.
    """
    return not isinstance(x, PaddedMap) and x.block_layout is layout and frame.covers(x)


def border_of(x: BlockTensor, window: SlidingWindow) -> int:
    """How far into a block the windows of its neighbours reach, in pixels.

    Args:
        x: The map.
        window: Shape of the op.

    Returns:
        ``EVERYTHING`` if the borders at two sides of a block meet.
    """
    reach = 1
    for axis in (0, 1):
        before = window.padding[axis]
        last = (window.block_out[axis] - 1) * window.stride[axis]
        after = last + (window.kernel[axis] - 1) * window.dilation[axis] - before
        reach = max(reach, before, after - (x.block[axis] - 1))
    return EVERYTHING if 2 * reach >= min(x.block) else reach


def window_source(
    frame: Frame,
    op: str,
    x: BlockTensor,
    window: SlidingWindow,
    size_out: tuple[int, int],
    fill: float,
    contiguous: bool = False,
    border: int = EVERYTHING,
) -> WindowSource:
    """Where the executed blocks of a map are, with everything that their windows read.

    Args:
        frame: The frame being run.
        op: Name of the op, for the key of the state.
        x: The map.
        window: Shape of the op.
        size_out: ``(H, W)`` of its result.
        fill: Value outside the map.
        contiguous: Windows are contiguous, even if most of them is not read.
        border: How much of blocks that are not executed is read; with less than everything,
            executed blocks are read where they are packed.
    """
    make = window.contiguous_table if contiguous else window.table
    layout = frame.layout(size_out, window.block_out)
    if isinstance(x, PaddedMap):
        rows, cols = frame.tables(
            (window, contiguous, x.padding.key),
            x.size_of_map,
            window.block_out,
            lambda axis, size, _: through(
                make(axis, layout.blocks[axis], size), x.padding.source(axis)
            ),
        )
        fill = fill if x.padding.fill is None else x.padding.fill
        return WindowSource(x.entry.map, layout.by_slot, rows, cols, fill)
    entry = frame.keep(x, op, border)
    rows, cols = frame.tables(
        (window, contiguous),
        x.size_of_map,
        window.block_out,
        lambda axis, size, _: make(axis, layout.blocks[axis], size),
    )
    packed = None if border == EVERYTHING else x.packed
    return WindowSource(entry.map, layout.by_slot, rows, cols, fill, packed, entry.rings)


def gather_windows(
    frame: Frame, op: str, x: BlockTensor, window: SlidingWindow, size_out, fill: float
) -> Tensor:
    """The windows of :func:`window_source`, ``(n_executed, C, wh, ww)``."""
    found = window_source(frame, op, x, window, size_out, fill)
    return ops.gather(found.map, found.places, found.rows, found.cols, found.fill)


def after_gather(window: SlidingWindow) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and dilation with which the op runs on gathered windows."""
    return (window.kernel, (1, 1)) if window.by_taps else (window.stride, window.dilation)


def pair(value) -> tuple[int, int]:
    """One number for both sides, or one for rows and one for columns, as a pair."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
