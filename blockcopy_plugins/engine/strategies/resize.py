"""Nearest and bilinear resizes: exact across block borders, for any ratio of the sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from ...ops.window import index_table
from ..decline import Decline
from ..frame.frame import Frame
from ..geometry import resized_block
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..torch_internals import named_arguments, packet_of
from .densify import run_dense_and_pack
from .groups_as_images import takes_groups
from .op_table import always, on_blocks

aten = torch.ops.aten


@on_blocks(aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default, cuts=always)
@takes_groups
def nearest(frame: Frame, func, args, kwargs):
    """Nearest resize, both of torch's rules (``nearest`` and ``nearest-exact``)."""
    x, size_out, scales = _arguments(func, args, kwargs)
    if size_out == x.size_of_map and func is aten.upsample_nearest2d.default:
        return x.like(x.packed.clone())  # torch copies, whatever the scale factors say
    block = _block(frame, x, size_out)
    if block is None:
        return Decline(f"no block width fits a resize from {x.size_of_map} to {size_out}")
    same = x.block_layout is frame.layout(size_out, block)
    if same and _enlarges_each_block(x, size_out, block, scales):
        out = func(x.packed, size_out if frame.whole else block)
        return BlockTensor(out, size_out, block, frame)
    entry = frame.keep(x, str(func))
    if frame.whole:
        return BlockTensor(func(x.packed, *args[1:], **kwargs), size_out, block, frame)
    exact = "exact" in str(func)
    layout = frame.layout(size_out, block)
    rows, cols = frame.tables(
        (str(func), x.size_of_map, scales),
        size_out,
        block,
        lambda axis, size, width: index_table(
            blocks=layout.blocks[axis],
            block_out=width,
            index=_nearest_index(x.size_of_map[axis], size, scales[axis], exact),
        ),
    )
    out = ops.gather(entry.map, layout.by_slot, rows, cols)
    return BlockTensor(out, size_out, block, frame)


@on_blocks(aten.upsample_bilinear2d.default, cuts=always)
@takes_groups
def bilinear(frame: Frame, func, args, kwargs):
    """Bilinear resize for both settings of ``align_corners``."""
    x, size_out, scales = _arguments(func, args, kwargs)
    align_corners = args[2]
    block = _block(frame, x, size_out)
    if block is None:
        return Decline(f"no block width fits a resize from {x.size_of_map} to {size_out}")
    entry = frame.keep(x, str(func))
    if frame.whole:
        return BlockTensor(func(x.packed, *args[1:], **kwargs), size_out, block, frame)

    # Called only when tables are made, so not in every frame.
    def source(axis: int):
        return _bilinear_source(x.size_of_map[axis], size_out[axis], scales[axis], align_corners)

    layout = frame.layout(size_out, block)
    rows, cols = frame.tables(
        (str(func), x.size_of_map, scales, align_corners),
        size_out,
        block,
        # The two pixels that an output reads stand side by side.
        lambda axis, size, width: index_table(
            blocks=layout.blocks[axis],
            block_out=2 * width,
            index=torch.stack(source(axis)[:2], 1).flatten(),
        ),
    )
    work = torch.promote_types(x.dtype, torch.float32)

    def weights(axis: int, size: int, width: int) -> Tensor:
        weight = torch.zeros(layout.blocks[axis] * width, dtype=work, device="cpu")
        weight[:size] = source(axis)[2].to(work)
        return weight.view(-1, width)

    # Kept on the device: a CUDA graph cannot copy from the host, and an eager frame would wait.
    kept = frame.tables(
        (str(func), "weights", x.size_of_map, scales, align_corners, work), size_out, block, weights
    )
    if frame.kernels.joins(x):
        out = ops.resize_blocks(entry.map, layout.by_slot, rows, cols, *kept)
        return BlockTensor(out, size_out, block, frame)
    out = ops.gather(entry.map, layout.by_slot, rows, cols).to(work)
    for axis in (0, 1):
        weight = kept[axis][layout.index(axis)]
        weight = weight.view((-1, 1, block[0], 1) if axis == 0 else (-1, 1, 1, block[1]))
        first, second = (out[:, :, i::2] if axis == 0 else out[:, :, :, i::2] for i in (0, 1))
        out = first + (second - first) * weight
    return BlockTensor(out.to(x.dtype), size_out, block, frame)


@on_blocks(
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.vec,
)
@on_blocks(
    aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten.upsample_bilinear2d.vec,
    cuts=always,
)
def by_scale(frame: Frame, func, args, kwargs):
    """The overloads that take a size or scale factors, as they arrive in inference mode."""
    given = named_arguments(func, args, kwargs)
    x, size, scales = args[0], given["output_size"], given["scale_factors"]
    if size is None:
        size = [int(x.size_of_map[i] * scales[i]) for i in (0, 1)]
    scales = [None, None] if scales is None else scales
    corners = [given["align_corners"]] if "align_corners" in given else []
    return packet_of(func).default(x, size, *corners, *scales)


@on_blocks(aten.upsample_bicubic2d.default)
def bicubic(frame: Frame, func, args, kwargs):
    """Bicubic resize: on the whole map, whose result is cut into blocks."""
    return run_dense_and_pack(frame, func, args, kwargs, "bicubic resize")


@on_blocks(aten._upsample_bilinear2d_aa.default, aten._upsample_bicubic2d_aa.default)
def anti_aliased(frame: Frame, func, args, kwargs):
    """Resize with anti-aliasing: on the whole map, whose result is cut into blocks."""
    # torch 2.13 gets these wrong for channels-last maps of one column.
    reason = "resize with anti-aliasing"
    return run_dense_and_pack(frame, func, args, kwargs, reason, as_claimed=True)


def _arguments(func, args, kwargs):
    given = named_arguments(func, args, kwargs)
    size = tuple(int(v) for v in given["output_size"])
    return args[0], size, (given.get("scales_h"), given.get("scales_w"))


def _block(frame: Frame, x: BlockTensor, size_out: tuple[int, int]) -> tuple[int, int] | None:
    if x.axes != MAP:
        return None
    block = tuple(
        resized_block(
            frame.grid_size[i], x.block[i], x.size_of_map[i], size_out[i], frame.block_size
        )
        for i in (0, 1)
    )
    return None if None in block else block


def _enlarges_each_block(x: BlockTensor, size_out, block, scales) -> bool:
    """Whether every block is enlarged by itself, with no rounding that could reach a neighbour."""
    for i in (0, 1):
        times, rest = divmod(size_out[i], x.size_of_map[i])
        power_of_two = times > 0 and times & (times - 1) == 0
        whole = rest == 0 and power_of_two and block[i] == times * x.block[i]
        if not whole or scales[i] not in (None, float(times)):
            return False
    return True


def _nearest_index(size_in: int, size_out: int, scale: float | None, exact: bool) -> Tensor:
    # torch's own op on a ramp: whatever its rounding does, the table does too. It has a second
    # column, which is resized, since torch copies a map that keeps its size.
    ramp = torch.arange(size_in, dtype=torch.float32, device="cpu").view(1, 1, size_in, 1)
    resize = aten._upsample_nearest_exact2d if exact else aten.upsample_nearest2d
    return resize.default(ramp, [size_out, 2], scale, None)[0, 0, :, 0].long()


def _bilinear_source(size_in: int, size_out: int, scale: float | None, align_corners: bool):
    """Both source pixels of each output and the weight of the second."""
    position = torch.arange(size_out, dtype=torch.float64, device="cpu")
    if align_corners:
        position *= (size_in - 1) / (size_out - 1) if size_out > 1 else 0.0
    else:
        step = 1.0 / scale if scale else size_in / size_out
        position = ((position + 0.5) * step - 0.5).clamp(min=0)
    first = position.floor().long().clamp(max=size_in - 1)
    return first, (first + 1).clamp(max=size_in - 1), position - first
