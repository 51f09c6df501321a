"""A program as a native object: one call runs all ops of a frame, none of them through Python.

``cuda_ops/program.cpp`` is the other side. A call of an op from Python takes some microseconds to
read its arguments, which in a light network is more than the op takes on a few blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops.library import extension_module
from ..torch_internals import schema_of
from .block_numbers import Multiple
from .step_lifetimes import over_after, registers
from .trace import Given, Kept, Register, Root, Step

_NATIVE = extension_module()

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.layout, torch.device)
# Torch hands these over as their numbers in c10, but does not do so by itself.
_MEMORY_FORMATS = {
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}
_NOT_READ = -1


class _NotNative(Exception):
    """An argument that the native side does not take."""


def native_run(
    steps: Sequence[Step],
    roots: Sequence[Given | Kept],
    results: Sequence[Register | Root | None],
    blocks: Sequence[tuple[int, int]],
) -> Callable[..., list[Tensor | None]] | None:
    """The function ``run(given, *sizes)`` that does the steps natively.

    Args:
        steps: The ops.
        roots: What they read beside results of each other.
        results: What the function gives.
        blocks: Of which maps ``sizes`` are the numbers of executed blocks.

    Returns:
        It; ``None`` where there are no native kernels, or an op takes what cannot be handed over.
    """
    if _NATIVE is None:
        return None
    try:
        return _NativeRun(steps, roots, results, blocks)
    except _NotNative:
        return None


class _NativeRun:
    def __init__(self, steps, roots, results, blocks) -> None:
        self._roots = roots
        self._results = results
        self._names: list[Hashable] = [root.name for root in roots if isinstance(root, Given)]
        self._blocks = {found: i for i, found in enumerate(blocks)}
        made = {out for step in steps for out in registers(step.out)}
        # The values of a frame: what it is given, then what its steps make.
        self._values: dict[Root | Register, int] = {}
        for i, root in enumerate(roots):
            if isinstance(root, Given):
                self._values[Root(i)] = len(self._values)
        for register in sorted(made, key=lambda register: register.index):
            self._values[register] = len(self._values)
        self._program = torch.classes.blockcopy.Program(len(self._names), len(self._values))
        self._address = self._program.address()
        self._add(steps)
        self._program.give([self._values[v] for v in results if isinstance(v, Register)])

    def __call__(self, given: dict[Hashable, Tensor], *sizes: int) -> list[Tensor | None]:
        found = _NATIVE.run_program(self._address, [given[name] for name in self._names], sizes)
        made = iter(found)
        return [
            next(made) if isinstance(v, Register) else self._outer(v, given) for v in self._results
        ]

    def _outer(self, value: Root | None, given: dict[Hashable, Tensor]) -> Tensor | None:
        if value is None:
            return None
        root = self._roots[value.index]
        return given[root.name] if isinstance(root, Given) else root.tensor

    def _add(self, steps: Sequence[Step]) -> None:
        for step, over in zip(steps, over_after(steps, self._results), strict=True):
            schema = schema_of(step.func)
            arguments, places = self._arguments(step, schema)
            outs = step.out if type(step.out) is list else [step.out]
            made = [self._values[out] if isinstance(out, Register) else _NOT_READ for out in outs]
            try:
                self._program.add(
                    schema.name,
                    schema.overload_name,
                    arguments,
                    places,
                    made,
                    [self._values[register] for register in over],
                )
            except (RuntimeError, TypeError, ValueError) as error:
                raise _NotNative(f"{step.func}: {error}") from error

    def _arguments(self, step: Step, schema) -> tuple[tuple, list[int]]:
        """All arguments of a step in the order of its schema, and the places that differ."""
        arguments: list[Any] = []
        places: list[int] = []
        for i, argument in enumerate(schema.arguments):
            if i < len(step.args):
                value = step.args[i]
            elif argument.name in step.kwargs:
                value = step.kwargs[argument.name]
            else:
                value = argument.default_value
            if type(value) in (list, tuple):
                items = [self._argument(v, i, item, places) for item, v in enumerate(value)]
                arguments.append(tuple(items))
            else:
                arguments.append(self._argument(value, i, -1, places))
        return tuple(arguments), places

    def _argument(self, value: Any, argument: int, item: int, places: list[int]) -> Any:
        if isinstance(value, Multiple):
            places += [argument, item, self._blocks[value.blocks], value.factor]
            return 0
        if isinstance(value, Root) and isinstance(self._roots[value.index], Kept):
            return self._roots[value.index].tensor
        if isinstance(value, (Register, Root)):
            places += [argument, item, self._values[value], 0]
            return None
        if isinstance(value, torch.memory_format):
            return _MEMORY_FORMATS[value]
        if not isinstance(value, _PLAIN):
            raise _NotNative(f"a {type(value).__name__}")
        return value
