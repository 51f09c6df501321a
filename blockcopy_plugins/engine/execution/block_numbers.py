"""What integers of two frames mean: the same in all frames, or a multiple of executed blocks."""

from __future__ import annotations

from dataclasses import dataclass

Sizes = dict[tuple[int, int], int]
"""Number of executed blocks, by rows and columns of blocks of a map."""


class Mismatch(Exception):
    """Two frames did not do the same; the message says where."""


@dataclass(frozen=True)
class Multiple:
    """``factor`` times the number of executed blocks of maps with ``blocks`` rows and columns."""

    blocks: tuple[int, int]
    factor: int


class Numbers:
    """The meaning of the integers of two frames of one model.

    The two frames have different numbers of executed blocks. An integer that is nevertheless
    the same in both is the same in all frames; any other must be a multiple of the number of
    executed blocks.

    Args:
        one: Sizes of the first frame.
        other: Sizes of the second. All are equal to the first's, or none; see :func:`can_join`.
    """

    def __init__(self, one: Sizes, other: Sizes) -> None:
        self._pairs = [(blocks, n, other[blocks]) for blocks, n in one.items()]
        self.fixed = one == other

    def join(self, a: int, b: int) -> int | Multiple:
        """The expression that is ``a`` in the first frame and ``b`` in the second.

        Raises:
            Mismatch: If there is none.
        """
        if a == b:
            return a
        found = {
            Multiple(blocks, a // n)
            for blocks, n, m in self._pairs
            if a % n == 0 and a // n * m == b
        }
        if len(found) != 1:
            raise Mismatch(f"the number {a} became {b} with another number of blocks")
        return found.pop()


def can_join(one: Sizes, other: Sizes) -> bool:
    """Whether two frames show what their integers mean.

    They do if the numbers of blocks of all maps differ and exceed one: memory layouts of a
    single block are ambiguous. If none differs, they show it for frames with these numbers only.
    """
    if one.keys() != other.keys():
        return False
    differ = [one[blocks] != other[blocks] for blocks in one]
    return all(differ) and min(*one.values(), *other.values()) > 1 or not any(differ)
