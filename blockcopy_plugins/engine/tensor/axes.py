"""What each dimension of a feature map means, through the views that models take of it.

Networks look at a map in more than one way: ``(N, C, H, W)``, channels last for a layer norm,
``(N, radix, C / radix, H, W)`` in a split attention, tokens ``(N, H * W, C)`` in a transformer's
MLP. As long as one knows which dimensions are pixels and which are channels, all of them are views
of the same packed blocks. A string tells, with a letter for each dimension:

====== =====================================================
letter dimension
====== =====================================================
N      images
C      channels, or some factor of them; also any new dimension of size 1
H, W   rows and columns
L      pixels, ``H * W``
R      pixels of all images, ``N * H * W``
G      rows of all images, ``N * H``
Q      pixels of all images, the images of a pixel side by side, ``H * W * N``
B      images and channels, ``N * c``, as in a channel shuffle or with the heads of an attention
P      pixels of all images and channels, ``N * H * W * c``
M      images, channels and rows, ``N * c * H``
S      images, channels and pixels, ``N * c * H * W``
====== =====================================================

Rows that part (``view(N, C, H / 2, 2, W / 2, 2)``) make a map of fewer rows, whose channels the
inner ones are. That is how patches and windows that do not reach over blocks stay views of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor

from .view_axes import JOINT, PARTS, Factor, Reading, read_view

aten = torch.ops.aten

MAP = "NCHW"


@dataclass(frozen=True)
class View:
    """A tensor as the model sees it.

    Attributes:
        axes: Letter of each dimension.
        shape: Size of each dimension.
        images: N.
        size: ``(H, W)`` of the map.
        joined: Channels in its dimension B, P, M or S, 1 if it has none.
    """

    axes: str
    shape: tuple[int, ...]
    images: int
    size: tuple[int, int]
    joined: int = 1


def to_map(value: Tensor, axes: str, images: int, size: tuple[int, int], joined: int = 1) -> Tensor:
    """Bring a tensor of these axes into the form of a map.

    Args:
        value: Of these axes; whole maps or packed blocks.
        axes: Letter of each dimension.
        images: Images, or packed blocks.
        size: ``(H, W)`` of a map, or of a block.
        joined: Channels in its dimension B, P, M or S.

    Returns:
        ``(images, C, H, W)`` with all channel dimensions as one; a view where there is one.
    """
    if axes == MAP:
        return value
    parts = _split(axes)
    sizes = {"N": images, "H": size[0], "W": size[1]}
    channels = iter(channels_of(axes, value.shape, joined))
    value = value.reshape([next(channels) if p == "C" else sizes[p] for p in parts])
    order = sorted(range(len(parts)), key=lambda i: MAP.index(parts[i]))
    value = value.permute(order)
    return value.reshape(images, prod(value.shape[1:-2]), *size)


def from_map(map_: Tensor, axes: str, channels: Sequence[int]) -> Tensor:
    """The inverse of :func:`to_map`.

    Args:
        map_: ``(images, C, H, W)``.
        axes: Letter of each dimension of the result.
        channels: See :func:`channels_of`, of the result.

    Returns:
        The same values with these axes; a view where there is one.
    """
    if axes == MAP:
        return map_
    parts = _split(axes)
    images, (height, width) = map_.shape[0], map_.shape[2:]
    order = sorted(range(len(parts)), key=lambda i: MAP.index(parts[i]))
    value = map_.reshape(images, *channels, height, width)
    value = value.permute([order.index(i) for i in range(len(parts))])
    return value.reshape(sizes_of(axes, channels, images, (height, width)))


def sizes_of(
    axes: str, channels: Sequence[int], images: int, size: tuple[int, int]
) -> tuple[int, ...]:
    """Size of each dimension.

    Args:
        axes: Letter of each dimension.
        channels: See :func:`channels_of`.
        images: Images, or packed blocks.
        size: ``(H, W)`` of a map, or of a block.
    """
    height, width = size
    sizes = {"N": images, "H": height, "W": width, "L": height * width}
    sizes["R"] = sizes["Q"] = images * sizes["L"]
    sizes["G"] = images * height
    left = iter(channels)
    out = []
    for letter in axes:
        if letter in JOINT:
            parts = PARTS[letter].replace("C", "")
            out.append(next(left) * prod(sizes[part] for part in parts))
        else:
            out.append(next(left) if letter == "C" else sizes[letter])
    return tuple(out)


def channels_of(axes: str, shape: Sequence[int], joined: int = 1) -> tuple[int, ...]:
    """Size of each dimension C, and ``joined`` for one that has channels in it, in their order."""
    pairs = zip(axes, shape, strict=True)
    return tuple(
        joined if letter in JOINT else size
        for letter, size in pairs
        if letter == "C" or letter in JOINT
    )


def axes_after(func, x: View, args: Sequence, kwargs: Mapping) -> Reading | None:
    """What the dimensions of an op's result mean, if the op leaves pixels where they are.

    Args:
        func: An op of :data:`CHANNEL_OPS`.
        x: Its first argument.
        args: All its arguments.
        kwargs: Its keyword arguments.

    Returns:
        That of the result, or of each of them; ``None`` if the op mixes pixels or images, or nobody
        knows what the dimensions of its result mean.
    """
    names = [a.name for a in func._schema.arguments]
    given = {a.name: a.default_value for a in func._schema.arguments}
    given.update(zip(names, args, strict=False))
    given.update(kwargs)
    found = CHANNEL_OPS[func](x, given)
    return Reading(found, x.joined, x.size) if isinstance(found, str) else found


def _split(axes: str) -> str:
    return "".join(PARTS.get(letter, letter) for letter in axes)


# -- rules: (view, arguments by name) -> axes of the result, or None -------------------------------


def _channel_dims(x: View, dims) -> list[int] | None:
    """Dimensions as positive numbers, if there are any and all of them are channels."""
    dims = [dims] if isinstance(dims, int) else list(dims or ())
    dims = [d % len(x.axes) for d in dims]
    return dims if dims and all(x.axes[d] == "C" for d in dims) else None


def _kept(x: View, given: Mapping) -> str | None:
    return None if _channel_dims(x, given["dim"]) is None else x.axes


def _reduced(x: View, given: Mapping) -> str | None:
    dims = _channel_dims(x, given["dim"])
    if dims is None or given.get("keepdim", False):
        return None if dims is None else x.axes
    return "".join(letter for i, letter in enumerate(x.axes) if i not in dims)


def _dropped(x: View, given: Mapping) -> str | None:
    return _reduced(x, {"dim": given["dim"]})


def _squeezed(x: View, given: Mapping) -> str | None:
    dims = given["dim"]
    dims = [d % len(x.axes) for d in ([dims] if isinstance(dims, int) else dims)]
    dims = [d for d in dims if x.shape[d] == 1]
    if any(x.axes[d] != "C" for d in dims):
        return None
    return "".join(letter for i, letter in enumerate(x.axes) if i not in dims)


def _unsqueezed(x: View, given: Mapping) -> str:
    dim = given["dim"] % (len(x.axes) + 1)
    return x.axes[:dim] + "C" + x.axes[dim:]


def _permuted(x: View, given: Mapping) -> str:
    return "".join(x.axes[d] for d in given["dims"])


def _transposed(x: View, given: Mapping) -> str:
    axes = list(x.axes)
    a, b = given["dim0"], given["dim1"]
    axes[a], axes[b] = axes[b], axes[a]
    return "".join(axes)


def _expanded(x: View, given: Mapping) -> str | None:
    size = given["size"]
    if len(size) != len(x.axes):
        return None
    same = all(
        letter == "C" or new in (-1, old)
        for letter, old, new in zip(x.axes, x.shape, size, strict=True)
    )
    return x.axes if same else None


def _repeated(x: View, given: Mapping) -> str | None:
    times = given["repeats"]
    fits = len(times) == len(x.axes) and all(
        t == 1 or letter == "C" for t, letter in zip(times, x.axes, strict=True)
    )
    return x.axes if fits else None


def _indexed(x: View, given: Mapping) -> str | None:
    chosen = [(i, index) for i, index in enumerate(given["indices"]) if index is not None]
    if len(chosen) != 1:
        return None
    dim, index = chosen[0]
    plain = type(index) is Tensor and index.dim() == 1 and index.dtype == torch.int64
    return x.axes if plain and x.axes[dim] == "C" else None


def _normalised(x: View, given: Mapping) -> str | None:
    rank = len(given["normalized_shape"])
    return x.axes if x.axes.endswith("C" * rank) else None


def _mapped(x: View, given: Mapping) -> str | None:
    return x.axes if x.axes[-1] == "C" else None


def _shuffled(x: View, given: Mapping) -> str | None:
    return x.axes if x.axes == MAP else None


def _viewed(x: View, given: Mapping) -> Reading | None:
    size = list(given["size"])
    if -1 in size:
        known = -prod(size)
        size[size.index(-1)] = prod(x.shape) // known if known else 0
    sizes = {"N": x.images, "H": x.size[0], "W": x.size[1]}
    channels = iter(channels_of(x.axes, x.shape, x.joined))
    parts = _split(x.axes)
    return read_view(size, [Factor(p, next(channels) if p == "C" else sizes[p]) for p in parts])


def is_pointwise(func: torch._ops.OpOverload) -> bool:
    """Whether an op is element-wise: by torch's own tag, or though torch does not tag it so."""
    return torch.Tag.pointwise in func.tags or func in _POINTWISE_TOO


_POINTWISE_TOO = frozenset(
    {
        aten.hardswish.default,
        aten.hardswish_.default,
        aten._prelu_kernel.default,
        aten.rrelu_with_noise.default,
        aten.fill_.Scalar,
        aten.fill_.Tensor,
        aten.zero_.default,
    }
)

CHANNEL_OPS: Mapping[object, Callable[[View, Mapping], str | Reading | None]] = MappingProxyType(
    {
        aten.view.default: _viewed,
        aten._unsafe_view.default: _viewed,
        aten._reshape_alias.default: _viewed,
        aten.permute.default: _permuted,
        aten.transpose.int: _transposed,
        aten.unsqueeze.default: _unsqueezed,
        aten.squeeze.dim: _squeezed,
        aten.squeeze.dims: _squeezed,
        aten.select.int: _dropped,
        aten.unbind.int: _dropped,
        aten.slice.Tensor: _kept,
        aten.split.Tensor: _kept,
        aten.split_with_sizes.default: _kept,
        aten.expand.default: _expanded,
        aten.repeat.default: _repeated,
        aten.index.Tensor: _indexed,
        aten.index_select.default: _kept,
        aten._softmax.default: _kept,
        aten._log_softmax.default: _kept,
        aten._safe_softmax.default: _kept,
        aten.cumsum.default: _kept,
        aten.glu.default: _kept,
        aten.sort.default: _kept,
        aten.topk.default: _kept,
        aten.sum.dim_IntList: _reduced,
        aten.mean.dim: _reduced,
        aten.prod.dim_int: _reduced,
        aten.amax.default: _reduced,
        aten.amin.default: _reduced,
        aten.max.dim: _reduced,
        aten.min.dim: _reduced,
        aten.argmax.default: _reduced,
        aten.argmin.default: _reduced,
        aten.any.dim: _reduced,
        aten.all.dim: _reduced,
        aten.logsumexp.default: _reduced,
        aten.linalg_vector_norm.default: _reduced,
        aten.norm.ScalarOpt_dim: _reduced,
        aten.var.correction: _reduced,
        aten.std.correction: _reduced,
        aten.var_mean.correction: _reduced,
        aten.native_layer_norm.default: _normalised,
        aten.linear.default: _mapped,
        aten.channel_shuffle.default: _shuffled,
        aten.native_channel_shuffle.default: _shuffled,
    }
)
"""Ops that leave pixels where they are: they run on packed blocks as on whole maps."""
