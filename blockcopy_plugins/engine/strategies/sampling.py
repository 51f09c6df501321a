"""Values of a map read at places that are computed for each pixel, as in deformable attention."""

from __future__ import annotations

import torch
from torch import Tensor

from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from .attention import of_each_image
from .op_table import on_blocks

aten = torch.ops.aten

_KEY = "sampled"


@on_blocks(aten.grid_sampler_2d.default, several_frames=True)
def sample(frame: Frame, func, args, kwargs):
    """``grid_sample`` at places of pixels: the executed ones read the whole kept map.

    Places are ``(N, L, points, 2)``, with the heads of an attention ``(N * heads, L, points, 2)``,
    or ``(N, H, W, 2)``. They need not be of the map that is read: in deformable attention the
    tokens of all levels read each level.
    """
    values, places, *how = args
    axes = places.axes if isinstance(places, BlockTensor) else None
    if axes not in ("NLCC", "BLCC", "NHWC") or kwargs or places.is_complex():
        return Decline("its places are not those of pixels")
    if isinstance(values, BlockTensor):
        values = values.frame.dense(values, _KEY, copy=False)
    if values.dtype != places.dtype:
        return Decline("its values and places have different dtypes")
    packed, frame = places.packed, places.frame
    pixels = packed.flatten(1, 2) if axes == "NHWC" else packed.flatten(2)
    x = places.like(pixels, axes="BLC" if axes == "BLCC" else "NLC")
    channels, height, width = values.shape[1:]
    points = pixels.shape[2] // 2

    def read(at: Tensor, map_: Tensor) -> Tensor:
        map_ = map_.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        found = func(map_, at.unflatten(2, (points, 2)), *how)
        return found.permute(0, 2, 1, 3).flatten(2)

    rows = values.permute(0, 2, 3, 1).flatten(1, 2)
    out = of_each_image(frame, x, (rows,), read, channels * points)
    if axes == "NHWC":
        out = out.unflatten(1, places.packed_size).permute(0, 3, 1, 2)
        return places.like(out.contiguous(memory_format=torch.channels_last), axes=MAP)
    out = out.unflatten(2, (channels, points)).transpose(1, 2)
    return places.like(out, axes=axes[0] + "CLC")
