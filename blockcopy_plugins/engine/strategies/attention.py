"""Batched products and attention: each pixel's query is its own, keys and values are the map's."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ... import ops
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from ..torch_internals import named_arguments
from .channel_products import product_over_pixels
from .channels import count_product
from .op_table import on_blocks
from .pointwise import rows_of_images

aten = torch.ops.aten

_KEY = "attention"
_PIXELS = ("NCLC", "BCLC", "NLC", "BLC")
_WINDOWS = ("RCC", "PCC", "RCCC", "PCCC")


@on_blocks(aten.bmm.default)
def batched_product(frame: Frame, func, args, kwargs):
    """``bmm`` of pixels with a matrix for each image, or with other pixels.

    * ``(N, L, C)`` times a matrix, or a matrix times ``(N, C, L)``: a 1x1 convolution whose
      weights are computed from the image. With the heads of an attention, N is N * heads.
    * Queries ``(N, L, C)`` times keys ``(N, C, L)``: the keys are read from the whole kept map, and
      each executed pixel has a row of scores, as channels. In the same way scores read values.
    * ``(N, C, L)`` times ``(N, L, C)``, a sum over all pixels: the sums of blocks are kept.
    * Windows that each lie in one block: a product of the blocks.
    """
    first, second = args
    on_blocks = [isinstance(value, BlockTensor) for value in args]
    if all(on_blocks) and (first.axes, second.axes) in (("NCL", "NLC"), ("BCL", "BLC")):
        return product_over_pixels(frame, func, first, second)
    if all(on_blocks) and first.axes == second.axes and first.axes in _WINDOWS:
        return _product_in_windows(frame, func, first, second)
    if on_blocks[0] and first.axes in ("NLC", "BLC"):
        if on_blocks[1]:
            if second.axes not in (first.axes, first.axes[0] + "CL"):
                return Decline("its maps have different axes")
            second = frame.dense(second, _KEY, copy=False)
        out = _each_pixel_times(frame, first, second)
        count_product(frame, first, second[0])
        return first.like(out)
    if on_blocks[1] and second.axes in ("NCL", "BCL"):
        if on_blocks[0]:
            if first.axes != second.axes:
                return Decline("it is a sum over pixels")
            first = frame.dense(first, _KEY, copy=False)
        out = _each_pixel_times(frame, second, first, transposed=True)
        per_pixel = first[0].numel()
        pixels = out.shape[0] * out.shape[2], second.shape[0] * second.shape[2]
        frame.count_blocks(pixels[0] * per_pixel, pixels[1] * per_pixel, second.block)
        return second.like(out)
    if on_blocks[0] and not on_blocks[1] and first.axes == "GWC":
        return _rows_times(frame, func, first, second)
    return Decline("it is not a product of pixels with a matrix")


@on_blocks(aten.baddbmm.default)
def added_product(frame: Frame, func, args, kwargs):
    """``baddbmm``: a product plus something, such as a mask."""
    summand, first, second = args
    if kwargs.get("beta", 1) != 1 or kwargs.get("alpha", 1) != 1:
        return Decline("its parts have factors")
    product = aten.bmm.default(first, second)
    return aten.add.Tensor(product, summand.expand(product.shape))


@on_blocks(
    aten.scaled_dot_product_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
def attention(frame: Frame, func, args, kwargs):
    """Fused attention of pixels of a map, or of windows that each lie in one block.

    Queries are those of the executed blocks; keys and values are read from the whole kept maps.
    """
    query, key, value, *rest = args
    given = named_arguments(func, args, kwargs)
    mask = given.get("attn_mask")
    if not isinstance(query, BlockTensor) or given.get("enable_gqa"):
        return Decline("its queries are not pixels, or share keys")
    if given.get("dropout_p") or given.get("is_causal"):
        return Decline("it uses dropout, or is causal")
    whole = query.axes in _PIXELS
    if not whole and query.axes not in _WINDOWS:
        return Decline("what its queries mean is not known")
    for_all = mask is None or (
        not isinstance(mask, BlockTensor) and (mask.dim() < query.dim() or len(mask) == 1)
    )
    if whole and for_all and mask is not None and mask.shape[-2] != 1:
        out = _by_parts(query, key, value, mask, given.get("scale"))
        return out if func is aten.scaled_dot_product_attention.default else (out, out.new_empty(0))
    if not for_all:
        each = mask.dim() == query.dim() and len(mask) == len(query)
        if whole or isinstance(mask, BlockTensor) or not each:
            return Decline("pixels or images have masks of their own")
        mask = mask if frame.whole else frame.packed_like(mask, query)
        if "attn_mask" in kwargs:
            kwargs = {**kwargs, "attn_mask": mask}
        else:
            rest[0] = mask
    depth, width, seen = query.shape[-1], value.shape[-1], key.shape[-2]
    pairs = prod(query.shape[:-1]), prod(query.packed.shape[:-1])
    if whole:
        key, value = (
            frame.dense(x, _KEY, copy=False) if isinstance(x, BlockTensor) else x
            for x in (key, value)
        )

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            out = func(query, key.contiguous(), value.contiguous(), *rest, **kwargs)
            return out if isinstance(out, Tensor) else out[0]

        out = of_each_image(frame, query, (key, value), attend, width)
    else:
        if not all(
            isinstance(x, BlockTensor)
            and (x.axes, x.block, x.size_of_map) == (query.axes, query.block, query.size_of_map)
            for x in (key, value)
        ):
            return Decline("its windows are of different maps")
        out = query.packed.new_empty((*query.packed.shape[:-1], width))
        if out.numel():  # The kernels refuse empty tensors.
            out = func(query.packed, key.packed, value.packed, *rest, **kwargs)
            out = out if isinstance(out, Tensor) else out[0]
    each = seen * (depth + width)
    frame.count_blocks(pairs[1] * each, pairs[0] * each, query.block)
    out = query.like(out)
    if func is aten.scaled_dot_product_attention.default:
        return out
    # The logarithms of the sums are for a backward pass only.
    return out, torch.empty(0, device=out.device)


def _by_parts(query, key, value, mask: Tensor, scale: float | None):
    """Attention with a separate mask row for each query, such as relative position biases."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(mask.logical_not(), float("-inf"))
    else:
        scores = scores + mask
    return scores.softmax(-1) @ value


def _each_pixel_times(
    frame: Frame, x: BlockTensor, matrices: Tensor, transposed: bool = False
) -> Tensor:
    """Packed ``(N, L, C)`` times ``(N, C, K)``; ``transposed``: ``(N, K, C)`` times ``(N, C, L)``.

    The blocks of an image are put side by side, so that its matrix is not copied.
    """
    packed = x.packed
    if frame.whole:
        return torch.bmm(matrices, packed) if transposed else torch.bmm(packed, matrices)
    if transposed:
        packed, matrices = packed.mT, matrices.mT
        x = x.like(packed, axes=x.axes[0] + "LC")
    if matrices.stride(0) == 0 or (len(matrices) == 1 and x.joined == 1):
        out = torch.matmul(packed, matrices[0])
    else:
        width = matrices.shape[2]
        out = of_each_image(frame, x, (matrices,), torch.bmm, width, packed)
    return out.mT if transposed else out


def of_each_image(frame: Frame, x: BlockTensor, others, function, width: int, packed=None):
    """Call a function of the pixels of each image together.

    Args:
        frame: The frame being run.
        x: Of axes NLC, BLC, NCLC or BCLC.
        others: Dense tensors whose first dimension has the images, or images and heads.
        function: ``function(pixels, *others)`` returns ``(..., pixels, width)``.
        width: See ``function``.
        packed: The packed blocks of ``x``, ``(..., pixels, channels)``.

    Returns:
        Packed blocks ``(..., pixels, width)``.
    """
    packed = x.packed if packed is None else packed
    if frame.whole:
        return function(packed, *others)
    counts = frame.blocks_of_images(x.block_layout)
    if counts is None:
        # A graph is replayed with other numbers of blocks.
        if x.block == (1, 1):  # A copy of all keys for each token would be too much.
            return frame.packed_like(function(_laid_out(frame, x.like(packed)), *others), x)
        rows = [
            rows_of_images(other, 0, x)
            if x.axes[0] == "B"
            else other.index_select(0, x.block_layout.image_index)
            for other in others
        ]
        return function(packed, *rows) if len(packed) else _nothing(packed, width)
    heads = prod(packed.shape[1:-2]) * (x.joined if x.axes[0] == "B" else 1)
    pixels, channels = packed.shape[-2:]
    blocks = packed.reshape(-1, heads, pixels, channels)
    out = packed.new_empty((len(blocks), heads, pixels, width))
    start = 0
    for image, count in enumerate(counts):
        if not count:
            continue
        mine = slice(start, start + count)
        query = blocks[mine].transpose(0, 1).reshape(heads, count * pixels, channels)
        given = [other.reshape(frame.images, heads, *other.shape[-2:])[image] for other in others]
        if packed.dim() == 4:
            query, given = query[None], [value[None] for value in given]
        found = function(query, *given).reshape(heads, count, pixels, width)
        out[mine] = found.transpose(0, 1)
        start += count
    return out.reshape(*packed.shape[:-1], width)


def _laid_out(frame: Frame, x: BlockTensor) -> Tensor:
    """The whole map with the executed pixels of ``x``, and zeros elsewhere."""
    map_ = x.packed_map()
    whole = map_.new_zeros((frame.images, *x.size_of_map, map_.shape[1])).permute(0, 3, 1, 2)
    ops.scatter_(whole, map_, x.block_layout.by_image)
    return x.in_its_form(whole)


def _nothing(packed: Tensor, width: int) -> Tensor:
    return packed.new_empty((*packed.shape[:-1], width))


def _product_in_windows(frame: Frame, func, first: BlockTensor, second: BlockTensor):
    if first.block != second.block or first.size_of_map != second.size_of_map:
        return Decline("its windows are of different maps")
    out = func(first.packed, second.packed)
    depth = first.shape[2]
    dense = first.shape[0] * out.shape[1] * out.shape[2] * depth
    frame.count_blocks(out.numel() * depth, dense, first.block)
    return first.like(out)


def _rows_times(frame: Frame, func, x: BlockTensor, weight: Tensor):
    if frame.whole:
        out = func(x.packed, weight)
    elif weight.stride(0) == 0 or len(weight) == 1:
        out = torch.matmul(x.packed, weight[0])
    else:
        return Decline("each row has a separate matrix")
    count_product(frame, x, weight[0])
    return x.like(out)
