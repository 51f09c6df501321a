"""Gather: full map to packed blocks, with halo and border rule."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import (
    check_blocks,
    check_channels_last,
    check_fill,
    check_map,
    check_no_grad,
    check_range,
    check_table,
    mutation_mode,
)
from blockcopy_plugins.ops.library import operator


def _gather_fake(state: Tensor, blocks: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    _check_gather(state, blocks, rows, cols)
    return torch.empty(
        (blocks.size(0), state.size(1), rows.size(1), cols.size(1)),
        dtype=state.dtype,
        device=state.device,
        memory_format=torch.channels_last,
    )


def _gather_out_fake(
    state: Tensor, blocks: Tensor, rows: Tensor, cols: Tensor, out: Tensor
) -> None:
    _check_gather(state, blocks, rows, cols)
    _check_out(state, blocks, rows, cols, out)


def _check_gather(state: Tensor, blocks: Tensor, rows: Tensor, cols: Tensor) -> None:
    check_map("gather", "state", state)
    check_blocks("gather", blocks, state)
    check_table("gather", "rows", rows, state)
    check_table("gather", "cols", cols, state)


def _check_out(state: Tensor, blocks: Tensor, rows: Tensor, cols: Tensor, out: Tensor) -> None:
    expected = (blocks.size(0), state.size(1), rows.size(1), cols.size(1))
    torch._check_type(
        out.dtype == state.dtype,
        lambda: (
            f"blockcopy::gather_out: out has dtype {out.dtype}, but state has {state.dtype}; "
            "allocate out with the dtype of state"
        ),
    )
    torch._check_value(
        out.device == state.device,
        lambda: (
            f"blockcopy::gather_out: out is on {out.device}, but state is on {state.device}; "
            "allocate out on the device of state"
        ),
    )
    torch._check_value(
        out.dim() == 4 and all(out.size(i) == expected[i] for i in range(4)),
        lambda: (
            f"blockcopy::gather_out: out has shape {tuple(out.shape)}, expected {expected}; "
            "allocate or view it so"
        ),
    )
    check_channels_last("gather_out", "out", out)


@operator(
    "gather(Tensor state, Tensor blocks, Tensor rows, Tensor cols, float fill) -> Tensor",
    fake=_gather_fake,
)
def _gather(state: Tensor, blocks: Tensor, rows: Tensor, cols: Tensor, fill: float) -> Tensor:
    check_no_grad("gather", state)
    _check_gather(state, blocks, rows, cols)
    check_fill("gather", fill, state.dtype)
    slots, _, height, width = state.shape
    check_range("gather", "slot", blocks[:, 0], 0, slots)
    check_range("gather", "gy", blocks[:, 1], 0, rows.size(0))
    check_range("gather", "gx", blocks[:, 2], 0, cols.size(0))
    check_range("gather", "source row", rows, -1, height)
    check_range("gather", "source column", cols, -1, width)

    count, window_h, window_w = blocks.size(0), rows.size(1), cols.size(1)
    if count * window_h * window_w * state.size(1) == 0:
        return _gather_fake(state, blocks, rows, cols)
    slot, gy, gx = blocks.long().unbind(1)
    row = rows.index_select(0, gy).long().view(count, window_h, 1)
    col = cols.index_select(0, gx).long().view(count, 1, window_w)
    outside = (row < 0) | (col < 0)
    if height * width == 0:
        out = state.new_empty((count, window_h, window_w, state.size(1)))
    else:
        pixel = (slot.view(count, 1, 1) * height + row.clamp(min=0)) * width + col.clamp(min=0)
        # (S * H * W, C): one row per pixel, which index_select copies as a whole.
        pixels = state.permute(0, 2, 3, 1).reshape(slots * height * width, state.size(1))
        out = pixels.index_select(0, pixel.view(-1))
        out = out.view(count, window_h, window_w, state.size(1))
    out.masked_fill_(outside.unsqueeze(3), fill)
    return out.permute(0, 3, 1, 2)


@operator(
    "gather_out(Tensor state, Tensor blocks, Tensor rows, Tensor cols, float fill, "
    "Tensor(a!) out) -> ()",
    fake=_gather_out_fake,
)
def _gather_out(
    state: Tensor, blocks: Tensor, rows: Tensor, cols: Tensor, fill: float, out: Tensor
) -> None:
    check_no_grad("gather_out", out)
    _check_gather(state, blocks, rows, cols)
    _check_out(state, blocks, rows, cols, out)
    result = _gather.reference(state, blocks, rows, cols, fill)
    with mutation_mode(out):
        out.copy_(result)


def gather_reference(
    state: Tensor,
    blocks: Tensor,
    rows: Tensor,
    cols: Tensor,
    fill: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """Pure-PyTorch twin of :func:`gather`: same arguments, result and errors, any device."""
    if out is None:
        return _gather.reference(state, blocks, rows, cols, fill)
    _gather_out.reference(state, blocks, rows, cols, fill, out)
    return out


def gather(
    state: Tensor,
    blocks: Tensor,
    rows: Tensor,
    cols: Tensor,
    fill: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """Read a window around each block of a full map into a packed tensor.

    ``out[i, :, y, x] = state[slot, :, rows[gy, y], cols[gx, x]]`` with
    ``slot, gy, gx = blocks[i]``, or ``fill`` where either table entry is -1. The tables carry the
    whole geometry: halo, stride, dilation, border rule and nearest resize, so the operator only
    looks indices up.

    Args:
        state (Tensor): Map (S, C, H, W) of any floating point (16 to 64 bit), integer or bool
            dtype. Fast when channels-last, or with up to 4 channels in planes; another layout is
            converted first.
        blocks (Tensor): int32 (n, 3), contiguous, columns (slot, gy, gx): index into dimension 0
            of ``state``, block row, block column. n may be 0; any order, repeats allowed.
        rows (Tensor): int32 (GH, wh), contiguous: source row in map pixels of each window row of
            each block row, -1 = outside the image.
        cols (Tensor): int32 (GW, ww), contiguous: the same for columns.
        fill (float): Value of positions outside the image; must fit the dtype of ``state``.
        out (Tensor | None): Memory for the result: (n, C, wh, ww), channels-last contiguous, dtype
            and device of ``state``. Fresh memory of many MiB costs more than the copy itself (the
            system has to map and clear its pages), so a caller that gathers often should reuse it.

    Returns:
        Tensor: (n, C, wh, ww), channels-last, dtype and device of ``state``, with its own memory;
        ``out`` itself if it was given.

    Raises:
        ValueError: If a shape, layout or device does not fit, or ``fill`` has no representation in
            the dtype of ``state``.
        TypeError: If a dtype is not one of those above.
        IndexError: If a slot, gy, gx or table entry is out of range. Native CUDA kernels do not
            read back the tables: there the launch traps and the next synchronisation raises.
        RuntimeError: If gradients are recorded and ``state`` or ``out`` requires grad.
    """
    if out is None:
        return _gather(state, blocks, rows, cols, fill)
    _gather_out(state, blocks, rows, cols, fill, out)
    return out
