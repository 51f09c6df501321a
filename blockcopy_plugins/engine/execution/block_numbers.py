"""What integers of two frames mean: the same in all frames, or a multiple of executed blocks."""

from __future__ import annotations

from dataclasses import dataclass

Sizes = dict[tuple[int, int], int]
"""Number of executed blocks, by rows and columns of blocks of a map."""


class Mismatch(Exception):
    """Two frames did not do the same; the message says where."""


@dataclass(frozen=True)
class Multiple:
    """``factor`` times the executed blocks of maps with ``blocks`` rows and columns of blocks."""

    blocks: tuple[int, int]
    factor: int


class Numbers:
    """What integers of two frames of one model mean.

    An integer that is the same in both, whose maps have different numbers of executed blocks, is
    the same in all frames; another one must be a multiple of the number of executed blocks.

    Args:
        one: Of the first frame.
        other: Of the second. They are all the same, or none of them is; see :func:`can_join`.
    """

    def __init__(self, one: Sizes, other: Sizes) -> None:
        self._pairs = [(blocks, n, other[blocks]) for blocks, n in one.items()]
        self.fixed = one == other

    def join(self, a: int, b: int) -> int | Multiple:
        """What stands for ``a`` in the first frame and ``b`` in the second.

        Raises:
            Mismatch: If nothing does.
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
    """Whether two frames tell what their integers mean.

    They do where the numbers of blocks of all maps differ, and are more than one: layouts in memory
    with a single block are ambiguous. Where none differs they tell it for frames of these numbers.
    """
    if one.keys() != other.keys():
        return False
    differ = [one[blocks] != other[blocks] for blocks in one]
    return all(differ) and min(*one.values(), *other.values()) > 1 or not any(differ)
