"""What integers of two frames mean: the same in all frames, or a multiple of executed blocks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

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

    An integer that is the same in both is the same in all frames that have the numbers of executed
    blocks that both have; any other must be a multiple of a number in which the two differ.

    Args:
        one: Sizes of the first frame.
        other: Sizes of the second; see :func:`can_join`.

    Attributes:
        fixed: The numbers of executed blocks that both have.
    """

    def __init__(self, one: Sizes, other: Sizes) -> None:
        self._pairs = [(blocks, n, other[blocks]) for blocks, n in one.items()]
        self.fixed = {blocks: n for blocks, n, m in self._pairs if n == m}

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

    They do if the numbers that differ exceed one, as memory layouts of a single block are
    ambiguous, and have grown by different factors: maps cut into windows have numbers of their own.
    """
    if one.keys() != other.keys():
        return False
    differ = [(n, other[blocks]) for blocks, n in one.items() if n != other[blocks]]
    factors = {Fraction(m, n) for n, m in differ if min(n, m) > 1}
    return len(factors) == len(differ)
