"""A frame as a flat list of ops on ordinary tensors, for any number of executed blocks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from .block_numbers import Mismatch, Numbers
from .native_program import native_run
from .python_program import python_run
from .step_lifetimes import without_dead, without_views_back
from .trace import Given, Kept, Step, Trace


class Program:
    """What a frame does, as one function that runs without the model.

    Args:
        one: The ops of one frame.
        other: The ops of another.

    Raises:
        Mismatch: If the two differ.

    Attributes:
        blocks: The maps, by rows and columns of blocks, whose numbers of executed blocks it takes.
        fixed: Those of these numbers that a frame must have.
        names: Names of its inputs, see :class:`~.trace.Given`.
        kept: The other tensors that it reads and writes.
    """

    def __init__(self, one: Trace, other: Trace) -> None:
        if len(one.steps) != len(other.steps) or len(one.roots) != len(other.roots):
            raise Mismatch(f"{len(one.steps)} ops became {len(other.steps)}")
        self._numbers = Numbers(one.sizes, other.sizes)
        self.blocks = tuple(one.sizes)
        self.fixed = self._numbers.fixed
        for a, b in zip(one.roots, other.roots, strict=True):
            if not (a.same_as(b) if isinstance(a, Kept) else a == b):
                raise Mismatch("a tensor from outside the frame differs from frame to frame")
        steps = [self._join_steps(a, b) for a, b in zip(one.steps, other.steps, strict=True)]
        if not _same_values(one.constants, other.constants):
            raise Mismatch("the model read other values")
        self._constants = other.constants
        if one.results != other.results:
            raise Mismatch("the results come from other ops")
        self.names = [root.name for root in one.roots if isinstance(root, Given)]
        self.kept = [root.tensor for root in one.roots if isinstance(root, Kept)]
        steps = without_views_back(steps, one.roots, one.results)
        steps = without_dead(steps, one.results)
        parts = (steps, one.roots, one.results, self.blocks)
        self._run = native_run(*parts) or python_run(*parts)

    def run(self, given: dict[Hashable, Tensor], sizes: Sequence[int]) -> list[Tensor | None]:
        """Run it; the results are ordinary tensors, also in inference mode.

        Args:
            given: By name, see :class:`~.trace.Given`.
            sizes: Executed blocks, in the order of :attr:`blocks`.

        Returns:
            The tensors that the frame returns.
        """
        return self._run(given, *sizes)

    def reads_the_same(self) -> bool:
        """Whether the tensors whose values Python has read still hold them."""
        return all(torch.equal(tensor, values) for tensor, values in self._constants)

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


def _same_values(one: Sequence[tuple[Tensor, Tensor]], other: Sequence) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True)
    )
