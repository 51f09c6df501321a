"""Which dimensions of a view are pixels, and which are channels: new sizes read against old ones.

A view keeps the order of values in memory, so each of its dimensions is a run of factors of the
old ones. Adjacent channel dimensions may be split and joined freely, and so may images with
channels that follow them. Rows (or columns) may be split too, as in ``view(N, C, H / 2, 2, W / 2,
2)``: then the map has half as many of them, and the inner factor is channels, as in pixel
unshuffle; and channels that directly follow rows may be joined to them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import NamedTuple

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "L": "HW",
        "R": "NHW",
        "G": "NH",
        "Q": "HWN",
        "B": "NC",
        "P": "NHWC",
        "M": "NCH",
        "S": "NCHW",
    }
)
"""The parts of a letter that means several dimensions, outermost first."""

JOINT = "BPMS"
"""Letters of dimensions that contain channels besides images, rows or pixels."""


class Factor(NamedTuple):
    """A dimension, or a part of one, that has one letter: N, C, H or W."""

    letter: str
    size: int


class Reading(NamedTuple):
    """What the dimensions of a tensor mean.

    Attributes:
        axes: Letter of each dimension, see :mod:`~blockcopy_plugins.engine.tensor.axes`.
        joined: Channels in its dimension B, P, M or S, 1 if it has none.
        size: ``(H, W)`` of the map.
    """

    axes: str
    joined: int
    size: tuple[int, int]


class _Option(NamedTuple):
    """One way to read the next dimension.

    Attributes:
        letter: Of the dimension.
        rest: Factors behind it.
        channels: Channels that have begun and are not yet in a dimension.
        joined: See :class:`Reading`.
        rows: Size of a dimension H or W.
        joins_all: It is images with all channels behind them.
    """

    letter: str
    rest: tuple[Factor, ...]
    channels: int
    joined: int = 1
    rows: int | None = None
    joins_all: bool = False


def read_view(
    sizes: Sequence[int],
    old: Sequence[Factor],
    in_windows: bool = False,
    of_tokens: bool = False,
) -> Reading | None:
    """Read the sizes of a view.

    Args:
        sizes: Of the view, none of them -1.
        old: Factors of the dimensions of what is viewed, in order.
        in_windows: Read a dimension of size 1 as all rows where it may be: the map is one
            window.
        of_tokens: It is a row of tokens: a dimension of size 1 is not read as that row.

    Returns:
        What its dimensions mean, ``None`` if one of them mixes what must stay apart.
    """

    # A single image may be joined with anything; with all channels is the least likely.
    # Windows split rows and columns.
    def rank(options: list[_Option]) -> tuple[int, int, bool, int]:
        parted = [option.letter for option in options if option.rows is not None]
        joins = sum(option.joins_all for option in options)
        rows = sum(option.letter in "HGM" for option in options) if of_tokens else 0
        return joins, rows, len(parted) == 1, -len(parted) if in_windows else 0

    found = min(_parse(tuple(sizes), tuple(old), 1), key=rank, default=None)
    if found is None:
        return None
    size = {letter: length for letter, length in old if letter in "HW"}
    for option in found:
        if option.rows is not None:
            size["W" if option.letter == "W" else "H"] = option.rows
    axes = "".join(option.letter for option in found)
    return Reading(axes, prod(option.joined for option in found), (size["H"], size["W"]))


def _parse(new: tuple[int, ...], old: tuple[Factor, ...], channels: int) -> Iterator[list[_Option]]:
    """All ways to read new sizes, from the left."""
    while old and old[0].letter == "C":
        channels *= old[0].size
        old = old[1:]
    if not new:
        if not old and channels == 1:
            yield []
        return
    for option in _options(new[0], old, channels):
        for tail in _parse(new[1:], option.rest, option.channels):
            yield [option, *tail]


def _options(size: int, old: tuple[Factor, ...], channels: int) -> Iterator[_Option]:
    """Ways to read a dimension of this size, the plainest first."""
    if channels > 1:
        if size and channels % size == 0:
            yield _Option("C", old, channels // size)
        return
    letters = "".join(factor.letter for factor in old)
    for axis, parts in ((letters[:1], letters[:1]), *PARTS.items()):
        head = old[: len(parts)]
        if parts and "C" not in parts and letters.startswith(parts) and size == _product(head):
            yield _Option(axis, old[len(parts) :], 1)
    if size == 1:
        yield _Option("C", old, 1)
    for axis in "BP":
        parts = PARTS[axis][:-1]
        if letters.startswith(parts):
            yield from _joined(axis, size, _product(old[: len(parts)]), old[len(parts) :])
    if letters.startswith("NC"):
        yield from _around_channels(size, old)
    if letters[:1] and letters[0] in "HW":
        length = old[0].size
        if 0 < size < length and length % size == 0:
            yield _Option(letters[0], old[1:], length // size, rows=size)
        for option in _joined(letters[0], size, length, old[1:]):
            yield option._replace(joined=1, rows=size, joins_all=False)


def _joined(axis: str, size: int, head: int, rest: tuple[Factor, ...]) -> Iterator[_Option]:
    """A dimension of something with channels after it."""
    times, remainder = divmod(size, head) if head else (0, 1)
    count = 0
    while count < len(rest) and rest[count].letter == "C":
        count += 1
    run = _product(rest[:count])
    if not remainder and times > 1 and run % times == 0:
        yield _Option(axis, rest[count:], run // times, times, joins_all=run == times)


def _around_channels(size: int, old: tuple[Factor, ...]) -> Iterator[_Option]:
    """Images, all channels after them, and rows, some of the rows, or pixels after those."""
    run = len(old) - len(_without_channels(old[1:]))
    joined, rest = _product(old[1:run]), old[run:]
    letters = "".join(factor.letter for factor in rest)
    if letters[:1] != "H" or joined == 1:
        return
    outer, remainder = divmod(size, old[0].size * joined)
    rows = rest[0].size
    if remainder or not outer:
        return
    if letters.startswith("HW") and outer == rows * rest[1].size:
        yield _Option("S", rest[2:], 1, joined, joins_all=True)
    if outer == rows:
        yield _Option("M", rest[1:], 1, joined, joins_all=True)
    elif rows % outer == 0:
        yield _Option("M", rest[1:], rows // outer, joined, outer, joins_all=True)


def _without_channels(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    while factors and factors[0].letter == "C":
        factors = factors[1:]
    return factors


def _product(factors: Sequence[Factor]) -> int:
    return prod(factor.size for factor in factors)
