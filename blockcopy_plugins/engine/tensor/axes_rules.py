"""What the dimensions of a result mean, for ops that leave pixels where they are.

Such ops run on packed blocks as on whole maps. A rule is ``rule(view, arguments by name)``. It
returns the axes of the result, or ``None`` where the op mixes pixels or images after all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..torch_internals import OpOverload, named_arguments
from .axes import MAP, channels_of, split_axes
from .view_axes import Factor, Reading, read_view

aten = torch.ops.aten

_ATTRIBUTE = "_keeps_pixels"


@dataclass(frozen=True)
class View:
    """A tensor as the model sees it.

    Attributes:
        axes: Letter of each dimension.
        shape: Size of each dimension.
        images: N.
        size: ``(H, W)`` of the map.
        joined: Channels in its dimension B, P, M or S, 1 if it has none.
        in_windows: See :func:`~.view_axes.read_view`.
        of_tokens: See :func:`~.view_axes.read_view`.
    """

    axes: str
    shape: tuple[int, ...]
    images: int
    size: tuple[int, int]
    joined: int = 1
    in_windows: bool = False
    of_tokens: bool = False


Rule = Callable[[View, Mapping[str, Any]], "str | Reading | None"]


def keeps_pixels(*ops: OpOverload) -> Callable[[Rule], Rule]:
    """Declare a function to be the rule of some ops."""

    def note(rule: Rule) -> Rule:
        setattr(rule, _ATTRIBUTE, ops)
        return rule

    return note


def _channel_dims(x: View, dims) -> list[int] | None:
    """Dimensions as positive numbers, if there are any and all of them are channels."""
    dims = [dims] if isinstance(dims, int) else list(dims or ())
    dims = [d % len(x.axes) for d in dims]
    return dims if dims and all(x.axes[d] == "C" for d in dims) else None


@keeps_pixels(
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.index_select.default,
    aten._softmax.default,
    aten._log_softmax.default,
    aten._safe_softmax.default,
    aten.cumsum.default,
    aten.glu.default,
    aten.sort.default,
    aten.topk.default,
)
def _kept(x: View, given: Mapping) -> str | None:
    return None if _channel_dims(x, given["dim"]) is None else x.axes


@keeps_pixels(
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.prod.dim_int,
    aten.amax.default,
    aten.amin.default,
    aten.max.dim,
    aten.min.dim,
    aten.argmax.default,
    aten.argmin.default,
    aten.any.dim,
    aten.all.dim,
    aten.logsumexp.default,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
    aten.var.correction,
    aten.std.correction,
    aten.var_mean.correction,
)
def _reduced(x: View, given: Mapping) -> str | None:
    dims = _channel_dims(x, given["dim"])
    if dims is None or given.get("keepdim", False):
        return None if dims is None else x.axes
    return "".join(letter for i, letter in enumerate(x.axes) if i not in dims)


@keeps_pixels(aten.select.int, aten.unbind.int)
def _dropped(x: View, given: Mapping) -> str | None:
    return _reduced(x, {"dim": given["dim"]})


@keeps_pixels(aten.squeeze.dim, aten.squeeze.dims)
def _squeezed(x: View, given: Mapping) -> str | None:
    dims = given["dim"]
    dims = [d % len(x.axes) for d in ([dims] if isinstance(dims, int) else dims)]
    dims = [d for d in dims if x.shape[d] == 1]
    if any(x.axes[d] != "C" for d in dims):
        return None
    return "".join(letter for i, letter in enumerate(x.axes) if i not in dims)


@keeps_pixels(aten.unsqueeze.default)
def _unsqueezed(x: View, given: Mapping) -> str:
    dim = given["dim"] % (len(x.axes) + 1)
    return x.axes[:dim] + "C" + x.axes[dim:]


@keeps_pixels(aten.permute.default)
def _permuted(x: View, given: Mapping) -> str:
    return "".join(x.axes[d] for d in given["dims"])


@keeps_pixels(aten.transpose.int)
def _transposed(x: View, given: Mapping) -> str:
    axes = list(x.axes)
    a, b = given["dim0"], given["dim1"]
    axes[a], axes[b] = axes[b], axes[a]
    return "".join(axes)


@keeps_pixels(aten.expand.default)
def _expanded(x: View, given: Mapping) -> str | None:
    size = given["size"]
    if len(size) != len(x.axes):
        return None
    same = all(
        letter == "C" or new in (-1, old)
        for letter, old, new in zip(x.axes, x.shape, size, strict=True)
    )
    return x.axes if same else None


@keeps_pixels(aten.repeat.default)
def _repeated(x: View, given: Mapping) -> str | None:
    times = given["repeats"]
    fits = len(times) == len(x.axes) and all(
        t == 1 or letter == "C" for t, letter in zip(times, x.axes, strict=True)
    )
    return x.axes if fits else None


@keeps_pixels(aten.index.Tensor)
def _indexed(x: View, given: Mapping) -> str | None:
    chosen = [(i, index) for i, index in enumerate(given["indices"]) if index is not None]
    if len(chosen) != 1:
        return None
    dim, index = chosen[0]
    plain = type(index) is Tensor and index.dim() == 1 and index.dtype == torch.int64
    return x.axes if plain and x.axes[dim] == "C" else None


@keeps_pixels(aten.native_layer_norm.default)
def _normalised(x: View, given: Mapping) -> str | None:
    rank = len(given["normalized_shape"])
    return x.axes if x.axes.endswith("C" * rank) else None


@keeps_pixels(aten.linear.default)
def _mapped(x: View, given: Mapping) -> str | None:
    return x.axes if x.axes[-1] == "C" else None


@keeps_pixels(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def _shuffled(x: View, given: Mapping) -> str | None:
    return x.axes if x.axes == MAP else None


@keeps_pixels(aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)
def _viewed(x: View, given: Mapping) -> Reading | None:
    size = list(given["size"])
    if -1 in size:
        known = -prod(size)
        size[size.index(-1)] = prod(x.shape) // known if known else 0
    sizes = {"N": x.images, "H": x.size[0], "W": x.size[1]}
    channels = iter(channels_of(x.axes, x.shape, x.joined))
    parts = split_axes(x.axes)
    factors = (Factor(p, next(channels) if p == "C" else sizes[p]) for p in parts)
    # Channels of size 1 may stand between what a view joins.
    factors = [factor for factor in factors if factor != ("C", 1)]
    return read_view(size, factors, x.in_windows, x.of_tokens)


AXES_RULES: Mapping[OpOverload, Rule] = MappingProxyType(
    {
        op: rule
        for rule in list(globals().values())
        for op in getattr(rule, _ATTRIBUTE, ())
        if callable(rule)
    }
)
"""Rules by op."""


def axes_after(func, x: View, args: Sequence, kwargs: Mapping) -> Reading | None:
    """What the dimensions of an op's result mean, if the op leaves pixels where they are.

    Returns:
        The reading of each result; ``None`` if the op mixes pixels or images, or the meaning of the
        dimensions of its result is unknown.
    """
    found = AXES_RULES[func](x, named_arguments(func, args, kwargs))
    return Reading(found, x.joined, x.size) if isinstance(found, str) else found
