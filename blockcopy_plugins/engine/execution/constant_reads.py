"""Values that Python reads in each frame though they are always the same: of a buffer, of numbers.

Strides kept in a tensor become sizes, checks ask whether a constant is zero. A frame that reads
nothing else does the same ops as the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ..torch_internals import memory_of
from .steps import Given, Kept, Register, Root, Step

# A program compares so many values of such tensors before each frame.
_MOST_VALUES = 4096


class ConstantReads:
    """Finds out which tensors from outside of a frame the values that it reads come from."""

    def __init__(self) -> None:
        self._made: dict[Register, tuple[Step, int]] = {}
        self._made_at: dict[Register, int] = {}
        self._written_at: dict[int, int] = {}
        self._steps = 0
        self._roots: dict[int, str] = {}

    def note(self, step: Step, made: Sequence[tuple[Register, int]], written: set[int]) -> None:
        """Note an op.

        Args:
            step: The op.
            made: The registers that are new with it, and their memory.
            written: Memory that it has written to, besides.
        """
        self._steps += 1
        for register, memory in made:
            self._made[register] = step, memory
            self._made_at[register] = self._steps
        self._written_at.update(dict.fromkeys(written, self._steps))

    def read(self, value: Register | Root, what: str) -> bool:
        """Note that Python reads a tensor.

        Args:
            value: The tensor.
            what: The same in words.

        Returns:
            Whether it may be a constant: nothing behind it was written to in place.
        """
        seen, ahead, roots = {value}, [value], []
        while ahead:
            found = ahead.pop()
            if isinstance(found, Root):
                roots.append(found.index)
                continue
            step, memory = self._made[found]
            if self._written_at.get(memory, -1) > self._made_at[found]:
                return False
            for behind in _tensors_in((step.args, list(step.kwargs.values()))):
                if behind not in seen:
                    seen.add(behind)
                    ahead.append(behind)
        for index in roots:
            self._roots.setdefault(index, what)
        return True

    def of(
        self, roots: Sequence[Given | Kept], changing: set[int]
    ) -> list[tuple[Tensor, Tensor]] | str:
        """The tensors from outside that were read, and their values.

        Args:
            roots: The tensors that the frame was given.
            changing: Memory that this frame or others write to.

        Returns:
            They; if one is no constant, what has read it.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for index, what in self._roots.items():
            root = roots[index]
            if isinstance(root, Given):
                return what
            if root.fresh:
                continue
            values = root.tensor.detach()
            memory = memory_of(values)
            many = sum(v.numel() for _, v in found) + values.numel() > _MOST_VALUES
            if many or memory in changing or bool((values != values).any()):
                return what
            found.append((root.tensor, values.clone()))
        return found


def _tensors_in(value: Any) -> Iterator[Register | Root]:
    if isinstance(value, (Register, Root)):
        yield value
    elif type(value) in (list, tuple):
        for item in value:
            yield from _tensors_in(item)
