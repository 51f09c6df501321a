"""Pooling by the package's own CPU kernels: no windows are copied."""

from __future__ import annotations

from torch import Tensor

from ... import ops
from ...ops.block_conv import SlidingWindow
from ..conv.block_windows import border_of, reads_packed, window_source
from ..frame.frame import Frame
from ..state.entry import EVERYTHING
from ..tensor.block_tensor import BlockTensor


def pool_by_kernels(
    frame: Frame,
    op: str,
    x: BlockTensor,
    window: SlidingWindow,
    size_out: tuple[int, int],
    local: bool,
    scale: float | None = None,
) -> Tensor | None:
    """Pool the executed blocks of a map.

    Args:
        frame: The frame being run.
        op: Name of the op, for the key of the state.
        x: The map.
        window: Shape of the pooling.
        size_out: ``(H, W)`` of its result.
        local: Each block reads only itself.
        scale: Factor on the sums over windows; ``None`` for the largest values.

    Returns:
        ``(n, C, bh, bw)``, ``(N, C, *size_out)`` in whole frames; ``None`` where torch is to pool.
    """
    if not frame.kernels.joins(x):
        return None
    how = (window.kernel, window.stride, window.dilation, scale is None, scale or 1.0)
    # Whole frames decide as later frames will.
    near = reads_packed(frame, x, frame.layout(size_out, window.block_out))
    border = border_of(x, window) if near else EVERYTHING
    if frame.whole:
        if not local:
            frame.keep(x, op, border)
        whole = SlidingWindow(
            window.kernel, window.stride, window.padding, window.dilation, size_out
        )
        rows, cols = frame.tables(
            ("whole", whole),
            x.size_of_map,
            size_out,
            lambda axis, size, _: whole.contiguous_table(axis, 1, size),
        )
        return ops.pool_blocks(x.packed, frame.image_places, rows, cols, *how)
    if local:
        rows, cols = frame.tables(
            ("one block", window),
            x.block,
            window.block_out,
            lambda axis, size, _: window.contiguous_table(axis, 1, size),
        )
        return ops.pool_blocks(x.packed, None, rows, cols, *how)
    found = window_source(frame, op, x, window, size_out, 0.0, True, border)
    return ops.pool_blocks(
        found.map, found.places, found.rows, found.cols, *how, found.packed, found.rings
    )
