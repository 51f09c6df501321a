"""What each dimension of a feature map means, through the views that models take of it.

Networks look at a map in more than one way: ``(N, C, H, W)``, channels last for a layer norm,
``(N, radix, C / radix, H, W)`` in a split attention, tokens ``(N, H * W, C)`` in a transformer's
MLP. As long as it is known which dimensions are pixels and which are channels, all of these are
views of the same packed blocks. A string says so, with a letter for each dimension:

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

Rows that are split (``view(N, C, H / 2, 2, W / 2, 2)``) make a map of fewer rows, in which the
inner ones are channels. So patches and windows that lie within blocks stay views of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from .view_axes import JOINT, PARTS

MAP = "NCHW"


def to_map(value: Tensor, axes: str, images: int, size: tuple[int, int], joined: int = 1) -> Tensor:
    """Bring a tensor of these axes into the form of a map.

    Args:
        value: Of these axes; whole maps or packed blocks.
        axes: Letter of each dimension.
        images: Images, or packed blocks.
        size: ``(H, W)`` of a map, or of a block.
        joined: Channels in its dimension B, P, M or S.

    Returns:
        ``(images, C, H, W)`` with all channel dimensions as one; a view if possible.
    """
    if axes == MAP:
        return value
    parts = split_axes(axes)
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
        The same values with these axes; a view if possible.
    """
    if axes == MAP:
        return map_
    parts = split_axes(axes)
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
    """Size of each dimension C, and ``joined`` for one that contains channels, in order."""
    pairs = zip(axes, shape, strict=True)
    return tuple(
        joined if letter in JOINT else size
        for letter, size in pairs
        if letter == "C" or letter in JOINT
    )


def split_axes(axes: str) -> str:
    """The letters N, C, H and W that the dimensions consist of."""
    return "".join(PARTS.get(letter, letter) for letter in axes)
