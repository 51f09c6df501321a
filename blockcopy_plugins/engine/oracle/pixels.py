"""Which pixel each element of a tensor belongs to, and whether an op leaves pixels where they are.

This is the oracle's own reading of axes, dense and element by element: no rule of the engine's is
used for it, so that a wrong one shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..torch_internals import schema_of

MAP = "NCHW"
# What dimensions consist of; a letter that is missing here is one of N, C, H and W itself.
_PARTS = {
    "L": "HW",
    "R": "NHW",
    "G": "NH",
    "Q": "HWN",
    "B": "NC",
    "P": "NHWC",
    "M": "NCH",
    "S": "NCHW",
}
_VIEWS = ("aten::view", "aten::_unsafe_view", "aten::_reshape_alias")


def pixels_of(
    axes: str, shape: Sequence[int], images: int, size: Sequence[int], joined: int = 1
) -> Tensor:
    """The pixel of each element, as ``(image * H + row) * W + column``.

    Args:
        axes: Letter of each dimension.
        shape: Size of each dimension.
        images: N.
        size: ``(H, W)`` of the map.
        joined: Channels in a dimension that it shares with pixels or images.

    Returns:
        int64 of that shape.
    """
    sizes = {"N": images, "H": size[0], "W": size[1]}
    steps = {"N": size[0] * size[1], "H": size[1], "W": 1, "C": 0}
    found = torch.zeros((), dtype=torch.int64)
    for letter, length in zip(axes, shape, strict=True):
        for part in _PARTS.get(letter, letter):
            count = (length if letter == "C" else joined) if part == "C" else sizes[part]
            found = found.unsqueeze(-1) + torch.arange(count) * steps[part]
    return found.reshape(tuple(shape))


def check_pixels_stay(
    func,
    args: Sequence,
    kwargs: Mapping,
    changed: Tensor,
    results: Sequence[Tensor],
    may_change: Sequence[Tensor],
) -> None:
    """Refuse an op that moves or mixes pixels.

    The op runs once more with other values in some pixels: only these may change in its results.

    Args:
        func: The op.
        args: Its arguments, the values of a map first.
        kwargs: Its keyword arguments.
        changed: bool, of the shape of the map: the elements that get another value.
        results: What it returned.
        may_change: bool, of the shapes of the results.

    Raises:
        RuntimeError: If another element changes.
    """
    other = args[0].clone()
    other[changed] = ~other[changed] if other.dtype == torch.bool else other[changed] + 1
    run = torch.ops.aten.reshape.default if schema_of(func).name in _VIEWS else func
    again = run(other, *args[1:], **kwargs)
    again = [again] if isinstance(again, Tensor) else again
    for old, new, may in zip(results, again, may_change, strict=True):
        old, new = old[~may].double(), new[~may].double()
        if not torch.allclose(old, new, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise RuntimeError(f"{func} is said to leave pixels where they are, and does not")
