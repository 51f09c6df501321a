"""Tokens of maps and tokens of no pixel: joined, and separated again.

A transformer joins a class token, registers or queries to the tokens of a map, or the tokens of
several maps with each other. From there on they are a map of single tokens
(:class:`~..frame.token_frame.TokenFrame`), until a slice or split takes the tokens of all pixels of
one map, which are that map again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..decline import Decline
from ..frame.frame import Frame
from ..frame.inner_frame import InnerFrame
from ..frame.token_frame import TokenFrame
from ..tensor.block_tensor import BlockTensor
from ..torch_internals import named_arguments, versions_are_counted
from . import channels, windows
from .op_table import on_blocks

aten = torch.ops.aten

_KEY = "tokens"


@on_blocks(aten.cat.default)
def cat(frame: Frame, func, args, kwargs):
    """Concatenation of channels, or of the tokens of maps with each other and with others."""
    out = channels.cat(frame, func, args, kwargs)
    if not isinstance(out, Decline) or isinstance(frame, InnerFrame):
        return out
    tensors = args[0]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    x = next(tensor for tensor in tensors if isinstance(tensor, BlockTensor))
    if x.axes != "NLC" or dim % x.dim() != 1:
        return out
    if not all(_stands_beside(frame, tensor, x) for tensor in tensors):
        return out
    return TokenFrame.joined(frame, tensors)


def _stands_beside(frame: Frame, tensor: Tensor, x: BlockTensor) -> bool:
    shape = (x.shape[0], tensor.shape[1], x.shape[2]) if tensor.dim() == 3 else None
    alike = tuple(tensor.shape) == shape and tensor.dtype == x.dtype
    if not isinstance(tensor, BlockTensor):
        return alike
    return alike and tensor.axes == "NLC" and frame.covers(tensor)


@on_blocks(aten.slice.Tensor, takes_moved=True)
def tokens(frame: Frame, func, args, kwargs):
    """A slice; of tokens, those of all pixels of a map, or some others."""
    x = args[0]
    _, dim, *shown = named_arguments(func, args, kwargs).values()
    dim = dim % x.dim()
    if not _is_of_tokens(frame, x, dim):
        return windows.crop(frame, func, args, kwargs)
    taken = range(x.shape[dim])[slice(*shown)]
    if taken == range(x.shape[dim]):
        return windows.crop(frame, func, args, kwargs)
    return _taken(frame, x, dim, [taken])[0]


@on_blocks(aten.select.int)
def token(frame: Frame, func, args, kwargs):
    """One channel, or one token."""
    x, dim, *index = named_arguments(func, args, kwargs).values()
    if not _is_of_tokens(frame, x, dim % x.dim()):
        return channels.over_channels(frame, func, args, kwargs)
    return _kept(func, x, dim, *index)


@on_blocks(aten.split_with_sizes.default, aten.split.Tensor)
def parts(frame: Frame, func, args, kwargs):
    """Channels, or tokens, in several parts."""
    x, sizes, dim = named_arguments(func, args, kwargs).values()
    dim = dim % x.dim()
    if not _is_of_tokens(frame, x, dim):
        return channels.over_channels(frame, func, args, kwargs)
    tokens = range(x.shape[dim])
    if isinstance(sizes, int):
        taken = [tokens[start : start + sizes] for start in tokens[::sizes]]
    else:
        ends = accumulate(sizes)
        taken = [tokens[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return _taken(frame, x, dim, taken)


def _taken(frame: TokenFrame, x: BlockTensor, dim: int, parts: Sequence[range]) -> list[Tensor]:
    """Parts of all tokens, on blocks where they are those of maps, else as ordinary tensors."""
    found = frame.taken(x, parts)
    return [
        _kept(aten.slice.Tensor, x, dim, part.start, part.stop, part.step)
        if on_blocks is None
        else windows.stands_for_view(on_blocks, x)
        for part, on_blocks in zip(parts, found, strict=True)
    ]


def _is_of_tokens(frame: Frame, x: BlockTensor, dim: int) -> bool:
    return isinstance(frame, TokenFrame) and x.axes[dim] == "L"


def _kept(func, x: BlockTensor, *args) -> Tensor:
    """Some tokens that are not a map, as an ordinary tensor: a view of all tokens."""
    # In inference mode a view made here would not share its base's version count, see ViewedMap.
    with versions_are_counted(torch.is_inference_mode_enabled()):
        return func(x.dense_for_views(_KEY), *args)
