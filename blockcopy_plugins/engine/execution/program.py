"""A frame as a flat list of ops on ordinary tensors, for any number of executed blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor

from ..torch_internals import is_mutable, kernels_of
from .trace import Given, Kept, Register, Root, Step, Trace

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

    An integer that is the same in both is the same in all frames that have the numbers of executed
    blocks that both have; another one must be a multiple of a number in which they differ.

    Args:
        one: Of the first frame.
        other: Of the second; see :func:`can_join`.

    Attributes:
        fixed: The numbers of executed blocks that both have.
    """

    def __init__(self, one: Sizes, other: Sizes) -> None:
        self._pairs = [(blocks, n, other[blocks]) for blocks, n in one.items()]
        self.fixed = {blocks: n for blocks, n, m in self._pairs if n == m}

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

    They do where the numbers that differ are more than one, as layouts in memory with a single
    block are ambiguous, and have grown by different factors: maps cut into windows have numbers of
    their own.
    """
    if one.keys() != other.keys():
        return False
    differ = [(n, other[blocks]) for blocks, n in one.items() if n != other[blocks]]
    factors = {Fraction(m, n) for n, m in differ if min(n, m) > 1}
    return len(factors) == len(differ)


class Program:
    """What a frame does, done again by one function without the model.

    Args:
        one: The ops of one frame.
        other: Those of another.

    Raises:
        Mismatch: If the two did not do the same.

    Attributes:
        blocks: Rows and columns of blocks of the maps whose numbers of executed blocks it takes.
        fixed: Those of these numbers that a frame must have.
        names: What it is to be given, see :class:`~.trace.Given`.
        kept: The tensors that it reads and writes beside that.
    """

    def __init__(self, one: Trace, other: Trace) -> None:
        if len(one.steps) != len(other.steps) or len(one.roots) != len(other.roots):
            raise Mismatch(f"{len(one.steps)} ops became {len(other.steps)}")
        self._numbers = Numbers(one.sizes, other.sizes)
        self.blocks = tuple(one.sizes)
        self.fixed = self._numbers.fixed
        for a, b in zip(one.roots, other.roots, strict=True):
            if not (a.same_as(b) if isinstance(a, Kept) else a == b):
                raise Mismatch("a tensor from outside the frame is another one in each frame")
        steps = [self._join_steps(a, b) for a, b in zip(one.steps, other.steps, strict=True)]
        if one.results != other.results:
            raise Mismatch("the results are made by other ops")
        self.names = [root.name for root in one.roots if isinstance(root, Given)]
        self.kept = [root.tensor for root in one.roots if isinstance(root, Kept)]
        self._run = _compiled(
            _without_dead(steps, one.results), one.roots, one.results, self.blocks
        )

    def run(self, given: dict[Hashable, Tensor], sizes: Sequence[int]) -> list[Tensor | None]:
        """Do it again.

        Args:
            given: By name, see :class:`~.trace.Given`.
            sizes: Executed blocks, in the order of :attr:`blocks`.

        Returns:
            The tensors that the frame gives.
        """
        return self._run(given, *sizes)

    def _join_steps(self, a: Step, b: Step) -> Step:
        if a.func is not b.func or a.out != b.out or a.kwargs.keys() != b.kwargs.keys():
            raise Mismatch(f"{a.func} became {b.func}")
        args = self._join(a.args, b.args)
        kwargs = {name: self._join(value, b.kwargs[name]) for name, value in a.kwargs.items()}
        return Step(a.func, args, kwargs, a.out)

    def _join(self, a: Any, b: Any) -> Any:
        if type(a) is not type(b):
            raise Mismatch(f"a {type(a).__name__} became a {type(b).__name__}")
        if type(a) is int:
            return self._numbers.join(a, b)
        if type(a) in (list, tuple):
            if len(a) != len(b):
                raise Mismatch(f"{len(a)} arguments became {len(b)}")
            return type(a)(self._join(x, y) for x, y in zip(a, b, strict=True))
        if a != b and not (isinstance(a, float) and math.isnan(a) and math.isnan(b)):
            raise Mismatch(f"{a} became {b}")
        return a


def _without_dead(steps: Sequence[Step], results: Sequence[Register | Root | None]) -> list[Step]:
    """Leave out ops whose results nobody reads and that change nothing."""
    needed = {value for value in results if isinstance(value, Register)}
    kept = []
    for step in reversed(steps):
        if is_mutable(step.func) or any(out in needed for out in registers(step.out)):
            needed.update(registers((step.args, list(step.kwargs.values()))))
            kept.append(step)
    return kept[::-1]


def registers(value: Any) -> list[Register]:
    """The registers in arguments or results of an op."""
    if isinstance(value, Register):
        return [value]
    if type(value) in (list, tuple):
        return [register for item in value for register in registers(item)]
    return []


def _compiled(
    steps: Sequence[Step],
    roots: Sequence[Given | Kept],
    results: Sequence[Register | Root | None],
    blocks: Sequence[tuple[int, int]],
) -> Callable[..., list[Tensor | None]]:
    """The function ``run(given, *sizes)`` that does the steps, a line each.

    As code of its own it finds its tensors in local variables and lets each go after its last use.
    """
    names: dict[str, Any] = {}
    sizes = {found: f"n{i}" for i, found in enumerate(blocks)}

    def text(value: Any) -> str:
        if isinstance(value, Register):
            return f"v{value.index}"
        if isinstance(value, Root):
            return f"r{value.index}"
        if isinstance(value, Multiple):
            return f"{value.factor} * {sizes[value.blocks]}"
        if type(value) in (list, tuple):
            inside = "".join(f"{text(item)}, " for item in value)
            return f"[{inside}]" if type(value) is list else f"({inside})"
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        names[f"k{len(names)}"] = value
        return f"k{len(names) - 1}"

    lines = [f"def run({', '.join(['given', *sizes.values()])}):"]
    for i, root in enumerate(roots):
        if isinstance(root, Given):
            names[f"g{i}"] = root.name
            lines.append(f"    r{i} = given[g{i}]")
        else:
            names[f"r{i}"] = root.tensor
    last: dict[Register, int] = {}
    for i, step in enumerate(steps):
        last.update(dict.fromkeys(registers((step.args, list(step.kwargs.values()), step.out)), i))
    stay = {value for value in results if isinstance(value, Register)}
    made: set[Register] = set()
    for i, step in enumerate(steps):
        # What OpOverload.__call__ calls.
        names[f"f{i}"] = kernels_of(step.func)
        given = [text(value) for value in step.args]
        given += [f"{name}={text(value)}" for name, value in step.kwargs.items()]
        call = f"f{i}({', '.join(given)})"
        if type(step.out) is list:
            targets = "".join("_, " if out is None else f"{text(out)}, " for out in step.out)
            call = f"{targets.rstrip()} = {call}" if step.out else call
        elif isinstance(step.out, Register) and step.out not in made:
            call = f"{text(step.out)} = {call}"
        lines.append(f"    {call}")
        made.update(registers(step.out))
        over = [text(r) for r in made if last.get(r) == i and r not in stay]
        if over:
            lines.append(f"    {' = '.join(over)} = None")
    lines.append(f"    return [{', '.join(text(value) for value in results)}]")
    exec(compile("\n".join(lines), "<block-sparse program>", "exec"), names)  # noqa: S102
    return names["run"]
